//! One broker's process in its namespace.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::clock::Clock;
use super::disk::Disk;
use super::network::{Host, Network};
use super::peer::{Peer, Place};

/// A broker: where it is, and its process while it runs.
pub struct Process {
    pub id: i32,
    /// Of its Kafka listener.
    pub address: String,
    pub log_path: PathBuf,
    pub data_dir: PathBuf,
    /// When it has one of its own.
    pub disk: Option<Disk>,
    /// When its clock can be moved.
    pub clock: Option<Clock>,
    /// It is not there yet: starting it does nothing.
    pub away: bool,
    /// Parts of its log, in bytes, that were written while its disk failed.
    pub log_off: Vec<Range<usize>>,
    namespace: String,
    config_path: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A broker that is not started; its files go under `dir`. `seeds` is how many form the cluster.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn new(
        network: &Network,
        id: i32,
        seeds: i32,
        dir: &Path,
        peer: &Peer,
        disk: Option<Disk>,
        clock: Option<Clock>,
    ) -> Result<Self> {
        let hosts: Vec<String> = (1..=seeds)
            .map(|id| network.address(Host::Broker(id)))
            .collect();
        let host = network.address(Host::Broker(id));
        let data_dir = match &disk {
            Some(disk) => disk.dir().join("data"),
            None => dir.join(format!("data-{id}")),
        };
        let config_path = dir.join(format!("broker-{id}.conf"));
        let place = Place {
            id,
            host: &host,
            seeds: &hosts,
            data_dir: &data_dir,
            config_path: &config_path,
        };
        peer.configure(&place)?;
        Ok(Self {
            id,
            address: place.address(),
            log_path: dir.join(format!("broker-{id}.log")),
            data_dir,
            disk,
            clock,
            away: false,
            log_off: Vec::new(),
            namespace: network.namespace(id),
            config_path,
            child: None,
        })
    }

    /// Starts it, unless it runs. It dies with this process.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, peer: &Peer) -> Result<()> {
        if self.away || self.is_running() {
            return Ok(());
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log_path)?;
        let command = peer.command(&self.data_dir, &self.config_path)?;
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.namespace,
                "setpriv",
                "--pdeathsig",
                "KILL",
                "env",
            ])
            .args(self.clock.iter().flat_map(Clock::environment))
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start broker {}", self.id))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether the process lives (paused counts).
    pub fn is_running(&mut self) -> bool {
        let running = self
            .child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !running {
            self.child = None;
        }
        running
    }

    /// Sends a signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // It may have ended this moment.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Its clock is this many seconds off from now on, if it can be moved.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn set_clock(&self, seconds: i64) -> Result<()> {
        self.clock
            .as_ref()
            .map_or(Ok(()), |clock| clock.set(seconds))
    }

    fn log_bytes(&self) -> usize {
        fs::metadata(&self.log_path).map_or(0, |log| log.len() as usize)
    }

    /// Its disk fails from now on.
    ///
    /// # Errors
    /// When it has none of its own, or the file system refuses.
    pub fn disk_off(&mut self) -> Result<()> {
        let from = self.log_bytes();
        self.log_off.push(from..usize::MAX);
        let disk = self.disk.as_mut();
        disk.context("the broker has no disk of its own")?
            .power_off()
    }

    /// Kills it, if it lives, and gives it its disk back.
    ///
    /// # Errors
    /// When the disk cannot be mounted.
    pub fn disk_on(&mut self) -> Result<()> {
        self.kill();
        let until = self.log_bytes();
        if let Some(off) = self.log_off.last_mut() {
            off.end = off.end.min(until);
        }
        let disk = self.disk.as_mut();
        disk.context("the broker has no disk of its own")?
            .power_on()
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        // Nobody can be killed while it waits for a frozen disk.
        if let Some(disk) = &mut self.disk {
            disk.thaw();
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

//! One broker's process in its namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::network::{Host, Network};

const KAFKA_PORT: u16 = 9092;
const PEER_PORT: u16 = 9192;

/// A broker: where it is, and its process while it runs.
pub struct Process {
    pub id: i32,
    /// Of its Kafka listener.
    pub address: String,
    pub log_path: PathBuf,
    pub data_dir: PathBuf,
    namespace: String,
    config_path: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A broker that is not started; its files go under `dir`.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn new(network: &Network, id: i32, brokers: i32, dir: &Path) -> Result<Self> {
        let host = |id| network.address(Host::Broker(id));
        let seeds: Vec<String> = (1..=brokers)
            .map(|id| format!("{id}@{}:{PEER_PORT}", host(id)))
            .collect();
        let process = Self {
            id,
            address: format!("{}:{KAFKA_PORT}", host(id)),
            log_path: dir.join(format!("broker-{id}.log")),
            data_dir: dir.join(format!("data-{id}")),
            namespace: network.namespace(id),
            config_path: dir.join(format!("broker-{id}.toml")),
            child: None,
        };
        let text = format!(
            "broker.id = {id}\nlisteners = \"{}\"\npeer.listener = \"{}:{PEER_PORT}\"\n\
             http.listener = \"{}:9292\"\ndata.dir = \"{}\"\nseed.brokers = \"{}\"\n\
             default.replication.factor = {brokers}\n\
             group.initial.rebalance.delay.ms = 500\njournal.file.bytes = 8388608\n\
             log.cleaner.backoff.ms = 1000\n",
            process.address,
            host(id),
            host(id),
            process.data_dir.display(),
            seeds.join(","),
        );
        fs::write(&process.config_path, text).context("write a broker's configuration")?;
        Ok(process)
    }

    /// Starts it, unless it runs. It dies with this process.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn start(&mut self, binary: &Path) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log_path)?;
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.namespace,
                "setpriv",
                "--pdeathsig",
                "KILL",
            ])
            .arg(binary)
            .args(["start", "--config"])
            .arg(&self.config_path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
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

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
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

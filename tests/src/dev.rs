//! `tidelog dev` as its own process, and other runs of the binary.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::binary;
use crate::wait;

const STOP_LIMIT: Duration = Duration::from_secs(40);

/// Offsets of the other ports from a broker's client port, as `tidelog dev` chooses them.
const OFFSETS: [u16; 3] = [0, 100, 200];

/// A running `tidelog dev`; killed, and its brokers with it, when dropped.
pub struct Dev {
    process: Child,
    out: PathBuf,
}

/// A base port at which three brokers find all their ports free, away from those of
/// [`crate::Cluster`].
///
/// # Errors
/// When there is none.
pub fn free_base_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 3_000 + (std::process::id() % 18) as u16 * 300;
    for _ in 0..33 {
        // Three ports from here, and those 100 and 200 above: neighbours never meet.
        let base = first + NEXT.fetch_add(1, Ordering::Relaxed) % 33 * 3;
        let mut ports = OFFSETS
            .iter()
            .flat_map(|o| (0..3).map(move |n| base + o + n));
        if ports.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(base);
        }
    }
    bail!("no free ports from {first} on")
}

/// The client address of the `n`-th broker of a dev cluster, from 0.
#[must_use]
pub fn kafka(base_port: u16, n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], base_port + n))
}

/// Runs the binary to its end.
///
/// # Errors
/// When it cannot be started.
pub fn run(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(args).stdin(Stdio::null());
    command.output().context("run tidelog")
}

impl Dev {
    /// Starts `tidelog dev` with these arguments; what it prints goes to `out`.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn start(args: &[&str], out: &Path) -> Result<Self> {
        let log = File::create(out)?;
        let process = Command::new(binary()?)
            .arg("dev")
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self {
            process,
            out: out.to_owned(),
        })
    }

    /// What it has printed so far.
    #[must_use]
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Waits until it has printed a text; fails at once when it ends before.
    ///
    /// # Errors
    /// When it is not printed in time.
    pub async fn prints(&mut self, text: &str, limit: Duration) -> Result<()> {
        let ended = wait::until(text, limit, async || {
            if self.printed().contains(text) {
                return Ok(Some(None));
            }
            Ok(self.process.try_wait()?.map(Some))
        })
        .await;
        match ended {
            Ok(None) => Ok(()),
            Ok(Some(status)) => bail!("ended with {status}:\n{}", self.printed()),
            Err(error) => Err(error.context(self.printed())),
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        self.end(STOP_LIMIT).await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = wait::until("tidelog dev ends", limit, async || {
            Ok(self.process.try_wait()?)
        });
        ended.await.with_context(|| self.printed())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // The brokers stop with their parent.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

//! One broker as its own process.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wait;

/// A broker's id, from 1.
pub type BrokerId = i32;

/// How long a clean stop may take before a test calls it hung.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A broker's place on disk and network, and its process while it runs.
pub struct Broker {
    pub id: BrokerId,
    pub kafka: SocketAddr,
    pub peer: SocketAddr,
    pub http: SocketAddr,
    pub data_dir: PathBuf,
    pub config_path: PathBuf,
    pub log_path: PathBuf,
    process: Option<Child>,
}

impl Broker {
    /// A broker that is not started; its files go under `dir`.
    #[must_use]
    pub fn new(id: BrokerId, dir: &Path, ports: [u16; 3]) -> Self {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            id,
            kafka: at(ports[0]),
            peer: at(ports[1]),
            http: at(ports[2]),
            data_dir: dir.join(format!("data-{id}")),
            config_path: dir.join(format!("broker-{id}.toml")),
            log_path: dir.join(format!("broker-{id}.log")),
            process: None,
        }
    }

    /// Writes the configuration the process will be started with.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_config(&self, seeds: &str, extra: &[(String, String)]) -> Result<()> {
        let mut text = format!(
            "broker.id = {}\nlisteners = \"{}\"\npeer.listener = \"{}\"\nhttp.listener = \"{}\"\n\
             data.dir = \"{}\"\nseed.brokers = \"{seeds}\"\n",
            self.id,
            self.kafka,
            self.peer,
            self.http,
            self.data_dir.display(),
        );
        for (name, value) in extra {
            text += &format!("{name} = {value}\n");
        }
        fs::write(&self.config_path, text).context("write a broker's configuration")
    }

    /// Starts the process; what it prints is appended to its log.
    ///
    /// # Errors
    /// When it runs already, or the binary cannot be started.
    pub fn start(&mut self, binary: &Path) -> Result<()> {
        if self.process.is_some() {
            bail!("broker {} runs already", self.id);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log_path)?;
        let child = Command::new(binary)
            .arg("start")
            .arg("--config")
            .arg(&self.config_path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        self.process = Some(child);
        Ok(())
    }

    /// Whether a process was started and neither killed nor stopped since.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// The process's id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The status of a process that has ended by itself; it may be started again then.
    ///
    /// # Errors
    /// When none was started.
    pub fn take_ended(&mut self) -> Result<Option<ExitStatus>> {
        let ended = self.exited()?;
        if ended.is_some() {
            self.process = None;
        }
        Ok(ended)
    }

    /// Whether `/readyz` answers 200.
    pub async fn is_ready(&self) -> bool {
        http_status(self.http, "/readyz")
            .await
            .is_ok_and(|status| status == 200)
    }

    /// Waits until `/readyz` answers 200; fails at once if the process ended.
    ///
    /// # Errors
    /// When it is not ready in time, with the end of its log.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let what = format!("broker {} ready", self.id);
        let ready = wait::until(&what, limit, async || {
            if let Some(status) = self.exited()? {
                return Ok(Some(Err(status)));
            }
            Ok((http_status(self.http, "/readyz").await? == 200).then_some(Ok(())))
        })
        .await;
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                bail!(
                    "broker {} ended with {status} instead of serving:\n{}",
                    self.id,
                    self.log_tail()
                )
            }
            Err(error) => {
                Err(error.context(format!("log of broker {}:\n{}", self.id, self.log_tail())))
            }
        }
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.process {
            Some(child) => Ok(child.try_wait()?),
            None => bail!("broker {} was not started", self.id),
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self
            .process
            .as_ref()
            .with_context(|| format!("broker {} does not run", self.id))?;
        kill_process(Pid::from_child(child), signal).context("signal a broker")
    }

    /// kill -9, and waits until the process is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.process
            .take()
            .map(|mut child| child.wait())
            .transpose()?;
        Ok(())
    }

    /// kill -9 of a broker that others look at meanwhile; [`Broker::take_ended`] tells when it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn strike(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// SIGSTOP: the process exists, holds its connections and answers nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, and waits for a clean end.
    ///
    /// # Errors
    /// When it does not end in time, or with another status than success.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let what = format!("broker {} stopped", self.id);
        let status = wait::until(&what, STOP_LIMIT, async || self.exited()).await?;
        self.process = None;
        if !status.success() {
            bail!(
                "broker {} stopped with {status}:\n{}",
                self.id,
                self.log_tail()
            );
        }
        Ok(())
    }

    /// The last lines of its log, for a failure's message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let bytes = fs::read(&self.log_path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            // Already gone is fine; there is nobody left to tell otherwise.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The status of one HTTP GET.
///
/// # Errors
/// When the server cannot be reached or does not speak HTTP.
pub async fn http_status(server: SocketAddr, path: &str) -> Result<u16> {
    let (status, _) = http_get(server, path).await?;
    Ok(status)
}

/// Status and body of one HTTP GET on a connection of its own.
///
/// # Errors
/// When the server cannot be reached or does not speak HTTP.
pub async fn http_get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP head")?;
    let status = head.split(' ').nth(1).context("an HTTP status")?.parse()?;
    Ok((status, body.to_owned()))
}

//! `tidelog dev`: a cluster on this machine, each broker its own process.

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

const READY_LIMIT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(20);
/// A broker that has not stopped by then is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Offsets of the peer and HTTP ports from a broker's client port.
const PEER_PORT_OFFSET: u16 = 100;
const HTTP_PORT_OFFSET: u16 = 200;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidelog dev\n  tidelog dev --brokers 1 --base-port 19092 --data /tmp/try"
)]
pub struct Dev {
    /// How many brokers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=99))]
    brokers: u16,
    /// Client port of the first broker; the next brokers take the next ports, and each also takes the
    /// port 100 (other brokers) and 200 (health and metrics) above its own
    #[arg(long, default_value_t = 9092, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    base_port: u16,
    /// Folder of the cluster's data
    #[arg(long, default_value = "./tidelog-data", value_name = "DIR")]
    data: PathBuf,
    /// A setting for every broker; may be given several times
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
}

/// One broker of the cluster.
struct Member {
    id: u16,
    port: u16,
    dir: PathBuf,
    process: Option<Child>,
}

impl Member {
    fn config(&self) -> PathBuf {
        self.dir.join("broker.toml")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("broker.log")
    }

    fn ports(&self) -> [u16; 3] {
        [
            self.port,
            self.port + PEER_PORT_OFFSET,
            self.port + HTTP_PORT_OFFSET,
        ]
    }
}

impl Dev {
    pub fn run(self) -> Result<()> {
        // One thread: brokers are tied to the life of the thread that starts them.
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?
            .block_on(self.serve())
    }

    async fn serve(self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut members = self.members()?;
        // Everything that can be wrong is looked at before anything is made.
        check_ports(&members)?;
        self.check_data(&members)?;
        let _lock = self.lock()?;
        for member in &mut members {
            self.start(member)?;
        }
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::pin!(stop);
        let run = async {
            wait_ready(&mut members).await?;
            self.greet(&members);
            watch(&mut members).await
        };
        let done = tokio::select! {
            done = run => done,
            () = &mut stop => Ok(()),
        };
        stop_all(&mut members).await;
        done
    }

    fn members(&self) -> Result<Vec<Member>> {
        let data = std::path::absolute(&self.data).context("the data folder's path")?;
        if self
            .base_port
            .checked_add(HTTP_PORT_OFFSET + self.brokers)
            .is_none()
        {
            bail!(
                "--base-port {} leaves no room for {} brokers' ports",
                self.base_port,
                self.brokers
            );
        }
        Ok((1..=self.brokers)
            .map(|id| Member {
                id,
                port: self.base_port + id - 1,
                dir: data.join(id.to_string()),
                process: None,
            })
            .collect())
    }

    /// The folder must be new, or hold a cluster of as many brokers.
    fn check_data(&self, members: &[Member]) -> Result<()> {
        let held = (1..=99)
            .take_while(|id| self.data.join(id.to_string()).join("broker.json").exists())
            .count();
        if held != 0 && held != members.len() {
            bail!(
                "{} holds a cluster of {held} brokers: use --brokers {held}, or another --data folder",
                self.data.display()
            );
        }
        Ok(())
    }

    fn lock(&self) -> Result<File> {
        let shown = self.data.display();
        fs::create_dir_all(&self.data).with_context(|| format!("make the folder {shown}"))?;
        let path = self.data.join("dev.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "{shown} is in use by another `tidelog dev`: stop that one, or use another --data folder"
            );
        }
        Ok(lock)
    }

    fn start(&self, member: &mut Member) -> Result<()> {
        fs::create_dir_all(&member.dir)
            .with_context(|| format!("make the folder {}", member.dir.display()))?;
        fs::write(member.config(), self.settings_of(member)?)
            .with_context(|| format!("write {}", member.config().display()))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(member.log())
            .with_context(|| format!("open {}", member.log().display()))?;
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command
            .arg("start")
            .arg("--stop-with-parent")
            .arg("--config")
            .arg(member.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches this process alone, which then stops the brokers in order.
            .process_group(0);
        let process = Command::from(command).spawn().context("start a broker")?;
        member.process = Some(process);
        Ok(())
    }

    fn settings_of(&self, member: &Member) -> Result<String> {
        let mut table = toml::Table::new();
        let mut put = |name: &str, value: String| table.insert(name.to_owned(), value.into());
        let seeds: Vec<String> = (1..=self.brokers)
            .map(|id| {
                format!(
                    "{id}@127.0.0.1:{}",
                    self.base_port + id - 1 + PEER_PORT_OFFSET
                )
            })
            .collect();
        let [kafka, peer, http] = member.ports();
        put("broker.id", member.id.to_string());
        put("listeners", format!("127.0.0.1:{kafka}"));
        put("peer.listener", format!("127.0.0.1:{peer}"));
        put("http.listener", format!("127.0.0.1:{http}"));
        put("data.dir", member.dir.display().to_string());
        put("seed.brokers", seeds.join(","));
        put(
            "default.replication.factor",
            self.brokers.min(3).to_string(),
        );
        // As in the configuration Kafka comes with: whoever tries a group need not wait for more members.
        put("group.initial.rebalance.delay.ms", "0".to_owned());
        for assignment in &self.set {
            let (name, value) = assignment
                .split_once('=')
                .with_context(|| format!("--set {assignment}: write it as NAME=VALUE"))?;
            put(name.trim(), value.trim().to_owned());
        }
        Ok(format!(
            "# Written by `tidelog dev` at each start.\n{table}"
        ))
    }

    fn greet(&self, members: &[Member]) {
        let bootstrap: Vec<String> = members
            .iter()
            .map(|m| format!("127.0.0.1:{}", m.port))
            .collect();
        let first = &bootstrap[0];
        let mut out = std::io::stdout().lock();
        // Nobody may be reading; the brokers run all the same.
        let _ = writeln!(
            out,
            "ready: bootstrap {}\n\n\
             Try it:\n  \
             seq 1 10 | kcat -P -b {first} -t numbers\n  \
             seq 1 10 | tidelog produce numbers --bootstrap {first}\n  \
             tidelog consume numbers --from-beginning --bootstrap {first}\n\n\
             Broker N: pid in {dir}/N/broker.pid, log in {dir}/N/broker.log. Ctrl-C stops all.",
            bootstrap.join(","),
            dir = self.data.display(),
        );
        let _ = out.flush();
    }
}

/// A taken port is found before a folder is made or a broker of another cluster disturbed.
fn check_ports(members: &[Member]) -> Result<()> {
    for port in members.iter().flat_map(Member::ports) {
        if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
            bail!(
                "port {port} cannot be used ({error}): stop the program that listens there, or use another --base-port"
            );
        }
    }
    Ok(())
}

async fn wait_ready(members: &mut [Member]) -> Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    for member in members {
        while !is_ready(member.ports()[2]).await {
            if let Some(status) = member
                .process
                .as_mut()
                .and_then(|p| p.try_wait().transpose())
            {
                bail!(
                    "broker {} did not start ({}); its log says:\n{}",
                    member.id,
                    status?,
                    log_tail(&member.log())
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "broker {} is not ready after {} s; its log says:\n{}",
                    member.id,
                    READY_LIMIT.as_secs(),
                    log_tail(&member.log())
                );
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }
    Ok(())
}

async fn is_ready(http_port: u16) -> bool {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", http_port)).await?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    ask.await.unwrap_or(false)
}

/// Reports brokers that end, until the last one has.
async fn watch(members: &mut [Member]) -> Result<()> {
    loop {
        let ended = ended_member(members).await;
        let member = &mut members[ended];
        let status = match member.process.take() {
            Some(mut process) => process.wait().await?,
            None => continue,
        };
        eprintln!(
            "broker {} ended ({status}); to start it again: tidelog start --config {}",
            member.id,
            member.config().display()
        );
        if members.iter().all(|m| m.process.is_none()) {
            bail!("all brokers have ended; start again with the same --data folder to go on");
        }
    }
}

/// Waits until one of the brokers has ended; which one.
async fn ended_member(members: &mut [Member]) -> usize {
    loop {
        for (index, member) in members.iter_mut().enumerate() {
            let ended = member.process.as_mut().map(|p| p.try_wait());
            if matches!(ended, Some(Ok(Some(_)) | Err(_))) {
                return index;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn stop_all(members: &mut [Member]) {
    for member in members.iter() {
        let pid = member.process.as_ref().and_then(Child::id);
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // Already gone is as good.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    for member in members {
        let Some(mut process) = member.process.take() else {
            continue;
        };
        if tokio::time::timeout(STOP_LIMIT, process.wait())
            .await
            .is_err()
        {
            eprintln!("broker {} does not stop: killed", member.id);
            let _ = process.kill().await;
        }
    }
}

/// The last lines of a log.
fn log_tail(path: &Path) -> String {
    const LINES: usize = 15;
    const BYTES: u64 = 16 * 1024;
    let read = || -> std::io::Result<Vec<String>> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(bytes.saturating_sub(BYTES)))?;
        let lines = BufReader::new(file.take(BYTES)).split(b'\n');
        lines
            .map(|line| Ok(String::from_utf8_lossy(&line?).into_owned()))
            .collect()
    };
    let lines = read().unwrap_or_default();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

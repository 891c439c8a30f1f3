//! Several brokers that form one cluster.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::broker::{Broker, BrokerId};
use crate::dev;

/// From start to ready, on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Tests that measure a time hold this alone.
static QUIET: RwLock<()> = RwLock::const_new(());

/// Keeps other clusters off the machine, or shares it with them.
#[expect(dead_code, reason = "the guards are held, never looked at")]
enum Room {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// What a cluster is started with.
pub struct ClusterOptions {
    pub brokers: BrokerId,
    /// Further settings of every broker: name and TOML value.
    pub settings: Vec<(String, String)>,
    /// Brokers whose data lies elsewhere (a small file system, say).
    pub data_dirs: Vec<(BrokerId, PathBuf)>,
    /// No other cluster runs meanwhile: for tests that measure a time.
    pub alone: bool,
    /// Brokers run the build before ([`previous_binary`]).
    pub previous: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            brokers: 3,
            settings: Vec::new(),
            data_dirs: Vec::new(),
            alone: false,
            previous: false,
        }
    }
}

/// Running brokers; all are killed when it is dropped, and after a failed test their logs are printed.
pub struct Cluster {
    pub brokers: Vec<Broker>,
    binary: PathBuf,
    dir: Option<TempDir>,
    seeds: String,
    settings: Vec<(String, String)>,
    _room: Room,
}

impl Cluster {
    /// Three brokers, ready.
    ///
    /// # Errors
    /// When they do not come up; the message has their logs.
    pub async fn start() -> Result<Self> {
        Self::start_with(ClusterOptions::default()).await
    }

    /// Brokers as asked for, ready.
    ///
    /// # Errors
    /// When they do not come up; the message has their logs.
    pub async fn start_with(options: ClusterOptions) -> Result<Self> {
        let room = if options.alone {
            Room::Alone(QUIET.write().await)
        } else {
            Room::Shared(QUIET.read().await)
        };
        let dir = TempDir::with_prefix("tidelog-")?;
        let mut brokers = Vec::new();
        for id in 1..=options.brokers {
            let ports = [free_port()?, free_port()?, free_port()?];
            let mut broker = Broker::new(id, dir.path(), ports);
            if let Some((_, data_dir)) = options.data_dirs.iter().find(|(other, _)| *other == id) {
                broker.data_dir.clone_from(data_dir);
            }
            brokers.push(broker);
        }
        let seeds: Vec<String> = brokers
            .iter()
            .map(|b| format!("{}@{}", b.id, b.peer))
            .collect();
        let replication = (
            "default.replication.factor".to_owned(),
            options.brokers.min(3).to_string(),
        );
        let settings: Vec<_> = [replication].into_iter().chain(options.settings).collect();
        for broker in &brokers {
            broker.write_config(&seeds.join(","), &settings)?;
        }
        let mut cluster = Self {
            brokers,
            binary: if options.previous {
                previous_binary()?.to_owned()
            } else {
                binary()?.to_owned()
            },
            dir: Some(dir),
            seeds: seeds.join(","),
            settings,
            _room: room,
        };
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// From now on brokers are started with another binary.
    pub fn use_binary(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// Starts a further broker, which joins the others, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn join(&mut self, id: BrokerId) -> Result<()> {
        self.start_joining(id)?;
        self.broker_mut(id).wait_ready(READY_LIMIT).await
    }

    /// As [`Cluster::join`], but whether it becomes ready is another question.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn start_joining(&mut self, id: BrokerId) -> Result<()> {
        let dir = self.dir.as_ref().context("a folder")?;
        let ports = [free_port()?, free_port()?, free_port()?];
        let broker = Broker::new(id, dir.path(), ports);
        broker.write_config(&self.seeds, &self.settings)?;
        self.brokers.push(broker);
        self.start_one(id)
    }

    /// Starts every broker that does not run, and waits until all are ready.
    ///
    /// # Errors
    /// When one does not come up.
    pub async fn start_all(&mut self) -> Result<()> {
        for broker in self
            .brokers
            .iter_mut()
            .filter(|broker| !broker.is_started())
        {
            broker.start(&self.binary)?;
        }
        for broker in &mut self.brokers {
            broker.wait_ready(READY_LIMIT).await?;
        }
        Ok(())
    }

    /// Starts one broker again; whether it becomes ready is another question.
    ///
    /// # Errors
    /// When it runs, or the binary cannot be started.
    pub fn start_one(&mut self, id: BrokerId) -> Result<()> {
        let binary = self.binary.clone();
        self.broker_mut(id).start(&binary)
    }

    /// Starts one broker again and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self, id: BrokerId) -> Result<()> {
        self.start_one(id)?;
        self.broker_mut(id).wait_ready(READY_LIMIT).await
    }

    /// Brokers' Kafka addresses, as clients want them.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let all: Vec<String> = self.brokers.iter().map(|b| b.kafka.to_string()).collect();
        all.join(",")
    }

    /// What a command of `tidelog` prints about this cluster; it must succeed.
    ///
    /// # Errors
    /// When it does not, with what it says.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        let output = dev::run(&[args, &["--bootstrap", &self.bootstrap()]].concat())?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{args:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What a command says about this cluster that must fail.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        let output = dev::run(&[args, &["--bootstrap", &self.bootstrap()]].concat())?;
        ensure!(!output.status.success(), "{args:?} succeeded");
        Ok(String::from_utf8(output.stderr)?)
    }

    /// The broker of that id.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> &Broker {
        self.brokers
            .iter()
            .find(|b| b.id == id)
            .expect("a broker of this cluster")
    }

    /// The broker of that id.
    ///
    /// # Panics
    /// When there is none.
    pub fn broker_mut(&mut self, id: BrokerId) -> &mut Broker {
        self.brokers
            .iter_mut()
            .find(|b| b.id == id)
            .expect("a broker of this cluster")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A test that returns an error does not panic: `TIDELOG_TEST_KEEP=1` keeps its traces too.
        if !std::thread::panicking() && std::env::var_os("TIDELOG_TEST_KEEP").is_none() {
            return;
        }
        for broker in &self.brokers {
            eprintln!("--- log of broker {}:\n{}", broker.id, broker.log_tail());
        }
        if let Some(dir) = self.dir.take() {
            eprintln!(
                "--- everything of this cluster is kept in {}",
                dir.keep().display()
            );
        }
    }
}

/// A port nobody listens on. Below the range the kernel gives to outgoing connections, so that no
/// client of a parallel test takes it before the broker does.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    for _ in 0..2_000 {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {first} on")
}

/// The broker's binary: beside this test's own, of the same profile. `cargo test` does not build it, as it
/// belongs to another package, and so what is there may be of yesterday: it is built here, once a process.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("TIDELOG_BIN") {
            return Ok(PathBuf::from(path));
        }
        let exe = std::env::current_exe().map_err(|error| error.to_string())?;
        let profile = exe
            .ancestors()
            .nth(2)
            .ok_or("the test binary has no profile folder")?;
        let path = profile.join("tidelog");
        build_binary(profile).map_err(|error| format!("{error:#}"))?;
        Ok(path)
    });
    match found {
        Ok(path) => Ok(path),
        Err(error) => bail!("no tidelog binary: {error}"),
    }
}

/// The binary of an older build, whose brokers the present one's run beside during an upgrade. Built once,
/// from what was built before from crates that are not ours.
///
/// # Errors
/// When it cannot be built.
pub fn previous_binary() -> Result<&'static Path> {
    let found = find_previous_binary()?;
    found.context("this checkout has no history to build it from")
}

/// As [`previous_binary`]; `None` in a checkout without the history to build it from.
///
/// # Errors
/// When it cannot be built.
pub fn find_previous_binary() -> Result<Option<&'static Path>> {
    /// Of `tests/previous`, when the commit is not there.
    const NO_HISTORY: i32 = 3;
    static BINARY: OnceLock<Result<Option<PathBuf>, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| {
        // The crates that it shares with the present build are built by then.
        binary().map_err(|error| format!("{error:#}"))?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("previous");
        let output = Command::new(&script).stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| format!("{}: {error}", script.display()))?;
        if output.status.code() == Some(NO_HISTORY) {
            return Ok(None);
        }
        if !output.status.success() {
            return Err(format!("{} ended with {}", script.display(), output.status));
        }
        let path = String::from_utf8(output.stdout).map_err(|error| error.to_string())?;
        Ok(Some(PathBuf::from(path.trim())))
    });
    match found {
        Ok(path) => Ok(path.as_deref()),
        Err(error) => bail!("no binary of the build before: {error}"),
    }
}

fn build_binary(profile: &Path) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--workspace", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().context("run cargo build")?;
    if !status.success() {
        bail!("cargo build ended with {status}");
    }
    Ok(())
}

//! Whose brokers are tested: ours, or Apache Kafka's beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Any 16 bytes in base64.
const KAFKA_CLUSTER_ID: &str = "dGlkZWxvZy1qZXBzZW4xMA";
const KAFKA_PORT: u16 = 9092;
const PEER_PORT: u16 = 9192;

/// Where one broker is.
pub struct Place<'a> {
    pub id: i32,
    pub host: &'a str,
    /// Addresses of the hosts that form the cluster, broker 1 first.
    pub seeds: &'a [String],
    pub data_dir: &'a Path,
    pub config_path: &'a Path,
}

impl Place<'_> {
    /// Of the Kafka listener.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{KAFKA_PORT}", self.host)
    }

    fn everybody(&self) -> String {
        let each = self.seeds.iter().enumerate();
        let each = each.map(|(n, host)| format!("{}@{host}:{PEER_PORT}", n + 1));
        each.collect::<Vec<_>>().join(",")
    }
}

/// What is started.
#[derive(Clone, Debug)]
pub enum Peer {
    Tidelog {
        binary: PathBuf,
    },
    Kafka {
        /// The folder of its jars.
        libs: PathBuf,
    },
}

impl Peer {
    /// Apache Kafka from the folder that `KAFKA_LIBS` names.
    ///
    /// # Errors
    /// When there is none.
    pub fn kafka() -> Result<Self> {
        let libs = std::env::var_os("KAFKA_LIBS").context(
            "KAFKA_LIBS must name a folder with Apache Kafka's jars; `install_kafka` in \
             tests/interop/kafka.sh gets them by Maven",
        )?;
        let libs = PathBuf::from(libs);
        ensure!(libs.is_dir(), "KAFKA_LIBS: no folder {}", libs.display());
        Ok(Self::Kafka { libs })
    }

    /// In reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Peer::Tidelog { .. } => "tidelog",
            Peer::Kafka { .. } => "kafka",
        }
    }

    /// How long a clean stop may take.
    #[must_use]
    pub fn stop_limit(&self) -> Duration {
        match self {
            // Of this it hands leadership over for 5 s; a busy machine does the rest.
            Peer::Tidelog { .. } => Duration::from_secs(60),
            Peer::Kafka { .. } => Duration::from_secs(120),
        }
    }

    /// How long brokers may take to listen after they were started, before anything else is done to them.
    #[must_use]
    pub fn start_limit(&self) -> Duration {
        match self {
            Peer::Tidelog { .. } => Duration::ZERO,
            // The machine may be busy, and its start takes seconds as it is.
            Peer::Kafka { .. } => Duration::from_secs(90),
        }
    }

    /// Writes the configuration.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, place: &Place<'_>) -> Result<()> {
        let brokers = place.seeds.len().min(3);
        let (host, data_dir) = (place.host, place.data_dir.display());
        let (address, id) = (place.address(), place.id);
        let everybody = place.everybody();
        let text = match self {
            Peer::Tidelog { .. } => format!(
                "broker.id = {id}\nlisteners = \"{address}\"\npeer.listener = \"{host}:{PEER_PORT}\"\n\
                 http.listener = \"{host}:9292\"\ndata.dir = \"{data_dir}\"\nseed.brokers = \"{everybody}\"\n\
                 default.replication.factor = {brokers}\n\
                 group.initial.rebalance.delay.ms = 500\njournal.file.bytes = 8388608\n\
                 log.cleaner.backoff.ms = 1000\nbroker.dead.timeout.ms = 6000\n"
            ),
            // Its defaults, but for what three brokers need to be as safe as they can.
            Peer::Kafka { .. } => format!(
                "process.roles=broker,controller\nnode.id={id}\ncontroller.quorum.voters={everybody}\n\
                 listeners=PLAINTEXT://{address},CONTROLLER://{host}:{PEER_PORT}\n\
                 advertised.listeners=PLAINTEXT://{address}\ncontroller.listener.names=CONTROLLER\n\
                 listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
                 log.dirs={data_dir}\nmin.insync.replicas=2\noffsets.topic.replication.factor={brokers}\n\
                 transaction.state.log.replication.factor={brokers}\n\
                 transaction.state.log.min.isr=2\noffsets.topic.num.partitions=16\n\
                 transaction.state.log.num.partitions=16\ngroup.initial.rebalance.delay.ms=500\n\
                 log.cleaner.backoff.ms=1000\nauto.create.topics.enable=false\n"
            ),
        };
        fs::write(place.config_path, text).context("write a broker's configuration")
    }

    /// Whose arguments start the broker; makes what has to be there before the first start.
    ///
    /// # Errors
    /// When Kafka's storage cannot be formatted.
    pub fn command(&self, data_dir: &Path, config_path: &Path) -> Result<Command> {
        match self {
            Peer::Tidelog { binary } => {
                let mut command = Command::new(binary);
                command.args(["start", "--config"]).arg(config_path);
                Ok(command)
            }
            Peer::Kafka { libs } => {
                if !data_dir.join("meta.properties").exists() {
                    let mut format = java(libs);
                    format.args([
                        "kafka.tools.StorageTool",
                        "format",
                        "-t",
                        KAFKA_CLUSTER_ID,
                        "-c",
                    ]);
                    let done = format.arg(config_path).output().context("run java")?;
                    if !done.status.success() {
                        bail!("format: {}", String::from_utf8_lossy(&done.stderr).trim());
                    }
                }
                let mut command = java(libs);
                command.arg("kafka.Kafka").arg(config_path);
                Ok(command)
            }
        }
    }
}

fn java(libs: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args([
            "-Xms256m",
            "-Xmx384m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
        ])
        .arg(libs.join("*"));
    command
}

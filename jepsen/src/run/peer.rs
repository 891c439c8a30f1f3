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
            Peer::Tidelog { .. } => deployed(place),
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

/// The files that `docs/operations.md` puts on three hosts.
const HOSTS: [&str; 3] = [
    include_str!("../../../deploy/hosts/broker-1.toml"),
    include_str!("../../../deploy/hosts/broker-2.toml"),
    include_str!("../../../deploy/hosts/broker-3.toml"),
];

/// The file of a host, with what is different here; further brokers have those of the first ones once more.
fn deployed(place: &Place<'_>) -> String {
    let file = HOSTS[(place.id - 1).rem_euclid(3) as usize];
    let text = |value: String| format!("\"{value}\"");
    let changes = [
        ("broker.id", place.id.to_string()),
        ("data.dir", text(place.data_dir.display().to_string())),
        ("advertised.listeners", text(place.address())),
        ("seed.brokers", text(place.everybody())),
        (
            "default.replication.factor",
            place.seeds.len().min(3).to_string(),
        ),
        // Sooner than in earnest, so that there is time for many of them.
        ("group.initial.rebalance.delay.ms", "500".to_owned()),
        ("journal.file.bytes", "8388608".to_owned()),
        ("log.cleaner.backoff.ms", "1000".to_owned()),
        ("broker.dead.timeout.ms", "6000".to_owned()),
    ];
    let name_of = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let changed = |line: &str| changes.iter().any(|(name, _)| *name == name_of(line));
    let kept = file
        .lines()
        .filter(|line| !changed(line))
        .map(str::to_owned);
    let changes = changes
        .iter()
        .map(|(name, value)| format!("{name} = {value}"));
    kept.chain(changes).map(|line| line + "\n").collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_have_the_files_of_deploy_but_for_what_is_different_here() {
        let seeds = ["10.1.2.1", "10.1.2.2", "10.1.2.3"].map(str::to_owned);
        for id in [1, 3, 4] {
            let written = deployed(&Place {
                id,
                host: &format!("10.1.2.{id}"),
                seeds: &seeds,
                data_dir: Path::new("/d"),
                config_path: Path::new("/c"),
            });
            let lines: Vec<&str> = written.lines().collect();
            let rack = if id == 3 { "c" } else { "a" };
            for line in [
                &format!("broker.id = {id}"),
                &format!("broker.rack = \"{rack}\""),
                &format!("advertised.listeners = \"10.1.2.{id}:9092\""),
                "seed.brokers = \"1@10.1.2.1:9192,2@10.1.2.2:9192,3@10.1.2.3:9192\"",
                "data.dir = \"/d\"",
                "default.replication.factor = 3",
                "num.partitions = 6",
            ] {
                assert!(lines.contains(&line), "{line}: {written}");
            }
            let names = lines.iter().filter_map(|line| line.split_once(" = "));
            let mut names: Vec<&str> = names.map(|(name, _)| name).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "twice: {written}");
            assert!(!written.contains("10.0.0.1:"), "{written}");
        }
    }
}

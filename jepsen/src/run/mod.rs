//! One run: brokers in namespaces of their own, clients, faults by a seeded schedule, then everything
//! healed, read and judged.
//!
//! - [`network`]: a host a broker, and cuts between them. [`disk`]: a disk a broker, and what happens to
//!   it; [`damage`]: to its files. [`clock`]: a clock a broker. [`process`]: a broker;
//!   [`peer`]: ours, or Apache Kafka's.
//! - [`schedule`]: which faults when, from the seed. [`nemesis`]: makes them happen; [`members`]: those that move
//!   replicas.
//! - [`clients`]: who is there; [`writers`], [`readers`], [`transfers`], [`churn`]: what they do.
//!   [`recorder`]: what they were told and when.
//! - [`ending`]: what is read at the end. [`replicas`]: what each broker has stored. [`verdict`]: the
//!   judgement. [`html`]: the same, drawn.

pub mod churn;
pub mod clients;
pub mod clock;
pub mod damage;
pub mod disk;
pub mod ending;
pub mod html;
pub mod members;
pub mod nemesis;
pub mod network;
pub mod peer;
pub mod process;
pub mod random;
pub mod readers;
pub mod recorder;
pub mod replicas;
pub mod schedule;
pub mod transfers;
pub mod verdict;
pub mod writers;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tidelog_client::{Admin, ClientConfig, Connector, NewTopic};
use tokio::time::{Instant, sleep};

use clients::Clients;
use members::Members;
use nemesis::Nemesis;
use network::Network;
use peer::Peer;
use process::Process;
use recorder::Recorder;
use verdict::Verdict;

/// Brokers of a run, and replicas of its topics.
pub const BROKERS: i32 = 3;
/// Brokers of a run in which replicas move. The last is not there at first.
const BROKERS_OF_MOVES: i32 = 5;

/// After the last healing, before everything is read.
const SETTLE: Duration = Duration::from_secs(8);

/// The workloads there are.
pub const WORKLOADS: [&str; 7] = [
    "append",
    "txn",
    "group",
    "large",
    "transfers",
    "churn",
    "many",
];

/// What a run is told to do.
pub struct Options {
    pub seed: u64,
    pub duration: Duration,
    pub workloads: BTreeSet<String>,
    pub faults: BTreeSet<String>,
    pub peer: Peer,
    /// Where logs, data and reports go.
    pub dir: PathBuf,
    pub partitions: i32,
    /// Of the topic of the workload `many`.
    pub many_partitions: i32,
    /// Writes must be acknowledged again this long after healing.
    pub recovery_limit: Duration,
}

impl Options {
    /// Whether replicas move.
    #[must_use]
    pub fn moves(&self) -> bool {
        let mut kinds = schedule::MEMBER_KINDS.iter();
        kinds.any(|kind| self.faults.contains(*kind))
    }

    /// How many brokers there are.
    #[must_use]
    pub fn brokers(&self) -> i32 {
        match self.moves() {
            true => BROKERS_OF_MOVES,
            false => BROKERS,
        }
    }
}

/// What all clients of a run know.
pub struct Run {
    /// Addresses of the brokers, separated by commas.
    pub bootstrap: String,
    pub large_batches: bool,
    /// How the brokers are connected to, if not over TCP.
    pub connector: Option<Arc<dyn Connector>>,
}

impl Run {
    /// How clients reach the brokers.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new(&self.bootstrap)
            .with_client_id("jepsen")
            .with_request_timeout(Duration::from_secs(5));
        config.connect_timeout = Duration::from_secs(1);
        config.metadata_timeout = Duration::from_secs(1);
        config.connector.clone_from(&self.connector);
        config
    }
}

/// The name of a partition in histories.
#[must_use]
pub fn key_of(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

const APPENDED: &str = "append";
const TRANSACTED: &str = "txn";
const TRANSFERRED: &str = "transfers";
const MANY: &str = "many";

/// Runs and judges; everything it started is gone when it returns or is dropped.
///
/// # Errors
/// When the run could not be made; anomalies are in the verdict.
pub async fn run(mut options: Options) -> Result<Verdict> {
    std::fs::create_dir_all(&options.dir).context("make the report's folder")?;
    let mut skipped = Vec::new();
    if matches!(options.peer, Peer::Kafka { .. }) && options.moves() {
        skipped.push("faults that move replicas: they are ours".to_owned());
        let moves = |kind: &String| schedule::MEMBER_KINDS.contains(&kind.as_str());
        options.faults.retain(|kind| !moves(kind));
    }
    let brokers = options.brokers();
    let network = Network::create(brokers)?;
    if options.faults.contains("lossy")
        && let Err(error) = network.check_lossy()
    {
        skipped.push(format!("lossy: {error:#}"));
        options.faults.remove("lossy");
    }
    if matches!(options.peer, Peer::Kafka { .. }) && options.faults.remove("damage") {
        skipped.push("damage: it knows only our files".to_owned());
    }
    let wants_disks = schedule::DISK_KINDS
        .iter()
        .any(|kind| options.faults.contains(*kind));
    let has_disks = match wants_disks.then(|| disk::Disk::check(&options.dir)) {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            skipped.push(format!("faults of disks: {error:#}"));
            options
                .faults
                .retain(|kind| !schedule::DISK_KINDS.contains(&kind.as_str()));
            false
        }
        None => false,
    };
    if options.faults.contains("clock")
        && let Err(error) = clock::Clock::library()
    {
        skipped.push(format!("clock: {error:#}"));
        options.faults.remove("clock");
    }
    for line in &skipped {
        println!("skipped {line}");
    }
    let mut nemesis = nemesis(&options, network, has_disks)?;
    nemesis.start_all()?;
    let topics = topics(&options);
    create_topics(&nemesis.run, &topics).await?;
    let recorder = Arc::new(Recorder::default());
    nemesis.recorder = Arc::clone(&recorder);
    let clients = Clients::start(&options, &nemesis.run, &recorder);
    let millis = options.duration.as_millis() as u64;
    let steps = schedule::plan(options.seed, millis, brokers, &options.faults);
    let mut failures = Vec::new();
    for step in &steps {
        if let Err(error) = nemesis.step(step).await {
            println!("            no more faults: {error:#}");
            failures.push(format!("{error:#}"));
            break;
        }
    }
    let left = millis.saturating_sub(recorder.now_ms());
    sleep(Duration::from_millis(left)).await;
    nemesis.heal().await?;
    nemesis.settle().await;
    sleep(SETTLE).await;
    failures.append(&mut nemesis.failures);
    failures.extend(clients.end().await);
    let mut verdict = Verdict {
        seed: options.seed,
        peer: options.peer.name(),
        steps,
        skipped,
        failures,
        ..Verdict::default()
    };
    ending::read_everything(&options, &nemesis, &mut verdict).await;
    verdict.judge(&recorder, &nemesis, &options);
    verdict.write(&recorder.observed(), &options.dir)?;
    Ok(verdict)
}

fn nemesis(options: &Options, network: Network, has_disks: bool) -> Result<Nemesis> {
    let count = options.brokers();
    let seeds = if options.moves() { count - 1 } else { count };
    let brokers: Result<Vec<Process>> = (1..=count)
        .map(|id| {
            let name = format!("disk-{id}");
            let disk = has_disks.then(|| disk::Disk::create(&options.dir, &name, options.duration));
            let has_clock = options.faults.contains("clock");
            let clock =
                has_clock.then(|| clock::Clock::create(options.dir.join(format!("clock-{id}"))));
            let mut broker = Process::new(
                &network,
                id,
                seeds,
                &options.dir,
                &options.peer,
                disk.transpose()?,
                clock.transpose()?,
            )?;
            broker.away = id > seeds;
            Ok(broker)
        })
        .collect();
    let brokers = brokers?;
    let addresses: Vec<&str> = brokers.iter().map(|broker| &*broker.address).collect();
    let run = Run {
        bootstrap: addresses.join(","),
        large_batches: options.workloads.contains("large"),
        connector: None,
    };
    Ok(Nemesis {
        run: Arc::new(run),
        recorder: Arc::default(),
        brokers,
        network,
        off: BTreeSet::new(),
        failures: Vec::new(),
        peer: options.peer.clone(),
        members: Members::new(&topics(options)),
        topic: topics(options)
            .first()
            .map_or(APPENDED, |(topic, _)| topic)
            .to_owned(),
    })
}

/// The topics of the workloads asked for, with how many partitions.
#[must_use]
pub fn topics(options: &Options) -> Vec<(&'static str, i32)> {
    let has = |names: &[&str]| names.iter().any(|name| options.workloads.contains(*name));
    let mut topics = Vec::new();
    // A group alone reads what is appended.
    if has(&["append", "large", "group"]) {
        topics.push((APPENDED, options.partitions));
    }
    if has(&["txn"]) {
        topics.push((TRANSACTED, options.partitions));
    }
    if has(&["transfers"]) {
        topics.push((TRANSFERRED, options.partitions));
    }
    if has(&["many"]) {
        topics.push((MANY, options.many_partitions));
    }
    topics
}

/// What a topic is created with: small segments, so that they change under the faults.
fn configs(topic: &str) -> Vec<(String, String)> {
    let configs: &[(&str, &str)] = match topic {
        TRANSFERRED => &[
            ("segment.ms", "3000"),
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0.05"),
        ],
        _ => &[("segment.bytes", "1048576"), ("segment.ms", "10000")],
    };
    let configs = configs.iter();
    configs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Creates topics, as soon as there are brokers who can.
///
/// # Errors
/// When that takes more than a minute.
pub async fn create_topics(run: &Run, topics: &[(&str, i32)]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    for (topic, partitions) in topics {
        let new = NewTopic {
            name: (*topic).to_owned(),
            partitions: Some(*partitions),
            replication_factor: Some(BROKERS as i16),
            configs: configs(topic),
            ..NewTopic::default()
        };
        loop {
            let created = match Admin::new(run.client()).await {
                Ok(admin) => admin.create_topic(&new, false).await,
                Err(error) => Err(error),
            };
            match created {
                Ok(()) => break,
                Err(error) if error.to_string().contains("exists") => break,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("create a topic");
                }
                Err(_) => sleep(Duration::from_millis(300)).await,
            }
        }
    }
    Ok(())
}

//! One run: brokers in namespaces of their own, clients, faults by a seeded schedule, then everything
//! healed, read and judged.
//!
//! - [`network`]: a host a broker, and cuts between them. [`process`]: a broker.
//! - [`schedule`]: which faults when, from the seed. [`nemesis`]: makes them happen.
//! - [`writers`], [`readers`]: the clients. [`recorder`]: what they were told and when.
//! - [`replicas`]: what each broker has stored. [`verdict`]: the judgement. [`html`]: the same, drawn.

pub mod html;
pub mod nemesis;
pub mod network;
pub mod process;
pub mod random;
pub mod readers;
pub mod recorder;
pub mod replicas;
pub mod schedule;
pub mod verdict;
pub mod writers;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tidelog_client::{Admin, ClientConfig, NewTopic, StartPosition};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use nemesis::Nemesis;
use network::Network;
use process::Process;
use random::Random;
use readers::Reader;
use recorder::Recorder;
use verdict::Verdict;
use writers::Writer;

/// Brokers of a run.
pub const BROKERS: i32 = 3;

/// After the last healing, before everything is read.
const SETTLE: Duration = Duration::from_secs(8);

/// The workloads there are.
pub const WORKLOADS: [&str; 4] = ["append", "txn", "group", "large"];

/// What a run is told to do.
pub struct Options {
    pub seed: u64,
    pub duration: Duration,
    pub workloads: BTreeSet<String>,
    pub faults: BTreeSet<String>,
    pub binary: PathBuf,
    /// Where logs, data and reports go.
    pub dir: PathBuf,
    pub partitions: i32,
    /// Writes must be acknowledged again this long after healing.
    pub recovery_limit: Duration,
}

/// What all clients of a run know.
pub struct Run {
    bootstrap: String,
    pub partitions: i32,
    pub large_batches: bool,
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
        config
    }

    fn partition(&self, random: &mut Random) -> i32 {
        random.between(0, self.partitions as u64) as i32
    }
}

/// The name of a partition in histories.
#[must_use]
pub fn key_of(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

const APPENDED: &str = "append";
const TRANSACTED: &str = "txn";

/// The clients of a run.
struct Clients {
    writers: JoinSet<()>,
    readers: JoinSet<Result<()>>,
    stop_writers: Arc<AtomicBool>,
    stop_readers: Arc<AtomicBool>,
}

/// Runs and judges; everything it started is gone when it returns or is dropped.
///
/// # Errors
/// When the run could not be made; anomalies are in the verdict.
pub async fn run(mut options: Options) -> Result<Verdict> {
    std::fs::create_dir_all(&options.dir).context("make the report's folder")?;
    let network = Network::create(BROKERS)?;
    let mut skipped = Vec::new();
    if options.faults.contains("lossy") && !network.has_netem() {
        skipped.push("lossy: this kernel has no netem".to_owned());
        options.faults.remove("lossy");
    }
    for line in &skipped {
        println!("skipped {line}");
    }
    let mut nemesis = nemesis(&options, network)?;
    nemesis.start_all()?;
    let topics = topics(&options);
    create_topics(&nemesis.run, &topics).await?;
    let recorder = Arc::new(Recorder::default());
    nemesis.recorder = Arc::clone(&recorder);
    let clients = start_clients(&options, &nemesis);
    let millis = options.duration.as_millis() as u64;
    let steps = schedule::plan(options.seed, millis, BROKERS, &options.faults);
    let mut failures = Vec::new();
    for step in &steps {
        if let Err(error) = nemesis.step(step).await {
            failures.push(format!("{error:#}"));
            break;
        }
    }
    let left = millis.saturating_sub(recorder.now_ms());
    sleep(Duration::from_millis(left)).await;
    nemesis.heal()?;
    sleep(SETTLE).await;
    failures.extend(end_clients(clients).await);
    let mut verdict = Verdict {
        seed: options.seed,
        steps,
        skipped,
        failures,
        ..Verdict::default()
    };
    for topic in &topics {
        read_everything(&nemesis, topic, &mut verdict).await;
    }
    verdict.judge(&recorder, &nemesis, &options);
    verdict.write(&recorder.observed(), &options.dir)?;
    Ok(verdict)
}

fn nemesis(options: &Options, network: Network) -> Result<Nemesis> {
    let brokers: Result<Vec<Process>> = (1..=BROKERS)
        .map(|id| Process::new(&network, id, BROKERS, &options.dir))
        .collect();
    let brokers = brokers?;
    let addresses: Vec<&str> = brokers.iter().map(|broker| &*broker.address).collect();
    let run = Run {
        bootstrap: addresses.join(","),
        partitions: options.partitions,
        large_batches: options.workloads.contains("large"),
    };
    Ok(Nemesis {
        run: Arc::new(run),
        recorder: Arc::default(),
        brokers,
        network,
        binary: options.binary.clone(),
        topic: topics(options)[0].to_owned(),
    })
}

fn topics(options: &Options) -> Vec<&'static str> {
    let mut topics = Vec::new();
    if options.workloads.iter().any(|workload| workload != "txn") {
        topics.push(APPENDED);
    }
    if options.workloads.contains("txn") {
        topics.push(TRANSACTED);
    }
    topics
}

async fn create_topics(run: &Run, topics: &[&str]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    for topic in topics {
        let new = NewTopic {
            name: (*topic).to_owned(),
            partitions: Some(run.partitions),
            replication_factor: Some(BROKERS as i16),
            configs: vec![("segment.bytes".to_owned(), "1048576".to_owned())],
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

fn start_clients(options: &Options, nemesis: &Nemesis) -> Clients {
    let mut clients = Clients {
        writers: JoinSet::new(),
        readers: JoinSet::new(),
        stop_writers: Arc::default(),
        stop_readers: Arc::default(),
    };
    let (run, recorder) = (&nemesis.run, &nemesis.recorder);
    let mut next_process = 0;
    let mut process = || {
        next_process += 1;
        next_process
    };
    let writer = |stop: &Arc<AtomicBool>, process, topic: &str| Writer {
        run: Arc::clone(run),
        recorder: Arc::clone(recorder),
        stop: Arc::clone(stop),
        process,
        topic: topic.to_owned(),
    };
    let reader = |stop: &Arc<AtomicBool>, process, topic: &str| Reader {
        run: Arc::clone(run),
        recorder: Arc::clone(recorder),
        stop: Arc::clone(stop),
        process,
        topic: topic.to_owned(),
    };
    for topic in topics(options) {
        if topic == TRANSACTED {
            for _ in 0..3 {
                let writer = writer(&clients.stop_writers, process(), topic);
                clients.writers.spawn(writer.transact());
            }
        } else {
            for partition in 0..run.partitions {
                let writer = writer(&clients.stop_writers, process(), topic);
                clients.writers.spawn(writer.append(partition));
            }
        }
        let follower = reader(&clients.stop_readers, process(), topic);
        clients.readers.spawn(follower.follow());
        if options.workloads.contains("group") {
            for member in 0..4 {
                let reader = reader(&clients.stop_readers, process(), topic);
                // Two members in each protocol.
                let (group, next) = if member < 2 {
                    ("classic", false)
                } else {
                    ("next", true)
                };
                let group = format!("{group}-{topic}");
                clients
                    .readers
                    .spawn(async move { reader.join(&group, next).await });
            }
        }
    }
    clients
}

/// Stops the clients; what they could not do.
async fn end_clients(mut clients: Clients) -> Vec<String> {
    let mut failures = Vec::new();
    clients.stop_writers.store(true, Ordering::Relaxed);
    let all = async {
        let mut panicked = Vec::new();
        while let Some(ended) = clients.writers.join_next().await {
            panicked.extend(ended.err().map(|error| format!("a writer: {error}")));
        }
        panicked
    };
    let ended = timeout(Duration::from_secs(30), all).await;
    if let Ok(panicked) = ended {
        failures.extend(panicked);
    } else {
        failures.push(format!(
            "{} writers were not answered within 30 s of the last healing",
            clients.writers.len()
        ));
        clients.writers.shutdown().await;
    }
    // Readers may be behind.
    sleep(Duration::from_secs(2)).await;
    clients.stop_readers.store(true, Ordering::Relaxed);
    let ended = timeout(Duration::from_secs(30), async {
        let mut told = Vec::new();
        while let Some(ended) = clients.readers.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => told.push(format!("a reader: {error:#}")),
                Err(error) => told.push(format!("a reader: {error}")),
            }
        }
        told
    });
    match ended.await {
        Ok(told) => failures.extend(told),
        Err(_) => failures.push("readers did not end within 30 s".to_owned()),
    }
    failures
}

/// Reads the topic through a client, and from each broker alone.
async fn read_everything(nemesis: &Nemesis, topic: &str, verdict: &mut Verdict) {
    let reader = Reader {
        run: Arc::clone(&nemesis.run),
        recorder: Arc::clone(&nemesis.recorder),
        stop: Arc::default(),
        process: 1_000,
        topic: topic.to_owned(),
    };
    if let Err(error) = reader.read_all().await {
        verdict.failures.push(format!("the final read: {error:#}"));
    }
    match compare_replicas(nemesis, topic).await {
        Ok(differing) => verdict.differing_replicas.extend(differing),
        Err(error) => verdict.failures.push(format!("replicas: {error:#}")),
    }
}

async fn compare_replicas(nemesis: &Nemesis, topic: &str) -> Result<Vec<String>> {
    let admin = Admin::new(nemesis.run.client()).await?;
    let places = (0..nemesis.run.partitions).map(|p| (topic.to_owned(), p, StartPosition::Latest));
    let mut differing = Vec::new();
    for (_, partition, end) in admin.offsets(places).await? {
        let copies: Vec<JoinHandle<Result<Vec<u8>>>> = nemesis
            .brokers
            .iter()
            .map(|broker| {
                let (address, topic) = (broker.address.clone(), topic.to_owned());
                tokio::spawn(async move { replicas::read(&address, &topic, partition, end).await })
            })
            .collect();
        let mut stored = Vec::new();
        for copy in copies {
            stored.push(copy.await??);
        }
        if stored.iter().any(|copy| *copy != stored[0]) {
            let bytes: Vec<usize> = stored.iter().map(Vec::len).collect();
            differing.push(format!("{topic}-{partition} up to {end}: {bytes:?} bytes"));
        }
    }
    Ok(differing)
}

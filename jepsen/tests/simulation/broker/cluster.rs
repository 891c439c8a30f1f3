//! The brokers of one run, and what their tasks, the clients and the run share.

use super::clients::Phase;
use crate::entropy::Random;
use crate::history::History;
use crate::machine::{Machine, Running};
use crate::run;
use crate::world::{self, Options, id, name, peer_address, read};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidelog_broker::config::{BrokerConfig, Source};
use tidelog_broker::{Broker, RunningBroker};
use tidelog_jepsen::check;
use tidelog_jepsen::run::peer::Peer;
use tidelog_jepsen::run::recorder::Recorder;
use tidelog_jepsen::{Kind, run as jepsen};
use tidelog_replication::host::Host;
use tidelog_replication::{BrokerId, GroupId, Node, Partition};

/// Of each topic but those that come and go.
const PARTITIONS: i32 = 2;
/// It joins the others later, where there are so many.
const JOINING: usize = 5;

/// What outlives the brokers' crashes, and what their tasks share.
pub struct Cluster {
    pub brokers: usize,
    pub options: jepsen::Options,
    dir: PathBuf,
    keeps_history: bool,
    machines: BTreeMap<usize, Arc<Machine>>,
    pub history: Mutex<History>,
    running: Mutex<BTreeMap<usize, Arc<Broker>>>,
    /// Replicas that each broker has shown.
    shown: Mutex<BTreeMap<usize, BTreeSet<GroupId>>>,
    state: Mutex<State>,
}

/// The replicas of a partition, those that are open.
type Replicas = BTreeMap<BrokerId, Option<Arc<Partition>>>;

/// What the clients of a run do.
pub fn workloads(random: &mut Random) -> BTreeSet<String> {
    let mut workloads = BTreeSet::from(["append".to_owned()]);
    for workload in ["txn", "group", "transfers", "churn"] {
        if random.one_in(2) {
            workloads.insert(workload.to_owned());
        }
    }
    workloads
}

struct State {
    phase: Phase,
    /// What clients are told; once there are clients.
    recorder: Option<Arc<Recorder>>,
    /// Operations that had ended when all was healed.
    before_healing: Option<usize>,
    changes: Vec<Change>,
    /// The last broker is there.
    joined: bool,
}

/// What is to become of the brokers and their replicas.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// By this seed, some replicas go to other brokers.
    Move(u64),
    /// Everything leaves the broker.
    Drain(usize),
    /// The broker leads nothing.
    Maintain(usize),
    /// The last two are taken back.
    Restore,
}

impl Cluster {
    pub fn new(
        options: &Options,
        brokers: usize,
        machines: BTreeMap<usize, Arc<Machine>>,
        workloads: BTreeSet<String>,
    ) -> Arc<Cluster> {
        let options_of_clients = jepsen::Options {
            seed: options.seed,
            duration: Duration::ZERO,
            workloads,
            faults: BTreeSet::new(),
            peer: Peer::Tidelog {
                binary: PathBuf::new(),
            },
            dir: options.dir.clone(),
            partitions: PARTITIONS,
            many_partitions: 0,
            recovery_limit: Duration::MAX,
        };
        Arc::new(Cluster {
            brokers,
            options: options_of_clients,
            dir: options.dir.clone(),
            keeps_history: options.keeps_history,
            machines,
            history: Mutex::new(History::new(options.show)),
            running: Mutex::default(),
            shown: Mutex::default(),
            state: Mutex::new(State {
                phase: Phase::Beginning,
                recorder: None,
                before_healing: None,
                changes: Vec::new(),
                joined: brokers < JOINING,
            }),
        })
    }

    fn config(&self, broker: usize) -> BrokerConfig {
        let mut config = BrokerConfig::default();
        let first = (1..=self.brokers).filter(|b| *b != JOINING);
        let seeds = first.map(|b| format!("{b}@{}", peer_address(b)));
        let dir = self.dir.join(broker.to_string());
        let settings = [
            ("broker.id", broker.to_string()),
            ("data.dir", dir.display().to_string()),
            ("listeners", "0.0.0.0:9092".to_owned()),
            ("advertised.listeners", kafka_address(broker)),
            ("peer.listener", "0.0.0.0:9094".to_owned()),
            ("seed.brokers", seeds.collect::<Vec<_>>().join(",")),
            // Small and often, so that files change and are given up within a run.
            ("journal.file.bytes", (1 << 20).to_string()),
            ("journal.direct.io", "false".to_owned()),
            ("log.cleaner.backoff.ms", "500".to_owned()),
            ("log.retention.check.interval.ms", "1000".to_owned()),
            ("disk.reserve.bytes", "0".to_owned()),
            ("offsets.topic.num.partitions", "2".to_owned()),
            ("transaction.state.log.num.partitions", "2".to_owned()),
            ("peer.heartbeat.interval.ms", "100".to_owned()),
            ("peer.suspicion.timeout.ms", "500".to_owned()),
            // Some of those that are down for longer are replaced.
            ("broker.dead.timeout.ms", "1500".to_owned()),
        ];
        for (setting, value) in settings {
            config.put(setting, &value, Source::Set).expect("a setting");
        }
        config
    }
}

/// Where clients reach a broker.
pub fn kafka_address(broker: usize) -> String {
    format!("{}:9092", name(broker))
}

/// All that one broker does until it is crashed.
pub async fn run_broker(cluster: Arc<Cluster>, broker: usize) -> turmoil::Result {
    while broker == JOINING && !cluster.state.lock().joined {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let host = Host::Simulated(Arc::new(Running(cluster.machines[&broker].clone())));
    let mut running = RunningBroker::start_on(host, cluster.config(broker)).await?;
    cluster
        .running
        .lock()
        .insert(broker, running.broker.clone());
    Err(running.failed().await.into())
}

/// What the run wants of it.
impl Cluster {
    pub fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    pub fn set_phase(&self, phase: Phase) {
        self.state.lock().phase = phase;
    }

    /// There are clients.
    pub fn record(&self, recorder: &Arc<Recorder>) {
        self.state.lock().recorder = Some(recorder.clone());
    }

    pub fn heal(&self) {
        let mut state = self.state.lock();
        let ended = state.recorder.as_ref().map(|r| r.observed().timed.len());
        state.before_healing = ended;
        state.joined = true;
    }

    pub fn is_healed(&self) -> bool {
        self.state.lock().before_healing.is_some()
    }

    /// Whether every partition that is appended to has taken something since all was healed.
    pub fn has_recovered(&self) -> bool {
        let state = self.state.lock();
        let (Some(recorder), Some(before)) = (&state.recorder, state.before_healing) else {
            return false;
        };
        let observed = recorder.observed();
        let since = observed.timed[before..].iter();
        let sent = since.filter(|t| t.f == "send" && t.kind == Kind::Ok);
        let partitions: BTreeSet<i32> = sent.filter_map(|t| t.partition).collect();
        partitions.len() == PARTITIONS as usize
    }

    pub fn changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.state.lock().changes)
    }

    /// The replicas of every partition, as the brokers that should have them say.
    fn replicas(&self) -> BTreeMap<GroupId, (String, Replicas)> {
        let running = self.running.lock();
        let newest = running.values().map(|b| b.metadata.load_full());
        let Some(image) = newest.max_by_key(|image| image.applied_index) else {
            return BTreeMap::new();
        };
        let mut all = BTreeMap::new();
        for (topic, info) in &image.topics {
            for (index, partition) in info.partitions.iter().enumerate() {
                let replica = |broker: &BrokerId| {
                    let broker = running.get(&(broker.0 as usize))?;
                    broker.node.partition(partition.group)
                };
                let replicas = partition.replicas.iter().map(|b| (*b, replica(b)));
                let replicas = replicas.collect();
                all.insert(partition.group, (format!("{topic}-{index}"), replicas));
            }
        }
        all
    }

    /// The newest metadata that any broker has.
    pub fn newest_metadata(&self) -> u64 {
        let running = self.running.lock();
        let indexes = running.values().map(|b| b.metadata.load().applied_index);
        indexes.max().unwrap_or(0)
    }

    /// Whether all brokers have these metadata, or newer ones. One whose disk does not answer yet may be behind.
    pub fn know(&self, metadata: u64) -> bool {
        let running = self.running.lock();
        let mut indexes = running.values().map(|b| b.metadata.load().applied_index);
        indexes.all(|index| index >= metadata)
    }

    /// Whether every replica is open where it belongs, and ends where the others do.
    pub fn is_settled(&self) -> bool {
        let all = self.replicas();
        !all.is_empty()
            && all.values().all(|(_, replicas)| {
                let mut ends = replicas
                    .values()
                    .map(|r| r.as_ref().map(|r| r.log().log_end_offset()));
                let first = ends.next().flatten();
                first.is_some() && ends.all(|end| end == first)
            })
    }

    /// Checks what clients were told, and the whole logs of all replicas.
    pub fn check(&self) {
        let mut found = Vec::new();
        if let Some(recorder) = &self.state.lock().recorder {
            let observed = recorder.observed();
            if self.keeps_history {
                let lines = observed.history.to_json_lines();
                std::fs::write(self.dir.join("history.jsonl"), lines).expect("written");
            }
            let report = check::all(&observed.history);
            found.extend(report.anomalies.iter().map(|a| format!("{a:?}")));
            if !report.is_valid() && report.anomalies.is_empty() {
                found.push("nothing was acknowledged, or nothing read".to_owned());
            }
        }
        for (name, replicas) in self.replicas().values() {
            let whole = |partition: &Arc<Partition>| {
                let log = partition.log();
                read(partition, log.log_start_offset(), log.log_end_offset())
            };
            let open = replicas.values().flatten();
            // Each replica compacts by itself.
            let logs: Vec<_> = open
                .filter(|p| !p.log().is_compacted())
                .map(whole)
                .collect();
            if logs.windows(2).any(|two| two[0] != two[1]) {
                found.push(format!("the replicas of {name} differ"));
            }
        }
        let mut history = self.history.lock();
        for what in found {
            history.fail(what);
        }
    }
}

impl run::Cluster for Cluster {
    const HAS_CLIENTS: bool = true;

    fn history(&self) -> &Mutex<History> {
        &self.history
    }

    fn nodes(&self) -> BTreeMap<usize, Arc<Node>> {
        let running = self.running.lock();
        running.iter().map(|(b, r)| (*b, r.node.clone())).collect()
    }

    fn state(&self) -> String {
        let mut lines = vec![format!("{:?}", self.options.workloads)];
        for (group, (name, replicas)) in self.replicas() {
            let stand = |replica: &Arc<Partition>| {
                let log = replica.log();
                format!("{:?}, ends at {}", replica.role(), log.log_end_offset())
            };
            let each = replicas
                .iter()
                .map(|(b, r)| format!("{b}: {}", r.as_ref().map_or("-".to_owned(), stand)));
            let each: Vec<_> = each.collect();
            lines.push(format!("{name} ({}): {}", group.0, each.join("; ")));
        }
        let state = self.state.lock();
        if let Some(recorder) = &state.recorder {
            lines.push(format!("told: {:?}", recorder.observed().errors));
        }
        lines.join("\n")
    }

    fn acknowledged(&self) -> u64 {
        let state = self.state.lock();
        let Some(recorder) = &state.recorder else {
            return 0;
        };
        check::all(&recorder.observed().history).acknowledged_count as u64
    }

    fn gone(&self, broker: usize) {
        self.running.lock().remove(&broker);
        self.shown.lock().remove(&broker);
    }

    fn change_members(&self, random: &mut Random) {
        let mut state = self.state.lock();
        let broker = 1 + random.below(self.brokers);
        let change = match random.below(6) {
            0 => Change::Drain(broker),
            1 => Change::Maintain(broker),
            _ if !state.joined => {
                state.joined = true;
                drop(state);
                return self.history.lock().note("the last broker joins");
            }
            _ => Change::Move(random.next()),
        };
        state.changes.push(change);
        drop(state);
        self.history.lock().note(&format!("{change:?}"));
    }

    fn restore_members(&self) {
        self.state.lock().changes.push(Change::Restore);
    }

    fn observe(&self) {
        let mut history = self.history.lock();
        for (broker, node) in self.nodes() {
            let there: BTreeSet<_> = node.partitions().iter().map(|p| p.spec().group).collect();
            let mut shown = self.shown.lock();
            let before = shown.insert(broker, there.clone()).unwrap_or_default();
            for group in before.difference(&there) {
                history.removed(*group, id(broker));
            }
            world::observe(&mut history, broker, &node);
        }
    }
}

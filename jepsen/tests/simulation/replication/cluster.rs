//! The brokers of one run: on each a node with replicas of a few partitions, and what a broker's
//! controller does for it: it opens, moves and removes replicas.

use super::clients;
use crate::entropy::Random;
use crate::history::History;
use crate::machine::{Machine, Running};
use crate::run;
use crate::world::{Options, id, peer_address, read};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tidelog_replication::host::Host;
use tidelog_replication::{
    BrokerId, GroupId, MetadataMachine, Node, NodeConfig, Partition, PartitionSpec, PeerAddress,
    ReplicationError, Wanted,
};
use tidelog_storage::log::LogConfig;

const PARTITIONS: u64 = 3;
const FIRST_GROUP: u64 = 1000;

/// A partition as the metadata of a real cluster would have it.
#[derive(Clone)]
pub struct Placement {
    pub group: GroupId,
    pub replicas: Vec<BrokerId>,
    /// Where its replicas are on their way to.
    pub target: Option<Vec<BrokerId>>,
    founders: Vec<BrokerId>,
    /// Founders that have been voters ever since.
    still: Vec<BrokerId>,
}

impl Placement {
    /// All that have or get a replica.
    fn all(&self) -> Vec<BrokerId> {
        let mut all = self.target.clone().unwrap_or_default();
        all.extend(
            self.replicas
                .iter()
                .filter(|r| !all.contains(r))
                .copied()
                .collect::<Vec<_>>(),
        );
        all
    }
}

/// What outlives the brokers' crashes, and what their tasks share.
pub struct Cluster {
    pub brokers: usize,
    seed: u64,
    dir: PathBuf,
    pub machines: BTreeMap<usize, Arc<Machine>>,
    pub history: Mutex<History>,
    pub placements: Mutex<Vec<Placement>>,
    pub running: Mutex<BTreeMap<usize, RunningBroker>>,
    pub clients: clients::Clients,
}

pub struct RunningBroker {
    pub node: Arc<Node>,
    pub metadata: Applied,
}

/// Metadata commands that a broker has applied.
pub type Applied = Arc<Mutex<Vec<u64>>>;

impl Cluster {
    pub fn new(
        options: &Options,
        brokers: usize,
        machines: BTreeMap<usize, Arc<Machine>>,
    ) -> Arc<Cluster> {
        let seed = options.seed;
        let mut random = Random::new(seed, 3);
        let placements = (0..PARTITIONS).map(|p| {
            let first = random.below(brokers);
            let replicas: Vec<_> = (0..3).map(|r| id((first + r) % brokers + 1)).collect();
            Placement {
                group: GroupId(FIRST_GROUP + p),
                founders: replicas.clone(),
                still: replicas.clone(),
                replicas,
                target: None,
            }
        });
        let placements: Vec<_> = placements.collect();
        let groups: Vec<_> = placements.iter().map(|p| p.group).collect();
        Arc::new(Cluster {
            brokers,
            seed,
            dir: options.dir.clone(),
            machines,
            history: Mutex::new(History::new(options.show)),
            placements: Mutex::new(placements),
            running: Mutex::default(),
            clients: clients::Clients::new(&groups),
        })
    }

    fn data_dir(&self, broker: usize) -> PathBuf {
        self.dir.join(broker.to_string())
    }

    fn config(&self, broker: usize) -> NodeConfig {
        NodeConfig {
            broker: id(broker),
            incarnation: broker as u128,
            cluster_id: String::new(),
            metadata_version: 1,
            data_dir: self.data_dir(broker),
            peer_listener: "0.0.0.0:9094".to_owned(),
            peer_address: peer_address(broker),
            seeds: (1..=self.brokers)
                .map(|b| PeerAddress {
                    broker: id(b),
                    address: peer_address(b),
                })
                .collect(),
            // Small, so that files change and are given up within a run.
            journal_file_bytes: 512 << 10,
            journal_direct_io: false,
            heartbeat_interval_ms: 100,
            suspicion_timeout_ms: 500,
            propose_timeout_ms: 5_000,
            auto_leader_rebalance: true,
            disk_reserve_bytes: 0,
        }
    }

    fn spec(&self, broker: usize, placement: &Placement) -> PartitionSpec {
        let founds = placement.still.contains(&id(broker));
        let partition = placement.group.0 - FIRST_GROUP;
        PartitionSpec {
            group: placement.group,
            topic: "topic".to_owned(),
            topic_id: [7; 16],
            partition: partition as i32,
            dir: self.data_dir(broker).join(format!("topic-{partition}")),
            replicas: placement.all(),
            founders: if founds {
                placement.founders.clone()
            } else {
                Vec::new()
            },
            first_sequences: true,
            config: LogConfig {
                segment_bytes: 256 << 10,
                ..LogConfig::default()
            },
        }
    }
}

impl Cluster {
    /// Partitions, and the metadata.
    pub fn groups(&self) -> usize {
        self.placements.lock().len() + 1
    }

    /// The metadata commands each broker has applied.
    pub fn metadata(&self) -> BTreeMap<BrokerId, Vec<u64>> {
        let running = self.running.lock();
        running
            .iter()
            .map(|(b, running)| (id(*b), running.metadata.lock().clone()))
            .collect()
    }

    fn replica(&self, broker: BrokerId, group: GroupId) -> Option<Arc<Partition>> {
        let running = self.running.lock();
        running.get(&(broker.0 as usize))?.node.partition(group)
    }

    /// Whether every replica is open where it belongs, and ends where the others do.
    pub fn is_settled(&self) -> bool {
        self.placements.lock().iter().all(|placement| {
            let end =
                |b: &BrokerId| Some(self.replica(*b, placement.group)?.log().log_end_offset());
            let ends: Vec<_> = placement.replicas.iter().map(end).collect();
            placement.target.is_none() && ends.iter().all(|e| e.is_some() && *e == ends[0])
        })
    }

    /// Where every replica stands, for people.
    fn stands(&self) -> String {
        let mut lines = Vec::new();
        for placement in self.placements.lock().iter() {
            let (group, target) = (placement.group, &placement.target);
            lines.push(format!(
                "{}: {:?}, moves to {target:?}",
                group.0, placement.replicas
            ));
            for broker in placement.all() {
                let replica = self.replica(broker, group);
                let state = replica.map(|r| (r.role(), r.log().log_end_offset()));
                lines.push(format!("  {broker}: {state:?}"));
            }
        }
        lines.push(format!(
            "metadata: {:?}",
            self.metadata().values().map(Vec::len).collect::<Vec<_>>()
        ));
        lines.join("\n")
    }

    /// Checks the whole logs of all replicas and the metadata.
    pub fn check_logs(&self) {
        let placements = self.placements.lock().clone();
        for placement in placements {
            let group = placement.group;
            let logs = placement.replicas.iter().filter_map(|broker| {
                let replica = self.replica(*broker, group)?;
                let log = replica.log();
                let whole = read(&replica, log.log_start_offset(), log.log_end_offset());
                Some((*broker, whole))
            });
            let logs = logs.collect();
            self.history.lock().check_logs(group, &logs);
        }
        let metadata = self.metadata();
        self.history.lock().check_metadata(&metadata);
    }
}

/// All that one broker does until it is crashed.
pub async fn run_broker(cluster: Arc<Cluster>, broker: usize) -> turmoil::Result {
    let metadata = Applied::default();
    let host = Host::Simulated(Arc::new(Running(cluster.machines[&broker].clone())));
    let machine = Box::new(Metadata(metadata.clone()));
    let node = Node::start_on(host, cluster.config(broker), machine).await?;
    let running = RunningBroker {
        node: node.clone(),
        metadata,
    };
    cluster.running.lock().insert(broker, running);
    let mut random = Random::new(cluster.seed, 200 + broker as u64);
    tokio::spawn(clients::write_metadata(
        cluster.clone(),
        node.clone(),
        random.clone(),
    ));
    loop {
        for at in 0..PARTITIONS as usize {
            let placement = cluster.placements.lock()[at].clone();
            let opened = see_to(&cluster, &node, broker, &placement).await?;
            if let Some(partition) = opened {
                clients::start(&cluster, &partition, broker, &mut random);
            }
        }
        tokio::time::sleep(random.millis(80, 120)).await;
    }
}

/// Opens, moves or removes this broker's replica; gives one that is open since now.
async fn see_to(
    cluster: &Arc<Cluster>,
    node: &Arc<Node>,
    broker: usize,
    placement: &Placement,
) -> Result<Option<Arc<Partition>>, ReplicationError> {
    let (group, all) = (placement.group, placement.all());
    if !all.contains(&id(broker)) {
        if node.knows(group) {
            node.remove_replica(group).await?;
            cluster.history.lock().removed(group, id(broker));
        }
        return Ok(None);
    }
    if node.partition(group).is_none() {
        let spec = cluster.spec(broker, placement);
        return node.open_partition(spec).await.map(Some);
    }
    node.set_replicas(group, &all);
    let Some(target) = &placement.target else {
        return Ok(None);
    };
    let wanted = Wanted {
        voters: target.clone(),
        ..Wanted::default()
    };
    if node.move_replicas(group, &wanted).await {
        let mut placements = cluster.placements.lock();
        let placement = placements.iter_mut().find(|p| p.group == group);
        if let Some(placement) = placement.filter(|p| p.target.as_ref() == Some(target)) {
            placement.still.retain(|f| target.contains(f));
            placement.replicas = placement.target.take().unwrap_or_default();
            cluster
                .history
                .lock()
                .note(&format!("{}: moved to {target:?}", group.0));
        }
    }
    Ok(None)
}

impl run::Cluster for Cluster {
    const HAS_CLIENTS: bool = false;

    fn history(&self) -> &Mutex<History> {
        &self.history
    }

    fn nodes(&self) -> BTreeMap<usize, Arc<Node>> {
        let running = self.running.lock();
        running.iter().map(|(b, r)| (*b, r.node.clone())).collect()
    }

    fn state(&self) -> String {
        self.stands()
    }

    fn acknowledged(&self) -> u64 {
        self.history.lock().acknowledged
    }

    fn gone(&self, broker: usize) {
        self.running.lock().remove(&broker);
        self.clients.broker_gone(broker);
    }

    fn change_members(&self, random: &mut Random) {
        let mut brokers: Vec<BrokerId> = (1..=self.brokers).map(id).collect();
        while brokers.len() > 3 {
            brokers.remove(random.below(brokers.len()));
        }
        let first = random.below(3);
        brokers.rotate_left(first);
        let mut placements = self.placements.lock();
        let at = random.below(placements.len());
        let placement = &mut placements[at];
        if placement.target.is_none() && placement.replicas != brokers {
            let event = format!("{}: moves to {brokers:?}", placement.group.0);
            self.history.lock().note(&event);
            placement.target = Some(brokers);
        }
    }
}

struct Metadata(Applied);

impl MetadataMachine for Metadata {
    fn apply(&mut self, _index: u64, command: &[u8], _versioned: bool) -> Result<Bytes, String> {
        let command = command.try_into().map_err(|_| "not a number".to_owned())?;
        self.0.lock().push(u64::from_be_bytes(command));
        Ok(Bytes::new())
    }

    fn snapshot(&self) -> Bytes {
        self.0.lock().iter().flat_map(|c| c.to_be_bytes()).collect()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let commands = snapshot
            .chunks_exact(8)
            .map(|c| c.try_into().map_or(0, u64::from_be_bytes));
        *self.0.lock() = commands.collect();
        Ok(())
    }
}

//! The metadata image request handlers read.

use super::features::Known;
use super::version::FIRST_WITH_SPREADING;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidelog_replication::{BrokerId, GroupId};
use uuid::Uuid;

/// The setting of one broker that keeps leadership away from it.
pub const MAINTENANCE: &str = "broker.maintenance";
/// The setting of one broker that moves all replicas away from it.
pub const DECOMMISSION: &str = "broker.decommission";

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerMeta {
    pub id: BrokerId,
    /// Where Kafka clients reach it (advertised listener).
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
    /// `HOST:PORT` for other brokers.
    pub peer_address: String,
    /// Changes whenever the broker's data folder is created anew.
    pub incarnation: Uuid,
}

/// One partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMeta {
    pub group: GroupId,
    /// Replica set in preference order; the first is the preferred leader. While the partition moves, the
    /// replicas that come and those that go are all in it.
    pub replicas: Vec<BrokerId>,
    /// Where it moves, while it does.
    pub reassignment: Option<Reassignment>,
    /// Replicas that have been there since the group's first entry. Only they may form the group.
    pub founders: Vec<BrokerId>,
}

/// A partition on its way to other replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassignment {
    /// Tells it from every other move, also one to the same replicas.
    pub id: u64,
    /// The replicas it shall have, in preference order.
    pub target: Vec<BrokerId>,
    /// The replicas it had when the move began; cancelling goes back to them.
    pub original: Vec<BrokerId>,
}

impl PartitionMeta {
    /// One that has just been created.
    pub fn new(group: GroupId, replicas: Vec<BrokerId>) -> PartitionMeta {
        PartitionMeta {
            group,
            founders: replicas.clone(),
            replicas,
            reassignment: None,
        }
    }

    /// The replicas it shall have once it has stopped moving.
    pub fn target(&self) -> &[BrokerId] {
        match &self.reassignment {
            Some(moving) => &moving.target,
            None => &self.replicas,
        }
    }

    /// Kafka's *adding replicas*.
    pub fn adding(&self) -> Vec<BrokerId> {
        self.reassignment.as_ref().map_or_else(Vec::new, |moving| {
            let new = moving.target.iter();
            new.copied()
                .filter(|b| !moving.original.contains(b))
                .collect()
        })
    }

    /// Kafka's *removing replicas*.
    pub fn removing(&self) -> Vec<BrokerId> {
        let target = self.target();
        let replicas = self.replicas.iter();
        replicas.copied().filter(|b| !target.contains(b)).collect()
    }

    /// Replicas it has for certain, whatever stage a move is in.
    pub fn least_replicas(&self) -> usize {
        self.reassignment
            .as_ref()
            .map_or(self.replicas.len(), |moving| {
                moving.target.len().min(moving.original.len())
            })
    }
}

/// A topic. `partitions[i]` is partition `i`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
    pub partitions: Vec<PartitionMeta>,
    /// Explicit topic configs only (Kafka's names); defaults come from the broker.
    pub configs: BTreeMap<String, String>,
    /// A producer that has never written to a partition begins there at sequence 0. Not where an earlier topic
    /// had the name, as producers that knew that one go on in their counting.
    pub first_sequences: bool,
}

/// One version of the cluster's metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataImage {
    /// Raft log index of the last command applied.
    pub applied_index: u64,
    pub cluster_id: String,
    pub brokers: BTreeMap<BrokerId, BrokerMeta>,
    /// By name, sorted.
    pub topics: BTreeMap<String, Arc<Topic>>,
    /// Name by topic id.
    pub topic_names: BTreeMap<Uuid, String>,
    /// Dynamic broker configs; `None` is the cluster-wide default entry.
    pub broker_configs: BTreeMap<Option<BrokerId>, BTreeMap<String, String>>,
    /// Explicit configs of consumer groups, by group id. The group itself need not exist.
    pub group_configs: BTreeMap<String, BTreeMap<String, String>>,
    /// Levels of features that were set; see [`MetadataImage::feature_level`].
    pub features: BTreeMap<String, i16>,
    /// Counts changes of `features`.
    pub features_epoch: i64,
    /// What each registered broker has said that it knows.
    pub broker_features: BTreeMap<BrokerId, Known>,
    pub next_group: u64,
    pub next_producer_id: i64,
    /// Groups of deleted partitions and the folders they had, so that a broker that was away at
    /// the time removes them later.
    pub deleted: BTreeMap<GroupId, String>,
    /// Replicas of partitions that have moved elsewhere, with their folders, until their brokers have
    /// removed them.
    pub dropped: BTreeMap<(BrokerId, GroupId), Dropped>,
    /// Brokers that were unregistered. Their ids are never used again.
    pub retired: BTreeSet<BrokerId>,
    /// Set while replicas are to be spread evenly over the brokers: the id of the wish.
    pub spread: Option<u64>,
}

/// A replica whose broker has to remove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Name of its folder.
    pub folder: String,
    /// The broker has begun: what is there is of no use any more, and no new replica can be there yet.
    pub removing: bool,
}

impl MetadataImage {
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// Folder of a partition under `DATA/partitions`.
    pub fn folder(topic: &str, partition: usize) -> String {
        format!("{topic}-{partition}")
    }

    /// Brokers that are to lead nothing for now: `broker.maintenance` is set for them.
    pub fn in_maintenance(&self) -> BTreeSet<BrokerId> {
        self.with_switch(MAINTENANCE)
    }

    /// Brokers that are to hold nothing any more: `broker.decommission` is set for them.
    pub fn leaving(&self) -> BTreeSet<BrokerId> {
        self.with_switch(DECOMMISSION)
    }

    fn with_switch(&self, name: &str) -> BTreeSet<BrokerId> {
        let set = self.broker_configs.iter().filter(|(_, configs)| {
            let value = configs.get(name);
            value.is_some_and(|value| value == "true")
        });
        set.filter_map(|(broker, _)| *broker).collect()
    }

    /// Asks for replicas to be spread evenly, where all builds keep the wish.
    pub fn ask_to_spread(&mut self) {
        if self.metadata_version() >= FIRST_WITH_SPREADING {
            self.spread = Some(self.applied_index + 1);
        }
    }

    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topic_names
            .get(&id)
            .and_then(|name| self.topics.get(name))
    }
}

//! The metadata image request handlers read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidelog_replication::{BrokerId, GroupId};
use uuid::Uuid;

/// The setting of one broker that keeps leadership away from it.
pub const MAINTENANCE: &str = "broker.maintenance";

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
    /// Replica set in preference order; the first is the preferred leader.
    pub replicas: Vec<BrokerId>,
}

/// A topic. `partitions[i]` is partition `i`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
    pub partitions: Vec<PartitionMeta>,
    /// Explicit topic configs only (Kafka's names); defaults come from the broker.
    pub configs: BTreeMap<String, String>,
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
    pub next_group: u64,
    pub next_producer_id: i64,
    /// Groups of deleted partitions and the folders they had, so that a broker that was away at
    /// the time removes them later.
    pub deleted: BTreeMap<GroupId, String>,
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
        let set = self.broker_configs.iter().filter(|(_, configs)| {
            let value = configs.get(MAINTENANCE);
            value.is_some_and(|value| value == "true")
        });
        set.filter_map(|(broker, _)| *broker).collect()
    }

    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topic_names
            .get(&id)
            .and_then(|name| self.topics.get(name))
    }
}

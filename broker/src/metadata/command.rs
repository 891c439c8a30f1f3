//! Commands of the metadata group and their replies, as they are journaled and sent.

use super::image::{BrokerMeta, MetadataImage, PartitionMeta, Topic};
use prost::{Message, Oneof};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidelog_replication::{BrokerId, GroupId};
use uuid::Uuid;

/// Newest command format this build understands.
pub const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(oneof = "Command", tags = "2, 3, 4, 5, 6, 7, 12")]
    pub command: Option<Command>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Command {
    #[prost(message, tag = "2")]
    RegisterBroker(RegisterBroker),
    #[prost(message, tag = "3")]
    CreateTopic(TopicRecord),
    #[prost(message, tag = "4")]
    DeleteTopic(DeleteTopic),
    #[prost(message, tag = "5")]
    CreatePartitions(CreatePartitions),
    #[prost(message, tag = "6")]
    AlterConfigs(AlterConfigs),
    #[prost(message, tag = "7")]
    AllocateProducerIds(AllocateProducerIds),
    #[prost(message, tag = "12")]
    AlterGroupConfigs(AlterGroupConfigs),
}

#[derive(Clone, PartialEq, Message)]
pub struct RegisterBroker {
    #[prost(int32, tag = "1")]
    pub id: i32,
    #[prost(string, tag = "2")]
    pub host: String,
    #[prost(uint32, tag = "3")]
    pub port: u32,
    #[prost(string, optional, tag = "4")]
    pub rack: Option<String>,
    #[prost(string, tag = "5")]
    pub peer_address: String,
    #[prost(bytes = "vec", tag = "6")]
    pub incarnation: Vec<u8>,
    /// Becomes the cluster's id if it has none.
    #[prost(string, tag = "7")]
    pub cluster_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Replicas {
    #[prost(int32, repeated, tag = "1")]
    pub brokers: Vec<i32>,
    /// Set at apply; 0 in a proposal.
    #[prost(uint64, tag = "2")]
    pub group: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct TopicRecord {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub id: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    pub partitions: Vec<Replicas>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub configs: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteTopic {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CreatePartitions {
    #[prost(bytes = "vec", tag = "1")]
    pub topic_id: Vec<u8>,
    /// How many there are now: two racing requests do not both grow the topic.
    #[prost(uint32, tag = "2")]
    pub from_count: u32,
    #[prost(message, repeated, tag = "3")]
    pub partitions: Vec<Replicas>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ConfigChange {
    #[prost(string, tag = "1")]
    pub name: String,
    /// None: back to the default.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// Of a topic when `topic` is set, otherwise of a broker, or of all brokers without `broker`.
#[derive(Clone, PartialEq, Message)]
pub struct AlterConfigs {
    #[prost(string, optional, tag = "1")]
    pub topic: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub broker: Option<i32>,
    #[prost(message, repeated, tag = "3")]
    pub changes: Vec<ConfigChange>,
}

/// Of a consumer group.
#[derive(Clone, PartialEq, Message)]
pub struct AlterGroupConfigs {
    #[prost(string, tag = "1")]
    pub group: String,
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<ConfigChange>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AllocateProducerIds {
    #[prost(uint32, tag = "1")]
    pub count: u32,
}

/// Why a command was refused, in Kafka's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Refusal {
    None = 0,
    TopicAlreadyExists = 1,
    UnknownTopic = 2,
    InvalidTopic = 3,
    InvalidPartitions = 4,
    DuplicateBroker = 5,
    UnsupportedVersion = 6,
    ClusterMismatch = 7,
}

#[derive(Clone, PartialEq, Message)]
pub struct Reply {
    #[prost(enumeration = "Refusal", tag = "1")]
    pub refusal: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    /// First of the allocated producer ids.
    #[prost(int64, tag = "3")]
    pub first_producer_id: i64,
    #[prost(string, tag = "4")]
    pub cluster_id: String,
}

/// The whole image, for snapshots.
#[derive(Clone, PartialEq, Message)]
pub struct Snapshot {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(uint64, tag = "2")]
    pub applied_index: u64,
    #[prost(string, tag = "3")]
    pub cluster_id: String,
    #[prost(message, repeated, tag = "4")]
    pub brokers: Vec<RegisterBroker>,
    #[prost(message, repeated, tag = "5")]
    pub topics: Vec<TopicRecord>,
    #[prost(message, repeated, tag = "6")]
    pub broker_configs: Vec<BrokerConfigs>,
    #[prost(uint64, tag = "7")]
    pub next_group: u64,
    #[prost(int64, tag = "8")]
    pub next_producer_id: i64,
    #[prost(message, repeated, tag = "9")]
    pub deleted: Vec<DeletedPartition>,
    #[prost(message, repeated, tag = "12")]
    pub group_configs: Vec<GroupConfigs>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GroupConfigs {
    #[prost(string, tag = "1")]
    pub group: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub configs: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BrokerConfigs {
    #[prost(int32, optional, tag = "1")]
    pub broker: Option<i32>,
    #[prost(btree_map = "string, string", tag = "2")]
    pub configs: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeletedPartition {
    #[prost(uint64, tag = "1")]
    pub group: u64,
    /// Name of the folder it had.
    #[prost(string, tag = "2")]
    pub folder: String,
}

fn uuid_of(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).unwrap_or_default()
}

impl TopicRecord {
    pub fn topic(&self) -> Topic {
        Topic {
            name: self.name.clone(),
            id: uuid_of(&self.id),
            partitions: self.partitions.iter().map(Replicas::partition).collect(),
            configs: self.configs.clone(),
        }
    }

    pub fn of(topic: &Topic) -> TopicRecord {
        TopicRecord {
            name: topic.name.clone(),
            id: topic.id.as_bytes().to_vec(),
            partitions: topic.partitions.iter().map(Replicas::of).collect(),
            configs: topic.configs.clone(),
        }
    }
}

impl Replicas {
    pub fn partition(&self) -> PartitionMeta {
        PartitionMeta {
            group: GroupId(self.group),
            replicas: self.brokers.iter().copied().map(BrokerId).collect(),
        }
    }

    pub fn of(partition: &PartitionMeta) -> Replicas {
        Replicas {
            brokers: partition.replicas.iter().map(|b| b.0).collect(),
            group: partition.group.0,
        }
    }
}

impl RegisterBroker {
    pub fn meta(&self) -> BrokerMeta {
        BrokerMeta {
            id: BrokerId(self.id),
            host: self.host.clone(),
            port: self.port as u16,
            rack: self.rack.clone(),
            peer_address: self.peer_address.clone(),
            incarnation: uuid_of(&self.incarnation),
        }
    }

    fn of(broker: &BrokerMeta) -> RegisterBroker {
        RegisterBroker {
            id: broker.id.0,
            host: broker.host.clone(),
            port: u32::from(broker.port),
            rack: broker.rack.clone(),
            peer_address: broker.peer_address.clone(),
            incarnation: broker.incarnation.as_bytes().to_vec(),
            cluster_id: String::new(),
        }
    }
}

impl Snapshot {
    pub fn of(image: &MetadataImage) -> Snapshot {
        Snapshot {
            version: VERSION,
            applied_index: image.applied_index,
            cluster_id: image.cluster_id.clone(),
            brokers: image.brokers.values().map(RegisterBroker::of).collect(),
            topics: image.topics.values().map(|t| TopicRecord::of(t)).collect(),
            broker_configs: image
                .broker_configs
                .iter()
                .map(|(broker, configs)| BrokerConfigs {
                    broker: broker.map(|b| b.0),
                    configs: configs.clone(),
                })
                .collect(),
            next_group: image.next_group,
            next_producer_id: image.next_producer_id,
            deleted: image
                .deleted
                .iter()
                .map(|(group, folder)| DeletedPartition {
                    group: group.0,
                    folder: folder.clone(),
                })
                .collect(),
            group_configs: image
                .group_configs
                .iter()
                .map(|(group, configs)| GroupConfigs {
                    group: group.clone(),
                    configs: configs.clone(),
                })
                .collect(),
        }
    }

    pub fn image(&self) -> MetadataImage {
        let topics: BTreeMap<String, Arc<Topic>> = self
            .topics
            .iter()
            .map(|t| (t.name.clone(), Arc::new(t.topic())))
            .collect();
        MetadataImage {
            applied_index: self.applied_index,
            cluster_id: self.cluster_id.clone(),
            brokers: self
                .brokers
                .iter()
                .map(|b| (BrokerId(b.id), b.meta()))
                .collect(),
            topic_names: topics.values().map(|t| (t.id, t.name.clone())).collect(),
            topics,
            broker_configs: self
                .broker_configs
                .iter()
                .map(|c| (c.broker.map(BrokerId), c.configs.clone()))
                .collect(),
            group_configs: self
                .group_configs
                .iter()
                .map(|c| (c.group.clone(), c.configs.clone()))
                .collect(),
            next_group: self.next_group,
            next_producer_id: self.next_producer_id,
            deleted: self
                .deleted
                .iter()
                .map(|d| (GroupId(d.group), d.folder.clone()))
                .collect(),
        }
    }
}

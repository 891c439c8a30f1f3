//! Commands of the metadata group and their replies, as they are journaled and sent.

use super::features::known_of;
use super::image::{BrokerMeta, Dropped, MetadataImage, PartitionMeta, Reassignment, Topic};
use prost::{Message, Oneof};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidelog_replication::{BrokerId, GroupId};
use uuid::Uuid;

#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    /// The `metadata.version` that a build must know to apply the command.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(
        oneof = "Command",
        tags = "2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 16, 17, 24"
    )]
    pub command: Option<Command>,
}

impl Envelope {
    pub fn of(command: Command) -> Envelope {
        Envelope {
            version: command.version(),
            command: Some(command),
        }
    }
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
    #[prost(message, tag = "13")]
    AlterReassignments(AlterReassignments),
    #[prost(message, tag = "14")]
    FinishReassignment(FinishReassignment),
    #[prost(message, tag = "15")]
    ReplicaRemoved(ReplicaRemoved),
    #[prost(message, tag = "16")]
    UnregisterBroker(UnregisterBroker),
    #[prost(message, tag = "17")]
    FinishSpread(FinishSpread),
    #[prost(message, tag = "24")]
    UpdateFeatures(UpdateFeatures),
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
    /// What it knows; empty from builds that do not tell.
    #[prost(message, repeated, tag = "24")]
    pub features: Vec<FeatureRange>,
}

/// The levels of a feature that a broker knows, inclusive.
#[derive(Clone, PartialEq, Message)]
pub struct FeatureRange {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int32, tag = "2")]
    pub min: i32,
    #[prost(int32, tag = "3")]
    pub max: i32,
}

/// Sets the levels of features, all or none.
#[derive(Clone, PartialEq, Message)]
pub struct UpdateFeatures {
    #[prost(message, repeated, tag = "1")]
    pub updates: Vec<FeatureUpdate>,
    #[prost(bool, tag = "2")]
    pub validate_only: bool,
    /// Brokers whose builds know the new `metadata.version`, as their hellos say. From its second version on
    /// the metadata themselves have what each broker knows.
    #[prost(int32, repeated, tag = "3")]
    pub asked: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FeatureUpdate {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int32, tag = "2")]
    pub level: i32,
    #[prost(bool, tag = "3")]
    pub downgrade: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Replicas {
    #[prost(int32, repeated, tag = "1")]
    pub brokers: Vec<i32>,
    /// Set at apply; 0 in a proposal.
    #[prost(uint64, tag = "2")]
    pub group: u64,
    /// Set while the partition moves.
    #[prost(message, optional, tag = "3")]
    pub reassignment: Option<ReassignmentRecord>,
    /// Replicas that were added later; the others are the founders.
    #[prost(int32, repeated, tag = "4")]
    pub added: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReassignmentRecord {
    #[prost(int32, repeated, tag = "1")]
    pub target: Vec<i32>,
    #[prost(int32, repeated, tag = "2")]
    pub original: Vec<i32>,
    #[prost(uint64, tag = "3")]
    pub id: u64,
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
    /// Decided when the topic is created.
    #[prost(bool, tag = "5")]
    pub first_sequences: bool,
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

/// Begins, changes or cancels moves of partitions. Each is accepted or refused by itself.
#[derive(Clone, PartialEq, Message)]
pub struct AlterReassignments {
    #[prost(message, repeated, tag = "1")]
    pub changes: Vec<ReassignmentChange>,
    /// Whether a target may have another number of replicas than the partition has.
    #[prost(bool, tag = "2")]
    pub factor_may_change: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReassignmentChange {
    #[prost(bytes = "vec", tag = "1")]
    pub topic_id: Vec<u8>,
    #[prost(int32, tag = "2")]
    pub partition: i32,
    /// In preference order; empty to go back to where it was.
    #[prost(int32, repeated, tag = "3")]
    pub target: Vec<i32>,
}

/// The leader says that a majority of the partition's voters, who are exactly those that the move of this id
/// was to, know it.
#[derive(Clone, PartialEq, Message)]
pub struct FinishReassignment {
    #[prost(bytes = "vec", tag = "1")]
    pub topic_id: Vec<u8>,
    #[prost(int32, tag = "2")]
    pub partition: i32,
    #[prost(uint64, tag = "3")]
    pub id: u64,
}

/// A broker begins to remove a replica that has moved elsewhere, or, with `done`, has removed it. Refused
/// when the replica is wanted again.
#[derive(Clone, PartialEq, Message)]
pub struct ReplicaRemoved {
    #[prost(int32, tag = "1")]
    pub broker: i32,
    #[prost(uint64, tag = "2")]
    pub group: u64,
    #[prost(bool, tag = "3")]
    pub done: bool,
}

/// Forgets a broker that has no replicas.
#[derive(Clone, PartialEq, Message)]
pub struct UnregisterBroker {
    #[prost(int32, tag = "1")]
    pub id: i32,
}

/// Replicas are as even as they can be; the wish with this id is fulfilled.
#[derive(Clone, PartialEq, Message)]
pub struct FinishSpread {
    #[prost(uint64, tag = "1")]
    pub id: u64,
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
    InvalidReplicaAssignment = 8,
    InvalidReplicationFactor = 9,
    NoReassignmentInProgress = 10,
    UnknownBroker = 11,
    BrokerInUse = 12,
    InvalidFeatureLevel = 24,
    /// The broker does not know what is in use.
    UnsupportedFeature = 25,
}

/// Of one of a command's changes.
#[derive(Clone, PartialEq, Message)]
pub struct Outcome {
    #[prost(enumeration = "Refusal", tag = "1")]
    pub refusal: i32,
    #[prost(string, tag = "2")]
    pub message: String,
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
    /// One for each of the command's changes, in their order, where they are refused one by one.
    #[prost(message, repeated, tag = "5")]
    pub outcomes: Vec<Outcome>,
}

/// The whole image, for snapshots.
#[derive(Clone, PartialEq, Message)]
pub struct Snapshot {
    /// The `metadata.version` in use.
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
    #[prost(message, repeated, tag = "13")]
    pub dropped: Vec<DroppedReplica>,
    #[prost(int32, repeated, tag = "14")]
    pub retired: Vec<i32>,
    #[prost(uint64, optional, tag = "17")]
    pub spread: Option<u64>,
    #[prost(btree_map = "string, int32", tag = "24")]
    pub features: BTreeMap<String, i32>,
    #[prost(int64, tag = "25")]
    pub features_epoch: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct DroppedReplica {
    #[prost(int32, tag = "1")]
    pub broker: i32,
    #[prost(uint64, tag = "2")]
    pub group: u64,
    #[prost(string, tag = "3")]
    pub folder: String,
    #[prost(bool, tag = "4")]
    pub removing: bool,
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

pub fn brokers_of(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

pub fn ids_of(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|b| b.0).collect()
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
            first_sequences: self.first_sequences,
        }
    }

    pub fn of(topic: &Topic) -> TopicRecord {
        TopicRecord {
            name: topic.name.clone(),
            id: topic.id.as_bytes().to_vec(),
            partitions: topic.partitions.iter().map(Replicas::of).collect(),
            configs: topic.configs.clone(),
            first_sequences: topic.first_sequences,
        }
    }
}

impl Replicas {
    pub fn partition(&self) -> PartitionMeta {
        let replicas = brokers_of(&self.brokers);
        PartitionMeta {
            group: GroupId(self.group),
            founders: replicas
                .iter()
                .copied()
                .filter(|b| !self.added.contains(&b.0))
                .collect(),
            replicas,
            reassignment: self.reassignment.as_ref().map(|moving| Reassignment {
                target: brokers_of(&moving.target),
                original: brokers_of(&moving.original),
                id: moving.id,
            }),
        }
    }

    pub fn of(partition: &PartitionMeta) -> Replicas {
        Replicas {
            brokers: ids_of(&partition.replicas),
            group: partition.group.0,
            reassignment: partition
                .reassignment
                .as_ref()
                .map(|moving| ReassignmentRecord {
                    target: ids_of(&moving.target),
                    original: ids_of(&moving.original),
                    id: moving.id,
                }),
            added: partition
                .replicas
                .iter()
                .filter(|b| !partition.founders.contains(b))
                .map(|b| b.0)
                .collect(),
        }
    }
}

impl DroppedReplica {
    fn dropped(&self) -> Dropped {
        Dropped {
            folder: self.folder.clone(),
            removing: self.removing,
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
            features: Vec::new(),
        }
    }

    fn with_features(mut self, image: &MetadataImage) -> RegisterBroker {
        let known = image.broker_features.get(&BrokerId(self.id));
        let known = known.into_iter().flatten();
        let range = |(name, (min, max)): (&String, &(i16, i16))| FeatureRange {
            name: name.clone(),
            min: i32::from(*min),
            max: i32::from(*max),
        };
        self.features = known.map(range).collect();
        self
    }
}

impl Snapshot {
    pub fn of(image: &MetadataImage) -> Snapshot {
        Snapshot {
            version: image.metadata_version(),
            applied_index: image.applied_index,
            cluster_id: image.cluster_id.clone(),
            brokers: image
                .brokers
                .values()
                .map(|broker| RegisterBroker::of(broker).with_features(image))
                .collect(),
            features: image
                .features
                .iter()
                .map(|(name, level)| (name.clone(), i32::from(*level)))
                .collect(),
            features_epoch: image.features_epoch,
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
            dropped: image
                .dropped
                .iter()
                .map(|((broker, group), dropped)| DroppedReplica {
                    broker: broker.0,
                    group: group.0,
                    folder: dropped.folder.clone(),
                    removing: dropped.removing,
                })
                .collect(),
            retired: image.retired.iter().map(|b| b.0).collect(),
            spread: image.spread,
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
            features: self
                .features
                .iter()
                .map(|(name, level)| (name.clone(), *level as i16))
                .collect(),
            features_epoch: self.features_epoch,
            broker_features: self
                .brokers
                .iter()
                .filter(|b| !b.features.is_empty())
                .map(|b| (BrokerId(b.id), known_of(&b.features)))
                .collect(),
            next_group: self.next_group,
            next_producer_id: self.next_producer_id,
            deleted: self
                .deleted
                .iter()
                .map(|d| (GroupId(d.group), d.folder.clone()))
                .collect(),
            dropped: self
                .dropped
                .iter()
                .map(|d| ((BrokerId(d.broker), GroupId(d.group)), d.dropped()))
                .collect(),
            retired: self.retired.iter().copied().map(BrokerId).collect(),
            spread: self.spread,
        }
    }
}

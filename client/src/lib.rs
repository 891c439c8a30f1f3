//! Client of Tidelog and of every other broker that speaks the Kafka protocol.
//!
//! The rooms: [`ClientConfig`] says where the cluster is; `connection` is one connection, over TCP or as a [`Connector`] makes it,
//! `versions` what it may speak, `cluster` all of them with the cached view of topics and leaders,
//! [`RetryPolicy`] says when to try again. [`Producer`], [`Consumer`] and [`Admin`] stand on these;
//! `group` is how consumers share topics, `security` who a client is, `batch` and `compression` how records lie on the wire.

#![warn(missing_docs)]

mod admin;
mod batch;
mod cluster;
mod compression;
mod config;
mod connection;
mod connector;
mod consumer;
mod dead_letters;
mod error;
mod error_code;
mod group;
mod metadata;
mod offsets;
mod partitioner;
mod producer;
mod record;
mod retry;
mod security;
mod topic_partition;
mod trace;
mod versions;

pub use admin::{
    Admin, ApiRange, ClusterInfo, ConfigChange, ConfigEntry, ConfigResource, ConfigSource,
    Election, Feature, GroupDescription, GroupListing, GroupMember, MetadataQuorum, NewTopic,
    PartitionProducer, QuorumReplica, Reassignment, ReplicaOnDisk, TransactionDescription,
    TransactionFilters, TransactionListing,
};
pub use compression::Compression;
pub use config::ClientConfig;
pub use connector::{ByteStream, Connector};
pub use consumer::{
    Committer, Consumer, ConsumerConfig, Fetched, GroupConfig, GroupProtocol, Isolation,
    OffsetReset, RebalanceHook,
};
pub use dead_letters::{DeadLetters, Handled};
pub use error::{Error, ErrorCode, Result};
pub use group::{Assignor, CommittedOffset};
pub use metadata::{BrokerInfo, PartitionInfo, TopicInfo};
pub use offsets::StartPosition;
pub use partitioner::{Partitioner, partition_of_key};
pub use producer::{
    Acks, Delivery, Producer, ProducerConfig, Progress, RecordPosition, Transaction,
};
pub use record::{ConsumerRecord, Header, Record};
pub use retry::{Pauses, RetryPolicy};
#[cfg(feature = "tls")]
pub use security::TlsConfig;
pub use security::{Sasl, ScramHash};
pub use topic_partition::TopicPartition;
pub use trace::{NotATraceparent, TraceContext};

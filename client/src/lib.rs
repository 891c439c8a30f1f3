//! Client of Tidelog and of every other broker that speaks the Kafka protocol.
//!
//! The rooms: [`ClientConfig`] says where the cluster is; `connection` is one TCP connection,
//! `versions` what it may speak, `cluster` all of them with the cached view of topics and leaders,
//! `retry` when to try again.

mod admin;
mod batch;
mod cluster;
mod compression;
mod config;
mod connection;
mod consumer;
mod error;
mod metadata;
mod offsets;
mod partitioner;
mod producer;
mod record;
mod retry;
mod versions;

pub use admin::{
    Admin, ClusterInfo, ConfigChange, ConfigEntry, ConfigResource, ConfigSource, NewTopic,
};
pub use compression::Compression;
pub use config::ClientConfig;
pub use consumer::{Consumer, ConsumerConfig, Fetched, OutOfRange};
pub use error::{Error, ErrorCode, Result};
pub use metadata::{BrokerInfo, PartitionInfo, TopicInfo};
pub use offsets::StartPosition;
pub use partitioner::partition_of_key;
pub use producer::{Acks, Delivery, Producer, ProducerConfig, Progress, RecordPosition};
pub use record::{ConsumerRecord, Header, Record};

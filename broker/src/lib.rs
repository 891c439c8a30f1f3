//! The broker: Kafka's protocol, metadata and coordination over `tidelog-replication`.
//!
//! The rooms: [`config`] settings and where each came from; [`metadata`] the replicated cluster
//! metadata (brokers, topics, configs) and the reconciler that opens and removes local replicas;
//! [`coordinator`] state machines over internal topics, such as consumer groups;
//! [`kafka`] the listener, one file per API; [`peer_calls`] what brokers ask each other;
//! [`producer_expiry`] forgets idle producers; [`registration`] keeps the broker known to the cluster; [`http`]
//! health and Prometheus metrics; [`broker`]
//! starts and stops all of it.

mod balance;
pub mod broker;
pub mod cleaner;
pub mod config;
pub mod coordinator;
pub mod data_dir;
pub mod http;
pub mod kafka;
pub mod metadata;
pub mod metrics;
pub mod peer_calls;
pub mod preferred;
pub mod producer_expiry;
mod quorum;
mod registration;
pub mod retention;

pub use broker::{Broker, RunningBroker, StartError};

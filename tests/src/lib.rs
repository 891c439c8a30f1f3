//! Whole-cluster tests: real broker processes, real clients, real kills.
//!
//! - [`cluster`]: brokers as processes on free ports of 127.0.0.1: start, kill -9, stop, continue.
//! - [`broker`]: one such process.
//! - [`batch`]: record batches written field by field.
//! - [`dev`]: `tidelog dev` as a process, and other runs of the binary.
//! - [`load`]: an idempotent producer that goes on through faults and writes a Jepsen history.
//! - [`group`]: consumer groups by hand.
//! - [`bulk`]: large records in large numbers.
//! - [`keyed`]: records with keys, written and read back, for compaction.
//! - [`read`]: reads a topic whole, through a client or straight from one chosen broker.
//! - [`topics`]: creates topics, asks for leaders.
//! - [`produce`]: one produce request to one broker, answered as it is.
//! - [`segments`]: the segment files of a partition, batch by batch.
//! - [`small_disk`]: a file system that can be filled to the last byte.
//! - [`txn`]: a transactional producer and a `read_committed` reader by hand.
//! - [`txn_offsets`]: offsets that such a producer commits.
//! - [`client_suite`]: what the Rust client promises, against any cluster.
//! - [`wire`]: Kafka frames by hand, for requests no client would send.
//! - [`wait`]: waits for a condition, never for a time.

pub mod batch;
pub mod broker;
pub mod bulk;
pub mod client_suite;
pub mod cluster;
pub mod dev;
pub mod group;
pub mod keyed;
pub mod load;
pub mod produce;
pub mod read;
pub mod segments;
pub mod small_disk;
pub mod topics;
pub mod txn;
pub mod txn_offsets;
pub mod wait;
pub mod wire;

pub use broker::{Broker, BrokerId};
pub use cluster::{Cluster, ClusterOptions};

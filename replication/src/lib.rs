//! Replication: openraft behind Tidelog's own types.
//!
//! The rooms: [`node`] starts and stops everything one broker replicates; [`partition`] is one
//! replica of one partition; `group` drives a single openraft group; `log_store` keeps its log over
//! the shared journal; `state_machine` applies committed entries; `transport` carries messages of
//! all groups between two brokers over one stream, and `calls` the broker's own requests over it, on what [`host`] stands for, the machine or a simulated one; `detector` notices dead brokers and starts
//! elections, `elect` gives leadership to a replica that was asked for, `membership` moves replicas and `throttle` slows their copies down, `metadata_group` opens, forms and proposes to group 0, and
//! `quorum` tells how far the replicas of the metadata group are.
//!
//! Data goes one way: `broker → replication → storage`. Only this crate imports openraft.

mod calls;
mod catch_up;
mod detector;
mod disk_space;
mod elect;
pub mod error;
mod group;
pub mod host;
pub mod ids;
mod incoming;
mod leaders;
mod log_keeper;
mod log_store;
pub mod membership;
mod mend;
mod metadata_group;
pub mod node;
pub mod partition;
mod quorum;
mod rebuild;
mod runtime;
mod state_machine;
mod throttle;
mod transport;
mod types;
mod waiters;

pub use calls::Calls;
pub use elect::NotElected;
pub use error::{ProposeError, ReplicationError};
pub use ids::BrokerId;
pub use membership::{Members, Wanted};
pub use node::{
    LeaderInfo, METADATA_GROUP, MetadataMachine, Node, NodeConfig, NodeMetrics, PeerAddress,
};
pub use partition::{Appended, Partition, PartitionSpec, Proposal, Role};
pub use quorum::{Quorum, QuorumReplica};
pub use tidelog_storage::ids::GroupId;
pub use types::entry_kind_name;

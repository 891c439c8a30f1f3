//! Replication: openraft behind Tidelog's own types.
//!
//! The rooms: [`node`] starts and stops everything one broker replicates; [`partition`] is one
//! replica of one partition; `group` drives a single openraft group; `log_store` keeps its log over
//! the shared journal; `state_machine` applies committed entries; `transport` carries messages of
//! all groups between two brokers over one stream; `detector` notices dead brokers and starts
//! elections.
//!
//! Data goes one way: `broker → replication → storage`. Only this crate imports openraft.

pub mod error;
pub mod ids;
pub mod node;
pub mod partition;

pub use error::{ProposeError, ReplicationError};
pub use ids::BrokerId;
pub use node::{LeaderInfo, MetadataMachine, Node, NodeConfig, PeerAddress};
pub use partition::{Appended, Partition, PartitionSpec, Proposal, Role};
pub use tidelog_storage::ids::GroupId;

//! What a node is told, and what it tells.

use crate::ids::BrokerId;
use bytes::Bytes;
use std::path::PathBuf;

/// Where a peer listens for other brokers: `ID@HOST:PORT` in `seed.brokers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    pub broker: BrokerId,
    /// `HOST:PORT`
    pub address: String,
}

/// Settings of a node; the broker fills them from its configuration.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub broker: BrokerId,
    /// Changes whenever the data folder is made anew; peers refuse another one than registered.
    pub incarnation: u128,
    /// The cluster the data belong to; empty until the broker has joined one.
    pub cluster_id: String,
    /// Newest `metadata.version` this build knows.
    pub metadata_version: u32,
    pub data_dir: PathBuf,
    /// `HOST:PORT` this broker listens on for its peers.
    pub peer_listener: String,
    /// `HOST:PORT` at which its peers reach it.
    pub peer_address: String,
    /// All first brokers of the cluster, this one included; the same list on each.
    pub seeds: Vec<PeerAddress>,
    pub journal_file_bytes: u64,
    pub journal_direct_io: bool,
    /// Interval of the heartbeat between two brokers.
    pub heartbeat_interval_ms: u64,
    /// A peer not heard of for this long is suspected dead.
    pub suspicion_timeout_ms: u64,
    /// A proposal not committed after this long is answered with a timeout.
    pub propose_timeout_ms: u64,
    /// Free bytes the data disk must keep; below it proposals are refused.
    pub disk_reserve_bytes: u64,
    /// Leadership goes back to the preferred replica by itself.
    pub auto_leader_rebalance: bool,
}

/// State machine of the metadata group (group 0), implemented by the broker crate. Deterministic:
/// the same commands give the same state and replies on every broker.
pub trait MetadataMachine: Send + 'static {
    /// Applies one committed command and returns the reply for its proposer. `versioned` as it was proposed.
    ///
    /// # Errors
    /// When this build does not know the command: what comes after it cannot be applied either.
    fn apply(&mut self, index: u64, command: &[u8], versioned: bool) -> Result<Bytes, String>;
    /// The whole state.
    fn snapshot(&self) -> Bytes;
    /// Replaces the whole state.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;
}

/// Who leads a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderInfo {
    pub leader: BrokerId,
    /// Raft term = Kafka's leader epoch.
    pub epoch: i32,
}

//! Everything one broker replicates.

use crate::{BrokerId, GroupId, Partition, PartitionSpec, ProposeError, ReplicationError};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;

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
    pub data_dir: PathBuf,
    /// `HOST:PORT` this broker listens on for its peers.
    pub peer_listener: String,
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
}

/// State machine of the metadata group (group 0), implemented by the broker crate. Deterministic:
/// the same commands give the same state and replies on every broker.
pub trait MetadataMachine: Send + 'static {
    /// Applies one committed command and returns the reply for its proposer.
    fn apply(&mut self, index: u64, command: &[u8]) -> Bytes;
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

/// One broker's replication.
pub struct Node {
    _private: (),
}

impl Node {
    /// Opens the journal, listens for peers, recovers every group found in the journal lazily and
    /// starts the metadata group. Returns before a leader is elected.
    pub async fn start(
        config: NodeConfig,
        metadata: Box<dyn MetadataMachine>,
    ) -> Result<Arc<Node>, ReplicationError> {
        let _ = (config, metadata);
        unimplemented!()
    }

    pub fn broker(&self) -> BrokerId {
        unimplemented!()
    }

    /// Proposes a metadata command on whichever broker leads the metadata group, and waits until it
    /// is applied *here*, so that a read after it sees it. Retries while a leader is being elected,
    /// at most `propose_timeout_ms`.
    pub async fn propose_metadata(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let _ = command;
        unimplemented!()
    }

    /// Leader of the metadata group: Kafka's *controller*.
    pub fn metadata_leader(&self) -> Option<BrokerId> {
        unimplemented!()
    }

    /// Opens (or, after a restart, recovers) this broker's replica of a partition.
    pub async fn open_partition(
        &self,
        spec: PartitionSpec,
    ) -> Result<Arc<Partition>, ReplicationError> {
        let _ = spec;
        unimplemented!()
    }

    /// Stops the replica and removes its data; only for a partition whose deletion is committed.
    pub async fn remove_partition(&self, group: GroupId) -> Result<(), ReplicationError> {
        let _ = group;
        unimplemented!()
    }

    /// The local replica, when this broker has one.
    pub fn partition(&self, group: GroupId) -> Option<Arc<Partition>> {
        let _ = group;
        unimplemented!()
    }

    /// All local replicas.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        unimplemented!()
    }

    /// The leader of any group of the cluster, as leaders tell it; `None` while unknown or while the
    /// leader's broker is suspected dead.
    pub fn leader_of(&self, group: GroupId) -> Option<LeaderInfo> {
        let _ = group;
        unimplemented!()
    }

    /// Brokers heard of recently, this one included, in order.
    pub fn alive_brokers(&self) -> Vec<BrokerId> {
        unimplemented!()
    }

    /// Tells the transport where a broker listens (from the metadata image).
    pub fn set_peer_address(&self, peer: PeerAddress) {
        let _ = peer;
        unimplemented!()
    }

    /// The incarnation under which a broker is registered: connections of any other are refused.
    pub fn expect_incarnation(&self, broker: BrokerId, incarnation: u128) {
        let _ = (broker, incarnation);
        unimplemented!()
    }

    /// Whether the data disk has room; when not, producers get a retriable storage error.
    pub fn disk_has_room(&self) -> bool {
        unimplemented!()
    }

    /// Counters for `/metrics`.
    pub fn metrics(&self) -> NodeMetrics {
        unimplemented!()
    }

    /// Hands leadership of every group over, then stops. Bounded by `limit_ms`.
    pub async fn shutdown(&self, limit_ms: u64) {
        let _ = limit_ms;
        unimplemented!()
    }
}

/// A snapshot of the node's counters.
#[derive(Debug, Clone, Default)]
pub struct NodeMetrics {
    pub journal: tidelog_storage::journal::JournalMetrics,
    pub groups: u64,
    pub groups_led: u64,
    pub under_replicated: u64,
    pub leader_changes: u64,
    pub peer_bytes_out: u64,
    pub peer_bytes_in: u64,
}

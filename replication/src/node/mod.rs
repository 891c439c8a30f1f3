//! Everything one broker replicates.
//!
//! `start` opens the journal and starts the tasks, and stops them; `replicas` opens and removes replicas; what the tasks share is
//! in `shared`. Here are the questions and the wishes of the broker.

mod config;
mod metrics;
mod replicas;
mod shared;
mod start;

pub use config::{LeaderInfo, MetadataMachine, NodeConfig, PeerAddress};
pub use metrics::NodeMetrics;
pub(crate) use replicas::{malformed, start_group, take_recovered};
pub use shared::NodeShared;
pub(crate) use shared::checkpoint_durably;

use crate::disk_space::DiskSpace;
use crate::group::{Group, GroupContext};
use crate::host::Host;
use crate::ids::BrokerId;
use crate::partition::Partition;
use crate::quorum::QuorumTimes;
use crate::transport::Handler;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidelog_storage::ids::GroupId;
use tokio::sync::watch;

/// The metadata group's id.
pub const METADATA_GROUP: GroupId = GroupId(0);

/// One broker's replication.
pub struct Node {
    config: NodeConfig,
    shared: Arc<NodeShared>,
    pub(crate) context: GroupContext,
    handler: Arc<dyn Handler>,
    metadata: Arc<Group>,
    quorum: Arc<Mutex<QuorumTimes>>,
    stop: watch::Sender<bool>,
    /// Metadata that were committed in the lifetime of this process have been applied here.
    pub(crate) metadata_seen: AtomicBool,
    disk: DiskSpace,
}

impl Node {
    /// When something is due next that is done every `period`: with whatever else is.
    pub fn next_beat(&self, period: std::time::Duration) -> tokio::time::Instant {
        self.shared.transport.next_beat(period)
    }

    /// What this broker runs on.
    pub fn host(&self) -> &Host {
        &self.shared.transport.host
    }

    pub fn broker(&self) -> BrokerId {
        self.config.broker
    }

    /// The local replica, when this broker has one.
    pub fn partition(&self, group: GroupId) -> Option<Arc<Partition>> {
        self.shared.partition(group)
    }

    pub(crate) fn shared(&self) -> &Arc<NodeShared> {
        &self.shared
    }

    pub(crate) fn metadata_group(&self) -> &Arc<Group> {
        &self.metadata
    }

    pub(crate) fn quorum_times(&self) -> &Mutex<QuorumTimes> {
        &self.quorum
    }

    /// All local replicas.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.shared.partitions()
    }

    /// The leader of any group of the cluster, as leaders tell it; `None` while unknown or while the
    /// leader's broker is suspected dead.
    pub fn leader_of(&self, group: GroupId) -> Option<LeaderInfo> {
        self.shared
            .leaders
            .get(group)
            .filter(|info| self.shared.transport.is_alive(info.leader))
    }

    /// Changes whenever any group's leader does.
    pub fn watch_leaders(&self) -> watch::Receiver<u64> {
        self.shared.leaders.watch()
    }

    /// Brokers heard of recently, this one included, in order.
    pub fn alive_brokers(&self) -> Vec<BrokerId> {
        let mut alive: Vec<BrokerId> = self
            .shared
            .transport
            .peers()
            .iter()
            .filter(|p| p.is_alive())
            .map(|p| p.id)
            .chain([self.config.broker])
            .collect();
        alive.sort_unstable();
        alive
    }

    /// Names the cluster this broker's data belong to.
    pub fn set_cluster(&self, cluster: &str) {
        self.shared.transport.set_cluster(cluster);
    }

    /// Set once the others have refused this broker for good: it cannot go on.
    pub fn unwelcome(&self) -> watch::Receiver<Option<String>> {
        self.shared.transport.unwelcome()
    }

    /// Tells the transport where a broker listens (from the metadata image).
    pub fn set_peer_address(&self, peer: PeerAddress) {
        self.shared
            .transport
            .set_peer(peer.broker, &peer.address, &self.handler);
    }

    /// Sets which brokers are in maintenance: leadership leaves them, and comes to them last.
    pub fn set_maintenance(&self, brokers: BTreeSet<BrokerId>) {
        self.shared.maintenance.send_if_modified(|present| {
            let changed = *present != brokers;
            *present = brokers;
            changed
        });
    }

    /// How many bytes a second this broker sends, and copies, of partitions that move; `None`: as fast as it goes.
    pub fn set_move_rate(&self, bytes_per_second: Option<u64>) {
        self.shared.transport.throttle.set_rate(bytes_per_second);
    }

    /// Brokers that were unregistered: their connections are refused.
    pub fn refuse(&self, unregistered: &BTreeSet<BrokerId>) {
        self.shared.transport.refuse(unregistered);
    }

    /// The `metadata.version` in use: brokers whose builds do not know it are refused.
    pub fn require_metadata_version(&self, version: u32) {
        self.shared.transport.require_metadata_version(version);
    }

    /// Newest `metadata.version` that the build of a living broker knows.
    pub fn known_metadata_version(&self, broker: BrokerId) -> Option<u32> {
        let transport = &self.shared.transport;
        if broker == self.config.broker {
            return Some(transport.identity.metadata_version);
        }
        let peer = transport.peer(broker).filter(|p| p.is_alive())?;
        peer.known_metadata_version()
    }

    /// Whether a cluster is there already that this broker, whose data folder is new, has not formed.
    pub fn cluster_exists(&self) -> bool {
        self.shared.transport.cluster_exists()
    }

    /// The incarnation under which a broker is registered: connections of any other are refused.
    pub fn expect_incarnation(&self, broker: BrokerId, incarnation: u128) {
        self.shared
            .transport
            .expect_incarnation(broker, incarnation);
    }

    /// Whether the data disk has room; when not, producers get a retriable storage error.
    pub fn disk_has_room(&self) -> bool {
        self.disk.has_room()
    }

    /// Free bytes of the data disk, a moment old at most.
    pub fn disk_free_bytes(&self) -> u64 {
        self.disk.free_bytes()
    }
}

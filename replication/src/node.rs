//! Everything one broker replicates.

use crate::calls::Calls;
use crate::catch_up::PeerCatchUp;
use crate::detector;
use crate::disk_space::DiskSpace;
use crate::error::ReplicationError;
use crate::group::{Group, GroupContext, GroupReplicas, raft_config};
use crate::host::Host;
use crate::ids::BrokerId;
use crate::incoming::Incoming;
use crate::leaders::LeaderTable;
use crate::log_keeper;
use crate::log_store::GroupLog;
use crate::metadata_group::{form_cluster, open_metadata};
use crate::partition::{Partition, PartitionSpec};
use crate::quorum::{self, QuorumTimes};
use crate::rebuild::{self, Rebuild};
use crate::state_machine::{GroupMachine, Machine, decode_group_state};
use crate::transport::{Handler, Identity, Timing, Transport, server};
use crate::types::*;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tidelog_storage::ids::GroupId;
use tidelog_storage::journal::{
    Checkpointer, Journal, JournalConfig, JournalMetrics, RecoveredGroup,
};
use tidelog_storage::log::PartitionLog;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The metadata group's id.
pub const METADATA_GROUP: GroupId = GroupId(0);
const RETRY_PAUSE: Duration = Duration::from_millis(30);

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

type LogAndMachine = (Arc<GroupLog>, Arc<GroupMachine>);

/// State the node's tasks and its incoming messages share.
pub struct NodeShared {
    pub transport: Arc<Transport>,
    pub leaders: Arc<LeaderTable>,
    pub journal: Journal,
    groups: RwLock<HashMap<GroupId, Arc<Group>>>,
    /// Logs and state machines that checkpoints cover; a group is here before its Raft starts.
    logs: RwLock<HashMap<GroupId, LogAndMachine>>,
    partitions: RwLock<HashMap<GroupId, Arc<Partition>>>,
    /// Groups in the journal that are not open yet; checkpoints carry them over.
    recovered: Mutex<BTreeMap<GroupId, RecoveredGroup>>,
    pub log_bytes: Arc<AtomicU64>,
    /// Woken when elections may be due.
    pub unsettled: Notify,
    unsettled_flag: AtomicBool,
    stopping: AtomicBool,
    /// Epochs this broker is giving up, and since when: Raft takes no writes in the rest of them.
    pub handed: Mutex<HashMap<GroupId, (i32, Instant)>>,
    /// Brokers that should lead nothing for now, as the metadata say.
    pub maintenance: watch::Sender<BTreeSet<BrokerId>>,
    pub rebuild: Rebuild,
    /// Who answers the calls of other brokers, once the broker is made.
    pub calls: OnceLock<Arc<dyn Calls>>,
}

impl NodeShared {
    pub fn group(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups.read().get(&id).cloned()
    }

    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.groups.read().values().cloned().collect()
    }

    pub fn partition(&self, id: GroupId) -> Option<Arc<Partition>> {
        self.partitions.read().get(&id).cloned()
    }

    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().values().cloned().collect()
    }

    pub fn peer_suspected(&self, peer: BrokerId) {
        tracing::debug!("elections for groups led by broker {peer}");
        self.unsettle();
    }

    pub fn unsettle(&self) {
        self.unsettled_flag.store(true, Ordering::Release);
        self.unsettled.notify_one();
    }

    /// Whether elections may be due since the last call.
    pub fn take_unsettled(&self) -> bool {
        self.unsettled_flag.swap(false, Ordering::AcqRel)
    }

    /// Whether the broker is in maintenance: it leads only what nobody else can.
    pub fn is_in_maintenance(&self, broker: BrokerId) -> bool {
        self.maintenance.borrow().contains(&broker)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

impl Checkpointer for NodeShared {
    fn checkpoint(&self, journal: &Journal) {
        // Groups not open yet are carried over as they are. The lock keeps a group from moving from
        // one kind to the other in between, which would leave it out.
        let logs: Vec<_> = {
            let recovered = self.recovered.lock();
            for (group, state) in recovered.iter() {
                journal.submit(carried_over(*group, state), None);
            }
            self.logs.read().values().cloned().collect()
        };
        for (log, machine) in logs {
            checkpoint_group(&log, &machine);
        }
    }
}

/// Checkpoints a group; blocks on the disk, and waits for room on a full one.
pub(crate) fn checkpoint_group(log: &GroupLog, machine: &GroupMachine) {
    use tidelog_storage::error::StorageError;
    loop {
        match machine.checkpoint(log) {
            Ok(()) => return,
            Err(_) if log.is_closed() => return,
            // The journal keeps its files until there is room again.
            Err(StorageError::DiskFull { .. }) => std::thread::sleep(Duration::from_millis(500)),
            Err(error) => {
                // A segment that cannot be synced must not be relied on, nor tried again.
                tracing::error!("checkpoint failed: {error}");
                std::process::abort();
            }
        }
    }
}

fn carried_over(group: GroupId, state: &RecoveredGroup) -> Vec<tidelog_storage::journal::Record> {
    use tidelog_storage::journal::Record;
    let mut records = vec![Record::Checkpoint {
        group,
        vote: state.vote.clone(),
        applied: state.applied,
        state: state.state.clone().unwrap_or_default(),
    }];
    records.extend(state.entries.iter().map(|entry| Record::Entry {
        group,
        entry: entry.clone(),
    }));
    records
}

/// One broker's replication.
pub struct Node {
    config: NodeConfig,
    shared: Arc<NodeShared>,
    pub(crate) context: GroupContext,
    handler: Arc<dyn Handler>,
    metadata: Arc<Group>,
    quorum: Arc<Mutex<QuorumTimes>>,
    stop: watch::Sender<bool>,
    disk: DiskSpace,
}

impl Node {
    /// Opens the journal, listens for peers, recovers every group found in the journal lazily and
    /// starts the metadata group. Returns before a leader is elected.
    pub async fn start(
        config: NodeConfig,
        metadata: Box<dyn MetadataMachine>,
    ) -> Result<Arc<Node>, ReplicationError> {
        Node::start_on(Host::System, config, metadata).await
    }

    /// As [`Node::start`], on another host.
    pub async fn start_on(
        host: Host,
        config: NodeConfig,
        metadata: Box<dyn MetadataMachine>,
    ) -> Result<Arc<Node>, ReplicationError> {
        let listener = server::bind(&host, &config.peer_listener).await?;
        let (journal, recovered) = open_journal(&host, &config).await?;

        let transport = Transport::new(
            host,
            Identity {
                broker: config.broker,
                incarnation: config.incarnation,
                seeds: seeds_text(&config.seeds),
                address: config.peer_address.clone(),
                metadata_version: config.metadata_version,
            },
            Timing {
                heartbeat: Duration::from_millis(config.heartbeat_interval_ms),
                suspicion: Duration::from_millis(config.suspicion_timeout_ms),
            },
        );
        transport.set_cluster(&config.cluster_id);
        let leaders = LeaderTable::new(config.broker, &transport);
        let shared = Arc::new(NodeShared {
            transport: transport.clone(),
            leaders: leaders.clone(),
            journal: journal.clone(),
            groups: RwLock::default(),
            logs: RwLock::default(),
            partitions: RwLock::default(),
            recovered: Mutex::new(recovered),
            log_bytes: Arc::new(AtomicU64::new(0)),
            unsettled: Notify::new(),
            unsettled_flag: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            handed: Mutex::default(),
            maintenance: watch::Sender::default(),
            rebuild: Rebuild::of(&config.data_dir),
            calls: OnceLock::new(),
        });
        let context = GroupContext {
            broker: config.broker,
            transport: transport.clone(),
            leaders,
            catch_up: Arc::new(PeerCatchUp(Arc::downgrade(&transport))),
            config: raft_config()?,
            propose_timeout: Duration::from_millis(config.propose_timeout_ms),
        };
        let metadata = open_metadata(&shared, &context, &config, metadata).await?;
        let handler: Arc<dyn Handler> = Arc::new(Incoming::new(&shared));

        let (stop, stopped) = watch::channel(false);
        tokio::spawn(server::serve(
            listener,
            transport.clone(),
            handler.clone(),
            stopped.clone(),
        ));
        for seed in &config.seeds {
            transport.set_peer(seed.broker, &seed.address, &handler);
        }
        journal.start_checkpoints(shared.clone());
        if shared.rebuild.is_active() {
            let (shared, metadata) = (shared.clone(), metadata.clone());
            tokio::spawn(rebuild::run(shared.clone(), metadata, stopped.clone()));
            tokio::spawn(rebuild::watch_end(shared, stopped.clone()));
        }
        tokio::spawn(detector::heartbeats(shared.clone(), stopped.clone()));
        tokio::spawn(detector::elections(shared.clone(), stopped.clone()));
        tokio::spawn(detector::balance(
            shared.clone(),
            config.auto_leader_rebalance,
            stopped.clone(),
        ));
        tokio::spawn(log_keeper::keep_small(shared.clone(), stopped.clone()));
        let quorum = Arc::default();
        tokio::spawn(quorum::watch_answers(
            metadata.clone(),
            Arc::clone(&quorum),
            stopped.clone(),
        ));
        tokio::spawn(form_cluster(
            shared.clone(),
            metadata.clone(),
            config.clone(),
            stopped,
        ));
        let disk = DiskSpace::new(&config);
        Ok(Arc::new(Node {
            config,
            shared,
            context,
            handler,
            metadata,
            quorum,
            stop,
            disk,
        }))
    }

    pub fn broker(&self) -> BrokerId {
        self.config.broker
    }

    /// Opens (or, after a restart, recovers) this broker's replica of a partition.
    pub async fn open_partition(
        &self,
        spec: PartitionSpec,
    ) -> Result<Arc<Partition>, ReplicationError> {
        if let Some(open) = self.shared.partition(spec.group) {
            return Ok(open);
        }
        let (recovered, state) = take_recovered(&self.shared, spec.group)?;
        let rebuilding = self.shared.rebuild.is_active();
        if rebuilding && recovered.is_none() && spec.replicas.len() == 1 && spec.dir.exists() {
            return Err(ReplicationError::Refused(format!(
                "the only replica of {}-{} was in the damaged journal: its records in {} cannot be \
                 trusted or rebuilt; delete the topic, or bring the damaged journal back",
                spec.topic,
                spec.partition,
                spec.dir.display()
            )));
        }
        let spec_for_log = spec.clone();
        let machine_state = state.as_ref().map(|(_, _, bytes)| bytes.clone());
        let opened = self.shared.transport.host.disk_work(move || {
            PartitionLog::open(
                &spec_for_log.dir,
                &spec_for_log.topic,
                spec_for_log.topic_id,
                spec_for_log.partition,
                spec_for_log.config,
                machine_state.as_deref(),
            )
        });
        let log = opened
            .await
            .map_err(|e| ReplicationError::Refused(e.to_string()))??;
        let log = Arc::new(log);
        let (applied, membership) =
            state.map_or((None, GroupMembership::default()), |s| (s.0, s.1));
        let machine = GroupMachine::new(
            spec.group,
            Machine::Partition(log.clone()),
            applied,
            membership,
        );
        let group = start_group(
            &self.shared,
            &self.context,
            spec.group,
            recovered,
            machine,
            GroupReplicas {
                replicas: spec.replicas.clone(),
                founders: spec.founders.clone(),
            },
        )
        .await?;
        let first = spec.founders.first() == Some(&self.config.broker);
        let partition = Arc::new(Partition {
            spec,
            log,
            group: group.clone(),
            transport: self.shared.transport.clone(),
            mending: AtomicBool::new(false),
        });
        self.shared
            .partitions
            .write()
            .insert(group.id, partition.clone());
        if group.guard.is_lost() {
            let stop = self.stop.subscribe();
            tokio::spawn(rebuild::run(self.shared.clone(), group, stop));
        } else if first {
            // Does nothing where it was done before: a crash may have come between the two.
            group.initialize().await?;
        }
        self.shared.unsettle();
        Ok(partition)
    }

    /// Whether replicas of this broker are being rebuilt from their peers.
    pub fn is_rebuilding(&self) -> bool {
        self.shared.rebuild.is_active()
    }

    /// Tells that every replica this broker's metadata gives it is open. It counts once the metadata
    /// itself is rebuilt.
    pub fn all_replicas_open(&self) {
        if !self.metadata.guard.is_lost() {
            self.shared.rebuild.set_all_open();
        }
    }

    /// Stops the replica and removes its data; only for a partition whose deletion is committed.
    pub async fn remove_partition(&self, group: GroupId) -> Result<(), ReplicationError> {
        self.shared.leaders.forget(group);
        self.remove_replica(group).await
    }

    /// From now on the replica answers nobody, so that nobody counts on it while its removal is being
    /// committed; `false` takes that back.
    pub fn set_leaving(&self, group: GroupId, leaving: bool) {
        if let Some(group) = self.shared.group(group) {
            if leaving {
                group.guard.leave();
            } else {
                group.guard.stay();
            }
        }
    }

    /// Stops this broker's replica of a partition that goes on elsewhere, and removes its data; only once it
    /// is committed that this broker has it no more.
    pub async fn remove_replica(&self, group: GroupId) -> Result<(), ReplicationError> {
        self.shared.leaders.resigned(group);
        let partition = self.shared.partitions.write().remove(&group);
        let open = self.shared.groups.write().remove(&group);
        if let Some(open) = open {
            open.stop().await;
            open.log.remove();
            self.shared.logs.write().remove(&group);
        } else if self.shared.recovered.lock().remove(&group).is_some() {
            self.shared.journal.submit(
                vec![tidelog_storage::journal::Record::Remove { group }],
                None,
            );
        }
        if let Some(partition) = partition {
            let log = partition.log.clone();
            self.shared
                .transport
                .host
                .disk_work(move || log.delete())
                .await
                .map_err(|e| ReplicationError::Refused(e.to_string()))??;
        }
        Ok(())
    }

    /// Whether the journal or this run knows the group.
    pub fn knows(&self, group: GroupId) -> bool {
        self.shared.recovered.lock().contains_key(&group)
            || self.shared.logs.read().contains_key(&group)
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

    /// Counters for `/metrics`.
    pub fn metrics(&self) -> NodeMetrics {
        let groups = self.shared.groups();
        let led: Vec<_> = groups.iter().filter(|g| g.is_leader()).collect();
        let transport = &self.shared.transport;
        NodeMetrics {
            journal: self.shared.journal.metrics(),
            groups: groups.len() as u64,
            groups_led: led.len() as u64,
            under_replicated: led
                .iter()
                .filter(|g| g.replicas().iter().any(|r| !transport.is_alive(*r)))
                .count() as u64,
            rebuilding: groups.iter().filter(|g| g.guard.is_lost()).count() as u64,
            leader_changes: self.shared.leaders.changes(),
            peer_bytes_out: transport.bytes_out.load(Ordering::Relaxed),
            peer_bytes_in: transport.bytes_in.load(Ordering::Relaxed),
            log_bytes: self.shared.log_bytes.load(Ordering::Relaxed),
            disk_free_bytes: self.disk.free_bytes(),
        }
    }

    /// Hands leadership of every group to another replica, as far as that works within `limit_ms`.
    pub async fn hand_over(&self, limit_ms: u64) {
        self.shared.stopping.store(true, Ordering::Release);
        // Peers that stop at the same time must not hand leadership to this broker.
        detector::send_heartbeats(&self.shared);
        let limit = Duration::from_millis(limit_ms);
        if tokio::time::timeout(limit, self.give_leadership_away())
            .await
            .is_err()
        {
            tracing::warn!("stopping before all leadership was handed over");
        }
    }

    /// Stops everything; what is applied is made durable, so that the next start replays little.
    pub async fn shutdown(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let _ = self.stop.send(true);
        for group in self.shared.groups() {
            group.stop().await;
        }
        self.shared.transport.close();
        let (shared, journal) = (self.shared.clone(), self.shared.journal.clone());
        let host = shared.transport.host.clone();
        let closed = host.disk_work(move || {
            shared.checkpoint(&journal);
            journal.close();
        });
        let _ = closed.await;
    }

    async fn give_leadership_away(&self) {
        loop {
            let mut led = 0;
            for group in self.shared.groups().into_iter().filter(|g| g.is_leader()) {
                if let Some(heir) = detector::any_heir(&self.shared, &group) {
                    led += 1;
                    group.transfer_leader(heir).await;
                }
            }
            if led == 0 {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE * 3).await;
        }
    }
}

async fn open_journal(
    host: &Host,
    config: &NodeConfig,
) -> Result<(Journal, BTreeMap<GroupId, RecoveredGroup>), ReplicationError> {
    let journal_config = JournalConfig {
        dir: config.data_dir.join("journal"),
        file_bytes: config.journal_file_bytes,
        direct_io: config.journal_direct_io,
        ..JournalConfig::default()
    };
    let opening = host.clone();
    let (journal, recovered) = host
        .disk_work(move || opening.open_journal(journal_config))
        .await
        .map_err(|e| ReplicationError::Refused(e.to_string()))??;
    let Some(damage) = recovered.damage else {
        return Ok((journal, recovered.groups));
    };
    let closing = journal.clone();
    let _ = host.disk_work(move || closing.close()).await;
    if config.seeds.iter().all(|s| s.broker == config.broker) {
        return Err(ReplicationError::Refused(format!(
            "the journal is damaged ({damage}): starting with it could lose acknowledged records, \
             and there is no other broker to rebuild them from"
        )));
    }
    rebuild::begin(&config.data_dir, &damage.to_string())?;
    Box::pin(open_journal(host, config)).await
}

type MachineState = (Option<LogId>, GroupMembership, Bytes);

/// A group's journaled past, taken out of the not-yet-open ones.
pub(crate) fn take_recovered(
    shared: &NodeShared,
    group: GroupId,
) -> Result<(Option<RecoveredGroup>, Option<MachineState>), ReplicationError> {
    let recovered = shared.recovered.lock().get(&group).cloned();
    let state = match recovered
        .as_ref()
        .and_then(|r| r.state.as_ref().map(|s| (r, s)))
    {
        Some((recovered, bytes)) if !bytes.is_empty() => {
            let (membership, machine) =
                decode_group_state(bytes).map_err(|e| malformed(group, &e))?;
            let applied = recovered.applied.map(|(index, term)| log_id(term, index));
            Some((applied, membership, machine))
        }
        _ => None,
    };
    Ok((recovered, state))
}

pub(crate) async fn start_group(
    shared: &Arc<NodeShared>,
    context: &GroupContext,
    id: GroupId,
    recovered: Option<RecoveredGroup>,
    machine: Arc<GroupMachine>,
    members: GroupReplicas,
) -> Result<Arc<Group>, ReplicationError> {
    let journaled = recovered.clone();
    let log = GroupLog::new(
        id,
        shared.journal.clone(),
        shared.log_bytes.clone(),
        recovered,
    )
    .map_err(|e| malformed(id, &e))?;
    {
        let mut not_open = shared.recovered.lock();
        not_open.remove(&id);
        shared
            .logs
            .write()
            .insert(id, (log.clone(), machine.clone()));
    }
    let guard = shared.rebuild.guard(&members);
    match Group::start(id, log.clone(), machine, members, guard, context.clone()).await {
        Ok(group) => {
            shared.groups.write().insert(id, group.clone());
            Ok(group)
        }
        Err(error) => {
            // The next try must find what the journal holds: without it the group would begin anew,
            // with its votes forgotten and its segments removed.
            let mut not_open = shared.recovered.lock();
            shared.logs.write().remove(&id);
            shared
                .log_bytes
                .fetch_sub(log.bytes() as u64, Ordering::Relaxed);
            not_open.extend(journaled.map(|journaled| (id, journaled)));
            Err(error)
        }
    }
}

pub(crate) fn malformed(group: GroupId, error: &Malformed) -> ReplicationError {
    ReplicationError::Raft {
        group: group.0,
        message: error.to_string(),
    }
}

fn seeds_text(seeds: &[PeerAddress]) -> String {
    let mut parts: Vec<String> = seeds
        .iter()
        .map(|s| format!("{}@{}", s.broker, s.address))
        .collect();
    parts.sort();
    parts.join(",")
}

/// A snapshot of the node's counters.
#[derive(Debug, Clone, Default)]
pub struct NodeMetrics {
    pub journal: JournalMetrics,
    pub groups: u64,
    pub groups_led: u64,
    pub under_replicated: u64,
    pub leader_changes: u64,
    /// Replicas being rebuilt from their peers after damage to the journal.
    pub rebuilding: u64,
    pub peer_bytes_out: u64,
    pub peer_bytes_in: u64,
    /// Raft log entries held in memory.
    pub log_bytes: u64,
    pub disk_free_bytes: u64,
}

//! What a node's tasks and its incoming messages share.

use crate::calls::Calls;
use crate::group::Group;
use crate::ids::BrokerId;
use crate::leaders::LeaderTable;
use crate::log_store::GroupLog;
use crate::partition::Partition;
use crate::rebuild::Rebuild;
use crate::state_machine::{GroupMachine, stopped};
use crate::transport::Transport;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tidelog_storage::error::StorageError;
use tidelog_storage::ids::GroupId;
use tidelog_storage::journal::{Checkpointer, Journal, RecoveredGroup};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

type LogAndMachine = (Arc<GroupLog>, Arc<GroupMachine>);

/// State the node's tasks and its incoming messages share.
pub struct NodeShared {
    pub transport: Arc<Transport>,
    pub leaders: Arc<LeaderTable>,
    pub journal: Journal,
    pub(super) groups: RwLock<HashMap<GroupId, Arc<Group>>>,
    /// Logs and state machines that checkpoints cover; a group is here before its Raft starts.
    pub(super) logs: RwLock<HashMap<GroupId, LogAndMachine>>,
    pub(super) partitions: RwLock<HashMap<GroupId, Arc<Partition>>>,
    /// Groups in the journal that are not open yet; checkpoints carry them over.
    pub(super) recovered: Mutex<BTreeMap<GroupId, RecoveredGroup>>,
    pub log_bytes: Arc<AtomicU64>,
    /// Woken when elections may be due.
    pub unsettled: Notify,
    unsettled_flag: AtomicBool,
    pub(super) stopping: AtomicBool,
    /// Epochs this broker is giving up, and since when: Raft takes no writes in the rest of them.
    pub handed: Mutex<HashMap<GroupId, (i32, Instant)>>,
    /// Brokers that should lead nothing for now, as the metadata say.
    pub maintenance: watch::Sender<BTreeSet<BrokerId>>,
    pub rebuild: Rebuild,
    /// Who answers the calls of other brokers, once the broker is made.
    pub calls: OnceLock<Arc<dyn Calls>>,
}

impl NodeShared {
    pub fn new(
        transport: &Arc<Transport>,
        leaders: &Arc<LeaderTable>,
        journal: &Journal,
        recovered: BTreeMap<GroupId, RecoveredGroup>,
        rebuild: Rebuild,
    ) -> Arc<NodeShared> {
        Arc::new(NodeShared {
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
            rebuild,
            calls: OnceLock::new(),
        })
    }

    pub fn group(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups.read().get(&id).cloned()
    }

    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.groups.read().values().cloned().collect()
    }

    /// Those of the groups that `wanted` says. It is asked under the lock.
    pub fn groups_that(&self, wanted: impl Fn(&Group) -> bool) -> Vec<Arc<Group>> {
        let groups = self.groups.read();
        let wanted = groups.values().filter(|group| wanted(group));
        wanted.cloned().collect()
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

/// What should be written a group between two checkpoints, each of which syncs a file a group.
const BYTES_APART: u64 = 128 * 1024;

impl Checkpointer for NodeShared {
    fn bytes_apart(&self) -> u64 {
        BYTES_APART * self.logs.read().len() as u64
    }

    fn checkpoint(&self, journal: &Journal) -> bool {
        // Groups not open yet are carried over as they are. The lock keeps a group from moving from
        // one kind to the other in between, which would leave it out.
        let logs: Vec<_> = {
            let recovered = self.recovered.lock();
            for (group, state) in recovered.iter() {
                journal.submit(carried_over(*group, state), None);
            }
            self.logs.read().values().cloned().collect()
        };
        let mut complete = true;
        for (log, machine) in logs {
            complete &= checkpoint_group(&log, &machine).is_ok();
        }
        complete
    }
}

/// Checkpoints a group, and waits until that is durable. Blocks on the disk.
///
/// # Errors
/// Only of a group that is stopped or removed: there is no checkpoint.
pub(crate) fn checkpoint_durably(log: &GroupLog, machine: &GroupMachine) -> io::Result<()> {
    checkpoint_group(log, machine)?;
    if log.sync() { Ok(()) } else { Err(stopped()) }
}

/// Checkpoints a group; blocks on the disk, and waits for room on a full one.
///
/// # Errors
/// When the group was stopped meanwhile: the journal still needs what it has of it.
fn checkpoint_group(log: &GroupLog, machine: &GroupMachine) -> io::Result<()> {
    loop {
        match machine.checkpoint(log) {
            Ok(()) => return Ok(()),
            Err(_) if log.is_closed() => return Ok(()),
            Err(StorageError::DiskFull { .. }) if machine.is_stopping() => return Err(stopped()),
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

//! One replica of one Raft group.

use crate::catch_up::CatchUp;
use crate::error::{ProposeError, ReplicationError};
use crate::ids::BrokerId;
use crate::leaders::LeaderTable;
use crate::log_store::{GroupLog, LogStore};
use crate::node::LeaderInfo;
use crate::rebuild::Guard;
use crate::state_machine::{GroupMachine, Machine, StateMachine, leader_epoch};
use crate::transport::Transport;
use crate::transport::network::{NetworkFactory, broker_of};
use crate::types::*;
use openraft::async_runtime::{Instant, WatchReceiver};
use openraft::errors::{ClientWriteError, InitializeError};
use openraft::impls::ProgressResponder;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::raft::ClientWriteResult;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{Config, Raft, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidelog_storage::ids::GroupId;

/// Follower lease and leader lease. Elections before it has run out are refused.
pub const LEASE: Duration = Duration::from_millis(500);
/// How long a leader counts on a follower's answer.
pub const COUNTED_ON: Duration = Duration::from_millis(250);
const _: () = assert!(COUNTED_ON.as_millis() < LEASE.as_millis());
/// How long a write waits for an idle group to prove that it still has a majority.
const WAKE_LIMIT: Duration = Duration::from_millis(400);

pub type GroupRaft = Raft<TypeConfig, StateMachine>;
type Told<T> = WatchReceiverOf<TypeConfig, T>;
type WriteResponder = ProgressResponder<TypeConfig, ClientWriteResult<TypeConfig>>;

#[derive(Default)]
struct ProposeQueue {
    waiting: VecDeque<(Command, WriteResponder)>,
    draining: bool,
}

/// Everything a group needs besides its own state.
#[derive(Clone)]
pub struct GroupContext {
    pub broker: BrokerId,
    pub transport: Arc<Transport>,
    pub leaders: Arc<LeaderTable>,
    pub catch_up: Arc<dyn CatchUp>,
    pub config: Arc<Config>,
    pub propose_timeout: Duration,
}

/// The settings all groups share. Ticks are off: the failure detector starts elections, and a group
/// without traffic costs nothing.
pub fn raft_config() -> Result<Arc<Config>, ReplicationError> {
    let lease_ms = LEASE.as_millis() as u64;
    let config = Config {
        cluster_name: "tidelog".to_owned(),
        election_timeout_min: lease_ms - 100,
        election_timeout_max: lease_ms,
        heartbeat_interval: 100,
        snapshot_policy: SnapshotPolicy::Never,
        max_payload_entries: 4096,
        // Only a purged log makes a follower need a snapshot, not a count of entries.
        replication_lag_threshold: u64::MAX,
        max_in_snapshot_log_to_keep: 0,
        enable_tick: false,
        enable_heartbeat: true,
        enable_elect: true,
        enable_pre_vote: Some(true),
        // A restarted leader stands for election like everyone else: what it knows as committed is
        // known again only after an entry of a new term.
        enable_leader_restore: Some(false),
        broadcast_submitted_on_append: Some(true),
        ..Default::default()
    };
    config
        .validate()
        .map(Arc::new)
        .map_err(|e| ReplicationError::Refused(format!("raft settings: {e}")))
}

/// The replicas a group is opened with.
#[derive(Debug, Clone)]
pub struct GroupReplicas {
    /// In preference order.
    pub replicas: Vec<BrokerId>,
    /// The first voters, the same on all of them; empty on a replica that comes later.
    pub founders: Vec<BrokerId>,
}

pub struct Group {
    pub id: GroupId,
    pub raft: GroupRaft,
    /// What its Raft core tells of itself: who leads, and how far the log is. Looked at so often that asking the core for it
    /// anew each time would show.
    pub(crate) server: Told<RaftServerMetrics<TypeConfig>>,
    pub(crate) data: Told<RaftDataMetrics<TypeConfig>>,
    pub log: Arc<GroupLog>,
    pub machine: Arc<GroupMachine>,
    /// Replicas in preference order, as the metadata name them; while it moves, those that come and
    /// those that go.
    replicas: RwLock<Arc<[BrokerId]>>,
    /// Its first voters, when this replica is one of them.
    founders: Vec<BrokerId>,
    /// What a replica that has lost its past may take part in.
    pub guard: Guard,
    context: GroupContext,
    queue: Mutex<ProposeQueue>,
    /// Where its log ended at the last look at a move.
    round: Mutex<Option<(tokio::time::Instant, u64)>>,
    /// Its Raft core has ended although nobody stopped it: this replica takes no part any more.
    ended: AtomicBool,
}

impl Group {
    pub async fn start(
        id: GroupId,
        log: Arc<GroupLog>,
        machine: Arc<GroupMachine>,
        members: GroupReplicas,
        guard: Guard,
        context: GroupContext,
    ) -> Result<Arc<Group>, ReplicationError> {
        let state_machine = StateMachine {
            shared: machine.clone(),
            log: log.clone(),
            catch_up: context.catch_up.clone(),
            host: context.transport.host.clone(),
        };
        let network = NetworkFactory {
            transport: context.transport.clone(),
            group: id,
            machine: machine.clone(),
        };
        let raft = Raft::new(
            node_of(context.broker),
            context.config.clone(),
            network,
            LogStore(log.clone()),
            state_machine,
        )
        .await
        .map_err(|e| raft_error(id, &e))?;
        let group = Arc::new(Group {
            id,
            server: raft.server_metrics(),
            data: raft.data_metrics(),
            raft,
            log,
            machine,
            replicas: RwLock::new(members.replicas.into()),
            founders: members.founders,
            guard,
            context,
            queue: Mutex::default(),
            round: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        tokio::spawn(watch_leader(group.clone()));
        Ok(group)
    }

    /// Replicas in preference order, as the metadata name them.
    pub fn replicas(&self) -> Arc<[BrokerId]> {
        self.replicas.read().clone()
    }

    pub(crate) fn set_replicas(&self, replicas: &[BrokerId]) {
        if self.replicas()[..] != *replicas {
            *self.replicas.write() = replicas.into();
        }
    }

    /// Begins a round in which replicas that come catch up; where the log ended when the last one began, unless
    /// that is long ago.
    pub(crate) fn begin_round(&self) -> Option<u64> {
        const ROUND_MAX: Duration = Duration::from_secs(5);
        let last = self
            .round
            .lock()
            .replace((tokio::time::Instant::now(), self.last_index()));
        last.filter(|(begun, _)| begun.elapsed() < ROUND_MAX)
            .map(|(_, end)| end)
    }

    /// Whether a leader needs others for a majority.
    fn is_alone(&self) -> bool {
        let membership = self.server.borrow_watched().membership_config.clone();
        membership.voter_ids().nth(1).is_none()
    }

    /// Its first voters, none on a replica that came later, in the order of preference that the metadata have
    /// now: whoever opened its replica before that was changed must agree with the others on who is first.
    pub fn founders_by_preference(&self) -> Vec<BrokerId> {
        let replicas = self.replicas();
        let mut founders = self.founders.clone();
        founders.sort_by_key(|founder| replicas.iter().position(|r| r == founder));
        founders
    }

    /// The broker that forms the group, if `me` is among its first voters.
    pub fn first_founder(&self) -> Option<BrokerId> {
        self.founders.first().copied()
    }

    /// Whether this replica may vote. One that came later may once its own log says
    /// that it is a voter.
    pub fn may_vote(&self) -> bool {
        if self.guard.is_joining() && self.is_voter(self.context.broker) {
            self.guard.end();
        }
        self.guard.may_vote()
    }

    /// Whether this replica may stand for election.
    pub fn may_stand(&self) -> bool {
        self.may_vote() || self.guard.may_stand_again(self.term(), self.last_log_id())
    }

    /// Makes the founders the group's first voters. Does nothing on a replica that came later, or where it was done
    /// before, here or by another one.
    pub async fn initialize(&self) -> Result<(), ReplicationError> {
        let initialized = self
            .raft
            .is_initialized()
            .await
            .map_err(|e| raft_error(self.id, &e))?;
        if initialized || self.founders.is_empty() {
            return Ok(());
        }
        let members: BTreeMap<u64, openraft::impls::EmptyNode> = self
            .founders
            .iter()
            .map(|r| (node_of(*r), openraft::impls::EmptyNode {}))
            .collect();
        match self.raft.initialize(members).await {
            // A leader was quicker, and has its vote or has sent entries by now.
            Err(error) if matches!(error.api_error(), Some(InitializeError::NotAllowed(_))) => {
                Ok(())
            }
            ended => ended.map_err(|e| raft_error(self.id, &e)),
        }
    }

    /// `(leader, epoch)` as this replica knows them.
    pub fn leader(&self) -> (Option<BrokerId>, i32) {
        let metrics = self.server.borrow_watched();
        let leader = metrics.current_leader.map(broker_of);
        (
            leader.filter(|_| !self.ended.load(Ordering::Acquire)),
            leader_epoch(metrics.vote.leader_id.term),
        )
    }

    pub fn is_leader(&self) -> bool {
        self.leader().0 == Some(self.context.broker)
    }

    /// Leads, and has applied everything committed in earlier terms.
    pub fn is_ready_leader(&self) -> bool {
        let (leader, epoch) = self.leader();
        leader == Some(self.context.broker) && leader_epoch(self.machine.applied_term()) >= epoch
    }

    /// Queues a command; the order of calls is the order in the log.
    pub fn propose(
        self: &Arc<Self>,
        command: Command,
    ) -> impl Future<Output = Result<Reply, ProposeError>> + Send + use<> {
        let (responder, result) = ProgressResponder::complete_only();
        let start = {
            let mut queue = self.queue.lock();
            queue.waiting.push_back((command, responder));
            !std::mem::replace(&mut queue.draining, true)
        };
        if start {
            tokio::spawn(drain(self.clone()));
        }
        let limit = self.context.propose_timeout;
        let me = self.context.broker;
        async move {
            match tokio::time::timeout(limit, result).await {
                Ok(Ok(Ok(response))) => Ok(response.data),
                Ok(Ok(Err(ClientWriteError::ForwardToLeader(forward)))) => {
                    let leader = forward.leader_id.map(broker_of);
                    Err(ProposeError::NotLeader {
                        leader: leader.filter(|l| *l != me),
                    })
                }
                Ok(Ok(Err(_))) => Err(ProposeError::OutcomeUnknown),
                Ok(Err(_)) => Err(ProposeError::OutcomeUnknown),
                Err(_) => Err(ProposeError::Timeout),
            }
        }
    }

    /// Whether a majority has followed this leader a moment ago. Followers grant no vote
    /// while their lease runs, also after a start ([`Guard::promised_until`]), so there is no other leader yet.
    fn lease_is_fresh(&self) -> bool {
        self.raft.as_leader().is_ok_and(|leader| {
            leader
                .last_quorum_acked()
                .is_some_and(|acked| acked.elapsed() < COUNTED_ON)
        })
    }

    /// A leader idle longer than its lease first proves that a majority still follows it.
    async fn wake(&self) {
        if !self.is_leader() || self.lease_is_fresh() || self.is_alone() {
            return;
        }
        if self.raft.trigger().heartbeat().await.is_err() {
            return;
        }
        let mut metrics = self.raft.data_metrics();
        let acked = async { while !self.lease_is_fresh() && metrics.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(WAKE_LIMIT, acked).await;
    }

    /// As [`Group::propose`] does before it writes.
    pub(crate) async fn prove_majority(&self) {
        self.wake().await;
    }

    /// Whether this replica leads in `epoch`, as a majority has just confirmed.
    pub async fn confirm_leader(&self, epoch: i32) -> bool {
        self.wake().await;
        let leads = self.leader() == (Some(self.context.broker), epoch);
        leads && (self.lease_is_fresh() || self.is_alone())
    }

    /// Hands leadership to `to`.
    pub async fn transfer_leader(&self, to: BrokerId) {
        self.wake().await;
        if let Err(error) = self.raft.trigger().transfer_leader(node_of(to)).await {
            tracing::debug!(group = self.id.0, "leadership transfer: {error}");
        }
    }

    /// Index up to which each member is known to have the log, on the leader.
    pub fn matched(&self) -> Option<BTreeMap<BrokerId, u64>> {
        let metrics = self.data.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        Some(
            replication
                .iter()
                .map(|(node, matched)| {
                    (broker_of(*node), matched.as_ref().map_or(0, |id| id.index))
                })
                .collect(),
        )
    }

    /// Index of the last log entry here.
    pub fn last_index(&self) -> u64 {
        let metrics = self.data.borrow_watched();
        metrics.last_log.as_ref().map_or(0, |id| id.index)
    }

    /// The last log entry here, purged or not, synced or not.
    pub fn last_log_id(&self) -> Option<LogId> {
        let applied = (self.machine.applied_index() > 0)
            .then(|| log_id(self.machine.applied_term(), self.machine.applied_index()));
        self.log.last_log_id().max(applied)
    }

    /// Whether this log reaches `last`, and nothing of it was written since the replica was started or
    /// heard of its leader: it was there before.
    pub fn came_with(&self, last: Option<&LogId>) -> bool {
        let flushed = self.raft.watch_log_progress().get();
        let nothing_since = flushed.is_some_and(|flushed| flushed.last_log_id.is_none());
        nothing_since && self.data.borrow_watched().last_log.as_ref() >= last
    }

    /// One past the index of the last log entry here.
    pub fn log_end(&self) -> u64 {
        let metrics = self.data.borrow_watched();
        metrics.last_log.as_ref().map_or(0, |id| id.index + 1)
    }

    /// One past the last index that is committed, on the leader.
    pub fn committed_end(&self) -> u64 {
        let metrics = self.data.borrow_watched();
        metrics
            .cluster_committed
            .as_ref()
            .map_or(0, |id| id.index + 1)
    }

    /// Greatest term this replica has voted in or heard of.
    pub fn term(&self) -> u64 {
        let metrics = self.server.borrow_watched();
        metrics.vote.leader_id.term
    }

    /// Whether the group has no voters yet: there is nothing to elect.
    pub fn is_unformed(&self) -> bool {
        self.leader().0.is_none()
            && self.last_index() == 0
            && self.machine.applied_index() == 0
            && !self.has_voters()
    }

    /// Whether the group has been initialised, here or by another replica.
    pub fn has_voters(&self) -> bool {
        self.raft.voter_ids().next().is_some()
    }

    pub fn is_stopping(&self) -> bool {
        self.machine.is_stopping()
    }

    pub async fn stop(&self) {
        self.machine.stop();
        let _ = self.raft.shutdown().await;
        self.machine.waiters.wake();
    }
}

/// Moves queued commands into Raft, in order, until the queue is empty.
async fn drain(group: Arc<Group>) {
    loop {
        group.wake().await;
        let batch = {
            let mut queue = group.queue.lock();
            if queue.waiting.is_empty() {
                queue.draining = false;
                return;
            }
            std::mem::take(&mut queue.waiting)
        };
        for (command, responder) in batch {
            // A stopped group drops the responder, which its proposer sees.
            let _ = group.raft.client_write_ff(command, Some(responder)).await;
        }
    }
}

/// Tells the leader table and waiting requests of every change of leadership.
async fn watch_leader(group: Arc<Group>) {
    let mut metrics = group.raft.server_metrics();
    let weak = Arc::downgrade(&group);
    drop(group);
    let mut last = None;
    loop {
        let now = {
            let current = metrics.borrow_and_update();
            current.current_leader.map(|leader| LeaderInfo {
                leader: broker_of(leader),
                epoch: leader_epoch(current.vote.leader_id.term),
            })
        };
        if now != last {
            last = now;
            let Some(group) = weak.upgrade() else { return };
            group.context.leaders.observed(group.id, now);
            if let (Machine::Partition(log), Some(now)) = (&group.machine.machine, now) {
                log.set_read(now.leader == group.context.broker);
            }
            group.machine.waiters.wake();
        }
        if metrics.changed().await.is_err() {
            break;
        }
    }
    let Some(group) = weak.upgrade() else { return };
    if group.is_stopping() {
        return;
    }
    // A defect: the broker goes on with its other groups, and the other replicas with this one.
    tracing::error!(
        group = group.id.0,
        "the Raft core of this replica has ended; it takes no part until the broker is started again"
    );
    group.ended.store(true, Ordering::Release);
    group.context.leaders.resigned(group.id);
    group.machine.waiters.wake();
}

pub fn node_of(broker: BrokerId) -> u64 {
    // Broker ids are checked to be 0 or greater when they are configured.
    broker.0 as u64
}

fn raft_error(group: GroupId, error: &dyn std::fmt::Display) -> ReplicationError {
    ReplicationError::Raft {
        group: group.0,
        message: error.to_string(),
    }
}

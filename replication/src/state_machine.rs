//! Applies committed entries: to a partition log, or to the metadata.

use crate::catch_up::{CatchUp, with_room};
use crate::group::node_of;
use crate::host::Host;
use crate::ids::BrokerId;
use crate::log_store::GroupLog;
use crate::node::MetadataMachine;
use crate::transport::network::broker_of;
use crate::types::*;
use crate::waiters::Waiters;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::OptionalSend;
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use parking_lot::Mutex;
use prost::Message as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidelog_proto::peer;
use tidelog_storage::error::StorageError;
use tidelog_storage::ids::GroupId;
use tidelog_storage::log::{AppendBatch, AppendOutcome, PartitionLog};
use tokio::sync::watch;

const GROUP_STATE_VERSION: u32 = 1;
/// How long apply waits before it tries a full disk again.
const DISK_RETRY: Duration = Duration::from_millis(200);

type GroupSnapshot = Snapshot<CommittedLeaderId, u64, openraft::impls::EmptyNode, SnapshotData>;

/// What a snapshot carries: for a partition everything but the batches, which the receiver reads
/// from `source`; for the metadata group all of it.
#[derive(Debug, Clone)]
pub struct SnapshotData {
    pub manifest: Bytes,
    pub source: Option<BrokerId>,
}

/// What entries are applied to.
pub enum Machine {
    Partition(Arc<PartitionLog>),
    Metadata(Mutex<Box<dyn MetadataMachine>>),
}

struct Applied {
    last: Option<LogId>,
    membership: GroupMembership,
}

/// A group's applied state, shared by the state machine, the checkpointer and readers.
pub struct GroupMachine {
    group: GroupId,
    pub machine: Machine,
    applied: Mutex<Applied>,
    applied_index: AtomicU64,
    /// Term of the last applied entry: a leader of that term has applied all earlier terms.
    applied_term: AtomicU64,
    pub waiters: Waiters,
    /// Held while a checkpoint is under way: the journal's threads, the cleaners and the end of a copy
    /// may all want one, and they write the same files.
    checkpointing: Mutex<()>,
    stopping: watch::Sender<bool>,
}

impl GroupMachine {
    /// `state` and `applied` come from the last journal checkpoint.
    pub fn new(
        group: GroupId,
        machine: Machine,
        applied: Option<LogId>,
        membership: GroupMembership,
    ) -> Arc<GroupMachine> {
        Arc::new(GroupMachine {
            group,
            machine,
            applied_index: AtomicU64::new(applied.map_or(0, |id| id.index)),
            applied_term: AtomicU64::new(0),
            applied: Mutex::new(Applied {
                last: applied,
                membership,
            }),
            waiters: Waiters::default(),
            checkpointing: Mutex::new(()),
            stopping: watch::Sender::new(false),
        })
    }

    pub fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    pub fn applied_term(&self) -> u64 {
        self.applied_term.load(Ordering::Acquire)
    }

    /// Whether a broker counts in majorities, as far as is applied here.
    pub fn is_voter(&self, broker: BrokerId) -> bool {
        let applied = self.applied.lock();
        applied
            .membership
            .voter_ids()
            .any(|id| id == node_of(broker))
    }

    /// From now on nothing here waits: neither for room on a full disk nor for a copy to be whole.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Does `work`, unless the group is stopped before it ends.
    async fn unless_stopped<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => Err(stopped()),
            done = work => done,
        }
    }

    /// Makes what is applied durable and journals it as the group's checkpoint. Blocks on the disk.
    pub fn checkpoint(&self, log: &GroupLog) -> Result<(), StorageError> {
        let _alone = self.checkpointing.lock();
        loop {
            let (applied, membership, ticket) = {
                let applied = self.applied.lock();
                let ticket = match &self.machine {
                    Machine::Partition(partition) => Ok(partition.begin_flush()?),
                    Machine::Metadata(machine) => Err(machine.lock().snapshot()),
                };
                log.pin(applied.last.map(|id| id.index));
                (applied.last, applied.membership.clone(), ticket)
            };
            let machine = match ticket {
                Ok(ticket) => Bytes::from(ticket.finish()?),
                Err(metadata) => metadata,
            };
            let state = peer::GroupState {
                version: GROUP_STATE_VERSION,
                membership: Some(stored_membership_to_proto(&membership)),
                machine,
            };
            if log.checkpoint(applied, Bytes::from(state.encode_to_vec())) {
                return Ok(());
            }
        }
    }

    fn snapshot(&self) -> GroupSnapshot {
        let applied = self.applied.lock();
        let manifest = match &self.machine {
            Machine::Partition(log) => Bytes::from(log.manifest()),
            Machine::Metadata(machine) => machine.lock().snapshot(),
        };
        Snapshot {
            meta: SnapshotMeta {
                last_log_id: applied.last,
                last_membership: applied.membership.clone(),
            },
            snapshot: SnapshotData {
                manifest,
                source: None,
            },
        }
    }

    /// Applies a run of entries; returns the replies in order, or `None` when the disk is full and
    /// the same call has to be made again.
    fn apply_run(&self, run: &[RaftEntry]) -> io::Result<Option<Vec<Reply>>> {
        let mut applied = self.applied.lock();
        let mut replies = Vec::with_capacity(run.len());
        let mut next = 0;
        while next < run.len() {
            let entry = &run[next];
            let reply = match &entry.payload {
                EntryPayload::Normal(
                    Command::Produce(_)
                    | Command::ProduceFenced(_)
                    | Command::ProduceVerified { .. }
                    | Command::Marker { .. },
                ) => {
                    let count = produce_run(&run[next..]);
                    let Some(more) = self.append(&run[next..next + count])? else {
                        if next == 0 {
                            return Ok(None);
                        }
                        // What came before is applied; only the rest is tried again.
                        break;
                    };
                    let applied_now = more.len();
                    replies.extend(more);
                    next += applied_now;
                    self.advance(&mut applied, &run[next - 1]);
                    if applied_now < count {
                        break;
                    }
                    continue;
                }
                EntryPayload::Normal(Command::LogStart(offset)) => self.log_start(*offset)?,
                EntryPayload::Normal(Command::ExpireProducers(expiry)) => {
                    if let Machine::Partition(log) = &self.machine {
                        log.expire_producers(expiry);
                    }
                    Reply::None
                }
                EntryPayload::Normal(Command::Metadata { command, versioned }) => {
                    self.apply_metadata(entry.log_id.index, command, *versioned)?
                }
                EntryPayload::Blank => Reply::None,
                EntryPayload::Membership(membership) => {
                    applied.membership =
                        GroupMembership::new(Some(entry.log_id), membership.clone());
                    Reply::None
                }
            };
            replies.push(reply);
            next += 1;
            self.advance(&mut applied, entry);
        }
        Ok(Some(replies))
    }

    fn advance(&self, applied: &mut Applied, entry: &RaftEntry) {
        applied.last = Some(entry.log_id);
        self.applied_index
            .store(entry.log_id.index, Ordering::Release);
        self.applied_term
            .store(entry.log_id.leader_id.term, Ordering::Release);
    }

    fn apply_metadata(&self, index: u64, command: &[u8], versioned: bool) -> io::Result<Reply> {
        let Machine::Metadata(machine) = &self.machine else {
            return Ok(Reply::None);
        };
        let reply = machine.lock().apply(index, command, versioned);
        let reply = reply.map_err(io::Error::other)?;
        Ok(Reply::Metadata { index, reply })
    }

    fn append(&self, run: &[RaftEntry]) -> io::Result<Option<Vec<Reply>>> {
        let Machine::Partition(log) = &self.machine else {
            return Ok(Some(vec![Reply::None; run.len()]));
        };
        let batches: Vec<AppendBatch> = run
            .iter()
            .filter_map(|entry| match &entry.payload {
                EntryPayload::Normal(command) => {
                    let (bytes, origin) = command.batch()?;
                    Some(AppendBatch {
                        bytes: bytes.clone(),
                        leader_epoch: leader_epoch(entry.log_id.leader_id.term),
                        origin,
                    })
                }
                _ => None,
            })
            .collect();
        let outcomes = match log.append(&batches) {
            Ok(outcomes) => outcomes,
            Err(StorageError::DiskFull { .. }) => return Ok(None),
            Err(error) => return Err(io::Error::other(error)),
        };
        let log_start_offset = log.log_start_offset();
        Ok(Some(
            outcomes
                .into_iter()
                .map(|outcome| match outcome {
                    AppendOutcome::Appended { base_offset, .. }
                    | AppendOutcome::Duplicate { base_offset, .. } => Reply::Appended {
                        base_offset,
                        log_start_offset,
                    },
                    AppendOutcome::Rejected(rejection) => Reply::Rejected(rejection),
                    AppendOutcome::Fenced => Reply::Fenced,
                })
                .collect(),
        ))
    }

    fn log_start(&self, offset: i64) -> io::Result<Reply> {
        let Machine::Partition(log) = &self.machine else {
            return Ok(Reply::None);
        };
        // Never past the high watermark: the command was checked when proposed, and the end of the
        // log can only have grown since.
        let offset = offset.min(log.log_end_offset());
        if offset > log.log_start_offset() {
            log.set_log_start_offset(offset).map_err(io::Error::other)?;
        }
        Ok(Reply::Appended {
            base_offset: -1,
            log_start_offset: log.log_start_offset(),
        })
    }
}

/// What work ends with whose group is stopped.
pub fn stopped() -> io::Error {
    io::Error::other("the replica is stopped")
}

/// Raft terms count elections: 2³¹ of them are out of reach.
pub fn leader_epoch(term: u64) -> i32 {
    i32::try_from(term).unwrap_or(i32::MAX)
}

fn produce_run(entries: &[RaftEntry]) -> usize {
    entries
        .iter()
        .take_while(|e| matches!(&e.payload, EntryPayload::Normal(c) if c.batch().is_some()))
        .count()
}

/// State decoded from a journal checkpoint: membership and the machine's own bytes.
pub fn decode_group_state(bytes: &[u8]) -> Result<(GroupMembership, Bytes), Malformed> {
    let state =
        peer::GroupState::decode(bytes).map_err(|e| Malformed(format!("checkpoint: {e}")))?;
    if state.version != GROUP_STATE_VERSION {
        return Err(Malformed(format!(
            "checkpoint version {} is not known to this build: start the broker with the build that wrote it",
            state.version
        )));
    }
    Ok((
        stored_membership_from_proto(state.membership.as_ref())?,
        state.machine,
    ))
}

/// openraft's view of a [`GroupMachine`].
pub struct StateMachine {
    pub shared: Arc<GroupMachine>,
    pub log: Arc<GroupLog>,
    pub catch_up: Arc<dyn CatchUp>,
    pub host: Host,
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, GroupMembership), io::Error> {
        let applied = self.shared.applied.lock();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        const RUN_MAX: usize = 512;
        let mut run = Vec::new();
        let mut responders: Vec<Option<ApplyResponder<TypeConfig>>> = Vec::new();
        loop {
            let item = entries.next().await;
            let ended = item.is_none();
            if let Some(item) = item {
                let (entry, responder) = item?;
                run.push(entry);
                responders.push(responder);
            }
            if run.len() >= RUN_MAX || (ended && !run.is_empty()) {
                self.apply_all(&mut run, &mut responders).await?;
                self.log.note_applied(self.shared.applied_index());
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder(self.shared.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        match &self.shared.machine {
            Machine::Partition(log) => {
                let voters = meta.last_membership.voter_ids().map(broker_of);
                let sources = snapshot
                    .source
                    .into_iter()
                    .chain(voters.filter(|v| Some(*v) != snapshot.source))
                    .collect();
                self.close_for_refresh(log, &snapshot.manifest).await?;
                let copy =
                    self.catch_up
                        .copy(self.shared.group, log.clone(), sources, snapshot.manifest);
                self.shared.unless_stopped(copy).await?;
            }
            Machine::Metadata(machine) => machine
                .lock()
                .restore(&snapshot.manifest)
                .map_err(io::Error::other)?,
        }
        {
            let mut applied = self.shared.applied.lock();
            applied.last = meta.last_log_id;
            applied.membership = meta.last_membership.clone();
            if let Machine::Partition(log) = &self.shared.machine {
                log.end_catch_up();
            }
        }
        let (index, term) = meta.last_log_id.as_ref().map_or((0, 0), position);
        self.shared.applied_index.store(index, Ordering::Release);
        self.shared.applied_term.store(term, Ordering::Release);
        self.log.note_applied(index);
        // The leader counts this replica up to the snapshot from now on: it has to be durable.
        self.checkpoint().await?;
        self.shared.waiters.wake();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<GroupSnapshot>, io::Error> {
        let snapshot = self.shared.snapshot();
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

impl StateMachine {
    /// Of a compacted log, closes all that is here, durably, so that it can be compared with a log
    /// from which tombstones may be gone.
    async fn close_for_refresh(
        &self,
        partition: &Arc<PartitionLog>,
        manifest: &[u8],
    ) -> io::Result<()> {
        if !partition
            .may_need_refresh(manifest)
            .map_err(io::Error::other)?
        {
            return Ok(());
        }
        let partition = partition.clone();
        let closed = self
            .host
            .disk_work(move || partition.close_segment_of(partition.log_end_offset() - 1));
        closed.await.map_err(io::Error::other)?;
        self.checkpoint().await
    }

    /// Makes what is here durable, once the disk has room for it.
    async fn checkpoint(&self) -> io::Result<()> {
        let (shared, log) = (self.shared.clone(), self.log.clone());
        let checkpointed = with_room(
            &self.host,
            self.shared.group,
            || !self.log.is_closed() && !self.shared.is_stopping(),
            move || shared.checkpoint(&log),
        );
        checkpointed.await?.map_err(io::Error::other)?;
        let log = self.log.clone();
        let synced = self.host.disk_work(move || log.sync());
        match synced.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(stopped()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    async fn apply_all(
        &self,
        run: &mut Vec<RaftEntry>,
        responders: &mut Vec<Option<ApplyResponder<TypeConfig>>>,
    ) -> io::Result<()> {
        let mut done = 0;
        let mut waiting = false;
        while done < run.len() {
            match self.shared.apply_run(&run[done..])? {
                Some(replies) => {
                    if std::mem::take(&mut waiting) {
                        tracing::info!(group = self.shared.group.0, "the disk has space again");
                    }
                    self.shared.waiters.wake();
                    let count = replies.len();
                    for (responder, reply) in responders[done..].iter_mut().zip(replies) {
                        if let Some(responder) = responder.take() {
                            responder.send(reply);
                        }
                    }
                    done += count;
                }
                None => {
                    if !std::mem::replace(&mut waiting, true) {
                        tracing::warn!(
                            group = self.shared.group.0,
                            "disk full: committed records wait for space"
                        );
                    }
                    let pause = async {
                        tokio::time::sleep(DISK_RETRY).await;
                        Ok(())
                    };
                    self.shared.unless_stopped(pause).await?;
                }
            }
        }
        run.clear();
        responders.clear();
        Ok(())
    }
}

/// Takes a snapshot in microseconds: it is only a manifest.
pub struct SnapshotBuilder(Arc<GroupMachine>);

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<GroupSnapshot, io::Error> {
        Ok(self.0.snapshot())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_of_an_unknown_version_is_refused() {
        let mut state = peer::GroupState {
            version: GROUP_STATE_VERSION,
            membership: None,
            machine: Bytes::from_static(b"machine"),
        };
        let (_, machine) = decode_group_state(&state.encode_to_vec()).expect("own state");
        assert_eq!(machine, state.machine);
        state.version += 1;
        let refused = decode_group_state(&state.encode_to_vec());
        let message = refused.expect_err("not known").to_string();
        assert!(message.contains("version 2 is not known"), "{message}");
    }
}

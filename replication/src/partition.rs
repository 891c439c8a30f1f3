//! One replica of one partition.

use crate::group::Group;
use crate::mend;
use crate::node::checkpoint_durably;
use crate::transport::Transport;
use crate::types::{Command, Reply};
use crate::{BrokerId, GroupId, ProposeError};
use bytes::Bytes;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidelog_storage::error::StorageError;
use tidelog_storage::log::{
    CompactionReport, CompactionRun, LogConfig, PartitionLog, ProducerExpiry,
};
use tokio::sync::Notify;

/// What a replica is opened with. `replicas[0]` is the preferred leader, `founders[0]` forms the group.
#[derive(Debug, Clone)]
pub struct PartitionSpec {
    pub group: GroupId,
    pub topic: String,
    pub topic_id: [u8; 16],
    pub partition: i32,
    pub dir: PathBuf,
    pub replicas: Vec<BrokerId>,
    /// The group's first voters, as long as this broker has been one ever since; empty on a broker whose
    /// replica came later: it learns from the others and forms nothing.
    pub founders: Vec<BrokerId>,
    /// Producers that have never written here begin at sequence 0. The same on all replicas, for good.
    pub first_sequences: bool,
    pub config: LogConfig,
}

/// The answer to a committed produce request of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record; for a duplicate, the offset it got the first time.
    pub base_offset: i64,
    pub log_start_offset: i64,
}

/// Resolves when the command is committed and applied here, or refused.
pub type Proposal = Pin<Box<dyn Future<Output = Result<Appended, ProposeError>> + Send>>;

/// This replica's part in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Leads in `epoch`. `ready` once it has applied everything committed in earlier epochs; only
    /// then may it serve reads and writes as leader.
    Leader { epoch: i32, ready: bool },
    Follower {
        leader: Option<BrokerId>,
        epoch: i32,
    },
}

/// Handle of one replica; cheap to clone behind `Arc`.
pub struct Partition {
    pub(crate) spec: PartitionSpec,
    pub(crate) log: Arc<PartitionLog>,
    pub(crate) group: Arc<Group>,
    pub(crate) transport: Arc<Transport>,
    /// Damaged records are being replaced.
    pub(crate) mending: AtomicBool,
}

impl Partition {
    /// What it was opened with.
    pub fn spec(&self) -> &PartitionSpec {
        &self.spec
    }

    /// The committed log: read from it, never append to it directly.
    pub fn log(&self) -> &Arc<PartitionLog> {
        &self.log
    }

    /// Proposes one validated v2 record batch. The order of calls is the order in the log. The call
    /// itself does not wait; the future resolves after commit and apply.
    pub fn propose(&self, batch: Bytes) -> Proposal {
        self.propose_command(Command::Produce(batch))
    }

    /// Proposes one batch that takes effect only at the offset and in the leader epoch its header
    /// names (both lie outside the checksum). A proposer that keeps state derived from this log knows
    /// by that that nobody else's record, no record of its own that failed, and no change of
    /// leadership lies between the state it decided on and the batch. Refused with
    /// [`ProposeError::NotLeader`].
    pub fn propose_fenced(&self, batch: Bytes) -> Proposal {
        self.propose_command(Command::ProduceFenced(batch))
    }

    /// Whether this replica still leads in `epoch`, proven by a majority within the last lease: what
    /// a leader must know before it answers a read from memory. `false` also when it cannot be proven
    /// soon.
    pub async fn confirm_leader(&self, epoch: i32) -> bool {
        self.group.confirm_leader(epoch).await
    }

    /// As [`Partition::propose`], for a transactional batch after the coordinator has confirmed that
    /// the transaction is under way here. `last_marker` is what
    /// [`PartitionLog::transaction_standing`] said before it was asked.
    pub fn propose_verified(&self, batch: Bytes, last_marker: Option<i64>) -> Proposal {
        self.propose_command(Command::ProduceVerified { last_marker, batch })
    }

    /// Proposes the control batch that ends a transaction here; `bumped` as in
    /// [`BatchOrigin::Coordinator`](tidelog_storage::log::BatchOrigin).
    pub fn propose_marker(&self, batch: Bytes, bumped: bool) -> Proposal {
        self.propose_command(Command::Marker { bumped, batch })
    }

    /// Has producers forgotten on all replicas that have been idle for long, or are too many.
    pub async fn propose_expiry(&self, expiry: ProducerExpiry) -> Result<(), ProposeError> {
        if !matches!(self.role(), Role::Leader { ready: true, .. }) {
            return Err(ProposeError::NotLeader { leader: None });
        }
        let proposal = self.group.propose(Command::ExpireProducers(expiry));
        proposal.await.map(|_| ())
    }

    /// Moves the log start offset forward on all replicas (DeleteRecords, retention).
    pub fn propose_log_start(&self, offset: i64) -> Proposal {
        self.propose_command(Command::LogStart(offset))
    }

    fn propose_command(&self, command: Command) -> Proposal {
        let (leader, _) = self.group.leader();
        if leader != Some(self.transport.identity.broker) {
            return Box::pin(std::future::ready(Err(ProposeError::NotLeader { leader })));
        }
        let proposal = self.group.propose(command);
        Box::pin(async move {
            match proposal.await? {
                Reply::Appended {
                    base_offset,
                    log_start_offset,
                } => Ok(Appended {
                    base_offset,
                    log_start_offset,
                }),
                Reply::Rejected(rejection) => Err(ProposeError::Rejected(rejection)),
                Reply::Fenced => Err(ProposeError::NotLeader { leader: None }),
                Reply::None | Reply::Metadata { .. } => Err(ProposeError::OutcomeUnknown),
            }
        })
    }

    /// Compacts the log's closed segments. Blocks on the disk, for long: for a thread of its own.
    /// `run.closed_before` is set here.
    ///
    /// # Errors
    /// [`StorageError::DiskFull`], and I/O errors.
    pub fn compact(&self, run: &CompactionRun<'_>) -> Result<CompactionReport, StorageError> {
        let closed_before = self.log.active_base_offset();
        // A crash must not bring back a checkpoint that knows one of these segments as it was.
        checkpoint_durably(&self.group.log, &self.group.machine)
            .map_err(|e| StorageError::from_io(self.log.dir(), e))?;
        self.log.compact(&CompactionRun {
            closed_before,
            ..*run
        })
    }

    /// Replaces the damaged records at `offset`, which a read has found, by another replica's. Does
    /// nothing while an earlier call is at work.
    pub fn mend(self: &Arc<Self>, offset: i64) {
        if self.mending.swap(true, Ordering::AcqRel) {
            return;
        }
        let partition = self.clone();
        tokio::spawn(async move {
            mend::mend(&partition, offset).await;
            partition.mending.store(false, Ordering::Release);
        });
    }

    /// Ends the Raft core of this replica as a defect would, for tests.
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub async fn end_core(&self) {
        let _ = self.group.raft.shutdown().await;
    }

    /// Hands leadership over, whether anyone hears of it or not, for tests.
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub async fn begin_hand_over(&self, to: BrokerId) {
        self.group.transfer_leader(to).await;
    }

    /// Has a leader write an entry that makes `voters` the next voters, wherever that entry gets to, for tests.
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub async fn begin_change(&self, voters: &[BrokerId]) {
        self.group.begin_change(voters).await;
    }

    pub fn role(&self) -> Role {
        let (leader, epoch) = self.group.leader();
        if leader == Some(self.transport.identity.broker) {
            Role::Leader {
                epoch,
                ready: self.group.is_ready_leader(),
            }
        } else {
            Role::Follower { leader, epoch }
        }
    }

    /// Replicas whose logs are close behind the leader's and whose brokers are alive. On the leader
    /// it is exact; elsewhere it is the replicas on living brokers.
    pub fn in_sync_replicas(&self) -> Vec<BrokerId> {
        /// Entries a replica may be behind and still count as in sync.
        const LAG_MAX: u64 = 1024;
        let me = self.transport.identity.broker;
        let matched = self.group.matched();
        let last = self.group.last_index();
        let members = self.group.members();
        self.group
            .replicas()
            .iter()
            .copied()
            .filter(|replica| members.is_voter(*replica))
            .filter(|replica| {
                let near = matched.as_ref().is_none_or(|matched| {
                    matched.get(replica).is_some_and(|m| m + LAG_MAX >= last)
                });
                *replica == me || (near && self.transport.is_alive(*replica))
            })
            .collect()
    }

    /// `waiter` is notified once after the next change of the high watermark, log start offset or
    /// leadership of this replica. Register first, then check the state, then wait.
    pub fn notify_on_change(&self, waiter: &Arc<Notify>) {
        self.group.machine.waiters.register(waiter);
    }
}

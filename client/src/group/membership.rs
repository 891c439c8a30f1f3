//! What a consumer sees of its membership: a task keeps it alive, and tells of partitions that come
//! and go, one change at a time, going on when the consumer has dealt with it.

use super::broker::BrokerMember;
use super::classic::ClassicMember;
use super::offsets::Group;
use crate::consumer::{GroupConfig, GroupProtocol};
use crate::error::{Error, Result};
use crate::topic_partition::TopicPartition;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// What happens to the partitions of a member.
#[derive(Debug, Clone)]
pub(crate) enum ChangeKind {
    Assigned(BTreeSet<TopicPartition>),
    /// To be given back; offsets can still be committed.
    Revoked(BTreeSet<TopicPartition>),
    /// Already given to others.
    Lost(BTreeSet<TopicPartition>),
    /// The membership is over.
    Failed(Error),
}

/// A change to deal with; `done` lets the member go on.
#[derive(Debug)]
pub(crate) struct Change {
    pub kind: ChangeKind,
    pub done: oneshot::Sender<()>,
}

/// When the consumer was last seen asking for records; None while it is just asking.
pub(super) type LastPoll = Arc<Mutex<Option<Instant>>>;

/// A membership; dropping it ends the heartbeats, and the group notices after the session timeout.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) group: Group,
    config: GroupConfig,
    changes: mpsc::Receiver<Change>,
    last_poll: LastPoll,
    task: JoinHandle<()>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Membership {
    /// Begins to join.
    pub(crate) fn join(group: Group, config: GroupConfig, topics: Vec<String>) -> Membership {
        let (sender, changes) = mpsc::channel(1);
        let last_poll = LastPoll::new(Mutex::new(Some(Instant::now())));
        let teller = Teller {
            changes: sender,
            last_poll: last_poll.clone(),
            max_poll_interval: config.max_poll_interval,
        };
        let task = match &config.protocol {
            GroupProtocol::Classic { assignors } => {
                let assignors = assignors.clone();
                let member =
                    ClassicMember::new(group.clone(), config.clone(), assignors, topics, teller);
                tokio::spawn(member.run())
            }
            GroupProtocol::Consumer { assignor } => {
                let assignor = assignor.clone();
                let member =
                    BrokerMember::new(group.clone(), config.clone(), assignor, topics, teller);
                tokio::spawn(member.run())
            }
        };
        Membership {
            group,
            config,
            changes,
            last_poll,
            task,
        }
    }

    /// The next change. Dropping the future loses nothing.
    pub(crate) async fn change(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            None => Change {
                kind: ChangeKind::Failed(Error::Closed),
                done: oneshot::channel().0,
            },
        }
    }

    /// The consumer asks for records until the guard is dropped.
    pub(crate) fn polling(&self) -> Polling {
        *self.last_poll.lock() = None;
        Polling(self.last_poll.clone())
    }

    /// Leaves the group, so that others need not wait for the session timeout. A static member
    /// stays: it is expected back.
    ///
    /// # Errors
    /// When the coordinator could not be told.
    pub(crate) async fn leave(self) -> Result<()> {
        self.task.abort();
        let left = match &self.config.protocol {
            GroupProtocol::Classic { .. } => super::classic::leave(&self.group, "closed").await,
            GroupProtocol::Consumer { .. } => super::broker::leave(&self.group).await,
        };
        let mut identity = self.group.identity.lock();
        identity.generation = None;
        identity.owned.clear();
        left
    }
}

#[derive(Debug)]
pub(crate) struct Polling(LastPoll);

impl Drop for Polling {
    fn drop(&mut self) {
        *self.0.lock() = Some(Instant::now());
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Done,
    /// Dealt with after the member had left the group.
    Late,
    /// The consumer is gone.
    Gone,
}

/// The task's end of it.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    changes: mpsc::Sender<Change>,
    last_poll: LastPoll,
    max_poll_interval: Duration,
}

impl Teller {
    /// The consumer has not asked for records for too long.
    pub(super) fn is_idle(&self) -> bool {
        let last = *self.last_poll.lock();
        last.is_some_and(|last| last.elapsed() > self.max_poll_interval)
    }

    /// Tells the consumer and waits until it has dealt with it, calling `beat` again and again
    /// meanwhile. A consumer that asks for no records for too long has `leave` called, and is then
    /// waited for without heartbeats.
    pub(super) async fn tell<B: Future<Output = Instant>, L: Future<Output = ()>>(
        &self,
        kind: ChangeKind,
        mut next_beat: Instant,
        mut beat: impl FnMut() -> B,
        leave: impl FnOnce() -> L,
    ) -> Told {
        let telling = async {
            let (done, dealt_with) = oneshot::channel();
            let sent = self.changes.send(Change { kind, done }).await;
            sent.is_ok() && dealt_with.await.is_ok()
        };
        let mut telling = pin!(telling);
        while !self.is_idle() {
            tokio::select! {
                true = &mut telling => return Told::Done,
                () = sleep_until(next_beat) => next_beat = beat().await,
                else => return Told::Gone,
            }
        }
        tracing::warn!(
            "left the group, because no records were asked for in {} s",
            self.max_poll_interval.as_secs_f64()
        );
        leave().await;
        if telling.await {
            Told::Late
        } else {
            Told::Gone
        }
    }

    /// Waits until the consumer is gone.
    pub(super) async fn gone(&self) {
        self.changes.closed().await;
    }
}

//! The consumer's part in a group: subscribing, dealing with what the group gives and takes,
//! committing.

use super::fetcher::Fetcher;
use super::{Committer, Consumer, GroupConfig, OffsetReset, RebalanceHook};
use crate::error::{Error, Result};
use crate::group::{ChangeKind, CommittedOffset, Group, Membership};
use crate::offsets::StartPosition;
use crate::topic_partition::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// In a group, or only committing for one.
#[derive(Debug)]
pub(super) struct Member {
    group: Group,
    auto_commit: Option<Duration>,
    /// Says when it is time for an automatic commit.
    clock: Option<Clock>,
    committing: Option<Committing>,
    /// None with partitions that the caller assigned.
    membership: Option<Membership>,
    /// Begun and not done, so that a dropped future loses nothing.
    change: Option<(ChangeKind, oneshot::Sender<()>)>,
}

/// An automatic commit on its way.
#[derive(Debug)]
struct Committing {
    offsets: BTreeMap<TopicPartition, i64>,
    task: JoinHandle<Result<()>>,
}

impl Drop for Committing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Member {
    fn new(group: Group, config: &GroupConfig, membership: Option<Membership>) -> Member {
        let auto_commit = config.auto_commit;
        Member {
            group,
            auto_commit,
            clock: auto_commit.map(Clock::start),
            committing: None,
            membership,
            change: None,
        }
    }

    pub(super) fn polling(&self) -> Option<impl Drop + use<>> {
        self.membership.as_ref().map(Membership::polling)
    }

    /// Waits until the group gives or takes something.
    pub(super) async fn next_change(&mut self) {
        match &mut self.membership {
            Some(membership) => {
                let change = membership.change().await;
                self.change = Some((change.kind, change.done));
            }
            None => std::future::pending().await,
        }
    }

    /// Waits until it is time for an automatic commit.
    pub(super) async fn commit_due(clock: Option<Clock>) {
        match clock {
            Some(clock) => clock.rang.notified().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn clock(&self) -> Option<Clock> {
        self.clock.clone()
    }

    /// Begins an automatic commit when it is time.
    pub(super) fn commit_if_due(&mut self, fetcher: &mut Fetcher) {
        let due = self.clock.as_ref().is_some_and(Clock::take);
        if due {
            self.begin_commit(fetcher);
        }
    }

    fn begin_commit(&mut self, fetcher: &mut Fetcher) {
        if let Some(committing) = &self.committing {
            if !committing.task.is_finished() {
                return;
            }
            // A failed one is logged by its task; what it held goes with this one.
            self.committing = None;
        }
        let offsets = uncommitted(fetcher, |partition| partition.settled);
        if offsets.is_empty() {
            return;
        }
        // Should it fail, the positions are greater next time, or it is made when they are revoked.
        note_committed(fetcher, &offsets);
        let (group, sent) = (self.group.clone(), offsets.clone());
        let task = tokio::spawn(async move {
            let done = group.commit(&sent).await;
            if let Err(error) = &done {
                tracing::warn!("automatic commit: {error}");
            }
            done
        });
        self.committing = Some(Committing { offsets, task });
    }

    /// Waits for an automatic commit that is on its way.
    async fn finish_commit(&mut self, fetcher: &mut Fetcher) {
        if let Some(committing) = &mut self.committing {
            let done = (&mut committing.task).await;
            if !matches!(done, Ok(Ok(()))) {
                for place in committing.offsets.keys() {
                    if let Some(partition) = fetcher.get_mut(place) {
                        partition.committed = None;
                    }
                }
            }
            self.committing = None;
        }
    }
}

/// Tells from time to time, at the price of a look at a flag; ends with its last handle.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    due: Arc<AtomicBool>,
    rang: Arc<Notify>,
    _task: Arc<ClockTask>,
}

#[derive(Debug)]
struct ClockTask(JoinHandle<()>);

impl Drop for ClockTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Clock {
    fn start(every: Duration) -> Clock {
        let (due, rang) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let (sets, rings) = (due.clone(), rang.clone());
        let task = tokio::spawn(async move {
            loop {
                sleep(every.max(Duration::from_millis(1))).await;
                sets.store(true, Ordering::Relaxed);
                rings.notify_one();
            }
        });
        Clock {
            due,
            rang,
            _task: Arc::new(ClockTask(task)),
        }
    }

    fn take(&self) -> bool {
        self.due.load(Ordering::Relaxed) && self.due.swap(false, Ordering::Relaxed)
    }
}

fn uncommitted(
    fetcher: &Fetcher,
    upto: impl Fn(&super::fetcher::Partition) -> Option<i64>,
) -> BTreeMap<TopicPartition, i64> {
    let partitions = fetcher.partitions().filter_map(|partition| {
        let offset = upto(partition)?;
        let new = partition.committed != Some(offset);
        new.then(|| (partition.place.clone(), offset))
    });
    partitions.collect()
}

fn note_committed(fetcher: &mut Fetcher, offsets: &BTreeMap<TopicPartition, i64>) {
    for (place, offset) in offsets {
        if let Some(partition) = fetcher.get_mut(place) {
            partition.committed = Some(*offset);
        }
    }
}

impl Consumer {
    /// Becomes a member of [`ConsumerConfig::group`](crate::ConsumerConfig::group) that reads these
    /// topics; [`Consumer::next`] hands out records of the partitions that the group gives to it.
    /// Topics that do not exist yet are read once they do.
    ///
    /// # Errors
    /// [`Error::Config`] without a group or a topic.
    pub async fn subscribe<T: Into<String>>(
        &mut self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let config = self.group_config()?.clone();
        let topics: BTreeSet<String> = topics.into_iter().map(Into::into).collect();
        if topics.is_empty() {
            return Err(Error::Config {
                setting: "subscribe",
                reason: "names no topic".to_owned(),
            });
        }
        self.unsubscribe().await?;
        let instance = config.instance_id.as_deref();
        let group = Group::new(self.cluster.clone(), &config.group_id, instance);
        let topics = topics.into_iter().collect();
        let membership = Membership::join(group.clone(), config.clone(), topics);
        self.member = Some(Member::new(group, &config, Some(membership)));
        Ok(())
    }

    /// Tells `hook` of the partitions that come and go.
    pub fn set_rebalance_hook(&mut self, hook: impl RebalanceHook + 'static) {
        self.hook.0 = Some(Box::new(hook));
    }

    fn group_config(&self) -> Result<&GroupConfig> {
        self.config.group.as_ref().ok_or_else(|| Error::Config {
            setting: "group",
            reason: "is not set".to_owned(),
        })
    }

    /// The group to commit for, without a membership if there is none.
    fn member_mut(&mut self) -> Result<&mut Member> {
        if self.member.is_none() {
            let config = self.group_config()?.clone();
            let group = Group::new(self.cluster.clone(), &config.group_id, None);
            self.member = Some(Member::new(group, &config, None));
        }
        self.member.as_mut().ok_or(Error::Closed)
    }

    /// Commits from anywhere for this consumer's group.
    ///
    /// # Errors
    /// [`Error::Config`] when [`ConsumerConfig::group`](crate::ConsumerConfig::group) is not set.
    pub fn committer(&mut self) -> Result<Committer> {
        let group = self.member_mut()?.group.clone();
        Ok(Committer { group })
    }

    /// Commits everything handed out so far, the last records included.
    ///
    /// # Errors
    /// As [`Committer::commit`]; [`Error::Config`] without a group.
    pub async fn commit(&mut self) -> Result<()> {
        let group = self.member_mut()?.group.clone();
        if let Some(member) = &mut self.member {
            member.finish_commit(&mut self.fetcher).await;
        }
        self.settle();
        let offsets = uncommitted(&self.fetcher, |partition| partition.settled);
        group.commit(&offsets).await?;
        note_committed(&mut self.fetcher, &offsets);
        Ok(())
    }

    /// What the group has committed for these partitions; those without a commit are left out.
    ///
    /// # Errors
    /// As [`Committer::committed`]; [`Error::Config`] without a group.
    pub async fn committed(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>> {
        self.committer()?.committed(partitions).await
    }

    /// Goes back to what the group has committed, as after a transaction that was aborted: what was
    /// handed out since then comes again. Partitions without a commit begin where
    /// [`ConsumerConfig::offset_reset`](crate::ConsumerConfig::offset_reset) says.
    ///
    /// # Errors
    /// As [`Committer::committed`]; [`Error::Config`] without a group.
    pub async fn rewind(&mut self) -> Result<()> {
        let places = self.assignment();
        let group = self.member_mut()?.group.clone();
        let committed = group.committed(Some(&places)).await?;
        for place in &places {
            let start = self.start_of(&group, place, committed.get(place))?;
            self.drop_current(place);
            self.fetcher.seek(place, start);
            if let Some(partition) = self.fetcher.get_mut(place) {
                partition.settled = None;
                partition.committed = committed.get(place).map(|c| c.offset);
            }
        }
        self.last = None;
        Ok(())
    }

    fn start_of(
        &self,
        group: &Group,
        place: &TopicPartition,
        committed: Option<&CommittedOffset>,
    ) -> Result<StartPosition> {
        match (committed, self.config.offset_reset) {
            (Some(committed), _) => Ok(StartPosition::Offset(committed.offset)),
            (None, OffsetReset::Earliest) => Ok(StartPosition::Earliest),
            (None, OffsetReset::Latest) => Ok(StartPosition::Latest),
            (None, OffsetReset::Fail) => Err(no_offset(group, place)),
        }
    }

    /// Reads nothing more: commits what automatic commits have left, and leaves the group. A static
    /// member keeps its place in it.
    ///
    /// # Errors
    /// When the last offsets could not be committed; the group is left all the same.
    pub async fn unsubscribe(&mut self) -> Result<()> {
        let automatic = self
            .member
            .as_ref()
            .is_some_and(|m| m.auto_commit.is_some());
        let committed = if automatic {
            self.commit().await
        } else {
            Ok(())
        };
        self.current = None;
        self.last = None;
        self.fetcher.clear();
        if let Some(member) = self.member.take()
            && let Some(membership) = member.membership
            && let Err(error) = membership.leave().await
        {
            tracing::warn!("leaving the group: {error}");
        }
        match committed {
            // Others have the partitions already.
            Err(Error::Rebalanced { .. }) => Ok(()),
            other => other,
        }
    }

    /// [`Consumer::unsubscribe`] as the last thing.
    ///
    /// # Errors
    /// As [`Consumer::unsubscribe`].
    pub async fn close(mut self) -> Result<()> {
        self.unsubscribe().await
    }

    /// Deals with what the group has given or taken.
    pub(super) async fn finish_change(&mut self) -> Result<()> {
        let change = self.member.as_ref().and_then(|m| m.change.as_ref());
        let Some((kind, _)) = change else {
            return Ok(());
        };
        match kind.clone() {
            ChangeKind::Assigned(places) => self.take_on(places).await?,
            ChangeKind::Revoked(places) => self.give_back(places).await,
            ChangeKind::Lost(places) => {
                self.forget(&places);
                if let Some(hook) = &mut self.hook.0 {
                    hook.lost(&places.into_iter().collect::<Vec<_>>());
                }
            }
            ChangeKind::Failed(error) => {
                // Every later call says the same.
                return Err(error);
            }
        }
        if let Some((_, done)) = self.member.as_mut().and_then(|m| m.change.take()) {
            // The task may be gone.
            let _ = done.send(());
        }
        Ok(())
    }

    async fn take_on(&mut self, places: BTreeSet<TopicPartition>) -> Result<()> {
        let places: Vec<_> = places.into_iter().collect();
        let group = self.member_mut()?.group.clone();
        let committed = group.committed(Some(&places)).await?;
        for place in &places {
            let start = self.start_of(&group, place, committed.get(place))?;
            // Leaders of new topics may not be known yet.
            self.cluster.topic(&place.topic, false).await?;
            self.fetcher.add(place.clone(), start);
            if let Some(partition) = self.fetcher.get_mut(place) {
                partition.committed = committed.get(place).map(|c| c.offset);
            }
        }
        if let Some(hook) = &mut self.hook.0 {
            hook.assigned(&places);
        }
        Ok(())
    }

    async fn give_back(&mut self, places: BTreeSet<TopicPartition>) {
        let places: Vec<_> = places.into_iter().collect();
        if let Some(member) = &mut self.member {
            if member.auto_commit.is_some() {
                member.finish_commit(&mut self.fetcher).await;
                let mut offsets = uncommitted(&self.fetcher, |partition| partition.settled);
                offsets.retain(|place, _| places.contains(place));
                match member.group.commit(&offsets).await {
                    Ok(()) => note_committed(&mut self.fetcher, &offsets),
                    Err(error) => tracing::warn!("commit before giving back: {error}"),
                }
            }
            if let Some(hook) = &mut self.hook.0 {
                let group = member.group.clone();
                hook.revoked(&places, &Committer { group }).await;
            }
        }
        self.forget(&places.into_iter().collect());
    }

    fn forget(&mut self, places: &BTreeSet<TopicPartition>) {
        for place in places {
            self.drop_current(place);
            self.fetcher.remove(place);
        }
    }
}

fn no_offset(group: &Group, place: &TopicPartition) -> Error {
    Error::Config {
        setting: "offset_reset",
        reason: format!(
            "group {:?} has committed no offset for {place}",
            group.coordinator.name()
        ),
    }
}

//! OffsetCommit, OffsetFetch, OffsetDelete, and how offsets end.

use super::classic::{ClassicGroup, State};
use super::consumer::offsets::Committer;
use super::offsets::Committed;
use super::request::{Answer, CommitRequest, FetchRequest, Outcome, Outcomes};
use super::{Effects, Group, GroupShard, Timer, Turn, records};
use kafka_protocol::error::ResponseError;
use std::collections::BTreeSet;

/// An offset as OffsetFetch tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedOffset {
    pub partition: i32,
    /// `None`: nothing is committed.
    pub committed: Option<Committed>,
    /// An open transaction may change it, and the caller does not want such.
    pub unstable: bool,
}

/// Offsets of one topic.
pub type FetchedTopic = (String, Vec<FetchedOffset>);

impl GroupShard {
    /// Commits offsets; the partitions exist, as far as the caller knows.
    pub(super) fn commit(
        &mut self,
        turn: &Turn,
        request: &CommitRequest,
        effects: &mut Effects<Answer>,
    ) -> Result<Outcomes, ResponseError> {
        self.check_commit(turn, request)?;
        let mut outcomes = Vec::with_capacity(request.topics.len());
        for (topic, partitions) in &request.topics {
            let mut results = Vec::with_capacity(partitions.len());
            for asked in partitions {
                if asked.metadata.len() > self.config.metadata_max_bytes {
                    results.push((asked.partition, Err(ResponseError::OffsetMetadataTooLarge)));
                    continue;
                }
                let value = Committed {
                    offset: asked.offset,
                    leader_epoch: (asked.leader_epoch >= 0).then_some(asked.leader_epoch),
                    metadata: asked.metadata.as_str().into(),
                    commit_ms: turn.now_ms,
                    expire_ms: request.retention_ms.map(|r| turn.now_ms.saturating_add(r)),
                    order: 0,
                };
                effects.write(records::offset_commit(
                    &request.group,
                    topic,
                    asked.partition,
                    &value,
                ));
                self.offsets
                    .commit(&request.group, topic, asked.partition, value);
                results.push((asked.partition, Ok(())));
            }
            outcomes.push((topic.clone(), results));
        }
        Ok(outcomes)
    }

    /// Whether the commit may be; a member's commit is also a sign of life.
    fn check_commit(&mut self, turn: &Turn, request: &CommitRequest) -> Outcome {
        let Some(group) = self.groups.get(&request.group) else {
            if request.generation >= 0 {
                // Clients before version 9 do not know the better error.
                return Err(if request.version >= 9 {
                    ResponseError::GroupIdNotFound
                } else {
                    ResponseError::IllegalGeneration
                });
            }
            let simple = ClassicGroup::new(&request.group, turn.now_ms);
            self.groups
                .insert(request.group.clone(), Group::Classic(simple));
            return Ok(());
        };
        if let Group::Consumer(group) = group {
            let committer = Committer {
                member_id: &request.member_id,
                epoch: request.generation,
                version: Some(request.version),
            };
            let partitions: Vec<_> = request
                .topics
                .iter()
                .filter_map(|(name, offsets)| Some((turn.image.topic(name)?.id, offsets)))
                .flat_map(|(id, offsets)| offsets.iter().map(move |o| (id, o.partition)))
                .collect();
            let checked = group.check_commit(committer, &partitions);
            return checked.map_err(|r| r.error);
        }
        group.check_commit(
            &request.member_id,
            request.instance_id.as_deref(),
            request.generation,
            false,
        )?;
        match group {
            Group::Classic(group) => {
                let alive = matches!(group.state, State::Stable | State::PreparingRebalance);
                if let Some(member) = group.members.get(&request.member_id).filter(|_| alive) {
                    let at = turn.clock_ms + i64::from(member.session_timeout_ms);
                    let key = Timer::Session {
                        group: request.group.clone(),
                        member: member.id.clone(),
                    };
                    self.timers.schedule(key, at);
                }
            }
            Group::Consumer(_) => {}
        }
        Ok(())
    }

    /// Reads committed offsets. A group that is not there has none.
    pub(super) fn fetch(&self, request: &FetchRequest) -> Result<Vec<FetchedTopic>, ResponseError> {
        let group = request.group.as_str();
        if let (Some((member, epoch)), Some(Group::Consumer(group))) =
            (&request.member, self.groups.get(group))
        {
            let checked = group.check_fetch(Some(member), *epoch);
            checked.map_err(|r| r.error)?;
        }
        let fetched = |topic: &str, partition: i32| {
            let unstable =
                request.require_stable && self.offsets.is_pending(group, topic, partition);
            FetchedOffset {
                partition,
                committed: self.offsets.get(group, topic, partition).cloned(),
                unstable,
            }
        };
        if let Some(topics) = &request.topics {
            let each = topics.iter().map(|(topic, partitions)| {
                let offsets = partitions.iter().map(|p| fetched(topic, *p)).collect();
                (topic.clone(), offsets)
            });
            return Ok(each.collect());
        }
        let mut all: Vec<FetchedTopic> = Vec::new();
        for (topic, partition, _) in self.offsets.of_group(group) {
            let offset = fetched(topic, partition);
            match all.last_mut().filter(|(last, _)| last == topic) {
                Some((_, offsets)) => offsets.push(offset),
                None => all.push((topic.to_owned(), vec![offset])),
            }
        }
        Ok(all)
    }

    /// Deletes offsets of topics nobody in the group is subscribed to.
    pub(super) fn delete_offsets(
        &mut self,
        id: &str,
        topics: Vec<(String, Vec<i32>)>,
        effects: &mut Effects<Answer>,
    ) -> Result<Outcomes, ResponseError> {
        let group = self.groups.get(id).ok_or(ResponseError::GroupIdNotFound)?;
        match group {
            Group::Classic(group)
                if group.state != State::Empty && !group.uses_consumer_protocol() =>
            {
                return Err(ResponseError::NonEmptyGroup);
            }
            Group::Classic(_) | Group::Consumer(_) => {}
        }
        let mut outcomes = Vec::with_capacity(topics.len());
        for (topic, partitions) in topics {
            let subscribed = self.groups.get(id).is_some_and(|g| g.is_subscribed(&topic));
            let mut results = Vec::with_capacity(partitions.len());
            for partition in partitions {
                if subscribed {
                    results.push((partition, Err(ResponseError::GroupSubscribedToTopic)));
                    continue;
                }
                let known = self.offsets.get(id, &topic, partition).is_some()
                    || self.offsets.is_pending(id, &topic, partition);
                if known {
                    self.forget(id, &topic, partition, effects);
                }
                results.push((partition, Ok(())));
            }
            outcomes.push((topic, results));
        }
        Ok(outcomes)
    }

    fn forget(&mut self, group: &str, topic: &str, partition: i32, effects: &mut Effects<Answer>) {
        self.offsets.remove(group, topic, partition);
        effects.write(records::offset_tombstone(group, topic, partition));
    }

    /// Deletes a group without members, with its offsets.
    pub(super) fn delete_group(&mut self, id: &str, effects: &mut Effects<Answer>) -> Outcome {
        let group = self.groups.get(id).ok_or(ResponseError::GroupIdNotFound)?;
        if !group.is_empty() {
            return Err(ResponseError::NonEmptyGroup);
        }
        for (topic, partition) in self.offsets.places(id) {
            self.forget(id, &topic, partition, effects);
        }
        self.drop_group(id, effects);
        Ok(())
    }

    /// Topics were deleted: nobody needs their offsets.
    pub(super) fn topics_deleted(
        &mut self,
        deleted: &BTreeSet<&str>,
        effects: &mut Effects<Answer>,
    ) {
        let groups: Vec<String> = self
            .offsets
            .groups()
            .iter()
            .map(|g| (*g).to_owned())
            .collect();
        for group in groups {
            for (topic, partition) in self.offsets.places(&group) {
                if deleted.contains(topic.as_str()) {
                    self.forget(&group, &topic, partition, effects);
                }
            }
        }
    }

    /// Forgets expired offsets, and groups that have neither members nor offsets any more.
    pub(super) fn expire_offsets(&mut self, turn: &Turn, effects: &mut Effects<Answer>) {
        let ids: BTreeSet<String> = self.groups.keys().cloned().collect();
        for id in ids {
            let (expired, all) = self.expired_offsets(turn, &id);
            for (topic, partition) in expired {
                self.forget(&id, &topic, partition, effects);
            }
            let empty = self.groups.get(&id).is_some_and(Group::is_empty);
            if all && empty && !self.offsets.has_open_transactions(&id) {
                self.drop_group(&id, effects);
            }
        }
    }

    /// The group's expired offsets, and whether those are all it has.
    fn expired_offsets(&self, turn: &Turn, id: &str) -> (Vec<(String, i32)>, bool) {
        let retention = self.config.offsets_retention_ms;
        let mut expired = Vec::new();
        let mut all = true;
        for (topic, partition, offset) in self.offsets.of_group(id) {
            let old = match self.groups.get(id).and_then(|g| age_from(g, offset)) {
                None => false,
                Some(from_ms) => match offset.expire_ms {
                    Some(expire_ms) => turn.now_ms >= expire_ms,
                    None => turn.now_ms - from_ms >= retention,
                },
            };
            let subscribed = self.groups.get(id).is_some_and(|g| g.is_subscribed(topic));
            if old && !subscribed && !self.offsets.is_pending(id, topic, partition) {
                expired.push((topic.to_owned(), partition));
            } else {
                all = false;
            }
        }
        (expired, all)
    }
}

/// From when on the retention of an offset counts (KIP-211); `None`: it does not count now.
fn age_from(group: &Group, offset: &Committed) -> Option<i64> {
    match group {
        Group::Classic(group) => match (&group.protocol_type, group.state) {
            // Commits alone: each offset for itself.
            (None, _) => Some(offset.commit_ms),
            (Some(_), State::Empty) => Some(group.state_ms.unwrap_or(offset.commit_ms)),
            // Topics nobody is subscribed to any more.
            (Some(_), State::Stable)
                if group.uses_consumer_protocol() && group.subscribed.is_some() =>
            {
                Some(offset.commit_ms)
            }
            _ => None,
        },
        // Those of topics somebody is subscribed to are kept anyway.
        Group::Consumer(_) => Some(offset.commit_ms),
    }
}

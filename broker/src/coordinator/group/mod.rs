//! Consumer groups and committed offsets: the shard of a partition of `__consumer_offsets`.
//!
//! [`GroupShard`] owns the groups, [`offsets`] and timers, and gives each request to the group it is
//! for: `classic` has the classic protocol, `next` and [`consumer`] that of KIP-848, `migrate` goes from
//! one to the other, `commits` has what has to do with offsets, `records` the formats
//! on disk. State that must survive is changed together with the record that says so, and
//! [`Shard::replay`] makes the same change from the record.

pub mod classic;
mod commits;
pub mod consumer;
mod listing;
mod migrate;
mod next;
pub mod offsets;
pub mod records;
mod request;
#[cfg(test)]
mod tests;
mod transactions;

pub use commits::{FetchedOffset, FetchedTopic};
pub use request::{
    Answer, CommitOffset, CommitRequest, Confirmed, FetchRequest, JoinRequest, Leaving, Listed,
    Request, SyncRequest, TxnCommitRequest,
};

use super::timers::Timers;
use super::{Effects, Malformed, Marker, Record, Shard, Token, Turn};
use crate::config::BrokerConfig;
use crate::metadata::MetadataImage;
use classic::{ClassicGroup, State};
use consumer::classic::Identity;
use consumer::group::ConsumerGroup;
use consumer::offsets::Committer;
use kafka_protocol::error::ResponseError;
use offsets::Offsets;
use records::Key;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Settings of the group coordinator.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms`
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`
    pub session_timeout_max_ms: i32,
    /// `group.max.size`
    pub max_size: usize,
    /// `offsets.retention.minutes`
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub retention_check_ms: i64,
    /// `offset.metadata.max.bytes`
    pub metadata_max_bytes: usize,
    /// Where the settings of groups of the next protocol come from.
    pub broker: Arc<BrokerConfig>,
}

impl GroupConfig {
    pub fn of(config: &BrokerConfig) -> GroupConfig {
        let ms = |name: &str| i32::try_from(config.int(name)).unwrap_or(i32::MAX);
        GroupConfig {
            initial_rebalance_delay_ms: config.int("group.initial.rebalance.delay.ms"),
            session_timeout_min_ms: ms("group.min.session.timeout.ms"),
            session_timeout_max_ms: ms("group.max.session.timeout.ms"),
            max_size: usize::try_from(config.int("group.max.size")).unwrap_or(usize::MAX),
            offsets_retention_ms: config.int("offsets.retention.minutes") * 60_000,
            retention_check_ms: config.int("offsets.retention.check.interval.ms"),
            metadata_max_bytes: usize::try_from(config.int("offset.metadata.max.bytes"))
                .unwrap_or(0),
            broker: Arc::new(config.clone()),
        }
    }
}

/// What a deadline of the shard is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Timer {
    /// A member has to show that it lives.
    Session { group: String, member: String },
    /// The members of a classic group have to have joined.
    Join { group: String },
    /// They have to have synced.
    Sync { group: String },
    /// Some member of a group of the next protocol has to have done something.
    Members { group: String },
    /// Offsets are looked through for expired ones.
    Expiry,
}

/// What the functions of one turn share.
pub struct Ctx<'a> {
    pub turn: &'a Turn,
    pub config: &'a GroupConfig,
    pub timers: &'a mut Timers<Timer>,
    pub effects: &'a mut Effects<Answer>,
}

/// A group of any protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Group {
    /// Whether a member may commit offsets now.
    ///
    /// # Errors
    /// What it is to be told.
    pub fn check_commit(
        &self,
        member: &str,
        instance_id: Option<&str>,
        generation: i32,
        transactional: bool,
    ) -> Result<(), ResponseError> {
        match self {
            Group::Classic(group) => {
                group.check_commit(member, instance_id, generation, transactional)
            }
            Group::Consumer(group) => {
                let committer = Committer {
                    member_id: member,
                    epoch: generation,
                    version: None,
                };
                group.check_commit(committer, &[]).map_err(|r| r.error)
            }
        }
    }

    /// Whether the group may be deleted, and its offsets too.
    pub fn is_empty(&self) -> bool {
        match self {
            Group::Classic(group) => group.state == State::Empty,
            Group::Consumer(group) => group.is_empty(),
        }
    }

    /// Whether offsets of the topic may be in use.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        match self {
            Group::Classic(group) => group.is_subscribed(topic),
            Group::Consumer(group) => group.is_subscribed_to(topic),
        }
    }
}

/// The state of one partition of `__consumer_offsets`.
pub struct GroupShard {
    config: GroupConfig,
    groups: HashMap<String, Group>,
    offsets: Offsets,
    producers: transactions::Producers,
    timers: Timers<Timer>,
    /// The image topics were last compared with, to notice deleted ones.
    image: Arc<MetadataImage>,
}

impl GroupShard {
    pub fn new(config: GroupConfig) -> GroupShard {
        GroupShard {
            config,
            groups: HashMap::new(),
            offsets: Offsets::default(),
            producers: transactions::Producers::default(),
            timers: Timers::default(),
            image: Arc::default(),
        }
    }

    /// The parts a request of a classic group works on; `None` when there is no such group.
    fn classic<'a>(
        &'a mut self,
        turn: &'a Turn,
        effects: &'a mut Effects<Answer>,
        id: &str,
    ) -> Option<(Ctx<'a>, &'a mut ClassicGroup)> {
        let ctx = Ctx {
            turn,
            config: &self.config,
            timers: &mut self.timers,
            effects,
        };
        match self.groups.get_mut(id)? {
            Group::Classic(group) => Some((ctx, group)),
            Group::Consumer(_) => None,
        }
    }

    fn join(
        &mut self,
        turn: &Turn,
        token: Token,
        request: JoinRequest,
        effects: &mut Effects<Answer>,
    ) {
        if let Some(Group::Consumer(group)) = self.groups.get(&request.group) {
            if !group.is_empty() {
                let answer = self.join_next(turn, &request, effects);
                effects.answer(token, Answer::Join(answer));
                return;
            }
            // Nobody is left in it: whoever comes next decides about the protocol.
            if request.member_id.is_empty() {
                self.drop_group(&request.group, effects);
            }
        }
        if !self.groups.contains_key(&request.group) {
            if !request.member_id.is_empty() {
                // It was a member of something that is gone.
                let answer =
                    classic::join_error(&request.member_id, ResponseError::UnknownMemberId);
                effects.answer(token, Answer::Join(answer));
                return;
            }
            let group = ClassicGroup::new(&request.group, turn.now_ms);
            self.groups
                .insert(request.group.clone(), Group::Classic(group));
        }
        let id = request.group.clone();
        if let Some((mut ctx, group)) = self.classic(turn, effects, &id) {
            classic::join(&mut ctx, group, token, request);
        }
    }

    fn sync(
        &mut self,
        turn: &Turn,
        token: Token,
        request: SyncRequest,
        effects: &mut Effects<Answer>,
    ) {
        let id = request.group.clone();
        if self.is_next(&id) {
            let answer = self.sync_next(turn, &request);
            effects.answer_as_leader(token, Answer::Sync(answer));
            return;
        }
        match self.classic(turn, effects, &id) {
            Some((mut ctx, group)) => classic::sync(&mut ctx, group, token, request),
            None => {
                let answer = classic::sync_error(ResponseError::UnknownMemberId);
                effects.answer(token, Answer::Sync(answer));
            }
        }
    }

    fn expired(&mut self, turn: &Turn, timer: Timer, effects: &mut Effects<Answer>) {
        match timer {
            Timer::Session { group, member } => {
                if let Some((mut ctx, group)) = self.classic(turn, effects, &group) {
                    classic::expire_member(&mut ctx, group, &member);
                }
            }
            Timer::Join { group } => {
                if let Some((mut ctx, group)) = self.classic(turn, effects, &group) {
                    classic::finish_join(&mut ctx, group);
                }
            }
            Timer::Sync { group } => {
                if let Some((mut ctx, group)) = self.classic(turn, effects, &group) {
                    classic::expire_sync(&mut ctx, group);
                }
            }
            Timer::Members { group } => self.expire_members(turn, &group, effects),
            Timer::Expiry => {
                self.expire_offsets(turn, effects);
                self.schedule_expiry(turn);
            }
        }
    }

    fn schedule_expiry(&mut self, turn: &Turn) {
        let at = turn.clock_ms + self.config.retention_check_ms;
        self.timers.schedule(Timer::Expiry, at);
    }

    /// Forgets a group that has no members, and writes so when the log knows it.
    fn drop_group(&mut self, id: &str, effects: &mut Effects<Answer>) {
        match self.groups.remove(id) {
            Some(Group::Classic(group)) => {
                for pending in &group.pending_join {
                    self.timers.cancel(&Timer::Session {
                        group: id.to_owned(),
                        member: pending.clone(),
                    });
                }
                if group.stored {
                    effects.write(records::group_tombstone(id));
                }
            }
            Some(Group::Consumer(group)) => {
                for tombstone in group.tombstones() {
                    effects.write(tombstone.encode(id));
                }
            }
            None => {}
        }
    }
}

impl Shard for GroupShard {
    type Request = Request;
    type Answer = Answer;

    fn replay(&mut self, record: &Record<'_>) -> Result<(), Malformed> {
        match records::read_key(record.key)? {
            Key::OffsetCommit {
                group,
                topic,
                partition,
            } => {
                let Some(value) = record.value else {
                    self.offsets.remove(&group, &topic, partition);
                    return Ok(());
                };
                let value = records::read_committed(value)?;
                if !self.groups.contains_key(&group) {
                    let simple = ClassicGroup::new(&group, record.timestamp_ms);
                    self.groups.insert(group.clone(), Group::Classic(simple));
                }
                match record.transaction {
                    None => self.offsets.commit(&group, &topic, partition, value),
                    Some((producer_id, epoch)) => {
                        self.producers.wrote((producer_id, epoch));
                        self.offsets
                            .commit_pending(producer_id, &group, &topic, partition, value);
                    }
                }
            }
            Key::Group { group } => match record.value {
                // It may have become one of the next protocol.
                None if self.is_next(&group) => {}
                None => {
                    self.groups.remove(&group);
                }
                Some(value) => {
                    let stored = records::read_group(value)?;
                    let loaded = ClassicGroup::from_stored(&group, stored);
                    self.groups.insert(group, Group::Classic(loaded));
                }
            },
            Key::Other(_) => self.replay_next(record)?,
        }
        Ok(())
    }

    fn replay_marker(&mut self, marker: &Marker) {
        self.producers.marked(marker);
        self.offsets
            .end_transaction(marker.producer_id, marker.commit);
    }

    fn loaded(&mut self, turn: &Turn, effects: &mut Effects<Answer>) {
        self.image = turn.image.clone();
        let with_offsets = self.offsets.groups();
        // Simple groups are as long as their offsets are.
        self.groups.retain(|id, group| match group {
            Group::Classic(group) => group.stored || with_offsets.contains(id.as_str()),
            Group::Consumer(_) => true,
        });
        let ids: BTreeSet<String> = self.groups.keys().cloned().collect();
        for id in ids {
            if let Some((mut ctx, group)) = self.classic(turn, effects, &id) {
                classic::loaded(&mut ctx, group);
            }
        }
        self.loaded_next(turn);
        self.schedule_expiry(turn);
    }

    fn handle(
        &mut self,
        turn: &Turn,
        token: Token,
        request: Request,
        effects: &mut Effects<Answer>,
    ) {
        match request {
            Request::Join(request) => self.join(turn, token, request, effects),
            Request::Sync(request) => self.sync(turn, token, request, effects),
            Request::Heartbeat {
                group,
                member_id,
                instance_id,
                generation,
            } => {
                let instance_id = instance_id.as_deref();
                let result = if self.is_next(&group) {
                    let who = Identity {
                        member_id: &member_id,
                        instance_id,
                    };
                    self.heartbeat_next(turn, &group, who, generation)
                } else {
                    match self.classic(turn, effects, &group) {
                        Some((mut ctx, group)) => {
                            classic::heartbeat(&mut ctx, group, &member_id, instance_id, generation)
                        }
                        None => Err(ResponseError::UnknownMemberId),
                    }
                };
                effects.answer(token, Answer::Done(result));
            }
            Request::Leave { group, members } => {
                let results = if self.is_next(&group) {
                    self.leave_next(turn, &group, &members, effects)
                } else {
                    match self.classic(turn, effects, &group) {
                        Some((mut ctx, group)) => classic::leave(&mut ctx, group, &members),
                        None => vec![Err(ResponseError::UnknownMemberId); members.len()],
                    }
                };
                effects.answer(token, Answer::Left(results));
            }
            Request::Beat(heartbeat) => {
                let answer = self.beat(turn, &heartbeat, effects);
                if answer.assignment.is_some() {
                    // Not what a leader that has been replaced would still give out.
                    effects.answer_as_leader(token, Answer::Beat(answer));
                } else {
                    effects.answer(token, Answer::Beat(answer));
                }
            }
            Request::DescribeNext(groups) => {
                let described = self.describe_next(turn, &groups);
                effects.answer_as_leader(token, Answer::DescribedNext(described));
            }
            Request::Commit(request) => {
                let answer = self.commit(turn, &request, effects);
                effects.answer(token, Answer::Committed(answer));
            }
            Request::CommitTransactional(request) => {
                let answer = self.commit_transactional(turn, &request, effects);
                effects.answer(token, answer);
            }
            Request::EndTransaction { marker, bumped } => {
                let result = self.end_transaction(&marker, bumped, effects);
                effects.answer(token, Answer::Done(result));
            }
            Request::Fetch(request) => {
                let fetched = self.fetch(&request);
                effects.answer_as_leader(token, Answer::Fetched(fetched));
            }
            Request::DeleteOffsets { group, topics } => {
                let answer = self.delete_offsets(&group, topics, effects);
                effects.answer(token, Answer::Committed(answer));
            }
            Request::Describe(groups) => {
                let described = groups.iter().map(|id| self.describe(id)).collect();
                effects.answer_as_leader(token, Answer::Described(described));
            }
            Request::List { states, types } => {
                let listed = self.list(&states, &types);
                effects.answer_as_leader(token, Answer::Listed(listed));
            }
            Request::DeleteGroups(groups) => {
                let results = groups
                    .iter()
                    .map(|id| self.delete_group(id, effects))
                    .collect();
                effects.answer(token, Answer::Left(results));
            }
        }
    }

    fn tick(&mut self, turn: &Turn, effects: &mut Effects<Answer>) {
        while let Some(timer) = self.timers.take_due(turn.clock_ms) {
            self.expired(turn, timer, effects);
        }
    }

    fn next_deadline(&self) -> Option<i64> {
        self.timers.next()
    }

    fn metadata_changed(&mut self, turn: &Turn, effects: &mut Effects<Answer>) {
        let before = std::mem::replace(&mut self.image, turn.image.clone());
        if Arc::ptr_eq(&before, &turn.image) {
            return;
        }
        // A topic that was there and is gone was deleted by a command; one that was never seen may
        // only be news that this broker has not got yet.
        let deleted: BTreeSet<&str> = before
            .topics
            .values()
            .filter(|t| turn.image.topic_by_id(t.id).is_none())
            .map(|t| t.name.as_str())
            .collect();
        if !deleted.is_empty() {
            self.topics_deleted(&deleted, effects);
        }
    }
}

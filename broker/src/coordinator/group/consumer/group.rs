//! The state of one consumer group. What is durable in it changes by [`ConsumerGroup::apply`] only, with
//! the same records that are written, so that a replay builds the same state.

use super::member::Member;
use super::partitions::{Partitions, holds};
use super::records::{Change, ResolvedRegex};
use super::timers::Timers;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Kafka's states of a consumer group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    Empty,
    /// The target assignment is older than the group epoch.
    Assigning,
    /// Some member does not hold its target assignment yet.
    Reconciling,
    Stable,
}

impl GroupState {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::Assigning => "Assigning",
            GroupState::Reconciling => "Reconciling",
            GroupState::Stable => "Stable",
        }
    }
}

/// A consumer group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerGroup {
    /// Goes up with every change that needs a new target assignment.
    pub(super) epoch: i32,
    /// See [`super::subscription::metadata_hash`].
    pub(super) metadata_hash: i64,
    pub(super) members: BTreeMap<String, Member>,
    /// Member id by instance id.
    pub(super) static_members: BTreeMap<String, String>,
    /// The group epoch the target assignment was made for.
    pub(super) target_epoch: i32,
    pub(super) target: BTreeMap<String, Partitions>,
    pub(super) regexes: BTreeMap<String, ResolvedRegex>,

    // Not durable.
    pub(super) timers: BTreeMap<String, Timers>,
    /// The metadata that the subscriptions were last checked against.
    pub(super) checked_index: Option<u64>,
}

impl ConsumerGroup {
    /// Takes over one record of this group. A tombstone of the group itself empties it.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Group(Some(v)) => {
                self.epoch = v.epoch;
                self.metadata_hash = v.metadata_hash;
            }
            Change::Group(None) => *self = ConsumerGroup::default(),
            Change::PartitionMetadata => {}
            Change::Member(id, Some(metadata)) => {
                if let Some(instance) = &metadata.instance_id {
                    self.static_members.insert(instance.clone(), id.clone());
                }
                self.members.entry(id.clone()).or_default().metadata = metadata.clone();
            }
            Change::Member(id, None) => {
                self.members.remove(id);
                self.static_members.retain(|_, member| member != id);
                self.timers.remove(id);
            }
            Change::Target(epoch) => self.target_epoch = epoch.unwrap_or(0),
            Change::TargetMember(id, Some(partitions)) => {
                self.target.insert(id.clone(), partitions.clone());
            }
            Change::TargetMember(id, None) => {
                self.target.remove(id);
            }
            Change::Current(id, Some(current)) => {
                self.members.entry(id.clone()).or_default().current = current.clone();
            }
            Change::Current(id, None) => {
                if let Some(member) = self.members.get_mut(id) {
                    member.current = Default::default();
                }
            }
            Change::Regex(regex, Some(resolved)) => {
                self.regexes.insert(regex.clone(), resolved.clone());
            }
            Change::Regex(regex, None) => {
                self.regexes.remove(regex);
            }
        }
    }

    /// What a replay builds again.
    #[cfg(test)]
    pub fn durable(&self) -> ConsumerGroup {
        ConsumerGroup {
            timers: BTreeMap::new(),
            checked_index: None,
            ..self.clone()
        }
    }

    /// Applies a change and notes that it is to be written.
    pub(super) fn change(&mut self, changes: &mut Vec<Change>, change: Change) {
        self.apply(&change);
        changes.push(change);
    }

    /// Tombstones of everything there is, the group last.
    pub fn tombstones(&self) -> Vec<Change> {
        let members = || self.members.keys().cloned();
        let mut all: Vec<Change> = members().map(|m| Change::Current(m, None)).collect();
        let targets = members().chain(self.target.keys().cloned());
        let targets: BTreeSet<String> = targets.collect();
        all.extend(targets.into_iter().map(|m| Change::TargetMember(m, None)));
        all.push(Change::Target(None));
        all.extend(members().map(|m| Change::Member(m, None)));
        all.extend(self.regexes.keys().map(|r| Change::Regex(r.clone(), None)));
        all.push(Change::Group(None));
        all
    }

    pub fn state(&self) -> GroupState {
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.epoch > self.target_epoch {
            GroupState::Assigning
        } else if self
            .members
            .values()
            .all(|m| m.is_reconciled_to(self.target_epoch))
        {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    pub(super) fn static_member(&self, instance_id: &str) -> Option<&String> {
        self.static_members.get(instance_id)
    }

    /// Whether a member other than `me` holds the partition or has yet to give it up.
    pub(super) fn is_held_by_other(&self, me: &str, topic: Uuid, partition: i32) -> bool {
        self.members.iter().any(|(id, m)| {
            id != me
                && (holds(&m.current.assigned, topic, partition)
                    || holds(&m.current.revoking, topic, partition))
        })
    }

    /// Names of the topics a member is subscribed to, by name or by pattern.
    pub(super) fn topics_of<'a>(
        &'a self,
        member: &'a Member,
    ) -> impl Iterator<Item = &'a String> + use<'a> {
        let resolved = member
            .metadata
            .pattern()
            .and_then(|regex| self.regexes.get(regex));
        let by_pattern = resolved.into_iter().flat_map(|r| r.topics.iter());
        member.metadata.topics.iter().chain(by_pattern)
    }

    /// Whether any member is subscribed to the topic.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.members
            .values()
            .any(|m| self.topics_of(m).any(|t| t == topic))
    }
}

//! One step of a member from what it holds towards its target assignment (KIP-848).
//!
//! A member first gives up what is not its any more, and only when its heartbeat shows that it has done
//! so does it move to the target's epoch and get what is free. What other members still hold it gets
//! later. So a member that is slow to give up a partition holds up nobody but the one who waits for
//! that very partition.

use super::member::{CurrentAssignment, Member, MemberState};
use super::partitions::{Held, Partitions, holds};
use crate::metadata::changes::Refused;
use kafka_protocol::error::ResponseError;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Where a member is to go.
pub struct Towards<'a> {
    pub target_epoch: i32,
    pub target: &'a Partitions,
    /// Existing topics it is subscribed to.
    pub subscribed: &'a BTreeSet<Uuid>,
    /// What its heartbeat says it holds, if it says so.
    pub owned: Option<&'a Partitions>,
    /// Its subscription has just changed.
    pub subscription_changed: bool,
}

impl Towards<'_> {
    /// What the member is to hold next; unchanged when it can go no further for now.
    ///
    /// # Errors
    /// `FENCED_MEMBER_EPOCH` for a member in a state that a newer version wrote.
    pub fn step(
        &self,
        member: &Member,
        is_held_by_other: impl Fn(Uuid, i32) -> bool,
    ) -> Result<CurrentAssignment, Refused> {
        let current = &member.current;
        match current.state {
            MemberState::Stable if current.epoch == self.target_epoch => {
                Ok(if self.subscription_changed {
                    self.without_unsubscribed(current)
                } else {
                    current.clone()
                })
            }
            MemberState::UnrevokedPartitions if self.still_owns(&current.revoking) => {
                Ok(if self.subscription_changed {
                    self.without_unsubscribed(current)
                } else {
                    current.clone()
                })
            }
            MemberState::Unknown if self.owned.is_none_or(|o| !o.is_empty()) => Err(Refused::new(
                ResponseError::FencedMemberEpoch,
                "The consumer group member is in an unknown state. The member must abandon \
                     all its partitions and rejoin.",
            )),
            _ => Ok(self.next(current, is_held_by_other)),
        }
    }

    /// Without word from the member we have to suppose that it still holds everything.
    fn still_owns(&self, revoking: &Held) -> bool {
        let Some(owned) = self.owned else {
            return true;
        };
        owned
            .iter()
            .any(|(topic, partitions)| partitions.iter().any(|p| holds(revoking, *topic, *p)))
    }

    fn next(
        &self,
        current: &CurrentAssignment,
        is_held_by_other: impl Fn(Uuid, i32) -> bool,
    ) -> CurrentAssignment {
        let wanted = |topic: &Uuid, partition: &i32| {
            self.subscribed.contains(topic)
                && self
                    .target
                    .get(topic)
                    .is_some_and(|p| p.contains(partition))
        };
        let mut kept = Held::new();
        let mut revoking = Held::new();
        for (topic, partitions) in &current.assigned {
            for (partition, epoch) in partitions {
                let side = if wanted(topic, partition) {
                    &mut kept
                } else {
                    &mut revoking
                };
                side.entry(*topic).or_default().insert(*partition, *epoch);
            }
        }
        if !revoking.is_empty() && self.still_owns(&revoking) {
            // It stays in its epoch until it has let go.
            return CurrentAssignment {
                epoch: current.epoch,
                previous_epoch: current.previous_epoch,
                state: MemberState::UnrevokedPartitions,
                assigned: kept,
                revoking,
            };
        }
        let mut waits = false;
        for (topic, partitions) in self.target {
            if !self.subscribed.contains(topic) {
                continue;
            }
            for partition in partitions {
                if holds(&kept, *topic, *partition) {
                    continue;
                }
                if is_held_by_other(*topic, *partition) {
                    waits = true;
                    continue;
                }
                kept.entry(*topic)
                    .or_default()
                    .insert(*partition, self.target_epoch);
            }
        }
        CurrentAssignment {
            epoch: self.target_epoch,
            // While the epoch stays, so does the one before it: however often an answer is lost, the
            // member may come with either.
            previous_epoch: if current.epoch == self.target_epoch {
                current.previous_epoch
            } else {
                current.epoch
            },
            state: if waits {
                MemberState::UnreleasedPartitions
            } else {
                MemberState::Stable
            },
            assigned: kept,
            revoking: Held::new(),
        }
    }

    /// Takes away the topics that it is not subscribed to any more.
    fn without_unsubscribed(&self, current: &CurrentAssignment) -> CurrentAssignment {
        let mut next = current.clone();
        next.assigned
            .retain(|topic, _| self.subscribed.contains(topic));
        if next.assigned.len() == current.assigned.len() {
            return next;
        }
        for (topic, partitions) in &current.assigned {
            if !self.subscribed.contains(topic) {
                next.revoking.entry(*topic).or_default().extend(partitions);
            }
        }
        if self.still_owns(&next.revoking) {
            next.state = MemberState::UnrevokedPartitions;
        } else {
            next.revoking.clear();
        }
        next
    }
}

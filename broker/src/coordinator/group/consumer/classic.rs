//! Members of a consumer group that still speak the classic protocol (KIP-848, online migration).
//!
//! To them JoinGroup, SyncGroup and Heartbeat are what ConsumerGroupHeartbeat is to the others: joining
//! tells subscription and holdings and takes one step of reconciliation, syncing fetches the
//! assignment, and a heartbeat is answered with `REBALANCE_IN_PROGRESS` when joining again would bring
//! the member on. The generation is the member's epoch.

mod convert;
mod embedded;
mod join;
#[cfg(test)]
mod tests;

use super::group::ConsumerGroup;
use super::heartbeat::{Context, check_instance};
use super::member::{ClassicMember, Member, MemberState};
use super::partitions::holds;
use super::records::Change;
use crate::metadata::changes::Refused;
use bytes::Bytes;
use kafka_protocol::error::ResponseError;

pub use convert::{ConvertedGroup, ConvertedMember};
pub use embedded::Subscription;
pub use join::{Join, Joined};

/// Protocol type of all consumers.
pub const PROTOCOL_TYPE: &str = "consumer";

/// Who a request of the classic protocol is of.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    pub member_id: &'a str,
    pub instance_id: Option<&'a str>,
}

impl ConsumerGroup {
    /// Whether everyone here speaks the classic protocol, so that the group could as well.
    pub fn is_all_classic(&self) -> bool {
        !self.members.is_empty() && self.members.values().all(|m| m.metadata.classic.is_some())
    }

    /// Serves SyncGroup: the assignment in the consumers' embedded format.
    ///
    /// # Errors
    /// `UNKNOWN_MEMBER_ID`, `FENCED_INSTANCE_ID`, `ILLEGAL_GENERATION`, `INCONSISTENT_GROUP_PROTOCOL`,
    /// `REBALANCE_IN_PROGRESS`.
    pub fn classic_sync(
        &mut self,
        cx: Context<'_>,
        who: Identity<'_>,
        generation: i32,
        protocol: (Option<&str>, Option<&str>),
    ) -> Result<Bytes, Refused> {
        let (id, member, classic) = self.classic_member(who)?;
        check_generation(member, generation)?;
        let first = classic.protocols.first();
        let (name, metadata) = first.ok_or_else(|| self.unknown_member(&id))?;
        if protocol.0.is_some_and(|t| t != PROTOCOL_TYPE) || protocol.1.is_some_and(|p| p != name) {
            return Err(Refused::new(
                ResponseError::InconsistentGroupProtocol,
                format!("The protocol of member {id} is not the one its join was answered with."),
            ));
        }
        let moving = member.current.state == MemberState::UnrevokedPartitions;
        if self.epoch > member.current.epoch && !moving {
            let timeout_ms = member.metadata.rebalance_timeout_ms;
            self.await_join(&id, cx, timeout_ms);
            return Err(rejoin(&id));
        }
        let version = embedded::version(metadata);
        let assignment =
            embedded::encode_assignment(version, &member.current.partitions(), &cx.turn.image);
        self.timers.entry(id.clone()).or_default().sync = None;
        self.renew_session(&id, cx.turn.clock_ms, cx.settings);
        Ok(assignment)
    }

    /// Serves Heartbeat.
    ///
    /// # Errors
    /// `UNKNOWN_MEMBER_ID`, `FENCED_INSTANCE_ID`, `ILLEGAL_GENERATION`; `REBALANCE_IN_PROGRESS` when the
    /// member is to join again.
    pub fn classic_heartbeat(
        &mut self,
        cx: Context<'_>,
        who: Identity<'_>,
        generation: i32,
    ) -> Result<(), Refused> {
        let (id, member, _) = self.classic_member(who)?;
        check_generation(member, generation)?;
        let timeout_ms = member.metadata.rebalance_timeout_ms;
        let rejoins = match member.current.state {
            _ if member.current.epoch < self.epoch => true,
            MemberState::UnrevokedPartitions => true,
            MemberState::UnreleasedPartitions => !self.waits_for_others(&id, member),
            _ => false,
        };
        self.renew_session(&id, cx.turn.clock_ms, cx.settings);
        if rejoins {
            self.await_join(&id, cx, timeout_ms);
            return Err(rejoin(&id));
        }
        Ok(())
    }

    /// Serves one member of a LeaveGroup; its member id.
    ///
    /// # Errors
    /// `UNKNOWN_MEMBER_ID`, also for members of the next protocol; `FENCED_INSTANCE_ID`.
    pub fn check_classic_leave(&self, who: Identity<'_>) -> Result<String, Refused> {
        // Administrators name static members by their instance ids alone.
        let owner = who.instance_id.and_then(|i| self.static_member(i));
        let who = match owner {
            Some(owner) if who.member_id.is_empty() => Identity {
                member_id: owner,
                ..who
            },
            _ => who,
        };
        self.classic_member(who).map(|(id, ..)| id)
    }

    fn classic_member(
        &self,
        who: Identity<'_>,
    ) -> Result<(String, &Member, &ClassicMember), Refused> {
        if let Some(instance) = who.instance_id {
            let owner = self.static_member(instance);
            let owner = owner.ok_or_else(|| self.unknown_member(who.member_id))?;
            check_instance(owner, who.member_id, instance)?;
        }
        let unknown = || self.unknown_member(who.member_id);
        let member = self.members.get(who.member_id).ok_or_else(unknown)?;
        let classic = member.metadata.classic.as_ref().ok_or_else(unknown)?;
        Ok((who.member_id.to_owned(), member, classic))
    }

    /// Whether all that the member still lacks is held by others.
    fn waits_for_others(&self, id: &str, member: &Member) -> bool {
        self.target.get(id).is_some_and(|target| {
            target.iter().any(|(topic, partitions)| {
                partitions.iter().any(|p| {
                    !holds(&member.current.assigned, *topic, *p)
                        && self.is_held_by_other(id, *topic, *p)
                })
            })
        })
    }

    /// The member has to join within its rebalance timeout, counted from the first time it was told.
    fn await_join(&mut self, id: &str, cx: Context<'_>, timeout_ms: i32) {
        let deadline = cx.turn.clock_ms + i64::from(timeout_ms);
        let timers = self.timers.entry(id.to_owned()).or_default();
        timers.join.get_or_insert(deadline);
    }

    /// Removes members at the request of LeaveGroup.
    pub fn classic_leave(&mut self, cx: Context<'_>, ids: &[String], changes: &mut Vec<Change>) {
        if !ids.is_empty() {
            self.fence(cx.turn, ids, changes);
        }
    }
}

fn check_generation(member: &Member, generation: i32) -> Result<(), Refused> {
    if member.current.epoch == generation {
        return Ok(());
    }
    Err(Refused::new(
        ResponseError::IllegalGeneration,
        format!(
            "The request generation id {generation} is not equal to the member epoch {}.",
            member.current.epoch
        ),
    ))
}

fn rejoin(id: &str) -> Refused {
    Refused::new(
        ResponseError::RebalanceInProgress,
        format!("A new rebalance is triggered and member {id} should rejoin to catch up."),
    )
}

//! A group with members changes its protocol (KIP-848, `group.consumer.migration.policy`).

use super::classic::{self, ClassicGroup};
use super::consumer::classic::{ConvertedGroup, ConvertedMember, PROTOCOL_TYPE};
use super::consumer::group::ConsumerGroup;
use super::consumer::heartbeat::Context;
use super::consumer::records::Change;
use super::records::{StoredGroup, StoredMember};
use super::{Ctx, Timer};
use crate::coordinator::Turn;
use crate::metadata::changes::Refused;
use kafka_protocol::error::ResponseError;

/// The consumer group a classic group with members becomes. The classic one is left as it is.
///
/// # Errors
/// `GROUP_ID_NOT_FOUND`, as in Kafka, when the policy forbids it, the members are not consumers, or
/// there are too many of them.
pub fn upgraded(
    classic: &ClassicGroup,
    cx: Context<'_>,
    changes: &mut Vec<Change>,
) -> Result<ConsumerGroup, Refused> {
    let cannot = |why: &str| {
        let id = &classic.id;
        Refused::new(
            ResponseError::GroupIdNotFound,
            format!("Cannot upgrade classic group {id} to consumer group because {why}."),
        )
    };
    if !cx.settings.migration.allows_upgrade() {
        return Err(cannot("online upgrade is disabled"));
    }
    if !classic.uses_consumer_protocol() {
        return Err(cannot(
            "the group does not use the consumer embedded protocol",
        ));
    }
    if classic.members.len() > cx.settings.max_size {
        return Err(cannot(
            "the group size exceeds the consumer group maximum size",
        ));
    }
    let members = classic.members.values().map(|m| ConvertedMember {
        id: m.id.clone(),
        instance_id: m.instance_id.clone(),
        client_id: m.client_id.clone(),
        client_host: m.client_host.clone(),
        rebalance_timeout_ms: m.rebalance_timeout_ms,
        session_timeout_ms: m.session_timeout_ms,
        protocols: m.protocols.clone(),
        assignment: m.assignment.clone(),
    });
    let converted = ConvertedGroup {
        generation: classic.generation,
        members: members.collect(),
    };
    ConsumerGroup::from_classic(&converted, &cx.turn.image, changes)
        .map_err(|_| cannot("the embedded consumer protocol is malformed"))
}

/// Lets the members of a classic group go that is one no more: those that wait are to join again.
pub fn dismiss(ctx: &mut Ctx<'_>, group: &mut ClassicGroup) {
    classic::answer_joins(ctx, group, ResponseError::RebalanceInProgress);
    classic::answer_syncs(ctx, group, Some(ResponseError::RebalanceInProgress));
    for member in group.members.keys().chain(&group.pending_join) {
        ctx.timers.cancel(&Timer::Session {
            group: group.id.clone(),
            member: member.clone(),
        });
    }
    let group = group.id.clone();
    ctx.timers.cancel(&Timer::Join {
        group: group.clone(),
    });
    ctx.timers.cancel(&Timer::Sync { group });
}

/// The classic group that a consumer group becomes; `None` when its members share no protocol.
pub fn downgraded(group: &ConsumerGroup, turn: &Turn) -> Option<StoredGroup> {
    let ConvertedGroup {
        generation,
        members,
    } = group.to_classic(&turn.image);
    let names = members.first()?.protocols.iter().map(|(name, _)| name);
    let metadata = |m: &ConvertedMember, name: &str| {
        let found = m.protocols.iter().find(|(n, _)| n == name);
        found.map(|(_, metadata)| metadata.clone())
    };
    let shared = |name: &&String| members.iter().all(|m| metadata(m, name).is_some());
    let protocol = names.into_iter().find(shared)?.clone();
    let stored = members.iter().map(|m| StoredMember {
        member_id: m.id.clone(),
        instance_id: m.instance_id.clone(),
        client_id: m.client_id.clone(),
        client_host: m.client_host.clone(),
        rebalance_timeout_ms: m.rebalance_timeout_ms,
        session_timeout_ms: m.session_timeout_ms,
        subscription: metadata(m, &protocol).unwrap_or_default(),
        assignment: m.assignment.clone(),
    });
    Some(StoredGroup {
        protocol_type: PROTOCOL_TYPE.to_owned(),
        generation,
        leader: members.first().map(|m| m.id.clone()),
        state_ms: Some(turn.now_ms),
        members: stored.collect(),
        protocol: Some(protocol),
    })
}

//! SyncGroup: the leader hands in the assignment, everyone fetches their own part.

use super::super::{Answer, Ctx, SyncRequest};
use super::group::{ClassicGroup, State};
use super::rebalance::{expect_heartbeat_of, store, synced};
use crate::coordinator::Token;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::SyncGroupResponse;
use kafka_protocol::protocol::StrBytes;

pub fn sync_error(error: ResponseError) -> SyncGroupResponse {
    SyncGroupResponse::default().with_error_code(error.code())
}

pub fn refuse_sync(ctx: &mut Ctx<'_>, token: Token, error: ResponseError) {
    ctx.effects.answer(token, Answer::Sync(sync_error(error)));
}

fn assigned(group: &ClassicGroup, member: &str) -> SyncGroupResponse {
    let text = |s: &String| StrBytes::from_string(s.clone());
    let assignment = group.members.get(member).map(|m| m.assignment.clone());
    SyncGroupResponse::default()
        .with_protocol_type(group.protocol_type.as_ref().map(text))
        .with_protocol_name(group.protocol.as_ref().map(text))
        .with_assignment(assignment.unwrap_or_default())
}

/// Answers every parked SyncGroup.
pub fn answer_syncs(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, error: Option<ResponseError>) {
    let parked: Vec<(String, Token)> = group
        .members
        .values_mut()
        .filter_map(|m| m.syncing.take().map(|token| (m.id.clone(), token)))
        .collect();
    for (id, token) in parked {
        match error {
            Some(error) => refuse_sync(ctx, token, error),
            None => ctx
                .effects
                .answer(token, Answer::Sync(assigned(group, &id))),
        }
        expect_heartbeat_of(ctx, group, &id);
    }
}

fn check(group: &ClassicGroup, request: &SyncRequest) -> Result<(), ResponseError> {
    if group.state == State::Empty {
        return Err(ResponseError::UnknownMemberId);
    }
    group.check_member(&request.member_id, request.instance_id.as_deref())?;
    if request.generation != group.generation {
        return Err(ResponseError::IllegalGeneration);
    }
    let differs = |said: &Option<String>, is: &Option<String>| match (said, is) {
        (Some(said), Some(is)) => said != is,
        _ => false,
    };
    if differs(&request.protocol_type, &group.protocol_type)
        || differs(&request.protocol, &group.protocol)
    {
        return Err(ResponseError::InconsistentGroupProtocol);
    }
    Ok(())
}

pub fn sync(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, token: Token, request: SyncRequest) {
    if let Err(error) = check(group, &request) {
        refuse_sync(ctx, token, error);
        return;
    }
    let id = request.member_id;
    match group.state {
        State::Empty | State::PreparingRebalance => {
            refuse_sync(ctx, token, ResponseError::RebalanceInProgress);
        }
        State::Stable => {
            synced(ctx, group, &id);
            let answer = assigned(group, &id);
            ctx.effects.answer(token, Answer::Sync(answer));
        }
        State::CompletingRebalance => {
            let earlier = group
                .members
                .get_mut(&id)
                .and_then(|m| m.syncing.replace(token));
            if let Some(earlier) = earlier {
                // Its client has given it up and asked again.
                refuse_sync(ctx, earlier, ResponseError::RebalanceInProgress);
            }
            synced(ctx, group, &id);
            if group.is_leader(&id) {
                for (member, assignment) in request.assignments {
                    if let Some(member) = group.members.get_mut(&member) {
                        member.assignment = assignment;
                    }
                }
                group.enter(State::Stable, ctx.turn.now_ms);
                // Answers leave when the record is committed.
                store(ctx, group);
                answer_syncs(ctx, group, None);
            }
        }
    }
}

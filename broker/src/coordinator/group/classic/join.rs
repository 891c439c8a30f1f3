//! JoinGroup.

use super::super::{Answer, Ctx, JoinRequest};
use super::group::{ClassicGroup, Member, State};
use super::rebalance::{
    complete_if_all_joined, expect_heartbeat, expect_heartbeat_of, forget_session,
    prepare_rebalance, rebalance_or_complete, store,
};
use crate::coordinator::Token;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::JoinGroupResponse;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::protocol::StrBytes;

/// From this version on a new member first gets an id and joins again with it (KIP-394).
const KNOWN_MEMBER_ID: i16 = 4;
/// From this version on a leader may be told not to assign (KIP-814).
const SKIP_ASSIGNMENT: i16 = 9;
/// How long a member that was never told its id is kept.
const NEW_MEMBER_TIMEOUT_MS: i64 = 5 * 60 * 1000;

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// A refusal; `member_id` is what the member is to believe its id to be.
pub fn join_error(member_id: &str, error: ResponseError) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(error.code())
        .with_generation_id(-1)
        .with_protocol_name(None)
        .with_member_id(text(member_id))
}

pub fn answer_join(ctx: &mut Ctx<'_>, token: Token, answer: JoinGroupResponse) {
    ctx.effects.answer(token, Answer::Join(answer));
}

/// The group's present generation, as a member is told of it.
pub fn joined(group: &ClassicGroup, member_id: &str, with_members: bool) -> JoinGroupResponse {
    let protocol = group.protocol.as_deref().unwrap_or_default();
    let members = group.members.values().filter(|_| with_members).map(|m| {
        JoinGroupResponseMember::default()
            .with_member_id(text(&m.id))
            .with_group_instance_id(m.instance_id.as_deref().map(text))
            .with_metadata(m.metadata(protocol))
    });
    JoinGroupResponse::default()
        .with_generation_id(group.generation)
        .with_protocol_type(group.protocol_type.as_deref().map(text))
        .with_protocol_name(group.protocol.as_deref().map(text))
        .with_leader(text(group.leader.as_deref().unwrap_or_default()))
        .with_member_id(text(member_id))
        .with_members(members.collect())
}

/// Decides about a JoinGroup of a group that exists, or was just made for it.
pub fn join(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, token: Token, request: JoinRequest) {
    if !has_room(group, &request.member_id, ctx.config.max_size) {
        remove_refused(ctx, group, &request.member_id);
        answer_join(
            ctx,
            token,
            join_error("", ResponseError::GroupMaxSizeReached),
        );
        return;
    }
    if !group.supports(&request.protocol_type, &request.protocols) {
        let refused = join_error(&request.member_id, ResponseError::InconsistentGroupProtocol);
        answer_join(ctx, token, refused);
        return;
    }
    if request.member_id.is_empty() {
        join_new(ctx, group, token, request);
    } else {
        join_known(ctx, group, token, request);
    }
}

fn has_room(group: &ClassicGroup, member_id: &str, max: usize) -> bool {
    let known = group.members.get(member_id);
    match group.state {
        State::Empty => true,
        // Those that have joined count, so that the last to join again are left out when the group
        // is too large.
        State::PreparingRebalance => {
            known.is_some_and(|m| m.joining.is_some()) || group.joining_count() < max
        }
        State::CompletingRebalance | State::Stable => known.is_some() || group.members.len() < max,
    }
}

fn remove_refused(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, member_id: &str) {
    if group.members.contains_key(member_id) || group.pending_join.contains(member_id) {
        forget_session(ctx, &group.id, member_id);
        group.remove(member_id);
        complete_if_all_joined(ctx, group);
    }
}

fn join_new(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, token: Token, request: JoinRequest) {
    let id = request.new_member_id.clone();
    if let Some(instance) = request.instance_id.clone() {
        match group.static_members.get(&instance).cloned() {
            Some(old) => replace_static(ctx, group, token, request, &old, &instance),
            None => add(ctx, group, token, request, id),
        }
    } else if request.version >= KNOWN_MEMBER_ID {
        group.pending_join.insert(id.clone());
        let timeout = i64::from(request.session_timeout_ms);
        expect_heartbeat(ctx, &group.id, &id, timeout);
        answer_join(ctx, token, join_error(&id, ResponseError::MemberIdRequired));
    } else {
        add(ctx, group, token, request, id);
    }
}

fn join_known(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, token: Token, request: JoinRequest) {
    let id = request.member_id.clone();
    if group.pending_join.contains(&id) {
        add(ctx, group, token, request, id);
        return;
    }
    if let Err(error) = group.check_member(&id, request.instance_id.as_deref()) {
        answer_join(ctx, token, join_error(&id, error));
        return;
    }
    let unchanged = group
        .members
        .get(&id)
        .is_some_and(|m| m.protocols == request.protocols);
    match group.state {
        State::PreparingRebalance => update(ctx, group, token, request),
        // It may not have received the answer to its first JoinGroup.
        State::CompletingRebalance if unchanged => {
            let answer = joined(group, &id, group.is_leader(&id));
            answer_join(ctx, token, answer);
        }
        // A leader that joins has a reason: partitions of its topics have changed, for instance.
        State::Stable if unchanged && !group.is_leader(&id) => {
            let answer = joined(group, &id, false);
            answer_join(ctx, token, answer);
        }
        State::CompletingRebalance | State::Stable => update(ctx, group, token, request),
        State::Empty => answer_join(ctx, token, join_error(&id, ResponseError::UnknownMemberId)),
    }
}

fn add(
    ctx: &mut Ctx<'_>,
    group: &mut ClassicGroup,
    token: Token,
    request: JoinRequest,
    id: String,
) {
    if group.state == State::PreparingRebalance && group.from_empty {
        group.new_member_added = true;
    }
    let member = Member {
        id: id.clone(),
        instance_id: request.instance_id,
        client_id: request.client_id,
        client_host: request.client_host,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        session_timeout_ms: request.session_timeout_ms,
        protocols: request.protocols,
        assignment: bytes::Bytes::new(),
        joining: Some(token),
        syncing: None,
        is_new: true,
    };
    group.add(member, &request.protocol_type);
    // It cannot send heartbeats while it waits, nor is its connection watched.
    expect_heartbeat(ctx, &group.id, &id, NEW_MEMBER_TIMEOUT_MS);
    rebalance_or_complete(ctx, group);
}

/// A member joins (again) with what it says now; an earlier JoinGroup of it that is still parked is
/// answered, since its client has given it up.
fn take_over(ctx: &mut Ctx<'_>, member: &mut Member, token: Token, request: JoinRequest) {
    if let Some(earlier) = member.joining.replace(token) {
        answer_join(
            ctx,
            earlier,
            join_error(&member.id, ResponseError::RebalanceInProgress),
        );
    }
    member.protocols = request.protocols;
    member.rebalance_timeout_ms = request.rebalance_timeout_ms;
    member.session_timeout_ms = request.session_timeout_ms;
}

fn update(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, token: Token, request: JoinRequest) {
    let id = request.member_id.clone();
    if let Some(member) = group.members.get_mut(&id) {
        take_over(ctx, member, token, request);
    }
    rebalance_or_complete(ctx, group);
}

/// A static member comes back with a new member id: whoever still uses the old one is fenced, and when
/// nothing that matters has changed the group goes on without a rebalance.
fn replace_static(
    ctx: &mut Ctx<'_>,
    group: &mut ClassicGroup,
    token: Token,
    request: JoinRequest,
    old: &str,
    instance: &str,
) {
    let id = request.new_member_id.clone();
    let version = request.version;
    let leader_before = group.leader.clone();
    let Some(mut member) = group.members.remove(old) else {
        // Instance ids lead to members only.
        answer_join(ctx, token, join_error("", ResponseError::UnknownMemberId));
        return;
    };
    forget_session(ctx, &group.id, old);
    group.pending_sync.remove(old);
    if let Some(joining) = member.joining.take() {
        answer_join(
            ctx,
            joining,
            join_error(old, ResponseError::FencedInstanceId),
        );
    }
    if let Some(syncing) = member.syncing.take() {
        super::sync::refuse_sync(ctx, syncing, ResponseError::FencedInstanceId);
    }
    member.id.clone_from(&id);
    member.is_new = false;
    take_over(ctx, &mut member, token, request);
    group.members.insert(id.clone(), member);
    group.static_members.insert(instance.to_owned(), id.clone());
    if group.is_leader(old) {
        group.leader = Some(id.clone());
    }
    expect_heartbeat_of(ctx, group, &id);
    match group.state {
        State::Stable if group.select_protocol() == group.protocol => {
            store(ctx, group);
            if let Some(member) = group.members.get_mut(&id) {
                member.joining = None;
            }
            let leads = group.is_leader(&id);
            let mut answer = joined(group, &id, leads && version >= SKIP_ASSIGNMENT);
            if version >= SKIP_ASSIGNMENT {
                answer.skip_assignment = leads;
            } else {
                // An old client that takes itself for the leader would assign anew.
                answer.leader = text(&leader_before.unwrap_or_default());
            }
            answer_join(ctx, token, answer);
        }
        // The old id may be in the leader's hands already.
        State::Stable | State::CompletingRebalance => prepare_rebalance(ctx, group),
        State::PreparingRebalance | State::Empty => complete_if_all_joined(ctx, group),
    }
}

//! Heartbeat and LeaveGroup.

use super::super::{Ctx, Leaving};
use super::group::{ClassicGroup, State};
use super::rebalance::{
    complete_if_all_joined, expect_heartbeat_of, forget_session, prepare_rebalance, remove_member,
};
use kafka_protocol::error::ResponseError;

/// A sign of life.
///
/// # Errors
/// What the member is to be told.
pub fn heartbeat(
    ctx: &mut Ctx<'_>,
    group: &ClassicGroup,
    member: &str,
    instance_id: Option<&str>,
    generation: i32,
) -> Result<(), ResponseError> {
    group.check_member(member, instance_id)?;
    if generation != group.generation {
        return Err(ResponseError::IllegalGeneration);
    }
    expect_heartbeat_of(ctx, group, member);
    match group.state {
        State::Empty => Err(ResponseError::UnknownMemberId),
        State::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
        State::CompletingRebalance | State::Stable => Ok(()),
    }
}

/// Removes members; the result of each in order.
pub fn leave(
    ctx: &mut Ctx<'_>,
    group: &mut ClassicGroup,
    leaving: &[Leaving],
) -> Vec<Result<(), ResponseError>> {
    let results: Vec<_> = leaving.iter().map(|l| leave_one(ctx, group, l)).collect();
    if results.iter().any(Result::is_ok) {
        match group.state {
            State::Stable | State::CompletingRebalance => prepare_rebalance(ctx, group),
            State::PreparingRebalance => complete_if_all_joined(ctx, group),
            State::Empty => {}
        }
    }
    results
}

fn leave_one(
    ctx: &mut Ctx<'_>,
    group: &mut ClassicGroup,
    leaving: &Leaving,
) -> Result<(), ResponseError> {
    let instance_id = leaving.instance_id.as_deref();
    if leaving.member_id.is_empty() {
        // An administrator removes a static member.
        let known = instance_id
            .and_then(|i| group.static_members.get(i))
            .cloned();
        let id = known.ok_or(ResponseError::UnknownMemberId)?;
        remove_member(ctx, group, &id);
    } else if group.pending_join.contains(&leaving.member_id) {
        forget_session(ctx, &group.id, &leaving.member_id);
        group.remove(&leaving.member_id);
    } else {
        group.check_member(&leaving.member_id, instance_id)?;
        remove_member(ctx, group, &leaving.member_id);
    }
    Ok(())
}

//! From generation to generation: waiting for members, completing the join, timers.

use super::super::records;
use super::super::{Answer, Ctx, Timer};
use super::group::{ClassicGroup, Member, State};
use super::join::{answer_join, join_error, joined};
use super::sync::answer_syncs;
use kafka_protocol::error::ResponseError;

/// (Re)starts a member's session timer.
pub fn expect_heartbeat(ctx: &mut Ctx<'_>, group: &str, member: &str, timeout_ms: i64) {
    let key = Timer::Session {
        group: group.to_owned(),
        member: member.to_owned(),
    };
    ctx.timers.schedule(key, ctx.turn.clock_ms + timeout_ms);
}

pub fn expect_heartbeat_of(ctx: &mut Ctx<'_>, group: &ClassicGroup, member: &str) {
    if let Some(known) = group.members.get(member) {
        let timeout = i64::from(known.session_timeout_ms);
        expect_heartbeat(ctx, &group.id, member, timeout);
    }
}

pub fn forget_session(ctx: &mut Ctx<'_>, group: &str, member: &str) {
    ctx.timers.cancel(&Timer::Session {
        group: group.to_owned(),
        member: member.to_owned(),
    });
}

fn join_timer(group: &ClassicGroup) -> Timer {
    Timer::Join {
        group: group.id.clone(),
    }
}

fn sync_timer(group: &ClassicGroup) -> Timer {
    Timer::Sync {
        group: group.id.clone(),
    }
}

/// Answers every parked JoinGroup with an error.
pub fn answer_joins(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, error: ResponseError) {
    for member in group.members.values_mut() {
        if let Some(token) = member.joining.take() {
            answer_join(ctx, token, join_error(&member.id, error));
        }
    }
}

/// A change that needs a rebalance: begins one, or goes on with the one that already waits.
pub fn rebalance_or_complete(ctx: &mut Ctx<'_>, group: &mut ClassicGroup) {
    if group.state == State::PreparingRebalance {
        complete_if_all_joined(ctx, group);
    } else {
        prepare_rebalance(ctx, group);
    }
}

/// Completes the join when nobody is missing; the initial rebalance waits for its delay instead.
pub fn complete_if_all_joined(ctx: &mut Ctx<'_>, group: &mut ClassicGroup) {
    let waiting = group.state == State::PreparingRebalance && !group.from_empty;
    if waiting && group.all_have_joined() {
        complete_join(ctx, group);
    }
}

pub fn prepare_rebalance(ctx: &mut Ctx<'_>, group: &mut ClassicGroup) {
    if group.state == State::CompletingRebalance {
        for member in group.members.values_mut() {
            member.assignment.clear();
        }
        answer_syncs(ctx, group, Some(ResponseError::RebalanceInProgress));
    }
    group.pending_sync.clear();
    ctx.timers.cancel(&sync_timer(group));
    group.from_empty = group.state == State::Empty;
    group.enter(State::PreparingRebalance, ctx.turn.now_ms);
    if group.from_empty {
        // More members of a new group are probably on their way.
        let delay = ctx.config.initial_rebalance_delay_ms;
        group.new_member_added = false;
        group.initial_delay_left_ms = (group.rebalance_timeout_ms() - delay).max(0);
        let at = ctx.turn.clock_ms + delay;
        ctx.timers.schedule(join_timer(group), at);
        if delay == 0 {
            initial_delay_over(ctx, group);
        }
    } else if group.all_have_joined() {
        complete_join(ctx, group);
    } else {
        let at = ctx.turn.clock_ms + group.rebalance_timeout_ms();
        ctx.timers.schedule(join_timer(group), at);
    }
}

/// The timer of the join: either more members may still be waited for, or it is time.
pub fn finish_join(ctx: &mut Ctx<'_>, group: &mut ClassicGroup) {
    if group.state != State::PreparingRebalance {
        return;
    }
    if group.from_empty {
        initial_delay_over(ctx, group);
    } else {
        complete_join(ctx, group);
    }
}

/// The delay of the initial rebalance has passed: again as long, while members keep coming.
pub fn initial_delay_over(ctx: &mut Ctx<'_>, group: &mut ClassicGroup) {
    let left = group.initial_delay_left_ms;
    if !group.new_member_added || left == 0 {
        complete_join(ctx, group);
        return;
    }
    group.new_member_added = false;
    let delay = ctx.config.initial_rebalance_delay_ms.min(left);
    group.initial_delay_left_ms = (left - delay).max(0);
    let at = ctx.turn.clock_ms + delay;
    ctx.timers.schedule(join_timer(group), at);
}

fn complete_join(ctx: &mut Ctx<'_>, group: &mut ClassicGroup) {
    ctx.timers.cancel(&join_timer(group));
    // Static members keep their place until their session runs out.
    let gone: Vec<String> = group
        .members
        .values()
        .filter(|m| m.joining.is_none() && m.instance_id.is_none())
        .map(|m| m.id.clone())
        .collect();
    for id in gone {
        group.remove(&id);
        forget_session(ctx, &group.id, &id);
    }
    if !group.elect_joined_leader() && !group.members.is_empty() {
        // Nobody has joined: wait on, until sessions run out or somebody comes.
        group.from_empty = false;
        let at = ctx.turn.clock_ms + group.rebalance_timeout_ms();
        ctx.timers.schedule(join_timer(group), at);
        return;
    }
    group.next_generation(ctx.turn.now_ms);
    if group.state == State::Empty {
        store(ctx, group);
        return;
    }
    let ids: Vec<String> = group.members.keys().cloned().collect();
    for id in ids {
        let token = group.members.get_mut(&id).and_then(|m| {
            m.is_new = false;
            m.joining.take()
        });
        if let Some(token) = token {
            let answer = joined(group, &id, group.is_leader(&id));
            ctx.effects.answer(token, Answer::Join(answer));
        }
        expect_heartbeat_of(ctx, group, &id);
        group.pending_sync.insert(id);
    }
    let at = ctx.turn.clock_ms + group.rebalance_timeout_ms();
    ctx.timers.schedule(sync_timer(group), at);
}

/// Writes the group's record.
pub fn store(ctx: &mut Ctx<'_>, group: &mut ClassicGroup) {
    group.stored = true;
    ctx.effects
        .write(records::group(&group.id, &group.to_stored()));
}

/// Members that have not synced in time are removed.
pub fn expire_sync(ctx: &mut Ctx<'_>, group: &mut ClassicGroup) {
    let completing = matches!(group.state, State::CompletingRebalance | State::Stable);
    if !completing || group.pending_sync.is_empty() {
        return;
    }
    for id in std::mem::take(&mut group.pending_sync) {
        group.remove(&id);
        forget_session(ctx, &group.id, &id);
    }
    prepare_rebalance(ctx, group);
}

/// A member has synced.
pub fn synced(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, member: &str) {
    group.pending_sync.remove(member);
    if group.pending_sync.is_empty() {
        ctx.timers.cancel(&sync_timer(group));
    }
}

/// A member's session has run out.
pub fn expire_member(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, id: &str) {
    if group.pending_join.contains(id) {
        group.remove(id);
        complete_if_all_joined(ctx, group);
        return;
    }
    if group.members.get(id).is_none_or(Member::is_waiting) {
        return;
    }
    remove_member(ctx, group, id);
    match group.state {
        State::Stable | State::CompletingRebalance => prepare_rebalance(ctx, group),
        // As in Kafka, a session that runs out cuts the initial delay short as well.
        State::PreparingRebalance if group.all_have_joined() => complete_join(ctx, group),
        State::PreparingRebalance | State::Empty => {}
    }
}

/// Removes a member; a JoinGroup of it that is parked is told so.
pub fn remove_member(ctx: &mut Ctx<'_>, group: &mut ClassicGroup, id: &str) {
    forget_session(ctx, &group.id, id);
    let Some(member) = group.remove(id) else {
        return;
    };
    if let Some(token) = member.joining {
        answer_join(ctx, token, join_error("", ResponseError::UnknownMemberId));
    }
    if let Some(token) = member.syncing {
        super::sync::refuse_sync(ctx, token, ResponseError::UnknownMemberId);
    }
}

/// The group was read from the log: its members have a whole session to show that they live.
pub fn loaded(ctx: &mut Ctx<'_>, group: &mut ClassicGroup) {
    let ids: Vec<String> = group.members.keys().cloned().collect();
    for id in &ids {
        expect_heartbeat_of(ctx, group, id);
    }
    if ids.len() > ctx.config.max_size {
        // The limit was lowered.
        prepare_rebalance(ctx, group);
    }
}

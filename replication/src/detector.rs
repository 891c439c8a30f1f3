//! Notices dead brokers and starts elections in the groups they led; brings leadership back to the
//! preferred replicas afterwards.
//!
//! Groups have no timers of their own. A leader is dead when its broker is: one heartbeat a pair of
//! brokers replaces one a group.

use crate::group::Group;
use crate::ids::BrokerId;
use crate::node::{METADATA_GROUP, NodeShared};
use crate::rebuild;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tidelog_proto::peer::{self as wire, message::Body};
use tidelog_storage::ids::GroupId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Pause between looks at groups without a living leader.
const ELECT_INTERVAL: Duration = Duration::from_millis(40);
/// Pause between looks when all seem to have one.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// When all have one and no leader has changed since, thousands of groups are looked at so seldom.
const LOOK_AT_ALL_INTERVAL: Duration = Duration::from_secs(5);
/// Replicas start elections one after another, so that they do not split the vote.
const RANK_DELAY: Duration = Duration::from_millis(150);
/// A refused election (the dead leader's lease still runs) is tried again after this.
const ELECT_AGAIN: Duration = Duration::from_millis(120);
/// A group that its preferred leader has not formed by then, being dead, is formed by the next
/// living replica; much later, if that one lives.
const FORM_AFTER: Duration = Duration::from_secs(1);
/// A replica that came later and hears of no leader for so long asks the others whether its vote is needed.
const ASK_OTHERS_AFTER: Duration = Duration::from_secs(1);
/// Elections started in one look.
const ELECTIONS_MAX: usize = 200;
const BALANCE_INTERVAL: Duration = Duration::from_millis(1000);
/// Leadership that was handed over and not taken by then goes to any living replica.
const STUCK_AFTER: Duration = Duration::from_millis(900);
/// A broker is given leadership back after it has been up for this long.
const SETTLED: Duration = Duration::from_secs(3);
const TRANSFERS_MAX: usize = 50;
/// How long a leader may take to prove that it leads.
const BARRIER_LIMIT: Duration = Duration::from_secs(2);

/// Sends heartbeats and suspects peers that are silent, until `stop`.
pub async fn heartbeats(shared: Arc<NodeShared>, mut stop: watch::Receiver<bool>) {
    let timing = shared.transport.timing;
    let mut last_ms = shared.transport.now_ms();
    loop {
        tokio::select! {
            () = sleep_until(shared.transport.next_beat(timing.heartbeat)) => {}
            _ = stop.wait_for(|s| *s) => return,
        }
        let now_ms = shared.transport.now_ms();
        // This process itself was stopped: its silence says nothing about the others.
        let paused = now_ms - last_ms > timing.suspicion.as_millis() as u64;
        last_ms = now_ms;
        send_heartbeats(&shared);
        for peer in shared.transport.peers() {
            if paused {
                shared.transport.heard_if_alive(peer.id);
            } else if peer.check_silence(now_ms, timing.suspicion) {
                tracing::warn!("broker {} is silent: suspected dead", peer.id);
                shared.peer_suspected(peer.id);
            }
        }
    }
}

/// Tells every peer that this broker is alive, and whether it is about to stop.
pub fn send_heartbeats(shared: &NodeShared) {
    for peer in shared.transport.peers() {
        peer.send_heartbeat(wire::Heartbeat {
            sent_at_us: shared.transport.now_ms() * 1000,
            stopping: shared.is_stopping(),
        });
    }
}

#[derive(Clone, Copy)]
struct Leaderless {
    since: Instant,
    tried: Option<Instant>,
}

impl Leaderless {
    fn since(since: Instant) -> Leaderless {
        Leaderless { since, tried: None }
    }
}

/// Starts elections in groups whose leader is dead or unknown, until `stop`.
pub async fn elections(shared: Arc<NodeShared>, mut stop: watch::Receiver<bool>) {
    let mut leaderless: HashMap<GroupId, Leaderless> = HashMap::new();
    let mut leaders = shared.leaders.watch();
    let mut looked = Instant::now();
    let mut all_led = false;
    loop {
        // Groups change only with a leader table or broker change; a slow look catches the rest.
        let busy = !leaderless.is_empty() || shared.take_unsettled();
        let next = if busy {
            Instant::now() + ELECT_INTERVAL
        } else {
            shared.transport.next_beat(LOOK_INTERVAL)
        };
        let woken = tokio::select! {
            () = sleep_until(next) => false,
            () = shared.unsettled.notified() => true,
            _ = stop.wait_for(|s| *s) => return,
        };
        let changed = busy || woken || leaders.has_changed().unwrap_or(true);
        if all_led && !changed && looked.elapsed() < LOOK_AT_ALL_INTERVAL {
            continue;
        }
        leaders.borrow_and_update();
        let elapsed = looked.elapsed();
        if elapsed < ELECT_INTERVAL {
            tokio::time::sleep(ELECT_INTERVAL - elapsed).await;
        }
        looked = Instant::now();
        all_led = look(&shared, &mut leaderless).await;
    }
}

/// Whether every group has a leader that lives.
async fn look(shared: &Arc<NodeShared>, leaderless: &mut HashMap<GroupId, Leaderless>) -> bool {
    let now = Instant::now();
    let mut started = 0;
    let mut still = HashMap::new();
    // Of thousands of groups at rest nothing else is asked.
    let without = shared.groups_that(|group| !leader_lives(shared, group));
    let all_led = without.is_empty();
    for group in without {
        let waits = group.guard.keeps_promise();
        let may_stand = waits || group.may_stand();
        let may_be_needed = !may_stand && group.guard.should_ask();
        if !may_stand && !may_be_needed {
            continue;
        }
        if may_be_needed {
            let state = leaderless.get(&group.id).copied();
            let state = state.unwrap_or_else(|| Leaderless::since(now));
            still.insert(group.id, state);
            if now.duration_since(state.since) >= ASK_OTHERS_AFTER {
                tokio::spawn(rebuild::ask_for_vote(shared.clone(), group));
            }
            continue;
        }
        let unformed = group.is_unformed();
        if !unformed && !group.is_voter(shared.transport.identity.broker) {
            continue;
        }
        if unformed && group.id == METADATA_GROUP {
            continue;
        }
        let state = leaderless.get(&group.id).copied();
        let mut state = state.unwrap_or_else(|| Leaderless::since(now));
        if waits {
            still.insert(group.id, state);
            continue;
        }
        let mut rank = rank(shared, &group);
        if group
            .leader()
            .0
            .is_some_and(|l| shared.transport.is_alive(l))
        {
            // It may only not have told yet that it leads.
            rank += 1;
        }
        if unformed {
            // All founders would write the same first entry, so that two that do it agree. The group may be on its
            // way to other replicas already, which cannot form it.
            let began = state.tried.unwrap_or(state.since);
            // The first of them may not be able to, being rebuilt after damage to its journal.
            let place = place_among(shared, &group.founders_by_preference());
            if now.duration_since(began) >= FORM_AFTER * (1 + 3 * place) {
                state.tried = Some(now);
                if let Err(error) = group.initialize().await {
                    tracing::debug!(group = group.id.0, "forming the group: {error}");
                }
            }
            still.insert(group.id, state);
            continue;
        }
        let due = now.duration_since(state.since) >= RANK_DELAY * rank
            && state
                .tried
                .is_none_or(|t| now.duration_since(t) >= ELECT_AGAIN + jitter(&group));
        if due && started < ELECTIONS_MAX {
            started += 1;
            state.tried = Some(now);
            if let Err(error) = group.raft.trigger().elect(true).await {
                tracing::debug!(group = group.id.0, "election: {error}");
            }
        }
        still.insert(group.id, state);
    }
    *leaderless = still;
    all_led
}

/// Whether the leader this replica knows of is there and leads.
pub fn leader_lives(shared: &NodeShared, group: &Group) -> bool {
    let (leader, epoch) = group.leader();
    leader.is_some_and(|leader| {
        leader == shared.transport.identity.broker
            || shared.transport.is_alive(leader)
                && shared.leaders.still_leads(leader, group.id, epoch)
    })
}

/// This broker's place among the group's living replicas.
fn rank(shared: &NodeShared, group: &Group) -> u32 {
    place_among(shared, &group.replicas())
}

fn place_among(shared: &NodeShared, replicas: &[BrokerId]) -> u32 {
    let alive = |id| shared.transport.is_alive(id);
    let me = shared.transport.identity.broker;
    place(replicas, me, alive, |id| shared.is_in_maintenance(id))
}

/// The place of `me` among the living of `replicas`, those in maintenance last.
fn place(
    replicas: &[BrokerId],
    me: BrokerId,
    is_alive: impl Fn(BrokerId) -> bool,
    in_maintenance: impl Fn(BrokerId) -> bool,
) -> u32 {
    let mut living: Vec<BrokerId> = replicas.iter().copied().filter(|r| is_alive(*r)).collect();
    living.sort_by_key(|r| in_maintenance(*r));
    let place = living.iter().position(|r| *r == me);
    place.unwrap_or(replicas.len()) as u32
}

fn jitter(group: &Group) -> Duration {
    let mixed = group.id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
    Duration::from_millis(mixed)
}

/// Hands leadership to preferred replicas that are back and caught up (with `rebalance`), away from
/// this broker while it is in maintenance, sees to it that what was handed over is taken, and brings
/// followers up to what is committed, until `stop`.
pub async fn balance(shared: Arc<NodeShared>, rebalance: bool, mut stop: watch::Receiver<bool>) {
    let mut up_since: HashMap<BrokerId, Instant> = HashMap::new();
    let mut behind: HashMap<GroupId, u64> = HashMap::new();
    let mut calm = 0;
    let mut maintenance = shared.maintenance.subscribe();
    let me = shared.transport.identity.broker;
    loop {
        let maintenance_changed = tokio::select! {
            () = sleep_until(shared.transport.next_beat(BALANCE_INTERVAL)) => false,
            Ok(()) = maintenance.changed() => true,
            _ = stop.wait_for(|s| *s) => return,
        };
        let now = Instant::now();
        let leaves = maintenance.borrow_and_update().contains(&me);
        // What has to leave may have to wait for a follower.
        let mut changed = leaves || maintenance_changed;
        for peer in shared.transport.peers() {
            if !peer.is_alive() {
                changed |= up_since.remove(&peer.id).is_some();
            } else if let Entry::Vacant(new) = up_since.entry(peer.id) {
                new.insert(now);
                changed = true;
            }
        }
        // When nothing moves, thousands of groups need not be looked at every second.
        calm = if changed || !behind.is_empty() || !shared.handed.lock().is_empty() {
            0
        } else {
            calm + 1
        };
        if calm > 10 && calm % 15 != 0 {
            continue;
        }
        ask_what_is_committed(&shared, &mut behind);
        let settled = |id: &BrokerId| {
            up_since
                .get(id)
                .is_some_and(|since| now.duration_since(*since) >= SETTLED)
        };
        let mut transfers = 0;
        shared
            .handed
            .lock()
            .retain(|group, (epoch, _)| still_hands_over(&shared, *group, *epoch));
        for group in shared.groups() {
            let (leader, epoch) = group.leader();
            if leader != Some(shared.transport.identity.broker) {
                continue;
            }
            let handed = shared.handed.lock().get(&group.id).copied();
            // When the heir did not come forward, somebody has to.
            let heir = match handed {
                Some((_, since)) if now.duration_since(since) < STUCK_AFTER => None,
                Some(_) => any_heir(&shared, &group),
                None if leaves => stand_in(&shared, &group),
                None => group.replicas().first().copied().filter(|preferred| {
                    rebalance
                        && *preferred != me
                        && !shared.is_in_maintenance(*preferred)
                        && settled(preferred)
                        && shared.transport.is_staying(*preferred)
                        && group.is_ready_leader()
                        && group.is_voter(*preferred)
                        && is_caught_up(&group, *preferred)
                }),
            };
            if transfers < TRANSFERS_MAX
                && let Some(heir) = heir
            {
                transfers += 1;
                hand_to(&shared, &group, epoch, heir).await;
            }
        }
    }
}

/// Whether this broker still leads in an epoch that it gives up.
fn still_hands_over(shared: &NodeShared, group: GroupId, epoch: i32) -> bool {
    shared
        .group(group)
        .is_some_and(|group| group.leader() == (Some(shared.transport.identity.broker), epoch))
}

/// Hands leadership of `epoch` to `heir`, and has [`balance`] see to it that someone takes it.
pub async fn hand_to(shared: &NodeShared, group: &Group, epoch: i32, heir: BrokerId) {
    let since = Instant::now();
    shared.handed.lock().insert(group.id, (epoch, since));
    group.transfer_leader(heir).await;
}

/// Who leads instead of this broker while it is in maintenance: the first other replica that can at
/// once.
fn stand_in(shared: &NodeShared, group: &Group) -> Option<BrokerId> {
    let me = shared.transport.identity.broker;
    let members = group.members();
    let can = |r: &BrokerId| {
        *r != me
            && members.is_voter(*r)
            && !shared.is_in_maintenance(*r)
            && shared.transport.is_staying(*r)
            && is_caught_up(group, *r)
    };
    if !group.is_ready_leader() {
        return None;
    }
    group.replicas().iter().copied().find(can)
}

/// The living replica that lacks least; one in maintenance only when there is no other.
pub fn any_heir(shared: &NodeShared, group: &Group) -> Option<BrokerId> {
    let matched = group.matched().unwrap_or_default();
    let members = group.members();
    group
        .replicas()
        .iter()
        .copied()
        .filter(|r| *r != shared.transport.identity.broker && shared.transport.is_staying(*r))
        .filter(|r| members.is_voter(*r))
        .max_by_key(|r| {
            let wanted = !shared.is_in_maintenance(*r);
            (wanted, matched.get(r).copied().unwrap_or(0))
        })
}

/// A follower learns with its leader's next message what is committed. When the last one was lost, or
/// this broker has started anew, and nothing is written, there is no next one: the leader is asked.
fn ask_what_is_committed(shared: &NodeShared, behind: &mut HashMap<GroupId, u64>) {
    let mut still = HashMap::new();
    for group in shared.groups() {
        let applied = group.machine.applied_index();
        let leader = group
            .leader()
            .0
            .filter(|l| *l != shared.transport.identity.broker);
        let Some(leader) = leader else { continue };
        if applied >= group.last_index() {
            continue;
        }
        // One look later it still is where it was: nobody writes.
        if behind.get(&group.id) == Some(&applied)
            && let Some(peer) = shared.transport.peer(leader)
        {
            // The commit index comes with the entry or heartbeat that proves the leader's majority.
            let group = group.id.0;
            tokio::spawn(async move {
                let asked = peer.request(group, Body::Barrier(wire::Barrier {}), BARRIER_LIMIT);
                if let Err(error) = asked.await {
                    tracing::debug!(group, "asking what is committed: {error}");
                }
            });
        }
        still.insert(group.id, applied);
    }
    *behind = still;
}

pub fn is_caught_up(group: &Group, replica: BrokerId) -> bool {
    /// Entries a follower may lack and still be handed leadership: it gets them with the hand-over.
    const LAG_MAX: u64 = 64;
    lacks_at_most(group, replica, LAG_MAX)
}

/// Whether a member is known to have the leader's log up to `index`.
pub fn has(group: &Group, replica: BrokerId, index: u64) -> bool {
    group
        .matched()
        .and_then(|matched| matched.get(&replica).copied())
        .is_some_and(|matched| matched >= index.max(1))
}

/// Whether a member is known to have all but `entries` of the leader's log.
fn lacks_at_most(group: &Group, replica: BrokerId, entries: u64) -> bool {
    let last = group.last_index();
    group
        .matched()
        .and_then(|matched| matched.get(&replica).copied())
        .is_some_and(|matched| matched > 0 && matched + entries >= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(alive: &[i32], in_maintenance: &[i32]) -> Vec<u32> {
        let replicas = [1, 2, 3].map(BrokerId);
        let of = |me: &BrokerId| {
            place(
                &replicas,
                *me,
                |id| alive.contains(&id.0),
                |id| in_maintenance.contains(&id.0),
            )
        };
        replicas.iter().map(of).collect()
    }

    #[test]
    fn replicas_stand_for_election_in_order_and_those_in_maintenance_last() {
        assert_eq!(places(&[1, 2, 3], &[]), [0, 1, 2]);
        assert_eq!(places(&[2, 3], &[]), [3, 0, 1]);
        assert_eq!(places(&[1, 2, 3], &[1]), [2, 0, 1]);
        assert_eq!(places(&[1, 3], &[1, 2, 3]), [0, 3, 1]);
    }
}

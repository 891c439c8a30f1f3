//! Deadlines of members, by the monotonic clock. They are not durable: a new coordinator begins them
//! anew, as members cannot have reached it before.

use super::group::ConsumerGroup;
use super::member::{Member, MemberState};
use super::settings::ConsumerGroupSettings;

/// Of one member, in milliseconds of the clock that never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timers {
    /// Its next heartbeat is due.
    pub session: Option<i64>,
    /// It has to have given up its partitions.
    pub rebalance: Option<i64>,
    /// Of a member of the classic protocol: it has to have joined again.
    pub join: Option<i64>,
    /// Of a member of the classic protocol: it has to have fetched its assignment.
    pub sync: Option<i64>,
}

impl Timers {
    /// The first of them and what it means.
    fn first(&self) -> Option<(i64, &'static str)> {
        [
            (self.session, "its session expired"),
            (self.rebalance, "it did not give up its partitions in time"),
            (self.join, "it did not join again in time"),
            (self.sync, "it did not fetch its assignment in time"),
        ]
        .into_iter()
        .filter_map(|(deadline, why)| Some((deadline?, why)))
        .min()
    }
}

impl ConsumerGroup {
    /// When the first timer runs out.
    pub fn next_deadline(&self) -> Option<i64> {
        self.timers
            .values()
            .filter_map(Timers::first)
            .map(|(deadline, _)| deadline)
            .min()
    }

    /// Members whose time is up at `clock_ms`, and why.
    pub fn expired(&self, clock_ms: i64) -> Vec<(String, &'static str)> {
        self.timers
            .iter()
            .filter_map(|(id, timers)| Some((id, timers.first()?)))
            .filter(|(_, (deadline, _))| *deadline <= clock_ms)
            .map(|(id, (_, why))| (id.clone(), why))
            .collect()
    }

    /// Begins the timers of all members, after a replay.
    pub fn start_timers(&mut self, clock_ms: i64, settings: &ConsumerGroupSettings) {
        for (id, member) in &self.members {
            let timers = self.timers.entry(id.clone()).or_default();
            timers.session = Some(clock_ms + session_timeout(member, settings));
            timers.rebalance = rebalance_deadline(member, clock_ms);
        }
    }

    pub(super) fn renew_session(
        &mut self,
        id: &str,
        clock_ms: i64,
        settings: &ConsumerGroupSettings,
    ) {
        if let Some(member) = self.members.get(id) {
            let deadline = clock_ms + session_timeout(member, settings);
            self.timers.entry(id.to_owned()).or_default().session = Some(deadline);
        }
    }

    /// After the member's assignment has changed.
    pub(super) fn renew_rebalance(&mut self, id: &str, clock_ms: i64) {
        if let Some(member) = self.members.get(id) {
            let deadline = rebalance_deadline(member, clock_ms);
            self.timers.entry(id.to_owned()).or_default().rebalance = deadline;
        }
    }
}

fn session_timeout(member: &Member, settings: &ConsumerGroupSettings) -> i64 {
    let own = member.metadata.classic.as_ref();
    i64::from(own.map_or(settings.session_timeout_ms, |c| c.session_timeout_ms))
}

/// Members of the classic protocol have the timers `join` and `sync` instead.
fn rebalance_deadline(member: &Member, clock_ms: i64) -> Option<i64> {
    let revoking = member.current.state == MemberState::UnrevokedPartitions;
    (revoking && member.metadata.classic.is_none())
        .then(|| clock_ms + i64::from(member.metadata.rebalance_timeout_ms))
}

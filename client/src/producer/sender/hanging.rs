//! Brokers that hang: they keep their connections open and answer nothing, while another broker
//! has become the leader. Waiting for the request timeout would hold the producer for half a minute.

use super::Sender;
use std::time::Duration;
use tokio::time::Instant;

/// Requests to one broker without an answer yet.
#[derive(Debug, Default)]
pub(super) struct OnTheirWay {
    count: usize,
    /// When to ask whether the broker still leads what was sent to it. Some while `count` > 0.
    overdue_at: Option<Instant>,
    /// It has answered nothing since it was overdue.
    silent: bool,
}

impl OnTheirWay {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn overdue_at(&self) -> Option<Instant> {
        self.overdue_at
    }

    pub(super) fn sent(&mut self, overdue_at: Instant) {
        self.count += 1;
        self.overdue_at.get_or_insert(overdue_at);
    }

    pub(super) fn answered(&mut self, overdue_at: Instant) {
        self.count = self.count.saturating_sub(1);
        self.overdue_at = (self.count > 0).then_some(overdue_at);
        self.silent = false;
    }

    /// Whether it has just become, or still is, overdue; then it is asked about again later.
    fn check(&mut self, now: Instant, again_at: Instant) -> bool {
        let overdue = self.overdue_at.is_some_and(|at| at <= now);
        if overdue {
            self.overdue_at = Some(again_at);
            self.silent = true;
        }
        overdue
    }
}

impl Sender {
    /// How long an answer may take before the leader is asked for.
    pub(super) fn patience(&self) -> Duration {
        self.cluster.config().metadata_timeout / 2
    }

    /// Looks at the cluster anew when a broker is overdue.
    pub(super) fn look_after_overdue(&mut self, now: Instant) {
        let again_at = now + self.patience();
        let mut overdue = false;
        for way in self.in_flight.values_mut() {
            overdue |= way.check(now, again_at);
        }
        if overdue && !self.refreshing {
            self.refresh_at = Some(now);
        }
    }

    /// Gives up connections to silent brokers that no longer lead what was sent to them: it then
    /// goes to the new leader, which tells repetitions by their numbers.
    pub(super) fn leave_deposed(&mut self) {
        for slot in self.slots.iter().filter(|slot| !slot.in_flight.is_empty()) {
            let leader = self.cluster.leader(&slot.topic, slot.partition);
            let (Ok((_, _, leader)), Some(to)) = (leader, slot.in_flight_to) else {
                continue;
            };
            let silent = self.in_flight.get(&to).is_some_and(|way| way.silent);
            if let Some(connection) = self.connections.get(&to)
                && silent
                && leader != to
            {
                connection.close("it does not answer, and leads the partition no more");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_overdue_from_its_oldest_request_until_it_answers() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut way = OnTheirWay::default();
        assert!(!way.check(at(1_000), at(2_000)));
        way.sent(at(100));
        way.sent(at(150));
        assert_eq!((way.count(), way.overdue_at()), (2, Some(at(100))));
        assert!(!way.check(at(99), at(199)));
        assert!(way.check(at(100), at(200)) && way.silent);
        assert_eq!(way.overdue_at(), Some(at(200)));
        way.answered(at(300));
        assert_eq!((way.count(), way.overdue_at()), (1, Some(at(300))));
        assert!(!way.silent);
        way.answered(at(400));
        assert_eq!((way.count(), way.overdue_at()), (0, None));
    }
}

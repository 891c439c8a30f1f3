//! Brokers that could not be reached are left alone for a moment.
//!
//! The look at the cluster that follows a failure may itself last long (nobody answers). Without a pause
//! of their own, attempts that fail at once would follow each other without end meanwhile.

use std::collections::HashMap;
use tokio::time::Instant;

/// When each broker may be tried again.
#[derive(Debug, Default)]
pub(super) struct Unreachable(HashMap<i32, Instant>);

impl Unreachable {
    /// Stands for whichever broker answers, where any will do.
    pub(super) const ANY: i32 = -1;

    /// It could not be reached, and is not tried before `until`.
    pub(super) fn leave_alone(&mut self, broker: i32, until: Instant) {
        self.0.insert(broker, until);
    }

    /// It answers.
    pub(super) fn reached(&mut self, broker: i32) {
        self.0.remove(&broker);
    }

    /// Whether it may be tried now.
    pub(super) fn may_try(&self, broker: i32, now: Instant) -> bool {
        self.0.get(&broker).is_none_or(|until| *until <= now)
    }

    /// When the next pause is over.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.0.values().copied().filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_broker_that_refused_is_tried_again_after_its_pause_and_not_before() {
        let now = Instant::now();
        let later = now + Duration::from_millis(50);
        let mut unreachable = Unreachable::default();
        assert!(unreachable.may_try(3, now));
        unreachable.leave_alone(3, later);
        assert!(!unreachable.may_try(3, now));
        assert!(unreachable.may_try(2, now), "the others are not concerned");
        assert_eq!(unreachable.next_due(now), Some(later));
        assert!(unreachable.may_try(3, later));
        assert_eq!(unreachable.next_due(later), None, "no timer that is over");
        unreachable.reached(3);
        assert!(unreachable.may_try(3, now));
    }
}

//! Slows down what replicas copy that are not voters yet, so that moves leave room for the load.
//!
//! The leader holds back entries that it sends to a learner, and a learner that copies from the others' logs
//! holds back its reads. Nobody waits for a learner, so nothing else is slower.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Work that is finished up to this much early is not held back.
const BURST: Duration = Duration::from_millis(100);

/// Bytes a second, over all groups of one broker.
#[derive(Debug, Default)]
pub struct Throttle {
    /// 0: as fast as it goes.
    rate: AtomicU64,
    /// When all that was taken is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Throttle {
    /// `None`: as fast as it goes.
    pub fn set_rate(&self, bytes_per_second: Option<u64>) {
        self.rate
            .store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    pub fn is_on(&self) -> bool {
        self.rate.load(Ordering::Relaxed) > 0
    }

    /// Waits until `bytes` that have come keep to the rate.
    pub async fn take(&self, bytes: usize) {
        if let Some(due) = self.due(bytes, Instant::now()) {
            tokio::time::sleep_until(due).await;
        }
    }

    /// When `bytes` that came at `now` keep to the rate; none when they do already.
    fn due(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 || bytes == 0 {
            return None;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid = self.paid.lock();
        let until = paid.map_or(now, |paid| paid.max(now)) + cost;
        *paid = Some(until);
        until.checked_sub(BURST).filter(|due| *due > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_keeps_to_the_rate() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let after = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(throttle.due(1 << 30, start), None, "no rate, no wait");
        throttle.set_rate(Some(1_000_000));
        assert_eq!(throttle.due(100_000, start), None, "a burst");
        // Several at the same time wait for each other.
        assert_eq!(throttle.due(100_000, start), Some(after(100)));
        assert_eq!(throttle.due(1_000_000, start), Some(after(1100)));
        assert_eq!(throttle.due(100_000, after(1150)), Some(after(1200)));
        // Silence is not saved up.
        assert_eq!(throttle.due(100_000, after(60_000)), None);
        assert_eq!(throttle.due(1_000_000, after(60_000)), Some(after(61_000)));
        throttle.set_rate(None);
        assert_eq!(throttle.due(1_000_000, after(60_000)), None);
    }
}

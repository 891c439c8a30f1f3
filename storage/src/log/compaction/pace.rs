//! How fast compaction may use the disk, and when it has to give up.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest sleep between two looks whether to stop.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// Time the budget may be saved up for.
const BURST: Duration = Duration::from_millis(200);

/// A budget of disk bytes a second, shared by all cleaner threads.
pub struct Pace {
    /// 0: no limit.
    bytes_per_second: AtomicU64,
    /// Bytes spent so far are paid for at this time.
    paid_until: Mutex<Instant>,
}

impl Pace {
    /// 0 bytes: no limit.
    pub fn new(bytes_per_second: u64) -> Pace {
        Pace {
            bytes_per_second: AtomicU64::new(bytes_per_second),
            paid_until: Mutex::new(Instant::now()),
        }
    }

    pub fn set_limit(&self, bytes_per_second: u64) {
        self.bytes_per_second
            .store(bytes_per_second, Ordering::Relaxed);
    }

    /// Takes `bytes` from the budget and sleeps until they are paid for, or `go_on` says no.
    pub fn spend(&self, bytes: usize, go_on: &dyn Fn() -> bool) {
        let limit = self.bytes_per_second.load(Ordering::Relaxed);
        if limit == 0 {
            return;
        }
        let until = {
            let mut paid_until = self.paid_until.lock();
            let earliest = Instant::now().checked_sub(BURST);
            *paid_until = (*paid_until).max(earliest.unwrap_or(*paid_until))
                + Duration::from_secs_f64(bytes as f64 / limit as f64);
            *paid_until
        };
        while go_on() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(SLEEP_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_time_the_limit_gives_them() {
        let pace = Pace::new(1_000_000);
        let began = Instant::now();
        for _ in 0..10 {
            pace.spend(50_000, &|| true);
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(290), "{took:?}");
        pace.spend(1 << 40, &|| false);
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it does not wait once told to stop"
        );
        pace.set_limit(0);
        pace.spend(1 << 40, &|| true);
    }
}

//! One-shot wake-ups of long polls.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

/// Tasks that want to know of the next change. Cheap when nobody waits.
#[derive(Default)]
pub struct Waiters {
    any: AtomicBool,
    list: Mutex<Vec<Weak<Notify>>>,
}

impl Waiters {
    pub fn register(&self, waiter: &Arc<Notify>) {
        let mut list = self.list.lock();
        // A waiter that gave up leaves a dead reference; clear them before the list grows.
        if list.len() >= 16 && list.len().is_power_of_two() {
            list.retain(|w| w.strong_count() > 0);
        }
        list.push(Arc::downgrade(waiter));
        self.any.store(true, Ordering::SeqCst);
    }

    pub fn wake(&self) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        let woken = {
            let mut list = self.list.lock();
            self.any.store(false, Ordering::SeqCst);
            std::mem::take(&mut *list)
        };
        for waiter in woken.iter().filter_map(Weak::upgrade) {
            waiter.notify_one();
        }
    }
}

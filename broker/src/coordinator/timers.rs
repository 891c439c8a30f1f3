//! Deadlines of a shard, by what they are for.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// At most one deadline a key, taken in order of time.
#[derive(Debug)]
pub struct Timers<K> {
    by_key: HashMap<K, (i64, u64)>,
    by_time: BTreeMap<(i64, u64), K>,
    next: u64,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Timers {
            by_key: HashMap::new(),
            by_time: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Timers<K> {
    /// Sets the deadline of `key`, instead of the one it had.
    pub fn schedule(&mut self, key: K, at_ms: i64) {
        self.cancel(&key);
        let place = (at_ms, self.next);
        self.next += 1;
        self.by_time.insert(place, key.clone());
        self.by_key.insert(key, place);
    }

    pub fn cancel(&mut self, key: &K) {
        if let Some(place) = self.by_key.remove(key) {
            self.by_time.remove(&place);
        }
    }

    /// When the next deadline is.
    pub fn next(&self) -> Option<i64> {
        self.by_time.keys().next().map(|(at, _)| *at)
    }

    /// Takes the first key whose deadline is not after `now_ms`.
    pub fn take_due(&mut self, now_ms: i64) -> Option<K> {
        if self.next()? > now_ms {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_may_be_moved() {
        let mut timers = Timers::default();
        timers.schedule("a", 30);
        timers.schedule("b", 10);
        timers.schedule("c", 20);
        timers.schedule("b", 25);
        timers.cancel(&"c");
        assert_eq!(timers.next(), Some(25));
        assert_eq!(timers.take_due(24), None);
        assert_eq!(timers.take_due(40), Some("b"));
        assert_eq!(timers.take_due(40), Some("a"));
        assert_eq!(timers.take_due(40), None);
        assert!(timers.is_empty());
    }
}

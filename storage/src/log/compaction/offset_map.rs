//! The last offset of each key, in memory that never grows.

use crate::ids::Offset;
use std::hash::{BuildHasher, RandomState};

/// Bytes of an entry: 128 bits of hash and the offset.
pub const ENTRY_BYTES: usize = 24;
/// Share of the entries that are used at most, as Kafka's `log.cleaner.io.buffer.load.factor`.
const LOAD_FACTOR: f64 = 0.9;

/// Two halves of the key's hash, and the offset plus one; 0 there is a free entry.
type Entry = [u64; 3];

/// Maps hashes of keys to offsets. Keys themselves are not kept: two keys whose 128 bits of keyed
/// SipHash agree would be taken for one. Among 10⁹ keys that happens with a probability of 10⁻²¹, and
/// nobody can choose such keys, as the hash's own key is drawn anew for each map.
pub struct OffsetMap {
    entries: Vec<Entry>,
    used: usize,
    used_max: usize,
    hashers: [RandomState; 2],
}

impl OffsetMap {
    /// A map of at most `bytes`, and no larger than `keys` need; at least one key fits.
    pub fn new(bytes: usize, keys: u64) -> OffsetMap {
        let wanted = usize::try_from(keys).unwrap_or(usize::MAX);
        let wanted = (wanted.saturating_add(1) as f64 / LOAD_FACTOR) as usize;
        let count = (bytes / ENTRY_BYTES).min(wanted).max(2);
        OffsetMap {
            entries: vec![[0; 3]; count],
            used: 0,
            used_max: ((count as f64 * LOAD_FACTOR) as usize).clamp(1, count - 1),
            hashers: [RandomState::new(), RandomState::new()],
        }
    }

    /// Notes that `key` was written at `offset`, later than all noted before. False when the map is
    /// full and does not know the key.
    pub fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let (at, hash) = self.find(key);
        let entry = &mut self.entries[at];
        if entry[2] == 0 {
            if self.used == self.used_max {
                return false;
            }
            self.used += 1;
        }
        *entry = [hash[0], hash[1], offset as u64 + 1];
        true
    }

    /// The last offset noted for `key`.
    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        if self.used == 0 {
            return None;
        }
        let (at, _) = self.find(key);
        self.entries[at][2]
            .checked_sub(1)
            .map(|offset| offset as Offset)
    }

    /// Where `key` is or would be; one entry is always free.
    fn find(&self, key: &[u8]) -> (usize, [u64; 2]) {
        let hash = [self.hashers[0].hash_one(key), self.hashers[1].hash_one(key)];
        let mut at = (hash[0] % self.entries.len() as u64) as usize;
        loop {
            let entry = &self.entries[at];
            if entry[2] == 0 || entry[..2] == hash {
                return (at, hash);
            }
            at = if at + 1 == self.entries.len() {
                0
            } else {
                at + 1
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_last_offset_of_each_key_until_it_is_full() {
        let mut map = OffsetMap::new(100 * ENTRY_BYTES, u64::MAX);
        assert_eq!(map.get(b"1"), None);
        let mut count = 0_i64;
        while map.put(&count.to_be_bytes(), count) {
            count += 1;
        }
        assert_eq!(count, 90);
        assert!(
            map.put(&7_i64.to_be_bytes(), 1_000),
            "a known key always fits"
        );
        for key in 0..count {
            let expected = if key == 7 { 1_000 } else { key };
            assert_eq!(map.get(&key.to_be_bytes()), Some(expected));
        }
        assert_eq!(map.get(&count.to_be_bytes()), None);
    }

    #[test]
    fn is_no_larger_than_needed_and_never_empty() {
        assert!(OffsetMap::new(1 << 30, 100).entries.len() < 120);
        let mut map = OffsetMap::new(0, 0);
        assert!(map.put(b"a", 1) && map.put(b"a", 2) && !map.put(b"b", 3));
        assert_eq!((map.get(b"a"), map.get(b"b")), (Some(2), None));
    }
}

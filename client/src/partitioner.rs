//! Which partition a record goes to: by its key as Kafka's clients do, else one that is kept until
//! it has had a batch's worth of bytes (KIP-794).

use crate::retry::{next_random, random_seed};

/// Partition of a key: the same for every client that uses Kafka's default partitioner.
///
/// # Panics
/// When `partitions` is 0.
pub fn partition_of_key(key: &[u8], partitions: usize) -> i32 {
    ((murmur2(key) & 0x7fff_ffff) as usize % partitions) as i32
}

/// MurmurHash2 in 32 bits with the seed of Kafka's `Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Chooses partitions for records of one topic that have no key.
#[derive(Debug)]
pub(crate) struct Sticky {
    current: i32,
    bytes: usize,
    random: u64,
}

impl Sticky {
    pub(crate) fn new() -> Sticky {
        let mut random = random_seed();
        Sticky {
            // Not yet reduced to a partition: the first choice does that.
            current: (next_random(&mut random) & 0x7fff_ffff) as i32,
            bytes: 0,
            random,
        }
    }

    /// The partition for the next record of `bytes` bytes.
    pub(crate) fn choose(&mut self, partitions: usize, bytes: usize, batch_bytes: usize) -> i32 {
        let partitions = partitions as i32;
        if self.bytes >= batch_bytes && partitions > 1 {
            let step = 1 + (next_random(&mut self.random) % (partitions as u64 - 1)) as i32;
            self.current = (self.current % partitions + step) % partitions;
            self.bytes = 0;
        }
        self.current %= partitions;
        self.bytes += bytes;
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_are_those_of_kafka() {
        let cases: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
            // Not in Kafka's test: neither words nor tail.
            (b"", 275_646_681),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key) as i32, hash, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn keys_keep_their_partition_within_range() {
        for partitions in 1..20 {
            for key in 0..100u32 {
                let partition = partition_of_key(&key.to_be_bytes(), partitions);
                assert!((0..partitions as i32).contains(&partition));
            }
        }
        // -973932308 & 0x7fffffff = 1173551340.
        assert_eq!(partition_of_key(b"21", 7), (1_173_551_340u32 % 7) as i32);
    }

    #[test]
    fn keyless_records_stay_until_a_batch_is_full_and_reach_every_partition() {
        let mut sticky = Sticky::new();
        let mut seen = [0usize; 5];
        for _ in 0..200 {
            let partition = sticky.choose(5, 50, 100);
            assert_eq!(sticky.choose(5, 50, 100), partition);
            seen[partition as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
        assert_eq!(sticky.choose(1, 50, 100), 0);
    }
}

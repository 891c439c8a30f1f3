//! Which partition a record goes to: by its key as Kafka's clients do, else one that is kept until
//! it has had a batch's worth of bytes (KIP-794).

use crate::record::Record;
use crate::retry::{next_random, random_seed};
use std::fmt;
use std::sync::Arc;

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

type Choose = dyn Fn(&Record, usize) -> i32 + Send + Sync;

/// Which partition a record goes to that does not name one.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Partitioner {
    /// By the key as Kafka's clients do ([`partition_of_key`]); without a key as
    /// [`Partitioner::Sticky`].
    #[default]
    ByKey,
    /// One partition until it has had a batch's worth of bytes, then another (KIP-794). Keys do not
    /// matter.
    Sticky,
    /// One partition after the other. Keys do not matter. Batches are smaller than with the others.
    RoundRobin,
    /// A function of the record and the number of partitions, called with the topic's queue locked:
    /// it should do nothing but choose.
    Own(Arc<Choose>),
}

impl Partitioner {
    /// The caller's own choice.
    pub fn own(choose: impl Fn(&Record, usize) -> i32 + Send + Sync + 'static) -> Partitioner {
        Partitioner::Own(Arc::new(choose))
    }
}

impl fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Partitioner::ByKey => "ByKey",
            Partitioner::Sticky => "Sticky",
            Partitioner::RoundRobin => "RoundRobin",
            Partitioner::Own(_) => "Own",
        })
    }
}

/// Chooses partitions for the records of one topic.
#[derive(Debug)]
pub(crate) struct Chooser {
    sticky: Sticky,
    turn: i32,
}

impl Chooser {
    pub(crate) fn new() -> Chooser {
        Chooser {
            sticky: Sticky::new(),
            turn: -1,
        }
    }

    /// The partition for the next record, of `bytes` bytes.
    pub(crate) fn choose(
        &mut self,
        partitioner: &Partitioner,
        record: &Record,
        partitions: usize,
        bytes: usize,
        batch_bytes: usize,
    ) -> i32 {
        if let Some(partition) = record.partition {
            return partition;
        }
        match (partitioner, &record.key) {
            (Partitioner::ByKey, Some(key)) => partition_of_key(key, partitions),
            (Partitioner::ByKey | Partitioner::Sticky, _) => {
                self.sticky.choose(partitions, bytes, batch_bytes)
            }
            (Partitioner::RoundRobin, _) => {
                self.turn = (self.turn + 1) % partitions as i32;
                self.turn
            }
            (Partitioner::Own(choose), _) => choose(record, partitions),
        }
    }
}

/// Chooses partitions for records of one topic that have no key.
#[derive(Debug)]
struct Sticky {
    current: i32,
    bytes: usize,
    random: u64,
}

impl Sticky {
    fn new() -> Sticky {
        let mut random = random_seed();
        Sticky {
            // Not yet reduced to a partition: the first choice does that.
            current: (next_random(&mut random) & 0x7fff_ffff) as i32,
            bytes: 0,
            random,
        }
    }

    /// The partition for the next record of `bytes` bytes.
    fn choose(&mut self, partitions: usize, bytes: usize, batch_bytes: usize) -> i32 {
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
    fn each_partitioner_chooses_its_way() {
        let plain = Record::new("t", "v");
        let keyed = Record::new("t", "v").with_key("21");
        let choose = |partitioner: &Partitioner, record: &Record| {
            let mut chooser = Chooser::new();
            [(); 3].map(|()| chooser.choose(partitioner, record, 7, 10, 1000))
        };
        let of_key = partition_of_key(b"21", 7);
        assert_eq!(choose(&Partitioner::ByKey, &keyed), [of_key; 3]);
        let [first, second, third] = choose(&Partitioner::ByKey, &plain);
        assert!(first == second && second == third);
        assert_eq!(choose(&Partitioner::RoundRobin, &keyed), [0, 1, 2]);
        let last = Partitioner::own(|_, partitions| partitions as i32 - 1);
        assert_eq!(choose(&last, &keyed), [6; 3]);
        let named = plain.with_partition(5);
        assert_eq!(choose(&Partitioner::RoundRobin, &named), [5; 3]);
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

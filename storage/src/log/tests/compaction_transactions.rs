//! Compaction with transactions: a reader of committed records sees the last committed value of each
//! key, whatever has been compacted, copied or interrupted.

use super::compaction::{Contents, compact_at, copy, last_of_keys, open_compacted};
use super::*;
use crate::batch::{EndTxnMarker, for_each_record};
use crate::log::TxnStanding;
use crate::log::compaction::crash_point;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

const TRANSACTIONAL: i16 = 0x10;

#[derive(Debug, Clone)]
enum Step {
    /// Producer, and its records: key and whether it deletes.
    Send(i64, Vec<(u8, bool)>),
    /// Producer, and whether it commits.
    End(i64, bool),
    Plain(u8),
    /// What time has passed.
    Compact(i64),
    Crash,
    Follow,
    FollowerCompact,
}

fn step() -> impl Strategy<Value = Step> {
    let record = (0..10_u8, prop::bool::weighted(0.2));
    prop_oneof![
        8 => (0..3_i64, prop::collection::vec(record, 1..4)).prop_map(|(p, r)| Step::Send(p, r)),
        4 => (0..3_i64, prop::bool::ANY).prop_map(|(p, commit)| Step::End(p, commit)),
        4 => (0..10_u8).prop_map(Step::Plain),
        3 => (0..150_i64).prop_map(Step::Compact),
        1 => Just(Step::Crash),
        1 => Just(Step::Follow),
        1 => Just(Step::FollowerCompact),
    ]
}

/// All a client is to see: committed records below the last stable offset, as it finds them out.
fn committed(log: &PartitionLog) -> BTreeMap<Offset, Contents> {
    let stable = log.last_stable_offset();
    let mut aborted = log.aborted_transactions(0, stable).expect("an index");
    aborted.sort_by_key(|a| a.first_offset);
    let mut ahead = aborted.into_iter().peekable();
    let mut hidden = HashSet::new();
    let mut found = BTreeMap::new();
    let bytes = bytes_from(log, 0);
    let mut rest = &bytes[..];
    for header in headers(&bytes) {
        let (batch, tail) = rest.split_at(header.size_in_bytes());
        rest = tail;
        if header.base_offset >= stable {
            break;
        }
        while let Some(next) = ahead.next_if(|a| a.first_offset <= header.last_offset()) {
            hidden.insert(next.producer_id);
        }
        if header.is_control() {
            let marker = EndTxnMarker::parse(batch).expect("a marker");
            if marker.is_some_and(|m| !m.commit) {
                hidden.remove(&header.producer_id);
            }
            continue;
        }
        if header.is_transactional() && hidden.contains(&header.producer_id) {
            continue;
        }
        for_each_record(batch, |r| {
            let key = r.key.expect("a key").to_vec();
            found.insert(r.offset, (r.timestamp, key, r.value.map(<[u8]>::to_vec)));
            true
        })
        .expect("records");
    }
    found
}

struct Run {
    dir: TempDir,
    log: PartitionLog,
    checkpoint: Option<Vec<u8>>,
    since: Vec<AppendBatch>,
    follower: PartitionLog,
    _follower_dir: TempDir,
    /// Committed records.
    model: BTreeMap<Offset, Contents>,
    /// Records of open transactions.
    open: HashMap<i64, BTreeMap<Offset, Contents>>,
    sequences: HashMap<i64, i32>,
    now_ms: i64,
}

impl Run {
    fn new() -> Run {
        let (dir, follower) = (scratch(), scratch());
        Run {
            log: open_compacted(dir.path(), None),
            dir,
            checkpoint: None,
            since: Vec::new(),
            follower: open_compacted(follower.path(), None),
            _follower_dir: follower,
            model: BTreeMap::new(),
            open: HashMap::new(),
            sequences: HashMap::new(),
            now_ms: 10_000,
        }
    }

    fn append(&mut self, bytes: Bytes, origin: BatchOrigin) -> Offset {
        let batch = AppendBatch {
            bytes,
            leader_epoch: 1,
            origin,
        };
        self.since.push(batch.clone());
        match self.log.append(&[batch]).expect("appended")[0] {
            AppendOutcome::Appended { base_offset, .. } => base_offset,
            other => panic!("{other:?}"),
        }
    }

    fn sample(&self, records: &[(u8, bool)]) -> Sample {
        let record = |(key, deletes): &(u8, bool)| {
            let value = (!deletes).then(|| self.now_ms.to_be_bytes().repeat(12));
            (self.now_ms, Some(vec![*key]), value)
        };
        Sample {
            records: records.iter().map(record).collect(),
            ..Sample::default()
        }
    }

    fn contents(base: Offset, sample: Sample) -> impl Iterator<Item = (Offset, Contents)> {
        let records = sample.records.into_iter().enumerate();
        records
            .map(move |(i, (ts, key, value))| (base + i as i64, (ts, key.expect("a key"), value)))
    }

    fn send(&mut self, producer: i64, records: &[(u8, bool)]) {
        let sequence = self.sequences.entry(producer).or_default();
        let first = *sequence;
        *sequence += records.len() as i32;
        let mut sample = self.sample(records).by_producer(producer, 0, first);
        sample.attributes = TRANSACTIONAL;
        let origin = match self.log.transaction_standing(producer, 0) {
            TxnStanding::Open => BatchOrigin::Client,
            TxnStanding::Unverified { last_marker } => BatchOrigin::Verified { last_marker },
        };
        let base = self.append(sample.build(), origin);
        let open = self.open.entry(producer).or_default();
        open.extend(Run::contents(base, sample));
    }

    fn apply(&mut self, step: Step) {
        self.now_ms += 1;
        match step {
            Step::Send(producer, records) => self.send(producer, &records),
            Step::End(producer, commit) => {
                let Some(records) = self.open.remove(&producer) else {
                    return;
                };
                let marker = EndTxnMarker {
                    commit,
                    coordinator_epoch: 1,
                };
                let origin = BatchOrigin::Coordinator { bumped: false };
                self.append(marker.batch(producer, 0, self.now_ms), origin);
                if commit {
                    self.model.extend(records);
                }
            }
            Step::Plain(key) => {
                let sample = self.sample(&[(key, false)]);
                let base = self.append(sample.build(), BatchOrigin::Client);
                self.model.extend(Run::contents(base, sample));
            }
            Step::Compact(after_ms) => {
                self.now_ms += after_ms;
                self.compact();
            }
            Step::Crash => self.log = self.replay(self.dir.path()),
            Step::Follow => {
                copy(&self.log, &self.follower, 300);
                self.check(&self.follower);
            }
            Step::FollowerCompact => {
                let _ = flush(&self.follower);
                compact_at(&self.follower, self.now_ms, 1 << 20);
            }
        }
    }

    fn replay(&self, dir: &Path) -> PartitionLog {
        let log = open_compacted(dir, self.checkpoint.as_deref());
        log.append(&self.since).expect("appended");
        log
    }

    fn compact(&mut self) {
        self.checkpoint = Some(flush(&self.log));
        self.since.clear();
        let images = Rc::new(RefCell::new(Vec::new()));
        let (dir, kept) = (self.dir.path().to_owned(), images.clone());
        let mut passed = 0;
        let look = move || {
            passed += 1;
            if passed % 7 == 0 {
                kept.borrow_mut().push(super::crash::copy_dir(&dir));
            }
        };
        crash_point::watch(look, || compact_at(&self.log, self.now_ms, 1 << 20));
        for image in images.take() {
            self.check(&self.replay(image.path()));
        }
    }

    fn check(&self, log: &PartitionLog) {
        let found = committed(log);
        let stable = log.last_stable_offset();
        assert_eq!(stable, self.log.last_stable_offset());
        let below: BTreeMap<_, _> = self
            .model
            .range(..stable)
            .map(|(o, r)| (*o, r.clone()))
            .collect();
        for (offset, record) in &found {
            assert_eq!(below.get(offset), Some(record), "at offset {offset}");
        }
        let (found, below) = (last_of_keys(&found), last_of_keys(&below));
        let differ: Vec<_> = (0..=255_u8)
            .filter(|k| found.get(&[*k][..]) != below.get(&[*k][..]))
            .collect();
        assert!(differ.is_empty(), "keys {differ:?} of {:?}", log.dir());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 48 } else { 1_000 }))]

    #[test]
    fn readers_of_committed_records_see_the_same(steps in prop::collection::vec(step(), 1..200)) {
        let mut run = Run::new();
        for step in steps {
            run.apply(step);
            run.check(&run.log);
        }
        for producer in 0..3 {
            run.apply(Step::End(producer, producer == 1));
        }
        for _ in 0..3 {
            run.apply(Step::Plain(100));
            run.apply(Step::Compact(1_000));
        }
        run.check(&run.log);
        run.apply(Step::Crash);
        run.apply(Step::Follow);
        run.check(&run.log);
    }
}

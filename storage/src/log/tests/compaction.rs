//! Compaction against a model that knows every record by heart.

use super::*;
use crate::batch::for_each_record;
use crate::compression::Compression;
use crate::log::compaction::crash_point;
use crate::log::{CompactionReport, CompactionRun, ForeignBatches, Pace};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

pub(super) const RETENTION_MS: i64 = 100;

pub(super) fn compacted() -> LogConfig {
    LogConfig {
        compact: true,
        delete_retention_ms: RETENTION_MS,
        ..small()
    }
}

pub(super) fn open_compacted(dir: &Path, checkpoint: Option<&[u8]>) -> PartitionLog {
    open_with(dir, compacted(), checkpoint).expect("the log opens")
}

/// Timestamp, key and value.
pub(super) type Contents = (i64, Vec<u8>, Option<Vec<u8>>);

/// All records of a log by offset.
fn records(log: &PartitionLog) -> BTreeMap<Offset, Contents> {
    let mut found = BTreeMap::new();
    let bytes = bytes_from(log, log.log_start_offset());
    let mut rest = &bytes[..];
    for header in headers(&bytes) {
        let (batch, tail) = rest.split_at(header.size_in_bytes());
        for_each_record(batch, |r| {
            let contents = (
                r.timestamp,
                r.key.expect("a key").to_vec(),
                r.value.map(<[u8]>::to_vec),
            );
            assert!(found.insert(r.offset, contents).is_none());
            true
        })
        .expect("records");
        rest = tail;
    }
    found
}

pub(super) fn compact_at(log: &PartitionLog, now_ms: i64, memory_bytes: usize) -> CompactionReport {
    let closed_before = log.active_base_offset();
    let pace = Pace::new(0);
    log.compact(&CompactionRun {
        now_ms,
        closed_before,
        memory_bytes,
        pace: &pace,
        go_on: &|| true,
    })
    .expect("compacted")
}

/// One record a batch: its key, and whether it deletes.
fn update(key: u8, value: Option<usize>, timestamp: i64) -> Sample {
    Sample {
        records: vec![(
            timestamp,
            Some(vec![key]),
            value.map(|n| vec![n as u8; 150]),
        )],
        ..Sample::default()
    }
}

#[test]
fn the_last_record_of_each_key_stays_where_it_was() {
    let dir = scratch();
    let log = open_compacted(dir.path(), None);
    for i in 0..100_i64 {
        append(
            &log,
            &update((i * i % 7) as u8, Some(i as usize), 1_000 + i),
            1,
        );
    }
    let before = records(&log);
    let closed = log.active_base_offset();
    let need = log.compaction_need(0).expect("closed segments");
    assert_eq!((need.dirty_ratio, need.is_due), (1.0, true));
    let report = compact_at(&log, 5_000, 1 << 20);
    assert_eq!((report.rounds, report.damaged_at), (1, None));
    assert_eq!(report.records_read as i64, closed);
    let after = records(&log);
    let mut last = HashMap::new();
    for (offset, (_, key, _)) in before.range(..closed) {
        last.insert(key.clone(), *offset);
    }
    let expected: BTreeMap<_, _> = before
        .into_iter()
        .filter(|(offset, (_, key, _))| *offset >= closed || last[key] == *offset)
        .collect();
    assert_eq!(after, expected);
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (0, 100));
    let need = log.compaction_need(0).expect("closed segments");
    assert_eq!((need.dirty_ratio, need.is_due), (0.0, false));
    assert_eq!(
        compact_at(&log, 5_000, 1 << 20),
        CompactionReport::default()
    );
    // Small segments become one with the next round.
    let segments = log.segments().len();
    for i in 0..10 {
        append(&log, &update(1, Some(i), 9_000), 1);
    }
    compact_at(&log, 9_000, 1 << 20);
    assert!(log.segments().len() < segments / 2);
}

#[test]
fn tombstones_stay_for_their_time_and_go_without_new_records() {
    let dir = scratch();
    let log = open_compacted(dir.path(), None);
    for key in 0..20 {
        append(&log, &update(key, Some(1), 1_000), 1);
    }
    for key in 0..10 {
        append(&log, &update(key, None, 2_000), 1);
    }
    for i in 0..20 {
        append(&log, &update(100, Some(i), 3_000), 1);
    }
    compact_at(&log, 10_000, 1 << 20);
    let tombstones = |log: &PartitionLog| {
        let all = records(log);
        all.values().filter(|(_, _, value)| value.is_none()).count()
    };
    assert_eq!(tombstones(&log), 10);
    let horizon = headers(&bytes_from(&log, 0))
        .iter()
        .find_map(BatchHeader::delete_horizon_ms);
    assert_eq!(horizon, Some(10_000 + RETENTION_MS));
    // Timestamps are what they were.
    assert!(
        records(&log)
            .values()
            .filter(|r| r.2.is_none())
            .all(|r| r.0 == 2_000)
    );
    let due = |now| log.compaction_need(now).expect("closed segments").is_due;
    assert!(!due(10_000 + RETENTION_MS - 1));
    compact_at(&log, 10_000 + RETENTION_MS - 1, 1 << 20);
    assert_eq!(tombstones(&log), 10);
    // After a restart, too.
    let checkpoint = flush(&log);
    drop(log);
    let log = open_compacted(dir.path(), Some(&checkpoint));
    assert!(
        log.compaction_need(10_000 + RETENTION_MS)
            .expect("closed segments")
            .is_due
    );
    compact_at(&log, 10_000 + RETENTION_MS, 1 << 20);
    assert_eq!(tombstones(&log), 0);
    assert!(records(&log).values().all(|r| r.1[0] >= 10));
    assert!(
        !log.compaction_need(i64::MAX)
            .expect("closed segments")
            .is_due
    );
}

#[test]
fn lags_are_respected() {
    let dir = scratch();
    let log = open_compacted(dir.path(), None);
    let fill = |log: &PartitionLog, timestamp: i64| {
        for i in 0..30 {
            append(log, &update(1, Some(i), timestamp), 1);
        }
    };
    fill(&log, 5_000);
    compact_at(&log, 5_000, 1 << 20);
    let clean = records(&log).len();
    fill(&log, 5_000);
    let configure = |min_lag: i64, max_lag: i64| {
        log.update_config(LogConfig {
            min_compaction_lag_ms: min_lag,
            max_compaction_lag_ms: max_lag,
            min_cleanable_dirty_ratio: 1.0,
            ..compacted()
        });
    };
    configure(500, i64::MAX);
    let before = records(&log).len();
    assert!(before > clean);
    compact_at(&log, 5_400, 1 << 20);
    assert!(
        records(&log).keys().filter(|o| **o >= 30).count() >= 28,
        "too young"
    );
    configure(0, i64::MAX);
    assert!(
        !log.compaction_need(9_000).expect("dirty").is_due,
        "the ratio is not reached"
    );
    configure(0, 1_000);
    assert!(!log.compaction_need(5_900).expect("dirty").is_due);
    assert!(
        log.compaction_need(6_100).expect("dirty").is_due,
        "for too long"
    );
}

#[test]
fn readers_keep_the_segments_they_have() {
    let dir = scratch();
    let log = open_compacted(dir.path(), None);
    for i in 0..200 {
        append(&log, &update((i % 3) as u8, Some(i), 1_000), 1);
    }
    let before = bytes_from(&log, 0);
    let old = log.segments_from(0);
    let slices = log
        .read(0, Offset::MAX, 1_500, true)
        .expect("a read")
        .slices;
    compact_at(&log, 2_000, 1 << 20);
    // Segments a reader got before, read from now on.
    let mut again = Vec::new();
    for segment in &old {
        segment.close_file();
        let bytes = segment.bytes();
        again.extend_from_slice(&segment.view(0, bytes).expect("a view").slice(0, bytes));
    }
    assert_eq!(again, before[..again.len()]);
    assert_eq!(slices.concat(), before[..slices.concat().len()]);
}

#[test]
fn damage_stops_compaction_and_is_told_of() {
    let dir = scratch();
    let log = open_compacted(dir.path(), None);
    for i in 0..60 {
        append(&log, &update((i % 3) as u8, Some(i), 1_000), 1);
    }
    let third = log.segments().remove(2);
    let mut bytes = std::fs::read(&third.path).expect("a segment");
    bytes[90] ^= 1;
    std::fs::write(&third.path, &bytes).expect("damaged");
    let files = log.segments();
    let report = compact_at(&log, 2_000, 1 << 20);
    assert_eq!(report.damaged_at, Some(third.base_offset));
    assert_eq!(log.segments(), files);
    bytes[90] ^= 1;
    std::fs::write(&third.path, &bytes).expect("mended");
    assert_eq!(compact_at(&log, 2_000, 1 << 20).damaged_at, None);
    assert!(log.size_bytes() < files.iter().map(|s| s.bytes).sum());
}

/// A batch as the model knows it.
#[derive(Debug, Clone)]
struct ModelBatch {
    base: Offset,
    records: BTreeMap<Offset, Contents>,
    horizon: Option<i64>,
}

#[derive(Debug, Clone, Default)]
struct Model {
    batches: Vec<ModelBatch>,
    start: Offset,
}

impl Model {
    fn compact(&mut self, until: Offset, now_ms: i64) {
        let mut last = HashMap::new();
        for batch in self.batches.iter().filter(|b| b.base < until) {
            for (offset, (_, key, _)) in &batch.records {
                last.insert(key.clone(), *offset);
            }
        }
        for batch in self.batches.iter_mut().filter(|b| b.base < until) {
            let expired = batch.horizon.is_some_and(|h| h <= now_ms);
            batch.records.retain(|offset, (_, key, value)| {
                last[key] == *offset && (value.is_some() || !expired)
            });
            if batch.records.values().any(|r| r.2.is_none()) && batch.horizon.is_none() {
                batch.horizon = Some(now_ms + RETENTION_MS);
            }
        }
    }

    fn records(&self) -> BTreeMap<Offset, Contents> {
        let all = self.batches.iter().flat_map(|b| b.records.clone());
        all.filter(|(offset, _)| *offset >= self.start).collect()
    }

    /// Reads begin with the batch that holds the log start.
    fn visible(&self, found: BTreeMap<Offset, Contents>) -> BTreeMap<Offset, Contents> {
        found
            .into_iter()
            .filter(|(o, _)| *o >= self.start)
            .collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u8, bool, u16)>, usize, Option<i64>),
    Compact {
        after_ms: i64,
        keys: usize,
    },
    Checkpoint,
    /// The segment being written ends before the next one has anything, as by its age.
    Close,
    Crash,
    /// Per mille of the log.
    Start(u16),
    /// A new replica copies everything.
    Copy,
    /// A replica that is behind copies what it lacks.
    Follow,
    FollowerCompact,
}

fn step() -> impl Strategy<Value = Step> {
    let record = (0..12_u8, prop::bool::weighted(0.2), 0..200_u16);
    prop_oneof![
        12 => (prop::collection::vec(record, 1..5), 0..5_usize, prop::option::of(0..3_i64))
            .prop_map(|(r, c, p)| Step::Append(r, c, p)),
        3 => (0..80_i64, 1..30_usize).prop_map(|(after_ms, keys)| Step::Compact { after_ms, keys }),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Close),
        2 => Just(Step::Crash),
        1 => (0..1000_u16).prop_map(Step::Start),
        1 => Just(Step::Copy),
        1 => Just(Step::Follow),
        1 => Just(Step::FollowerCompact),
    ]
}

/// A log, what it should hold, and what the journal would bring back.
struct Run {
    dir: TempDir,
    log: PartitionLog,
    model: Model,
    checkpoint: Option<Vec<u8>>,
    since: Vec<(Bytes, LeaderEpoch)>,
    start_at_checkpoint: Offset,
    now_ms: i64,
    sequences: HashMap<i64, i32>,
    /// All there ever was.
    history: BTreeMap<Offset, Contents>,
    follower: PartitionLog,
    _follower_dir: TempDir,
}

impl Run {
    fn new() -> Run {
        let (dir, follower) = (scratch(), scratch());
        Run {
            follower: open_compacted(follower.path(), None),
            _follower_dir: follower,
            history: BTreeMap::new(),
            log: open_compacted(dir.path(), None),
            dir,
            model: Model::default(),
            checkpoint: None,
            since: Vec::new(),
            start_at_checkpoint: 0,
            now_ms: 10_000,
            sequences: HashMap::new(),
        }
    }

    fn checkpoint(&mut self) {
        self.checkpoint = Some(flush(&self.log));
        self.since.clear();
        self.start_at_checkpoint = self.model.start;
    }

    fn append(&mut self, records: &[(u8, bool, u16)], codec: usize, producer: Option<i64>) {
        self.now_ms += 1;
        let codecs = [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ];
        let mut sample = Sample {
            records: records
                .iter()
                .enumerate()
                .map(|(i, (key, deletes, length))| {
                    let value = (!deletes).then(|| vec![*key; *length as usize]);
                    (self.now_ms + i as i64 % 2, Some(vec![*key; 3]), value)
                })
                .collect(),
            codec: codecs[codec],
            ..Sample::default()
        };
        if let Some(id) = producer {
            let sequence = self.sequences.entry(id).or_default();
            sample.producer = Some((id, 0, *sequence));
            *sequence += records.len() as i32;
        }
        let base = self.log.log_end_offset();
        let batch = (sample.build(), 1);
        append_all(&self.log, std::slice::from_ref(&batch));
        self.since.push(batch);
        let contents = sample.records.into_iter().enumerate();
        let records: BTreeMap<_, _> = contents
            .map(|(i, (ts, key, value))| (base + i as i64, (ts, key.expect("a key"), value)))
            .collect();
        self.history.extend(records.clone());
        self.model.batches.push(ModelBatch {
            base,
            records,
            horizon: None,
        });
    }

    fn replay(dir: &Path, run: &Run) -> PartitionLog {
        let log = open_compacted(dir, run.checkpoint.as_deref());
        append_all(&log, &run.since);
        log.set_log_start_offset(run.model.start).expect("moved");
        log
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Append(records, codec, producer) => self.append(&records, codec, producer),
            Step::Compact { after_ms, keys } => {
                self.now_ms += after_ms;
                self.checkpoint();
                let closed = self.log.active_base_offset();
                let before = self.model.records();
                let due = self.log.compaction_need(self.now_ms);
                let dirty = due.is_some_and(|n| n.dirty_ratio > 0.0 || n.is_due);
                if dirty {
                    self.model.compact(closed, self.now_ms);
                }
                let images = self.compact_watched(keys * 24);
                self.check_images(images, &before);
            }
            Step::Checkpoint => self.checkpoint(),
            Step::Crash => {
                if self.checkpoint.is_some() {
                    self.log = Run::replay(self.dir.path(), self);
                }
            }
            Step::Close => self.log.close_segment_of(self.log.log_end_offset() - 1),
            Step::Start(share) => {
                let (start, end) = (self.model.start, self.log.log_end_offset());
                let to = start + (end - start) * i64::from(share) / 1_000;
                self.log.set_log_start_offset(to).expect("moved");
                self.model.start = to;
            }
            Step::Copy => self.copy(),
            Step::Follow => self.follow(),
            Step::FollowerCompact => {
                let _ = flush(&self.follower);
                let report = compact_at(&self.follower, self.now_ms, 1 << 20);
                assert_eq!(report.damaged_at, None);
            }
        }
        let found = self.model.visible(records(&self.log));
        assert_eq!(found, self.model.records());
    }

    /// Compacts, and gives back what crashes on the way would have left.
    fn compact_watched(&mut self, memory_bytes: usize) -> Vec<TempDir> {
        let images = Rc::new(RefCell::new(Vec::new()));
        let (dir, kept) = (self.dir.path().to_owned(), images.clone());
        let mut passed = 0;
        let look = move || {
            passed += 1;
            if passed % 5 == 0 || passed < 4 {
                kept.borrow_mut().push(super::crash::copy_dir(&dir));
            }
        };
        let work = || compact_at(&self.log, self.now_ms, memory_bytes);
        let report = crash_point::watch(look, work);
        assert_eq!(report.damaged_at, None);
        images.take()
    }

    /// Each image opens, holds at least what is to be left and at most what was there, and is
    /// compacted to the same in the end.
    fn check_images(&self, images: Vec<TempDir>, before: &BTreeMap<Offset, Contents>) {
        let after = self.model.records();
        for image in images.into_iter().step_by(3) {
            let log = Run::replay(image.path(), self);
            let found = self.model.visible(records(&log));
            assert!(after.iter().all(|(o, r)| found.get(o) == Some(r)));
            assert!(found.iter().all(|(o, r)| before.get(o) == Some(r)));
            let _ = flush(&log);
            compact_at(&log, self.now_ms, 1 << 20);
            assert_eq!(self.model.visible(records(&log)), after);
        }
    }

    /// A new replica copies the log, piece by piece, and holds the same records.
    fn copy(&self) {
        let dir = scratch();
        let to = open_compacted(dir.path(), None);
        copy(&self.log, &to, 400);
        assert_eq!(self.model.visible(records(&to)), self.model.records());
        assert_eq!(to.manifest(), self.log.manifest());
        let checkpoint = flush(&to);
        drop(to);
        let to = open_compacted(dir.path(), Some(&checkpoint));
        assert_eq!(self.model.visible(records(&to)), self.model.records());
    }

    /// Whatever the two have compacted so far, they agree about each record and about each key.
    fn follow(&mut self) {
        copy(&self.log, &self.follower, 300);
        let found = self.model.visible(records(&self.follower));
        assert!(found.iter().all(|(o, r)| self.history.get(o) == Some(r)));
        assert_eq!(last_of_keys(&found), last_of_keys(&self.model.records()));
    }

    /// Every offset can be read from, and every timestamp be looked up.
    fn check_lookups(&self) {
        let all = self.model.records();
        let (start, end) = (self.log.log_start_offset(), self.log.log_end_offset());
        for from in start..end {
            let read = self.log.read(from, Offset::MAX, 1, true).expect("a read");
            let first = headers(&read.slices.concat())[0];
            assert!(first.last_offset() >= from && read.next_offset > from);
            let next = all.range(from..).next().map(|r| *r.0);
            assert!(
                next.is_none_or(|n| first.base_offset <= n),
                "{from} skips {next:?}"
            );
        }
        for timestamp in (9_990..self.now_ms + 3).step_by(7) {
            let found = self.log.offset_for_timestamp(timestamp).expect("a look");
            let expected = all.iter().find(|(_, r)| r.0 >= timestamp);
            assert_eq!(found.map(|f| (f.1, f.0)), expected.map(|(o, r)| (*o, r.0)));
        }
        let max = all.values().map(|r| r.0).max();
        let found = self.log.offset_of_max_timestamp().expect("a look");
        assert_eq!(found.map(|f| f.0), max);
    }
}

/// The last value of each key that is not deleted.
pub(super) fn last_of_keys(records: &BTreeMap<Offset, Contents>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut last = BTreeMap::new();
    for (_, key, value) in records.values() {
        match value {
            Some(value) => last.insert(key.clone(), value.clone()),
            None => last.remove(key),
        };
    }
    last
}

/// What a replica has in a range of offsets, with some more.
fn foreign(from: &PartitionLog, range: std::ops::Range<Offset>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut next = range.start.max(from.log_start_offset());
    while next < range.end {
        let read = from.read(next, range.end, 500, true).expect("a read");
        out.extend_from_slice(&read.slices.concat());
        next = read.next_offset;
    }
    out
}

/// Copies as a peer does.
pub(super) fn copy(from: &PartitionLog, to: &PartitionLog, piece: usize) {
    let manifest = from.manifest();
    if to.needs_refresh(&manifest).expect("a manifest") {
        to.close_segment_of(to.log_end_offset() - 1);
        let closed_before = to.active_base_offset();
        let _ = flush(to);
        for range in to.closed_segments(closed_before) {
            let mut refresh = to
                .refresh(range.start, closed_before)
                .expect("begun")
                .expect("there");
            refresh.add(&foreign(from, range)).expect("added");
            to.finish_refresh(refresh).expect("refreshed");
        }
    }
    let (mut next, end) = to.begin_catch_up(&manifest).expect("begun");
    while next < end {
        let read = from.read(next, end, piece, true).expect("a read");
        let bytes = read.slices.concat();
        if read.sparse {
            to.append_copied_sparse(&bytes, read.next_offset.min(end), from.gone_below())
                .expect("copied");
        } else {
            to.append_copied(&bytes).expect("copied");
        }
        assert!(to.log_end_offset() > next, "stuck at {next}");
        next = to.log_end_offset();
    }
    to.finish_catch_up(&manifest).expect("the same end");
    to.end_catch_up();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 24 } else { 500 }))]

    #[test]
    fn is_as_in_a_model_that_remembers_everything(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        for step in steps {
            run.apply(step);
        }
        run.check_lookups();
        run.apply(Step::Compact { after_ms: 50, keys: 3 });
        run.check_lookups();
        run.apply(Step::Crash);
        run.apply(Step::Copy);
        run.apply(Step::Follow);
        run.check_lookups();
    }
}

/// Nothing is appended after the last segment has ended and is compacted. Found by the simulation of brokers, seeds
/// 3158 and 3196.
#[test]
fn a_compacted_log_at_rest_is_readable_after_any_number_of_starts() {
    let dir = scratch();
    let log = open_compacted(dir.path(), None);
    for round in 0..3 {
        for key in 0..4 {
            append(&log, &update(key, Some(round), 1_000), 1);
        }
    }
    let end = log.log_end_offset();
    log.close_segment_of(end - 1);
    let _ = flush(&log);
    compact_at(&log, 10_000, 1 << 20);
    let kept = records(&log);
    assert_eq!(kept.len(), 4);
    let mut checkpoint = flush(&log);
    drop(log);
    for _ in 0..3 {
        let log = open_compacted(dir.path(), Some(&checkpoint));
        assert_eq!(records(&log), kept);
        assert_eq!(log.active_base_offset(), end);
        checkpoint = flush(&log);
    }
    // Earlier versions took the closed segment for the one being written.
    let mut state =
        crate::log::checkpoint::LogState::read(&checkpoint, dir.path()).expect("a state");
    let file = std::fs::metadata(dir.path().join("00000000000000000000.log"));
    state.segment_base = 0;
    state.segment_bytes = file.expect("a segment").len();
    let log = open_compacted(dir.path(), Some(&prost::Message::encode_to_vec(&state)));
    assert_eq!(records(&log), kept);
    append(&log, &update(9, Some(9), 2_000), 1);
    let log = open_compacted(dir.path(), Some(&flush(&log)));
    assert_eq!(records(&log).len(), 5);
}

#[test]
fn what_a_gone_tombstone_deleted_is_gone_on_a_replica_that_was_away() {
    let dirs = (scratch(), scratch());
    let log = open_compacted(dirs.0.path(), None);
    for key in 0..20 {
        append(&log, &update(key, Some(1), 1_000), 1);
    }
    let follower = open_compacted(dirs.1.path(), None);
    copy(&log, &follower, 1_000);
    for key in 0..10 {
        append(&log, &update(key, None, 2_000), 1);
    }
    for i in 0..20 {
        append(&log, &update(100, Some(i), 3_000), 1);
    }
    compact_at(&log, 10_000, 1 << 20);
    compact_at(&log, 10_000 + RETENTION_MS, 1 << 20);
    assert!(records(&log).values().all(|r| r.2.is_some()));
    copy(&log, &follower, 1_000);
    assert_eq!(
        last_of_keys(&records(&follower)),
        last_of_keys(&records(&log))
    );
    assert_eq!(follower.gone_below(), log.gone_below());
}

/// A replica that has compacted gives damaged records back to one that has not, and the other way
/// round, in closed segments and in the one being written.
#[test]
fn damage_is_mended_from_a_replica_that_has_compacted_otherwise() {
    for here_first in [false, true] {
        for damaged_offset in [3, 30, 61, 118] {
            let dirs = (scratch(), scratch());
            let logs = (
                open_compacted(dirs.0.path(), None),
                open_compacted(dirs.1.path(), None),
            );
            for i in 0..120 {
                let sample = update((i % 50) as u8, Some(i), 1_000);
                append(&logs.0, &sample, 1);
                append(&logs.1, &sample, 1);
            }
            let compacting = if here_first { &logs.0 } else { &logs.1 };
            compact_at(compacting, 2_000, 1 << 20);
            let expected = last_of_keys(&records(&logs.0));
            let offset = *records(&logs.0)
                .range(damaged_offset..)
                .next()
                .expect("a record")
                .0;
            super::mend::damage(&logs.0, offset, 70);
            assert!(logs.0.read(offset, Offset::MAX, 1 << 20, true).is_err());

            let stretch = logs.0.stretch_of(offset).expect("a stretch");
            let bytes = foreign(&logs.1, stretch.from..stretch.until);
            logs.0.close_segment_of(offset);
            let closed_before = logs.0.active_base_offset();
            let _ = flush(&logs.0);
            let batches = ForeignBatches {
                bytes: &bytes,
                gone_below: 0,
            };
            logs.0
                .splice(&stretch, closed_before, batches)
                .expect("mended");
            assert_eq!(last_of_keys(&records(&logs.0)), expected);
            assert!(logs.0.read(offset, Offset::MAX, 1 << 20, true).is_ok());
            let missed = ForeignBatches {
                gone_below: 120,
                ..batches
            };
            assert!(logs.0.splice(&stretch, closed_before, missed).is_err());
            let checkpoint = flush(&logs.0);
            drop(logs.0);
            let again = open_compacted(dirs.0.path(), Some(&checkpoint));
            assert_eq!(last_of_keys(&records(&again)), expected);
        }
    }
}

//! Looking at a segment's file from outside.

use super::crash::copy_dir;
use super::*;
use crate::log::inspect::{
    AbortedTransaction, SegmentPart, SegmentReader, aborted_transactions, offset_index, segments,
    time_index,
};
use std::fs;

fn parts(path: &Path) -> Vec<SegmentPart> {
    let mut reader = SegmentReader::open(path).expect("a segment");
    std::iter::from_fn(|| reader.next_part().expect("readable")).collect()
}

/// Where the batches begin, and stretches `(from, to)` that are none.
fn outline(path: &Path) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut starts, mut broken) = (Vec::new(), Vec::new());
    for part in parts(path) {
        match part {
            SegmentPart::Batch(batch) => starts.push(batch.position),
            SegmentPart::Unreadable { from, to, .. } => broken.push((from, to)),
            SegmentPart::Reserved { .. } => {}
        }
    }
    (starts, broken)
}

/// Two closed segments and one being written, all on disk.
fn written() -> TempDir {
    let dir = scratch();
    let log = open(dir.path(), None);
    let mut count = 0;
    while log.segments().len() < 3 {
        let codec = crate::compression::Compression::Zstd;
        let mut sample = Sample::of(3, 120, 1_000 + count * 10);
        if count % 2 == 0 {
            sample = sample.compressed(codec);
        }
        append(&log, &sample, 1);
        count += 1;
    }
    flush(&log);
    copy_dir(dir.path())
}

#[test]
fn a_sound_folder_reads_whole_and_its_indexes_point_at_batches() {
    let dir = written();
    let found = segments(dir.path()).expect("a folder");
    assert_eq!(found.len(), 3);
    let mut next = 0;
    for (base, path) in found {
        assert_eq!(base, next);
        let parts = parts(&path);
        for part in &parts {
            match part {
                SegmentPart::Batch(batch) => {
                    assert_eq!(batch.header.base_offset, next);
                    next = batch.header.last_offset() + 1;
                }
                SegmentPart::Reserved { .. } => {}
                SegmentPart::Unreadable { .. } => panic!("{part:?}"),
            }
        }
        let last_of = |position| {
            parts.iter().find_map(|part| match part {
                SegmentPart::Batch(b) if b.position == position => Some(b.header.last_offset()),
                _ => None,
            })
        };
        for entry in offset_index(&path.with_extension("index")).expect("an index") {
            assert_eq!(last_of(entry.position), Some(entry.offset));
        }
        time_index(&path.with_extension("timeindex")).expect("a time index");
    }
}

/// The checksum leaves out base offset and leader epoch, so a change there may go unnoticed.
/// Everything else must not, and the batches behind the damage are found again.
#[test]
fn a_flipped_bit_costs_one_batch_and_no_other() {
    let dir = written();
    let (_, path) = segments(dir.path()).expect("a folder").remove(0);
    let bytes = fs::read(&path).expect("read");
    let (starts, broken) = outline(&path);
    assert!(starts.len() >= 3 && broken.is_empty(), "{starts:?}");
    let (from, to) = (starts[1] as usize, starts[2] as usize);
    for at in from..to {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).expect("written");
        let (found, broken) = outline(&path);
        // A base offset that is ahead hides what follows, as offsets only grow.
        let unprotected = at - from < 8 || (12..16).contains(&(at - from));
        if unprotected {
            continue;
        }
        let rest: Vec<u64> = starts.iter().copied().filter(|&s| s != starts[1]).collect();
        assert_eq!(found, rest, "byte {at}");
        assert_eq!(broken, [(starts[1], starts[2])], "byte {at}");
    }
}

#[test]
fn a_cut_batch_is_told_and_reserved_space_is_not_damage() {
    let dir = written();
    let (_, path) = segments(dir.path()).expect("a folder").remove(0);
    let bytes = fs::read(&path).expect("read");
    let (starts, _) = outline(&path);
    let last = *starts.last().expect("a batch");
    fs::write(&path, &bytes[..last as usize + 70]).expect("written");
    assert_eq!(outline(&path).1, [(last, last + 70)]);
    let mut reserved = bytes[..last as usize].to_vec();
    reserved.resize(last as usize + 3_000_000, 0);
    fs::write(&path, &reserved).expect("written");
    let end = parts(&path).pop().expect("an end");
    assert!(
        matches!(end, SegmentPart::Reserved { from, to } if from == last && to == last + 3_000_000),
        "{end:?}"
    );
    fs::write(path.with_extension("index"), [1; 12]).expect("written");
    offset_index(&path.with_extension("index")).expect_err("four bytes too many");
}

#[test]
fn segments_are_in_order_whatever_order_the_folder_has() {
    let dir = scratch();
    for n in 0..50 {
        let path = dir.path().join(format!("{:020}.log", n * 37 % 50));
        std::fs::write(path, []).expect("a segment");
    }
    let found = segments(dir.path()).expect("segments").into_iter();
    let found: Vec<Offset> = found.map(|(offset, _)| offset).collect();
    assert_eq!(found, (0..50).collect::<Vec<Offset>>());
}

#[test]
fn aborted_transactions_are_read_and_damage_is_told() {
    let dir = scratch();
    let path = dir.path().join("00000000000000000010.txnindex");
    assert_eq!(aborted_transactions(&path).expect("none"), []);
    // Version, producer, first offset, marker, last stable offset.
    let entry = |producer: i64, first: i64, marker: i64| {
        let numbers = [producer, first, marker, marker + 1];
        let numbers = numbers.iter().flat_map(|n| n.to_be_bytes());
        [0, 0].into_iter().chain(numbers).collect::<Vec<u8>>()
    };
    let good = [entry(7, 3, 12), entry(8, 11, 15)].concat();
    std::fs::write(&path, &good).expect("written");
    let found = aborted_transactions(&path).expect("entries");
    let expected = |producer_id, first_offset, last_offset| AbortedTransaction {
        producer_id,
        first_offset,
        last_offset,
        last_stable_offset: last_offset + 1,
    };
    assert_eq!(found, [expected(7, 3, 12), expected(8, 11, 15)]);
    let version_one = [vec![0, 1], good[2..].to_vec()].concat();
    for damaged in [
        good[..67].to_vec(),
        version_one,
        // Markers below the segment, not in order, before the transaction.
        entry(7, 3, 9),
        [entry(7, 3, 12), entry(8, 3, 12)].concat(),
        entry(7, 13, 12),
        [entry(7, 3, 12), entry(8, 16, 15)].concat(),
    ] {
        std::fs::write(&path, &damaged).expect("written");
        aborted_transactions(&path).expect_err("damage");
    }
}

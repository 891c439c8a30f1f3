//! Looking at a segment's file from outside.

use super::crash::copy_dir;
use super::*;
use crate::log::inspect::{SegmentPart, SegmentReader, offset_index, segments, time_index};
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

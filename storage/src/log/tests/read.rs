use super::*;
use crate::log::Slice;
use proptest::prelude::*;
use std::os::unix::fs::FileExt;

/// Batches of 1, 2, ... records over several segments; their headers.
fn filled(log: &PartitionLog) -> Vec<BatchHeader> {
    for count in 1..16 {
        append(log, &Sample::of(count, 100, 1), 1);
    }
    assert!(log.segments().len() > 5);
    headers(&bytes_from(log, 0))
}

fn is_in_its_file(slice: &Slice) -> bool {
    let (file, position) = slice.place().expect("a place in a file");
    let mut there = vec![0; slice.len()];
    file.read_exact_at(&mut there, position)
        .expect("in the file");
    there == slice[..]
}

#[test]
fn a_read_begins_with_the_batch_that_holds_the_offset() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let batches = filled(&log);
    for offset in 0..log.log_end_offset() {
        let read = log
            .read(offset, Offset::MAX, 1 << 20, true)
            .expect("a read");
        let first = BatchHeader::parse(&read.slices[0]).expect("a header");
        assert!(first.base_offset <= offset && offset <= first.last_offset());
        assert!(read.next_offset > offset);
        assert!(read.slices.iter().all(is_in_its_file));
        let from: Vec<_> = batches
            .iter()
            .skip_while(|b| b.last_offset() < offset)
            .collect();
        let got = headers(&read.slices.concat());
        assert!(
            got.iter().eq(from.into_iter().take(got.len())),
            "from {offset}"
        );
    }
    assert_eq!(bytes_from(&log, 0).len() as u64, log.bytes_behind(0));
}

#[test]
fn the_end_reads_nothing_and_outside_is_an_error() {
    let dir = scratch();
    let log = open(dir.path(), None);
    assert_eq!(log.read(0, 0, 100, true).expect("empty").bytes, 0);
    filled(&log);
    let end = log.log_end_offset();
    let read = log.read(end, Offset::MAX, 100, true).expect("the end");
    assert_eq!((read.bytes, read.next_offset), (0, end));
    log.set_log_start_offset(20).expect("moved");
    for offset in [-1, 0, 19, end + 1, Offset::MAX] {
        match log.read(offset, Offset::MAX, 100, true) {
            Err(StorageError::OffsetOutOfRange {
                offset: o,
                start: 20,
                end: e,
            }) => {
                assert_eq!((o, e), (offset, end));
            }
            other => panic!("{offset}: {other:?}"),
        }
    }
}

#[test]
fn limits_hold_but_for_one_batch() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let batches = filled(&log);
    let first = batches[0].size_in_bytes();
    let read = |max, at_least_one| log.read(0, Offset::MAX, max, at_least_one).expect("a read");
    assert_eq!(read(first - 1, false).bytes, 0);
    assert_eq!(read(first - 1, true).bytes, first);
    assert_eq!(read(0, true).bytes, first);
    assert_eq!(read(first, false).bytes, first);
    assert_eq!(
        read(first + batches[1].size_in_bytes() - 1, true).bytes,
        first
    );
    assert_eq!(
        read(first + batches[1].size_in_bytes(), true).next_offset,
        3
    );
    // Nothing that begins at or after `upper`.
    let below = log.read(0, 3, 1 << 20, true).expect("a read");
    assert_eq!(below.next_offset, 3);
    assert_eq!(log.read(3, 3, 1 << 20, true).expect("a read").bytes, 0);
}

#[test]
fn slices_outlive_the_segment() {
    let dir = scratch();
    let log = open(dir.path(), None);
    filled(&log);
    let read = log.read(0, Offset::MAX, 1_500, true).expect("a read");
    let before = read.slices.concat();
    log.set_log_start_offset(log.log_end_offset())
        .expect("moved");
    flush(&log);
    log.release_idle_mappings();
    log.release_idle_mappings();
    drop(log);
    assert_eq!(read.slices.concat(), before);
}

#[test]
fn readers_see_whole_batches_while_others_are_written() {
    let dir = scratch();
    let log = open(dir.path(), None);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut next = 0;
            while next < 400 {
                let read = log.read(next, Offset::MAX, 700, true).expect("a read");
                for header in headers(&read.slices.concat()) {
                    assert_eq!(header.base_offset, next);
                    next = header.last_offset() + 1;
                }
            }
        });
        for _ in 0..200 {
            append(&log, &Sample::of(2, 60, 1), 1);
        }
        reader.join().expect("the reader saw nothing wrong");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_are_as_from_a_list_of_batches(
        batches in prop::collection::vec((1..6_usize, 0..400_usize), 1..40),
        reads in prop::collection::vec((0..=100_u8, 0..=100_u8, 0..3_000_usize, any::<bool>()), 1..40),
    ) {
        let dir = scratch();
        let log = open(dir.path(), None);
        for (count, bytes) in &batches {
            append(&log, &Sample::of(*count, *bytes, 1), 1);
        }
        let end = log.log_end_offset();
        let all = headers(&bytes_from(&log, 0));
        for (from, upper, max, at_least_one) in reads {
            let from = end * i64::from(from) / 100;
            let upper = end * i64::from(upper) / 100;
            let read = log.read(from, upper, max, at_least_one).expect("within the log");
            let got = headers(&read.slices.concat());
            let mut size = 0;
            let fits = |b: &&BatchHeader| {
                size += b.size_in_bytes();
                b.base_offset < upper && (size <= max || (at_least_one && size == b.size_in_bytes()))
            };
            let due: Vec<_> = all.iter().filter(|_| from < upper)
                .skip_while(|b| b.last_offset() < from).take_while(fits).copied().collect();
            // A read spans a few segments at most; it may be shorter, never empty or different.
            prop_assert_eq!(&got[..], &due[..got.len().min(due.len())]);
            prop_assert_eq!(got.is_empty(), due.is_empty());
        }
    }
}

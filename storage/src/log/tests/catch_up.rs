//! A replica copies what it lacks from another one.

use super::*;

/// A log with producers, epochs and several segments that starts at `start`.
fn source(dir: &Path, start: Offset) -> PartitionLog {
    let log = open(dir, None);
    for i in 0..30 {
        let sample = Sample::of(3, 150, i * 10).by_producer(i % 4, 0, (i / 4 * 3) as i32);
        append(&log, &sample, 1 + i as i32 / 8);
    }
    log.set_log_start_offset(start).expect("moved");
    log
}

/// Copies as a peer does, `piece` bytes at a time.
pub(super) fn copy(
    from: &PartitionLog,
    to: &PartitionLog,
    piece: usize,
) -> Result<(), StorageError> {
    let manifest = from.manifest();
    let (mut next, end) = to.begin_catch_up(&manifest)?;
    while next < end {
        let read = from.read(next, end, piece, true)?;
        to.append_copied(&read.slices.concat())?;
        next = to.log_end_offset();
    }
    to.finish_catch_up(&manifest)?;
    to.end_catch_up();
    Ok(())
}

/// Batches as they are read; a copy need not have those below the log start's own batch.
fn assert_same(one: &PartitionLog, two: &PartitionLog) {
    assert_eq!(state_of(one), state_of(two));
    let (start, end) = (one.log_start_offset(), one.log_end_offset());
    for offset in start..end {
        assert_eq!(one.epoch_at(offset), two.epoch_at(offset), "{offset}");
    }
    for timestamp in 0..310 {
        let found = |log: &PartitionLog| log.offset_for_timestamp(timestamp).expect("a look");
        assert_eq!(found(one), found(two), "{timestamp}");
    }
}

#[test]
fn an_empty_replica_becomes_the_same() {
    for (start, piece) in [(0, 1), (0, 1_000), (30, 1), (31, 5_000), (88, 1), (90, 1)] {
        let dirs = (scratch(), scratch());
        let from = source(dirs.0.path(), start);
        let to = open(dirs.1.path(), None);
        copy(&from, &to, piece).expect("copied");
        assert_same(&from, &to);
        // Both go on alike, duplicates included.
        for (producer, sequence) in [(1, 21), (1, 18), (0, 24), (9, 0)] {
            let sample = Sample::of(3, 10, 300).by_producer(producer, 0, sequence);
            assert_eq!(append(&from, &sample, 9), append(&to, &sample, 9));
        }
        assert_same(&from, &to);
        let checkpoint = flush(&to);
        drop(to);
        assert_same(&from, &open(dirs.1.path(), Some(&checkpoint)));
    }
}

#[test]
fn a_replica_that_is_behind_copies_only_what_it_lacks() {
    for start in [0, 10, 40] {
        let dirs = (scratch(), scratch());
        let from = source(dirs.0.path(), 0);
        let to = open(dirs.1.path(), None);
        to.append_copied(&bytes_from(&from, 0)[..0])
            .expect("nothing");
        let half = from.read(0, 45, 1 << 20, true).expect("a read");
        to.append_copied(&half.slices.concat()).expect("copied");
        let had = to.log_end_offset();
        assert!(had > 10 && had < 90);
        from.set_log_start_offset(start).expect("moved");
        let (first, end) = to.begin_catch_up(&from.manifest()).expect("begun");
        assert_eq!((first, end), (had.max(start), 90));
        copy(&from, &to, 700).expect("copied");
        assert_same(&from, &to);
    }
}

#[test]
fn known_batches_are_skipped_and_wrong_ones_refused() {
    let dirs = (scratch(), scratch());
    let from = source(dirs.0.path(), 0);
    let to = open(dirs.1.path(), None);
    let all = bytes_from(&from, 0);
    let sizes: Vec<usize> = headers(&all)
        .iter()
        .map(BatchHeader::size_in_bytes)
        .collect();
    let five: usize = sizes[..5].iter().sum();
    to.append_copied(&all[..five]).expect("copied");
    to.append_copied(&all[..five + sizes[5]])
        .expect("overlapping");
    assert_eq!(to.log_end_offset(), 18);
    let refused = |bytes: &[u8]| {
        let before = (to.log_end_offset(), to.size_bytes());
        assert!(to.append_copied(bytes).is_err());
        assert_eq!((to.log_end_offset(), to.size_bytes()), before);
    };
    let next = &all[five + sizes[5]..];
    // Cut, damaged, and with a hole.
    refused(&next[..sizes[6] - 1]);
    refused(&next[..10]);
    let mut damaged = next.to_vec();
    damaged[sizes[6] + 70] ^= 1;
    refused(&damaged);
    refused(&next[sizes[6]..]);
    let hole = [&next[..sizes[6]], &next[sizes[6] + sizes[7]..]].concat();
    refused(&hole);
    to.append_copied(next).expect("copied");
    assert!(to.finish_catch_up(b"\xff").is_err());
    to.finish_catch_up(&from.manifest()).expect("the same end");
    append(&from, &Sample::default(), 9);
    let late = to.finish_catch_up(&from.manifest());
    assert!(matches!(late, Err(StorageError::Corrupt { .. })));
}

/// The journal's checkpoint still describes the log from before the copy began.
#[test]
fn a_crash_at_any_batch_of_a_copy_leaves_a_log_that_opens() {
    let dir = scratch();
    let from = source(dir.path(), 50);
    let all = headers(&bytes_from(&from, 50)).len();
    for copied in 0..=all {
        let dir = scratch();
        let to = open(dir.path(), None);
        for i in 0..10 {
            append(&to, &Sample::of(2, 400, i), 1);
        }
        let (checkpoint, before) = (flush(&to), to.log_end_offset());
        assert!(before < 50);
        let (mut next, end) = to.begin_catch_up(&from.manifest()).expect("begun");
        assert_eq!((next, end), (50, 90));
        for _ in 0..copied {
            let read = from.read(next, end, 1, true).expect("a read");
            to.append_copied(&read.slices.concat()).expect("copied");
            next = to.log_end_offset();
        }
        // The journal may take a checkpoint at any moment: it stands for what was there before.
        let checkpoint = if copied % 2 == 0 {
            checkpoint
        } else {
            flush(&to)
        };
        drop(to);
        let to = open(dir.path(), Some(&checkpoint));
        assert_eq!(to.log_end_offset(), before, "after {copied} batches");
        assert_eq!(append(&to, &Sample::default(), 1), appended(before, before));
        let again = flush(&to);
        let start = to.log_start_offset();
        drop(to);
        let to = open(dir.path(), Some(&again));
        assert_eq!(to.log_start_offset(), start);
        let before = to.log_end_offset();
        assert_eq!(append(&to, &Sample::default(), 1), appended(before, before));
        copy(&from, &to, 600).expect("copied");
        assert_same(&from, &to);
        let checkpoint = flush(&to);
        drop(to);
        assert_same(&from, &open(dir.path(), Some(&checkpoint)));
    }
}

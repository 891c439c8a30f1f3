//! What a checkpoint does not touch.

use super::*;
use std::os::unix::fs::MetadataExt;

/// Number of the file's inode: another one each time a file is replaced.
fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).expect("the file").ino()
}

#[test]
fn a_checkpoint_writes_only_files_that_have_something_new() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    let (index, times) = (
        "00000000000000000000.index",
        "00000000000000000000.timeindex",
    );
    let config = LogConfig::default();
    let log = open_with(dir.path(), config.clone(), None).expect("the log opens");
    append(&log, &Sample::of(2, 700, 1), 4);
    flush(&log);
    assert!(
        !path(index).exists() && !path(times).exists(),
        "a segment shorter than the index interval has no index files"
    );
    let epochs = inode(&path("leader-epoch-checkpoint"));
    append(&log, &Sample::of(2, 700, 2), 4);
    flush(&log);
    assert_eq!(inode(&path("leader-epoch-checkpoint")), epochs);
    append(&log, &Sample::of(2, 700, 3), 5);
    let checkpoint = flush(&log);
    assert_ne!(inode(&path("leader-epoch-checkpoint")), epochs);

    for at in 4..12 {
        append(&log, &Sample::of(2, 700, at), 5);
    }
    drop(log);
    let log = open_with(dir.path(), config, Some(&checkpoint)).expect("the log opens");
    for at in 4..100 {
        append(&log, &Sample::of(2, 700, at), 5);
    }
    flush(&log);
    assert!(
        !path(index).exists() && !path(times).exists(),
        "what is quickly read again needs none"
    );
    for at in 100..180 {
        append(&log, &Sample::of(20, 700, at), 5);
    }
    flush(&log);
    let length = |name| path(name).metadata().map_or(0, |m| m.len());
    let written = (length(index), length(times));
    assert!(written.0 > 0 && written.1 > 0);
    append(&log, &Sample::of(20, 700, 180), 5);
    let checkpoint = flush(&log);
    assert_eq!((length(index), length(times)), written);
    let sought = |log: &PartitionLog| {
        let read = log.read(log.log_end_offset() - 1, i64::MAX, 1, true);
        read.expect("a batch").slices[0].to_vec()
    };
    let last = sought(&log);
    drop(log);
    let log = open_with(dir.path(), LogConfig::default(), Some(&checkpoint));
    assert_eq!(sought(&log.expect("the log opens")), last);
}

/// A segment that is made where one was before a crash does not get that one's index.
#[test]
fn a_new_segment_has_nothing_of_an_older_one_at_its_place() {
    let dir = scratch();
    let log = open_with(dir.path(), LogConfig::default(), None).expect("the log opens");
    let index = dir.path().join("00000000000000000000.index");
    std::fs::write(&index, [0, 0, 0, 0, 0, 0, 0, 5]).expect("written");
    append(&log, &Sample::of(2, 700, 1), 4);
    assert!(!index.exists());
}

/// Index files that do not belong to the segment must not outlive the first sync, although the
/// segment is too short to have entries of its own.
#[test]
fn files_of_an_index_that_was_thrown_away_are_emptied() {
    let dir = scratch();
    let config = LogConfig::default();
    let log = open_with(dir.path(), config.clone(), None).expect("the log opens");
    append(&log, &Sample::of(2, 700, 1), 4);
    let checkpoint = flush(&log);
    drop(log);
    let index = dir.path().join("00000000000000000000.index");
    std::fs::write(&index, [0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 4]).expect("written");
    let log = open_with(dir.path(), config, Some(&checkpoint)).expect("the log opens");
    append(&log, &Sample::of(2, 700, 2), 4);
    flush(&log);
    assert_eq!(std::fs::read(&index).expect("the file"), []);
}

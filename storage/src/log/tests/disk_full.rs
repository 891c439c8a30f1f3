//! On a full disk nothing half-done becomes visible, readers go on, and the same call works later.

use super::*;
use crate::test_disk::SmallDisk;

const DISK: usize = 512 * 1024;

fn batch(i: i32, bytes: usize) -> AppendBatch {
    AppendBatch {
        bytes: Sample::of(1, bytes, 1).by_producer(1, 0, i).build(),
        leader_epoch: 1,
        origin: BatchOrigin::Client,
    }
}

/// Uses up the room but for less than one page.
fn fill(path: &Path) {
    let mut ballast = Vec::new();
    while std::fs::write(path, &ballast).is_ok() {
        ballast.resize(ballast.len() + 4096, 1);
    }
}

#[test]
fn a_full_disk_changes_nothing_and_the_same_call_works_later() {
    let Some(disk) = SmallDisk::new(DISK) else {
        return;
    };
    let dir = disk.path().join("topic-0");
    let ballast = disk.path().join("ballast");
    let config = LogConfig {
        segment_bytes: 64 * 1024,
        ..LogConfig::default()
    };
    let log = open_with(&dir, config.clone(), None).expect("opens");
    for i in 0..8 {
        log.append(&[batch(i, 10_000)]).expect("room");
    }
    assert_eq!(log.segments().len(), 2);
    let checkpoint = flush(&log);
    fill(&ballast);
    let before = state_of(&log);
    for _ in 0..2 {
        let run = [batch(8, 20_000), batch(9, 20_000)];
        let full = log.append(&run);
        assert!(
            matches!(full, Err(StorageError::DiskFull { .. })),
            "{full:?}"
        );
        assert_eq!(state_of(&log), before, "readers see what they saw");
    }
    // A duplicate needs no room.
    let outcomes = log.append(&[batch(7, 10_000)]).expect("no room needed");
    assert!(matches!(outcomes[..], [AppendOutcome::Duplicate { .. }]));

    // Half a batch at the end of a segment that is closed now is not taken for a record.
    log.maybe_roll(i64::MAX / 2);
    std::fs::remove_file(&ballast).expect("removed");
    let outcomes = log
        .append(&[batch(8, 20_000), batch(9, 20_000)])
        .expect("room");
    assert_eq!(outcomes, [appended(8, 8), appended(9, 9)]);
    let (after, later) = (state_of(&log), flush(&log));
    drop(log);
    assert_eq!(
        state_of(&open_with(&dir, config.clone(), Some(&later)).expect("opens")),
        after
    );
    assert_eq!(
        state_of(&open_with(&dir, config, Some(&checkpoint)).expect("opens")),
        before
    );
}

/// Retention is what makes room, so it must not need any.
#[test]
fn the_log_start_moves_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(DISK) else {
        return;
    };
    let dir = disk.path().join("topic-0");
    let log = open(&dir, None);
    for i in 0..6 {
        log.append(&[batch(i, 1_500)]).expect("room");
    }
    let checkpoint = flush(&log);
    fill(&disk.path().join("ballast"));
    assert!(log.append(&[batch(6, 20_000)]).is_err());
    log.set_log_start_offset(4).expect("moved");
    assert_eq!(log.segments()[0].base_offset, 4);
    log.append(&[batch(6, 1_500)]).expect("there is room again");
    drop(log);
    let log = open(&dir, Some(&checkpoint));
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (4, 6));
}

/// A run that begins in a segment with room and goes on in one without: what fits is applied, the
/// rest as if it had never been asked for.
#[test]
fn a_disk_that_fills_within_a_run_applies_its_beginning() {
    let Some(disk) = SmallDisk::new(DISK) else {
        return;
    };
    let dir = disk.path().join("topic-0");
    let ballast = disk.path().join("ballast");
    let config = LogConfig {
        segment_bytes: 64 * 1024,
        ..LogConfig::default()
    };
    let log = open_with(&dir, config.clone(), None).expect("opens");
    for i in 0..6 {
        log.append(&[batch(i, 10_000)]).expect("room");
    }
    fill(&ballast);
    // The first one ends in the page that the segment has already; the second begins a new segment.
    let run = [batch(6, 500), batch(7, 20_000), batch(7, 20_000)];
    let outcomes = log.append(&run).expect("room for the first");
    assert_eq!(outcomes, [appended(6, 6)]);
    let before = state_of(&log);
    let full = log.append(&run[1..]);
    assert!(
        matches!(full, Err(StorageError::DiskFull { .. })),
        "{full:?}"
    );
    assert_eq!(state_of(&log), before);
    std::fs::remove_file(&ballast).expect("removed");
    let outcomes = log.append(&run[1..]).expect("room");
    let [first, AppendOutcome::Duplicate { base_offset: 7, .. }] = outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(first, appended(7, 7));
    let (after, later) = (state_of(&log), flush(&log));
    drop(log);
    assert_eq!(
        state_of(&open_with(&dir, config, Some(&later)).expect("opens")),
        after
    );
}

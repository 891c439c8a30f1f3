use super::*;

/// Twelve segments of one batch of two records each, one millisecond apart.
fn filled(dir: &Path) -> PartitionLog {
    let log = open(dir, None);
    for i in 0..12 {
        append(&log, &Sample::of(2, 600, 1_000 + i * 2), 1 + i as i32 / 4);
    }
    assert_eq!(log.segments().len(), 12);
    log
}

fn files(dir: &Path, suffix: &str) -> usize {
    let names = std::fs::read_dir(dir).expect("the folder");
    let names = names.map(|e| e.expect("an entry").file_name());
    names
        .filter(|n| n.to_string_lossy().ends_with(suffix))
        .count()
}

#[test]
fn segments_below_the_log_start_go_with_all_their_files() {
    let dir = scratch();
    let log = filled(dir.path());
    flush(&log);
    assert_eq!(
        (files(dir.path(), ".log"), files(dir.path(), ".timeindex")),
        (12, 11),
        "the last one is too short for index entries"
    );
    log.set_log_start_offset(9).expect("moved");
    assert_eq!(log.log_start_offset(), 9);
    // Offset 9 is the second record of its segment.
    assert_eq!(log.segments()[0].base_offset, 8);
    for (suffix, count) in [(".log", 8), (".index", 7), (".timeindex", 7)] {
        assert_eq!(files(dir.path(), suffix), count, "{suffix}");
    }
    // It never goes back, nor past the end.
    for offset in [8, 0, -5, 25, i64::MAX] {
        log.set_log_start_offset(offset).expect("ignored");
        assert_eq!(log.log_start_offset(), 9);
    }
    log.set_log_start_offset(24).expect("moved to the end");
    assert_eq!((log.log_start_offset(), log.segments().len()), (24, 1));
    assert_eq!(append(&log, &Sample::default(), 9), appended(24, 24));
    assert_eq!(
        log.read(24, 25, 1 << 20, true).expect("a read").next_offset,
        25
    );
}

#[test]
fn retention_gives_up_whole_old_segments_only() {
    let dir = scratch();
    let log = filled(dir.path());
    let size = log.segments()[0].bytes as i64;
    assert_eq!(log.retention_candidate(2_000, -1, -1), None);
    // By time: segment i ends at 1,001 + 2 i.
    assert_eq!(log.retention_candidate(1_101, 100, -1), None);
    assert_eq!(log.retention_candidate(1_102, 100, -1), Some(2));
    assert_eq!(log.retention_candidate(1_110, 100, -1), Some(10));
    assert_eq!(
        log.retention_candidate(i64::MAX, 0, -1),
        Some(24),
        "the last one as well, when it is all that is left"
    );
    // By size: what is left is never less than the limit.
    assert_eq!(log.retention_candidate(0, -1, 12 * size), None);
    assert_eq!(log.retention_candidate(0, -1, 11 * size), Some(2));
    assert_eq!(log.retention_candidate(0, -1, 11 * size - 1), Some(2));
    assert_eq!(log.retention_candidate(0, -1, 10 * size), Some(4));
    assert_eq!(log.retention_candidate(0, -1, 0), Some(24));
    log.set_log_start_offset(5).expect("moved");
    assert_eq!(log.retention_candidate(1_102, 100, -1), None, "not back");
    assert_eq!(log.retention_candidate(1_110, 100, -1), Some(10));
}

#[test]
fn retention_by_time_is_the_same_after_a_restart() {
    let dir = scratch();
    let log = filled(dir.path());
    let checkpoint = flush(&log);
    drop(log);
    let log = open(dir.path(), Some(&checkpoint));
    assert_eq!(log.retention_candidate(1_101, 100, -1), None);
    assert_eq!(log.retention_candidate(1_110, 100, -1), Some(10));
}

#[test]
fn records_without_a_timestamp_are_as_old_as_their_segment() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let without = Sample {
        records: vec![(-1, None, Some(vec![1; 1_500]))],
        ..Sample::default()
    };
    append(&log, &without, 1);
    append(&log, &without, 1);
    let now = super::super::segment::now_ms();
    assert_eq!(log.retention_candidate(now, 60_000, -1), None);
    assert_eq!(log.retention_candidate(now + 70_000, 60_000, -1), Some(2));
}

/// The journal's last checkpoint may be older than the log start: what it speaks of is gone.
#[test]
fn a_crash_after_the_log_start_moved_is_no_damage() {
    for (at_checkpoint, moved) in [
        (12, 9),
        (12, 24),
        (4, 3),
        (4, 7),
        (4, 8),
        (4, 9),
        (4, 24),
        (0, 10),
    ] {
        let dir = scratch();
        let log = open(dir.path(), None);
        let batches: Vec<_> = (0..12)
            .map(|i| {
                (
                    Sample::of(2, 600, i * 2)
                        .by_producer(1, 0, i as i32 * 2)
                        .build(),
                    1 + i as i32,
                )
            })
            .collect();
        append_all(&log, &batches[..at_checkpoint]);
        let checkpoint = flush(&log);
        append_all(&log, &batches[at_checkpoint..]);
        log.set_log_start_offset(moved).expect("moved");
        let before = state_of(&log);
        drop(log);

        let log = open(dir.path(), Some(&checkpoint));
        assert_eq!(log.log_end_offset(), at_checkpoint as i64 * 2);
        assert!(log.log_start_offset() <= moved);
        // Replay.
        append_all(&log, &batches[at_checkpoint..]);
        log.set_log_start_offset(moved).expect("moved");
        assert_eq!(state_of(&log), before, "{at_checkpoint} {moved}");
        // And once more from a checkpoint of this run.
        let checkpoint = flush(&log);
        drop(log);
        let log = open(dir.path(), Some(&checkpoint));
        assert_eq!(state_of(&log), before, "{at_checkpoint} {moved}");
    }
}

/// A log that starts anew in the same folder knows nothing of the old one's start.
#[test]
fn a_log_without_a_checkpoint_starts_empty() {
    let dir = scratch();
    let log = filled(dir.path());
    log.set_log_start_offset(9).expect("moved");
    let _ = flush(&log);
    drop(log);
    let log = open(dir.path(), None);
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (0, 0));
    assert_eq!(files(dir.path(), ".log"), 0);
    for _ in 0..12 {
        append(&log, &Sample::of(2, 600, 1), 1);
    }
    let checkpoint = flush(&log);
    drop(log);
    let log = open(dir.path(), Some(&checkpoint));
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (0, 24));
}

/// Segments end after `segment.ms` less a jitter, of compacted logs also after `max.compaction.lag.ms`.
#[test]
fn the_age_at_which_a_segment_ends() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let now = super::super::segment::now_ms();
    let ends_after = |config: LogConfig| {
        log.update_config(config);
        append(&log, &Sample::default(), 1);
        let count = log.segments().len();
        (0..200).find(|seconds| {
            log.maybe_roll(now + seconds * 1_000);
            log.segments().len() > count
        })
    };
    let config = LogConfig {
        segment_ms: 100_000,
        ..small()
    };
    assert!(ends_after(config.clone()).is_some_and(|s| (100..=102).contains(&s)));
    let jitter = LogConfig {
        segment_jitter_ms: 50_000,
        ..config.clone()
    };
    assert!(ends_after(jitter).is_some_and(|s| (50..=102).contains(&s)));
    let lag = LogConfig {
        max_compaction_lag_ms: 20_000,
        ..config
    };
    assert!(
        ends_after(lag.clone()).is_some_and(|s| s >= 100),
        "not compacted"
    );
    let compacted = LogConfig {
        compact: true,
        ..lag
    };
    assert!(ends_after(compacted).is_some_and(|s| (20..=22).contains(&s)));
}

/// As DeleteRecords up to the high watermark leaves it.
#[test]
fn at_the_end_of_the_log_nothing_is_left_and_a_crash_changes_nothing() {
    for checkpoint_after in [false, true] {
        let dir = scratch();
        let log = filled(dir.path());
        let before = flush(&log);
        log.set_log_start_offset(24).expect("moved");
        assert_eq!((log.size_bytes(), files(dir.path(), ".log")), (0, 0));
        let checkpoint = if checkpoint_after {
            flush(&log)
        } else {
            before
        };
        drop(log);
        let log = open(dir.path(), Some(&checkpoint));
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (24, 24));
        assert_eq!(append(&log, &Sample::default(), 9), appended(24, 24));
    }
}

use super::*;
use proptest::prelude::*;

/// `(timestamp, offset)` of every record of `samples`, in order.
fn records(samples: &[Sample]) -> Vec<(i64, Offset)> {
    let timestamps = samples.iter().flat_map(|s| s.records.iter().map(|r| r.0));
    timestamps.zip(0..).collect()
}

#[test]
fn leader_epochs_end_where_the_next_one_begins() {
    let dir = scratch();
    let log = open(dir.path(), None);
    assert_eq!(
        log.epoch_end_offset(3, 3),
        Some((3, 0)),
        "nothing appended yet"
    );
    for (count, epoch) in [(2, 3), (1, 3), (4, 5), (1, 9)] {
        append(&log, &Sample::of(count, 10, 1), epoch);
    }
    let checkpoint = flush(&log);
    let check = |log: &PartitionLog| {
        let end = |asked| log.epoch_end_offset(asked, 11);
        // Older than everything known: where the log's first epoch begins (KIP-101).
        assert_eq!(end(2), Some((2, 0)));
        assert_eq!(end(3), Some((3, 3)));
        assert_eq!(end(4), Some((3, 3)));
        assert_eq!(end(5), Some((5, 7)));
        assert_eq!(end(8), Some((5, 7)));
        assert_eq!(end(9), Some((9, 8)));
        assert_eq!(end(10), Some((9, 8)));
        assert_eq!(end(11), Some((11, 8)), "the leader's own");
        assert_eq!(end(12), None, "not known to this leader");
        let at: Vec<_> = (0..8).map(|o| log.epoch_at(o)).collect();
        let expected = [3, 3, 3, 5, 5, 5, 5, 9].map(Some);
        assert_eq!(at, expected);
    };
    check(&log);
    drop(log);
    let log = open(dir.path(), Some(&checkpoint));
    check(&log);
    let file = std::fs::read_to_string(dir.path().join("leader-epoch-checkpoint"));
    assert_eq!(file.expect("the file"), "0\n3\n3 0\n5 3\n9 7\n");
    log.set_log_start_offset(4).expect("moved");
    assert_eq!(log.epoch_end_offset(4, 11), Some((4, 4)));
    assert_eq!(log.epoch_end_offset(5, 11), Some((5, 7)));
    assert_eq!(log.epoch_at(3), None);
}

#[test]
fn the_largest_timestamp_is_found_with_its_first_record() {
    let dir = scratch();
    let log = open(dir.path(), None);
    assert_eq!(log.offset_of_max_timestamp().expect("a look"), None);
    for at in [500, 900, 100, 901, 20] {
        append(&log, &Sample::of(2, 700, at), 4);
    }
    assert!(log.segments().len() > 3);
    assert_eq!(
        log.offset_of_max_timestamp().expect("a look"),
        Some((902, 7, 4))
    );
    log.set_log_start_offset(8).expect("moved");
    assert_eq!(
        log.offset_of_max_timestamp().expect("a look"),
        Some((21, 9, 4))
    );
}

#[test]
fn compressed_batches_are_looked_into() {
    use crate::compression::Compression::{Gzip, Lz4, Snappy, Zstd};
    let dir = scratch();
    let log = open(dir.path(), None);
    for (i, codec) in [Gzip, Lz4, Snappy, Zstd].into_iter().enumerate() {
        append(
            &log,
            &Sample::of(10, 50, i as i64 * 100).compressed(codec),
            1,
        );
    }
    for (timestamp, offset) in [(0, 0), (5, 5), (10, 10), (107, 17), (205, 25), (309, 39)] {
        let found = log.offset_for_timestamp(timestamp).expect("a look");
        assert_eq!(found.map(|f| f.1), Some(offset), "{timestamp}");
    }
    assert_eq!(log.offset_for_timestamp(310).expect("a look"), None);
}

/// Producers' records are stored without being read: those of one must not stop lookups.
#[test]
fn records_that_cannot_be_read_count_as_their_batch() {
    let dir = scratch();
    let log = open(dir.path(), None);
    append(&log, &Sample::of(2, 10, 100), 1);
    let odd = Sample::of(3, 10, 200).build_with_body(&[0xff; 60]);
    append_all(&log, &[(odd, 1)]);
    append(&log, &Sample::of(2, 10, 300), 1);
    let found = |t| log.offset_for_timestamp(t).expect("a look");
    assert_eq!(found(101), Some((101, 1, 1)));
    assert_eq!(found(150), Some((202, 2, 1)));
    assert_eq!(found(300), Some((300, 5, 1)));
    log.set_log_start_offset(3).expect("moved");
    assert_eq!(found(150), Some((202, 3, 1)));
    assert_eq!(
        log.offset_of_max_timestamp().expect("a look"),
        Some((301, 6, 1))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_first_record_at_or_after_a_time_is_found(
        batches in prop::collection::vec((1..5_usize, 0..300_usize, 0..400_i64), 1..40),
        start in 0..60_i64,
        interval in prop::sample::select(vec![0_u32, 100, 500, 4096]),
    ) {
        let dir = scratch();
        let config = LogConfig { index_interval_bytes: interval, ..small() };
        let log = open_with(dir.path(), config.clone(), None).expect("opens");
        let samples: Vec<Sample> = batches.iter().map(|(n, b, at)| Sample::of(*n, *b, *at)).collect();
        let half = samples.len() / 2;
        for sample in &samples[..half] {
            append(&log, sample, 2);
        }
        let checkpoint = flush(&log);
        drop(log);
        // Half of it read back, also what closed segments hold.
        let log = open_with(dir.path(), config, Some(&checkpoint)).expect("opens");
        for sample in &samples[half..] {
            append(&log, sample, 2);
        }
        log.set_log_start_offset(start).expect("moved");
        let kept: Vec<_> = records(&samples).into_iter()
            .filter(|r| r.1 >= log.log_start_offset()).collect();
        for timestamp in 0..410 {
            let expected = kept.iter().find(|r| r.0 >= timestamp).map(|r| (r.0, r.1, 2));
            prop_assert_eq!(log.offset_for_timestamp(timestamp).expect("a look"), expected, "at {}", timestamp);
        }
        let newest = kept.iter().map(|r| r.0).max();
        let expected = kept.iter().find(|r| Some(r.0) == newest).map(|r| (r.0, r.1, 2));
        prop_assert_eq!(log.offset_of_max_timestamp().expect("a look"), expected);
    }
}

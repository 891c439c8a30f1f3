//! KIP-98 against the plainest model of it.

use super::super::ProducerExpiry;
use super::super::ProducerRejection::{self, OutOfOrderSequence, StaleEpoch};
use super::*;
use proptest::prelude::*;

fn send(log: &PartitionLog, count: usize, producer: (i64, i16, i32)) -> AppendOutcome {
    let (id, epoch, sequence) = producer;
    let sample = Sample::of(count, 5, 1).by_producer(id, epoch, sequence);
    append(log, &sample, 1)
}

fn rejected(reason: ProducerRejection) -> AppendOutcome {
    AppendOutcome::Rejected(reason)
}

fn duplicate(base_offset: Offset, last_offset: Offset) -> AppendOutcome {
    AppendOutcome::Duplicate {
        base_offset,
        last_offset,
    }
}

#[test]
fn the_last_five_batches_are_recognised() {
    let dir = scratch();
    let log = open(dir.path(), None);
    for i in 0..7 {
        assert_eq!(
            send(&log, 2, (5, 0, i * 2)),
            appended(i64::from(i) * 2, i64::from(i) * 2 + 1)
        );
    }
    // Also after a restart.
    let checkpoint = flush(&log);
    drop(log);
    let log = open(dir.path(), Some(&checkpoint));
    for i in 2..7 {
        let base = i64::from(i) * 2;
        assert_eq!(send(&log, 2, (5, 0, i * 2)), duplicate(base, base + 1));
    }
    // Whether earlier ones were written cannot be told.
    for got in [0, 2] {
        let gap = OutOfOrderSequence { expected: 14, got };
        assert_eq!(send(&log, 2, (5, 0, got)), rejected(gap));
    }
    assert_eq!(log.log_end_offset(), 14);
    assert_eq!(send(&log, 1, (5, 0, 14)), appended(14, 14));
}

#[test]
fn gaps_and_old_epochs_are_refused_with_their_reason() {
    let dir = scratch();
    let log = open(dir.path(), None);
    // Nothing is known of this producer, so it may start anywhere.
    assert_eq!(send(&log, 1, (5, 3, 100)), appended(0, 0));
    let gap = OutOfOrderSequence {
        expected: 101,
        got: 102,
    };
    assert_eq!(send(&log, 1, (5, 3, 102)), rejected(gap));
    let stale = StaleEpoch { current: 3, got: 2 };
    assert_eq!(send(&log, 1, (5, 2, 101)), rejected(stale));
    let not_from_zero = OutOfOrderSequence {
        expected: 0,
        got: 101,
    };
    assert_eq!(send(&log, 1, (5, 4, 101)), rejected(not_from_zero));
    assert_eq!(send(&log, 1, (5, 4, 0)), appended(1, 1));
    assert_eq!(
        send(&log, 1, (5, 3, 101)),
        rejected(StaleEpoch { current: 4, got: 3 })
    );
    // The batches of the old epoch are not duplicates of the new one's.
    let gap = OutOfOrderSequence {
        expected: 1,
        got: 100,
    };
    assert_eq!(send(&log, 1, (5, 4, 100)), rejected(gap));
    assert_eq!(send(&log, 1, (6, 0, 0)), appended(2, 2));
    assert_eq!(log.log_end_offset(), 3);
}

#[test]
fn sequences_wrap() {
    let dir = scratch();
    let log = open(dir.path(), None);
    assert_eq!(send(&log, 2, (5, 0, i32::MAX - 2)), appended(0, 1));
    assert_eq!(send(&log, 3, (5, 0, i32::MAX)), appended(2, 4));
    assert_eq!(send(&log, 3, (5, 0, i32::MAX)), duplicate(2, 4));
    assert_eq!(send(&log, 1, (5, 0, 2)), appended(5, 5));
    assert_eq!(send(&log, 2, (5, 0, i32::MAX - 2)), duplicate(0, 1));
    let gap = OutOfOrderSequence {
        expected: 3,
        got: 4,
    };
    assert_eq!(send(&log, 1, (5, 0, 4)), rejected(gap));
}

#[test]
fn a_repetition_within_one_call_is_recognised() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let batch = (Sample::of(2, 5, 1).by_producer(5, 0, 0).build(), 1);
    let other = (Sample::of(1, 5, 1).build(), 1);
    let outcomes = append_all(&log, &[batch.clone(), other, batch]);
    assert_eq!(outcomes, [appended(0, 1), appended(2, 2), duplicate(0, 1)]);
}

#[test]
fn duplicates_keep_their_offsets_when_the_records_are_gone() {
    let dir = scratch();
    let log = open(dir.path(), None);
    send(&log, 2, (5, 0, 0));
    for _ in 0..20 {
        append(&log, &Sample::of(1, 500, 1), 1);
    }
    log.set_log_start_offset(15).expect("moved");
    assert_eq!(send(&log, 2, (5, 0, 0)), duplicate(0, 1));
}

/// What a million short-lived producers cost: run with `--ignored --nocapture`.
/// A batch must not be written before one that was refused and comes again.
#[test]
fn a_producer_that_never_wrote_begins_at_zero_where_that_is_asked_for() {
    let late = |got| rejected(OutOfOrderSequence { expected: 0, got });
    let expiry = |now_ms| ProducerExpiry {
        now_ms,
        expiration_ms: 100,
        keep_max: 9,
    };
    let dir = scratch();
    let log = open(dir.path(), None);
    log.require_first_sequences();
    assert_eq!(send(&log, 2, (5, 0, 2)), late(2));
    assert_eq!(send(&log, 2, (5, 0, 0)), appended(0, 1));
    assert_eq!(send(&log, 2, (5, 0, 2)), appended(2, 3));
    log.expire_producers(&expiry(1_000));
    assert_eq!(send(&log, 1, (6, 0, 0)), appended(4, 4));
    log.expire_producers(&expiry(1_100));
    assert_eq!(log.producer_count(), 1);

    // 5 is forgotten, so nothing is sure of those up to it; and so it stays after a restart, and on a
    // replica that has the log from this one.
    let copied = scratch();
    let copy = open(copied.path(), None);
    copy.require_first_sequences();
    catch_up::copy(&log, &copy, 1_000).expect("copied");
    let checkpoint = flush(&log);
    drop(log);
    let log = open(dir.path(), Some(&checkpoint));
    log.require_first_sequences();
    for log in [log, copy] {
        assert_eq!(send(&log, 1, (7, 0, 1)), late(1));
        assert_eq!(send(&log, 1, (5, 0, 4)), appended(5, 5));
        assert_eq!(send(&log, 1, (4, 0, 9)), appended(6, 6));
        assert_eq!(send(&log, 1, (7, 0, 0)), appended(7, 7));
    }

    // So it is for those of whom there were too many.
    let dir = scratch();
    let log = open(dir.path(), None);
    log.require_first_sequences();
    for id in 1..=3 {
        assert_eq!(send(&log, 1, (id, 0, 0)), appended(id - 1, id - 1));
    }
    log.expire_producers(&ProducerExpiry {
        keep_max: 1,
        ..expiry(1_000)
    });
    assert_eq!(log.producer_count(), 1);
    assert_eq!(send(&log, 1, (2, 0, 1)), appended(3, 3));
    assert_eq!(send(&log, 1, (4, 0, 1)), late(1));
}

#[test]
#[ignore = "a measurement"]
fn bytes_of_a_million_producers() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").expect("linux");
        let pages = status
            .split(' ')
            .nth(1)
            .and_then(|p| p.parse::<usize>().ok());
        pages.expect("pages") * 4096
    };
    let mut producers = super::super::producers::Producers::default();
    let before = resident();
    for id in 0..1_000_000 {
        let batch = Sample::of(1, 5, 1).by_producer(id, 0, 0).build();
        let header = BatchHeader::parse(&batch).expect("a header");
        producers.appended(&header, id);
    }
    let bytes = resident() - before;
    println!("{} bytes a producer", bytes / 1_000_000);
    assert!(bytes < 400_000_000);
}

/// One producer: its epoch and all batches of it, `(first, last, base offset)`.
type Known = (i16, Vec<(i32, i32, Offset)>);

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn outcomes_are_as_in_a_model_that_remembers_everything(
        first_sequences: bool,
        sends in prop::collection::vec((0..2_i64, 0..2_i16, 0..14_i32, 1..3_usize), 1..80),
    ) {
        let dir = scratch();
        let log = open(dir.path(), None);
        if first_sequences {
            log.require_first_sequences();
        }
        let mut model: std::collections::HashMap<i64, Known> = Default::default();
        let mut end = 0;
        for (id, epoch, first, count) in sends {
            let last = first + count as i32 - 1;
            let outcome = send(&log, count, (id, epoch, first));
            if first_sequences && first != 0 && !model.contains_key(&id) {
                prop_assert_eq!(outcome, rejected(OutOfOrderSequence { expected: 0, got: first }));
                continue;
            }
            let (known_epoch, batches) = model.entry(id).or_insert((epoch, Vec::new()));
            let newest = batches.last().copied();
            let recent = batches.iter().rev().take(5).find(|b| (b.0, b.1) == (first, last));
            let expected = if epoch < *known_epoch {
                rejected(StaleEpoch { current: *known_epoch, got: epoch })
            } else if epoch > *known_epoch && first != 0 {
                rejected(OutOfOrderSequence { expected: 0, got: first })
            } else if epoch > *known_epoch || newest.is_none_or(|n| n.1 + 1 == first) {
                appended(end, end + count as i64 - 1)
            } else if let Some((_, _, base)) = recent {
                duplicate(*base, base + count as i64 - 1)
            } else {
                let expected = newest.map_or(0, |n| n.1 + 1);
                rejected(OutOfOrderSequence { expected, got: first })
            };
            prop_assert_eq!(outcome, expected);
            if matches!(outcome, AppendOutcome::Appended { .. }) {
                if epoch > *known_epoch {
                    *known_epoch = epoch;
                    batches.clear();
                }
                batches.push((first, last, end));
                end += count as i64;
            }
            prop_assert_eq!(log.log_end_offset(), end);
        }
    }
}

//! Transactions against the plainest model of them: all batches in a list.

use super::super::ProducerRejection::{
    CoordinatorFenced, InvalidTxnState, OutOfOrderSequence, StaleEpoch,
};
use super::super::{AbortedTransaction, ProducerExpiry, ProducerRejection, TxnStanding};
use super::*;
use crate::batch::EndTxnMarker;
use proptest::prelude::*;
use std::collections::HashMap;

const TRANSACTIONAL: i16 = 0x10;

fn one(log: &PartitionLog, bytes: Bytes, origin: BatchOrigin) -> AppendOutcome {
    let batch = AppendBatch {
        bytes,
        leader_epoch: 1,
        origin,
    };
    log.append(&[batch]).expect("appended")[0]
}

fn records(count: usize, (id, epoch, sequence): (i64, i16, i32)) -> Bytes {
    let mut sample = Sample::of(count, 5, 1).by_producer(id, epoch, sequence);
    sample.attributes = TRANSACTIONAL;
    sample.build()
}

/// Sends as a broker does: asks "the coordinator", which agrees, when no transaction is open.
pub(super) fn send(log: &PartitionLog, count: usize, producer: (i64, i16, i32)) -> AppendOutcome {
    let origin = match log.transaction_standing(producer.0, producer.1) {
        TxnStanding::Open => BatchOrigin::Client,
        TxnStanding::Unverified { last_marker } => BatchOrigin::Verified { last_marker },
    };
    one(log, records(count, producer), origin)
}

pub(super) fn mark(
    log: &PartitionLog,
    (id, epoch): (i64, i16),
    commit: bool,
    coordinator_epoch: i32,
    bumped: bool,
) -> AppendOutcome {
    let marker = EndTxnMarker {
        commit,
        coordinator_epoch,
    };
    one(
        log,
        marker.batch(id, epoch, 1),
        BatchOrigin::Coordinator { bumped },
    )
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

fn aborted(log: &PartitionLog, from: Offset) -> Vec<(i64, Offset, Offset)> {
    let found = log
        .aborted_transactions(from, log.last_stable_offset())
        .expect("an index");
    found
        .into_iter()
        .map(|a| (a.producer_id, a.first_offset, a.last_offset))
        .collect()
}

#[test]
fn the_last_stable_offset_is_the_first_record_of_the_earliest_open_transaction() {
    let dir = scratch();
    let log = open(dir.path(), None);
    append(&log, &Sample::of(3, 5, 1), 1);
    assert_eq!(log.last_stable_offset(), 3);
    assert_eq!(send(&log, 2, (1, 0, 0)), appended(3, 4));
    assert_eq!(log.last_stable_offset(), 3);
    assert_eq!(send(&log, 1, (2, 0, 0)), appended(5, 5));
    append(&log, &Sample::of(1, 5, 1), 1);
    assert_eq!((log.last_stable_offset(), log.log_end_offset()), (3, 7));
    assert_eq!(mark(&log, (1, 0), true, 1, false), appended(7, 7));
    assert_eq!(log.last_stable_offset(), 5);
    // The same after a restart.
    let checkpoint = flush(&log);
    drop(log);
    let log = open(dir.path(), Some(&checkpoint));
    assert_eq!(log.last_stable_offset(), 5);
    assert_eq!(mark(&log, (2, 0), false, 1, false), appended(8, 8));
    assert_eq!((log.last_stable_offset(), log.log_end_offset()), (9, 9));
    assert_eq!(aborted(&log, 0), [(2, 5, 8)]);
    // Nothing of it lies at or above the offset read from.
    assert_eq!(aborted(&log, 9), []);
    let below = log.aborted_transactions(0, 5).expect("an index");
    assert_eq!(below, []);
}

#[test]
fn a_marker_without_a_transaction_fences_and_hides_nothing() {
    let dir = scratch();
    let log = open(dir.path(), None);
    assert_eq!(mark(&log, (1, 5), false, 1, true), appended(0, 0));
    assert_eq!(aborted(&log, 0), []);
    assert_eq!(log.last_stable_offset(), 1);
    // A batch that was on its way when its transaction was aborted.
    let stale = StaleEpoch { current: 5, got: 4 };
    assert_eq!(send(&log, 1, (1, 4, 0)), rejected(stale));
    // The next epoch begins at 0.
    let gap = OutOfOrderSequence {
        expected: 0,
        got: 3,
    };
    assert_eq!(send(&log, 1, (1, 5, 3)), rejected(gap));
    assert_eq!(send(&log, 1, (1, 5, 0)), appended(1, 1));
}

#[test]
fn records_outside_of_a_transaction_the_coordinator_knows_are_refused() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let refused = rejected(InvalidTxnState);
    assert_eq!(
        one(&log, records(1, (1, 0, 0)), BatchOrigin::Client),
        refused
    );
    assert_eq!(send(&log, 1, (1, 0, 0)), appended(0, 0));
    // Once it is open nobody is asked.
    let plain = one(&log, records(1, (1, 0, 1)), BatchOrigin::Client);
    assert_eq!(plain, appended(1, 1));
    let not_transactional = Sample::of(1, 5, 1).by_producer(1, 0, 2);
    assert_eq!(append(&log, &not_transactional, 1), refused);
    assert_eq!(mark(&log, (1, 0), true, 1, false), appended(2, 2));
    assert_eq!(
        one(&log, records(1, (1, 0, 2)), BatchOrigin::Client),
        refused
    );
    // Asked before the marker came: that transaction is over.
    let late = BatchOrigin::Verified { last_marker: None };
    assert_eq!(one(&log, records(1, (1, 0, 2)), late), refused);
    // A repetition gets its offset although its transaction has ended.
    let again = one(&log, records(1, (1, 0, 1)), BatchOrigin::Client);
    assert_eq!(again, duplicate(1, 1));
    assert_eq!(send(&log, 1, (1, 0, 2)), appended(3, 3));
}

#[test]
fn a_late_marker_does_not_end_the_next_transaction() {
    let dir = scratch();
    let log = open(dir.path(), None);
    assert_eq!(send(&log, 1, (1, 0, 0)), appended(0, 0));
    assert_eq!(mark(&log, (1, 1), true, 3, true), appended(1, 1));
    // Sent again as its answer was lost.
    assert_eq!(mark(&log, (1, 1), true, 3, true), duplicate(1, 1));
    assert_eq!(send(&log, 1, (1, 1, 0)), appended(2, 2));
    let stale = StaleEpoch { current: 1, got: 1 };
    assert_eq!(mark(&log, (1, 1), true, 3, true), rejected(stale));
    assert_eq!(log.last_stable_offset(), 2);
    let fenced = CoordinatorFenced { current: 3, got: 2 };
    assert_eq!(mark(&log, (1, 2), true, 2, true), rejected(fenced));
    assert_eq!(mark(&log, (1, 2), false, 4, true), appended(3, 3));
    assert_eq!(aborted(&log, 0), [(1, 2, 3)]);
}

#[test]
fn the_highest_epoch_can_be_ended() {
    let dir = scratch();
    let log = open(dir.path(), None);
    assert_eq!(send(&log, 1, (1, i16::MAX - 1, 0)), appended(0, 0));
    assert_eq!(mark(&log, (1, i16::MAX), true, 1, true), appended(1, 1));
    let stale = StaleEpoch {
        current: i16::MAX,
        got: i16::MAX - 1,
    };
    assert_eq!(send(&log, 1, (1, i16::MAX - 1, 1)), rejected(stale));
}

#[test]
fn time_passes_by_what_is_replicated_only() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let at = |now_ms: i64, keep_max: u64| ProducerExpiry {
        now_ms,
        expiration_ms: 100,
        keep_max,
    };
    let ids = |log: &PartitionLog| -> Vec<i64> {
        log.producers().iter().map(|p| p.producer_id).collect()
    };
    append(&log, &Sample::of(1, 5, 1).by_producer(1, 0, 0), 1);
    send(&log, 1, (2, 0, 0));
    assert!(log.wants_expiry(&at(1_000, 9)));
    log.expire_producers(&at(1_000, 9));
    assert!(!log.wants_expiry(&at(1_099, 9)));
    append(&log, &Sample::of(1, 5, 1).by_producer(3, 0, 0), 1);
    log.expire_producers(&at(1_099, 9));
    assert_eq!(ids(&log), [1, 2, 3]);
    // The state travels: a restarted replica decides alike.
    let checkpoint = flush(&log);
    drop(log);
    let log = open(dir.path(), Some(&checkpoint));
    assert!(log.wants_expiry(&at(1_100, 9)));
    log.expire_producers(&at(1_100, 9));
    // 2 has a transaction open, 3 came later.
    assert_eq!(ids(&log), [2, 3]);
    for id in 10..20 {
        append(&log, &Sample::of(1, 5, 1).by_producer(id, 0, 0), 1);
    }
    log.expire_producers(&at(1_150, 4));
    assert_eq!(ids(&log), [2, 17, 18, 19]);
    // Forgotten: anything goes.
    let outcome = append(&log, &Sample::of(1, 5, 1).by_producer(3, 0, 50), 1);
    assert!(matches!(outcome, AppendOutcome::Appended { .. }));
}

#[test]
fn a_damaged_index_is_built_anew() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let mut sequence = 0;
    for round in 0..40 {
        send(&log, 2, (1, 0, sequence));
        sequence += 2;
        send(&log, 1, (2, 0, round));
        mark(&log, (1, 0), round % 3 == 0, 1, false);
        if round % 4 == 3 {
            mark(&log, (2, 0), false, 1, false);
        }
    }
    let expected = aborted(&log, 0);
    let checkpoint = flush(&log);
    assert!(log.segments().len() > 3);
    // The second one: transactions go over from the first.
    let path = log.segments()[1].path.with_extension("txnindex");
    drop(log);
    let bytes = std::fs::read(&path).expect("an index");
    assert_eq!(bytes.len() % 34, 0);
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("cut");
    let log = open(dir.path(), Some(&checkpoint));
    assert_eq!(aborted(&log, 0), expected);
    assert_eq!(std::fs::read(&path).expect("an index"), bytes);
}

/// Every batch there was, offsets assigned: what a naive reader works on.
#[derive(Debug, Clone, Default)]
struct Model {
    /// `(producer, offset, transactional)` of records; markers are `ended`.
    written: Vec<(i64, Offset, bool)>,
    /// `(producer, offset of the marker, commit)`
    ended: Vec<(i64, Offset, bool)>,
}

impl Model {
    fn fate(&self, producer: i64, offset: Offset) -> Option<bool> {
        let marker = self
            .ended
            .iter()
            .find(|(id, at, _)| *id == producer && *at > offset);
        marker.map(|m| m.2)
    }

    fn last_stable_offset(&self, end: Offset) -> Offset {
        self.written
            .iter()
            .filter(|(id, offset, transactional)| {
                *transactional && self.fate(*id, *offset).is_none()
            })
            .map(|w| w.1)
            .min()
            .unwrap_or(end)
    }

    /// Offsets a read_committed consumer gets from `from` on.
    fn visible(&self, from: Offset, until: Offset) -> Vec<Offset> {
        self.written
            .iter()
            .filter(|(id, offset, transactional)| {
                let committed = !*transactional || self.fate(*id, *offset) == Some(true);
                committed && (from..until).contains(offset)
            })
            .map(|w| w.1)
            .collect()
    }
}

/// Reads as the Java client does, from `from` up to the last stable offset, in fetches of about
/// `max_bytes`.
fn consume(log: &PartitionLog, from: Offset, max_bytes: usize) -> Vec<Offset> {
    let mut seen = Vec::new();
    let mut next = from;
    loop {
        let until = log.last_stable_offset();
        if next >= until {
            return seen;
        }
        let read = log.read(next, until, max_bytes, true).expect("read");
        let mut pending: Vec<AbortedTransaction> = log
            .aborted_transactions(next, read.next_offset)
            .expect("an index");
        pending.sort_by_key(|a| std::cmp::Reverse(a.first_offset));
        let mut hidden: HashMap<i64, ()> = HashMap::new();
        for header in headers(&read.slices.concat()) {
            while pending
                .last()
                .is_some_and(|a| a.first_offset <= header.last_offset())
            {
                hidden.extend(pending.pop().map(|a| (a.producer_id, ())));
            }
            if header.is_control() {
                // An abort marker ends it; a commit marker of a hidden producer would be a defect.
                hidden.remove(&header.producer_id);
                continue;
            }
            if header.is_transactional() && hidden.contains_key(&header.producer_id) {
                continue;
            }
            seen.extend((header.base_offset..=header.last_offset()).filter(|o| *o >= next));
        }
        next = read.next_offset;
    }
}

#[derive(Debug, Clone)]
enum Op {
    Plain,
    Send(i64, usize),
    Mark(i64, bool),
    Restart,
    Crash,
    Retain(u8),
    Catch,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        2 => Just(Op::Plain),
        8 => (0..4_i64, 1..4_usize).prop_map(|(id, count)| Op::Send(id, count)),
        5 => (0..4_i64, any::<bool>()).prop_map(|(id, commit)| Op::Mark(id, commit)),
        1 => Just(Op::Restart),
        1 => Just(Op::Crash),
        1 => any::<u8>().prop_map(Op::Retain),
        1 => Just(Op::Catch),
    ];
    prop::collection::vec(op, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn readers_see_committed_transactions_only(ops in ops(), bumped: bool) {
        let (dir, other) = (scratch(), scratch());
        let mut log = open(dir.path(), None);
        // A replica that is away most of the time and catches up by copying.
        let replica = open(other.path(), None);
        let mut model = Model::default();
        let mut saved = (flush(&log), model.clone(), HashMap::<i64, (i16, i32)>::new());
        let mut producers: HashMap<i64, (i16, i32)> = HashMap::new();
        for op in ops {
            match op {
                Op::Plain => {
                    if let AppendOutcome::Appended { base_offset, .. } = append(&log, &Sample::of(1, 5, 1), 1) {
                        model.written.push((-1, base_offset, false));
                    }
                }
                Op::Send(id, count) => {
                    let (epoch, sequence) = producers.entry(id).or_default();
                    let outcome = send(&log, count, (id, *epoch, *sequence));
                    *sequence += count as i32;
                    let AppendOutcome::Appended { base_offset, last_offset } = outcome else {
                        panic!("{outcome:?}");
                    };
                    model.written.extend((base_offset..=last_offset).map(|o| (id, o, true)));
                    let again = send(&log, count, (id, *epoch, *sequence - count as i32));
                    prop_assert_eq!(again, duplicate(base_offset, last_offset));
                }
                Op::Mark(id, commit) => {
                    let (epoch, sequence) = producers.entry(id).or_default();
                    if bumped {
                        (*epoch, *sequence) = (*epoch + 1, 0);
                    }
                    let outcome = mark(&log, (id, *epoch), commit, 1, bumped);
                    let AppendOutcome::Appended { base_offset, .. } = outcome else {
                        panic!("{outcome:?}");
                    };
                    model.ended.push((id, base_offset, commit));
                }
                Op::Restart => {
                    saved = (flush(&log), model.clone(), producers.clone());
                    drop(log);
                    log = open(dir.path(), Some(&saved.0));
                }
                Op::Crash => {
                    // Everything since the last checkpoint is cut.
                    drop(log);
                    log = open(dir.path(), Some(&saved.0));
                    (model, producers) = (saved.1.clone(), saved.2.clone());
                }
                Op::Retain(share) => {
                    let (start, end) = (log.log_start_offset(), log.log_end_offset());
                    log.set_log_start_offset(start + (end - start) * i64::from(share) / 512).expect("moved");
                    saved = (flush(&log), model.clone(), producers.clone());
                }
                Op::Catch if replica.log_end_offset() <= log.log_end_offset() => {
                    let manifest = log.manifest();
                    let (from, end) = replica.begin_catch_up(&manifest).expect("begun");
                    let mut next = from;
                    while next < end {
                        let read = log.read(next, end, 700, true).expect("read");
                        replica.append_copied(&read.slices.concat()).expect("copied");
                        next = read.next_offset;
                    }
                    replica.finish_catch_up(&manifest).expect("finished");
                    replica.end_catch_up();
                    prop_assert_eq!(state_of(&replica), state_of(&log));
                    let from = log.log_start_offset();
                    prop_assert_eq!(consume(&replica, from, 300), consume(&log, from, 300));
                    // What it has must not be cut: later crashes would part the two.
                    saved = (flush(&log), model.clone(), producers.clone());
                }
                Op::Catch => {}
            }
            let (start, end) = (log.log_start_offset(), log.log_end_offset());
            let stable = log.last_stable_offset();
            prop_assert_eq!(stable, model.last_stable_offset(end).max(start));
            for (from, bytes) in [(start, 10_000), (start, 200), ((start + stable) / 2, 400)] {
                prop_assert_eq!(consume(&log, from, bytes), model.visible(from, stable));
            }
        }
    }
}

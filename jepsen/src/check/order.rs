//! Did each client see its partitions move forward, without gaps?

use std::collections::HashMap;
use std::ops::Bound;

use super::Anomaly;
use super::log::Log;
use crate::history::{History, Key, Kind, Op, ProcessId};

/// Two offsets that follow each other in what one process polled from one key.
struct PollStep<'a> {
    process: ProcessId,
    key: &'a Key,
    from: i64,
    to: i64,
    /// Both were returned by one poll.
    within: bool,
    /// The process was assigned its keys anew in between.
    reassigned: bool,
}

impl PollStep<'_> {
    /// Offsets in between that are known to hold a record.
    fn skipped(&self, log: &Log) -> Vec<i64> {
        if self.to <= self.from {
            return Vec::new();
        }
        let between = (Bound::Excluded(self.from), Bound::Excluded(self.to));
        let held = &log.keys[self.key].values_at;
        held.range(between).map(|(offset, _)| *offset).collect()
    }
}

fn poll_steps(history: &History) -> Vec<PollStep<'_>> {
    let mut steps = Vec::new();
    // How often each process was assigned keys.
    let mut assigned: HashMap<ProcessId, u64> = HashMap::new();
    // Where each is, and since which of its assignments.
    let mut places: HashMap<(ProcessId, &Key), (Option<i64>, u64)> = HashMap::new();
    for event in history.events.iter().filter(|event| event.kind == Kind::Ok) {
        let process = event.process;
        match &event.op {
            Op::Poll { records } => {
                let assignment = assigned.get(&process).copied().unwrap_or(0);
                for (key, list) in records {
                    let place = places.entry((process, key));
                    let (last, since) = place.or_insert((None, assignment));
                    let again = std::mem::replace(since, assignment) != assignment;
                    for (n, (offset, _)) in list.iter().enumerate() {
                        if let Some(from) = last.replace(*offset) {
                            steps.push(PollStep {
                                process,
                                key,
                                from,
                                to: *offset,
                                within: n > 0,
                                reassigned: n == 0 && again,
                            });
                        }
                    }
                }
            }
            // Every partition's place is forgotten: an assignment replaces the one before.
            Op::Assign { .. } => *assigned.entry(process).or_default() += 1,
            _ => {}
        }
    }
    steps
}

/// Readers that went past offsets which are known to hold a record: from one poll to the next, or
/// (`int-`) within one.
#[must_use]
pub fn poll_skip(history: &History, log: &Log) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for step in poll_steps(history).iter().filter(|s| !s.reassigned) {
        let skipped = step.skipped(log);
        if skipped.is_empty() {
            continue;
        }
        let (process, key) = (step.process, step.key.clone());
        let (from, to) = (step.from, step.to);
        found.push(match step.within {
            false => Anomaly::PollSkip {
                process,
                key,
                from,
                to,
                skipped,
            },
            true => Anomaly::IntPollSkip {
                process,
                key,
                from,
                to,
                skipped,
            },
        });
    }
    found
}

/// Readers that were given an offset they had already gone past: from one poll to the next, or
/// (`int-`) within one.
#[must_use]
pub fn nonmonotonic_poll(history: &History) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let back = |step: &&PollStep<'_>| step.to <= step.from && !step.reassigned;
    for step in poll_steps(history).iter().filter(back) {
        let (process, key) = (step.process, step.key.clone());
        let (from, to) = (step.from, step.to);
        found.push(match step.within {
            false => Anomaly::NonmonotonicPoll {
                process,
                key,
                from,
                to,
            },
            true => Anomaly::IntNonmonotonicPoll {
                process,
                key,
                from,
                to,
            },
        });
    }
    found
}

/// How often readers skipped records, and went back, where a rebalance or a new assignment lay in
/// between: the protocol allows both, as another member goes on from what was committed.
#[must_use]
pub fn reassigned_steps(history: &History, log: &Log) -> (usize, usize) {
    let steps = poll_steps(history);
    let over = || steps.iter().filter(|step| step.reassigned);
    (
        over().filter(|step| !step.skipped(log).is_empty()).count(),
        over().filter(|step| step.to <= step.from).count(),
    )
}

/// Processes whose later send was answered an offset at or below an earlier one's.
#[must_use]
pub fn nonmonotonic_send(history: &History) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let mut last: HashMap<(ProcessId, &Key), i64> = HashMap::new();
    for event in history.events.iter().filter(|event| event.kind == Kind::Ok) {
        let Op::Send { key, offsets, .. } = &event.op else {
            continue;
        };
        for to in offsets.iter().copied().flatten() {
            let process = event.process;
            if let Some(from) = last.insert((process, key), to).filter(|from| to <= *from) {
                found.push(Anomaly::NonmonotonicSend {
                    process,
                    key: key.clone(),
                    from,
                    to,
                });
            }
        }
    }
    found
}

/// Transactions whose values to one key were given offsets against the order they were sent in.
#[must_use]
pub fn int_nonmonotonic_send(history: &History) -> Vec<Anomaly> {
    let mut found = Vec::new();
    send_steps(history, |process, key, from, to| {
        if to <= from {
            found.push(Anomaly::IntNonmonotonicSend {
                process,
                key: key.clone(),
                from,
                to,
            });
        }
    });
    found
}

/// How often others' values lie between two of one transaction in one key: allowed, as transactions
/// write while they are open.
#[must_use]
pub fn int_send_skip(history: &History, log: &Log) -> usize {
    let mut count = 0;
    send_steps(history, |_, key, from, to| {
        let between = (Bound::Excluded(from), Bound::Excluded(to));
        if from < to && log.keys[key].values_at.range(between).next().is_some() {
            count += 1;
        }
    });
    count
}

/// Calls `step(process, key, from, to)` for offsets that follow each other in one key of one
/// acknowledged transaction.
fn send_steps(history: &History, mut step: impl FnMut(ProcessId, &Key, i64, i64)) {
    for event in history.events.iter().filter(|event| event.kind == Kind::Ok) {
        let Op::Txn { keys, offsets, .. } = &event.op else {
            continue;
        };
        let mut last: HashMap<&Key, i64> = HashMap::new();
        for (key, offset) in keys.iter().zip(offsets) {
            let Some(to) = offset else { continue };
            if let Some(from) = last.insert(key, *to) {
                step(event.process, key, from, *to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    fn history(build: impl FnOnce(&mut History)) -> History {
        let mut history = History::default();
        build(&mut history);
        history
    }

    fn skips(history: &History) -> Vec<Anomaly> {
        poll_skip(history, &Log::of(history))
    }

    #[test]
    fn clean_history_is_valid() {
        let clean = history(|h| {
            h.send_ok(0, "t-0", 1, 0);
            h.send_ok(0, "t-0", 2, 1);
            h.assign(1, &["t-0"]);
            h.poll_ok(1, "t-0", vec![(0, 1)]);
            h.poll_ok(1, "t-0", vec![(1, 2)]);
        });
        let report = check::all(&clean);
        assert!(report.is_valid(), "{report}");
        assert_eq!((report.acknowledged_count, report.read_count), (2, 2));
    }

    #[test]
    fn empty_history_proves_nothing() {
        assert!(!check::all(&History::default()).is_valid());
    }

    #[test]
    fn a_reader_that_jumps_over_a_record_skips() {
        let jump = history(|h| {
            h.send_ok(0, "t-0", 2, 1);
            h.poll_ok(1, "t-0", vec![(0, 1)]);
            h.poll_ok(1, "t-0", vec![(2, 3)]);
        });
        let expected = Anomaly::PollSkip {
            process: 1,
            key: "t-0".into(),
            from: 0,
            to: 2,
            skipped: vec![1],
        };
        assert_eq!(skips(&jump), [expected]);
    }

    #[test]
    fn offsets_without_a_record_may_be_jumped_over() {
        let gap = history(|h| h.poll_ok(1, "t-0", vec![(0, 1), (5, 3)]));
        assert_eq!(skips(&gap), []);
    }

    #[test]
    fn a_new_assignment_may_begin_anywhere() {
        let seek = history(|h| {
            h.poll_ok(1, "t-0", vec![(0, 1), (1, 2), (2, 3)]);
            h.assign(1, &["t-0"]);
            h.poll_ok(1, "t-0", vec![(0, 1)]);
            h.assign(1, &["t-0"]);
            h.poll_ok(1, "t-0", vec![(2, 3)]);
        });
        assert_eq!(skips(&seek), []);
        assert_eq!(nonmonotonic_poll(&seek), []);
        // Listed all the same: back to 0, and over 1.
        assert_eq!(reassigned_steps(&seek, &Log::of(&seek)), (1, 1));
        let allowed = check::all(&seek).allowed;
        assert_eq!(allowed["poll-skip across an assignment"], 1);
        assert_eq!(allowed["nonmonotonic-poll across an assignment"], 1);
    }

    #[test]
    fn within_one_poll_it_has_a_name_of_its_own() {
        let jump = history(|h| {
            h.send_ok(0, "t-0", 2, 1);
            h.poll_ok(1, "t-0", vec![(0, 1), (2, 3)]);
        });
        assert!(matches!(skips(&jump)[..], [Anomaly::IntPollSkip { .. }]));
        let back = history(|h| h.poll_ok(1, "t-0", vec![(1, 2), (0, 1)]));
        let found = nonmonotonic_poll(&back);
        assert!(matches!(
            found[..],
            [Anomaly::IntNonmonotonicPoll { from: 1, to: 0, .. }]
        ));
    }

    fn txn(history: &mut History, offsets: [i64; 2]) {
        let op = Op::Txn {
            keys: vec!["t-0".into(), "t-0".into()],
            values: offsets.iter().map(|offset| *offset as u64).collect(),
            offsets: offsets.map(Some).to_vec(),
            reads: Default::default(),
        };
        history.push(0, Kind::Ok, op);
    }

    #[test]
    fn values_of_a_transaction_keep_their_order_but_others_may_lie_between() {
        let apart = history(|h| {
            txn(h, [4, 6]);
            h.poll_ok(1, "t-0", vec![(5, 5)]);
        });
        assert_eq!(int_nonmonotonic_send(&apart), []);
        assert_eq!(check::all(&apart).allowed["int-send-skip"], 1);
        let swapped = history(|h| txn(h, [6, 4]));
        let expected = Anomaly::IntNonmonotonicSend {
            process: 0,
            key: "t-0".into(),
            from: 6,
            to: 4,
        };
        assert_eq!(int_nonmonotonic_send(&swapped), [expected]);
    }

    #[test]
    fn a_reader_that_steps_back_is_nonmonotonic() {
        let back = history(|h| {
            h.poll_ok(1, "t-0", vec![(0, 1), (1, 2)]);
            h.poll_ok(1, "t-0", vec![(1, 2)]);
        });
        let expected = Anomaly::NonmonotonicPoll {
            process: 1,
            key: "t-0".into(),
            from: 1,
            to: 1,
        };
        assert_eq!(nonmonotonic_poll(&back), [expected]);
    }

    #[test]
    fn a_later_send_at_a_lower_offset_is_nonmonotonic() {
        let back = history(|h| {
            h.send_ok(0, "t-0", 1, 5);
            h.send_ok(0, "t-1", 2, 0);
            h.send_ok(1, "t-0", 3, 4);
            h.send_ok(0, "t-0", 4, 3);
        });
        let expected = Anomaly::NonmonotonicSend {
            process: 0,
            key: "t-0".into(),
            from: 5,
            to: 3,
        };
        assert_eq!(nonmonotonic_send(&back), [expected]);
    }

    #[test]
    fn json_lines_round_trip() {
        let sent = history(|h| {
            h.send_ok(0, "t-0", 1, 5);
            h.send_ended(0, Kind::Info, "t-0", 2);
            h.assign(1, &["t-0"]);
            h.poll_ok(1, "t-0", vec![(5, 1)]);
        });
        assert_eq!(
            History::from_json_lines(&sent.to_json_lines()).unwrap(),
            sent
        );
        assert!(
            History::from_json_lines("{}")
                .unwrap_err()
                .starts_with("line 1")
        );
    }
}

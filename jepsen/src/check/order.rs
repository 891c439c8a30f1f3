//! Did each client see its partitions move forward, without gaps?

use std::collections::HashMap;
use std::ops::Bound;

use super::Anomaly;
use super::log::Log;
use crate::history::{History, Key, Kind, Op, ProcessId};

/// Calls `step(process, key, from, to)` for each pair of offsets that follow each other in what one
/// process polled from one key; an assignment of the key begins anew.
fn poll_steps(history: &History, mut step: impl FnMut(ProcessId, &Key, i64, i64)) {
    let mut last: HashMap<(ProcessId, &Key), i64> = HashMap::new();
    for event in history.events.iter().filter(|event| event.kind == Kind::Ok) {
        match &event.op {
            Op::Poll { records } => {
                for (key, list) in records {
                    for (offset, _) in list {
                        if let Some(from) = last.insert((event.process, key), *offset) {
                            step(event.process, key, from, *offset);
                        }
                    }
                }
            }
            // Every partition's place is forgotten: an assignment replaces the one before.
            Op::Assign { .. } => last.retain(|(process, _), _| *process != event.process),
            Op::Send { .. } | Op::Txn { .. } => {}
        }
    }
}

/// Readers that went past offsets which are known to hold a record.
#[must_use]
pub fn poll_skip(history: &History, log: &Log) -> Vec<Anomaly> {
    let mut found = Vec::new();
    poll_steps(history, |process, key, from, to| {
        if to <= from {
            return;
        }
        let between = (Bound::Excluded(from), Bound::Excluded(to));
        let held = &log.keys[key].values_at;
        let skipped: Vec<i64> = held.range(between).map(|(offset, _)| *offset).collect();
        if !skipped.is_empty() {
            found.push(Anomaly::PollSkip {
                process,
                key: key.clone(),
                from,
                to,
                skipped,
            });
        }
    });
    found
}

/// Readers that were given an offset they had already gone past.
#[must_use]
pub fn nonmonotonic_poll(history: &History) -> Vec<Anomaly> {
    let mut found = Vec::new();
    poll_steps(history, |process, key, from, to| {
        if to <= from {
            found.push(Anomaly::NonmonotonicPoll {
                process,
                key: key.clone(),
                from,
                to,
            });
        }
    });
    found
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
            h.poll_ok(1, "t-0", vec![(0, 1), (2, 3)]);
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

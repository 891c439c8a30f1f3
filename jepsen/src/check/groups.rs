//! Does what a consumer group commits only go forward, and did the group see all that lies before it?

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Anomaly;
use super::log::Log;
use crate::history::{History, Key, Kind, Op, ProcessId, Value};

/// The greatest offset known to be committed, of each group's keys.
type Floors = BTreeMap<(String, Key), i64>;

fn raise(floors: &mut Floors, group: &str, offsets: &BTreeMap<Key, i64>) {
    for (key, offset) in offsets {
        let floor = floors
            .entry((group.to_owned(), key.clone()))
            .or_insert(*offset);
        *floor = (*floor).max(*offset);
    }
}

/// Answers of a coordinator below what had been committed, or seen to be, before it was asked.
///
/// A commit that a client sent twice, of which the first copy arrives after a later commit, may go
/// back by Kafka's protocol, which has no sequence of commits; the clients here wait for an answer to
/// one before they send the next.
#[must_use]
pub fn committed_offset_went_back(history: &History) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let mut floors = Floors::new();
    let mut before: HashMap<ProcessId, Floors> = HashMap::new();
    for event in &history.events {
        match (&event.op, event.kind) {
            (Op::Commit { group, offsets }, Kind::Ok) => raise(&mut floors, group, offsets),
            (Op::Committed { .. }, Kind::Invoke) => {
                before.insert(event.process, floors.clone());
            }
            (Op::Committed { group, offsets }, Kind::Ok) => {
                let known = before.remove(&event.process).unwrap_or_default();
                for ((_, key), from) in known.iter().filter(|((of, _), _)| of == group) {
                    let to = offsets.get(key).copied();
                    if to.is_none_or(|to| to < *from) {
                        found.push(Anomaly::CommittedOffsetWentBack {
                            group: group.clone(),
                            key: key.clone(),
                            from: *from,
                            to,
                        });
                    }
                }
                raise(&mut floors, group, offsets);
            }
            _ => {}
        }
    }
    found
}

/// Acknowledged values below what a group has committed that no member was given.
#[must_use]
pub fn undelivered(history: &History, log: &Log) -> Vec<Anomaly> {
    let mut floors = Floors::new();
    let mut group_of: HashMap<ProcessId, &str> = HashMap::new();
    let mut given: HashMap<&str, HashSet<(&Key, Value)>> = HashMap::new();
    for event in history.events.iter().filter(|event| event.kind == Kind::Ok) {
        match &event.op {
            Op::Join { group } => {
                group_of.insert(event.process, group);
            }
            Op::Poll { records } => {
                let Some(group) = group_of.get(&event.process) else {
                    continue;
                };
                let given = given.entry(group).or_default();
                for (key, list) in records {
                    given.extend(list.iter().map(|(_, value)| (key, *value)));
                }
            }
            Op::Commit { group, offsets } | Op::Committed { group, offsets } => {
                raise(&mut floors, group, offsets);
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    for ((group, key), committed) in &floors {
        let Some(known) = log.keys.get(key) else {
            continue;
        };
        let nobody = HashSet::new();
        let given = given.get(group.as_str()).unwrap_or(&nobody);
        for value in known.acknowledged.keys() {
            let offsets = known.offsets_of.get(value);
            let passed = offsets
                .and_then(|all| all.first())
                .is_some_and(|o| o < committed);
            if passed && !given.contains(&(key, *value)) {
                found.push(Anomaly::Undelivered {
                    group: group.clone(),
                    key: key.clone(),
                    value: *value,
                    committed: *committed,
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

    fn offsets(offset: i64) -> BTreeMap<Key, i64> {
        BTreeMap::from([("t-0".to_owned(), offset)])
    }

    fn commit(history: &mut History, offset: i64) {
        let (group, offsets) = ("g".to_owned(), offsets(offset));
        history.push(1, Kind::Ok, Op::Commit { group, offsets });
    }

    fn committed(history: &mut History, kind: Kind, offset: Option<i64>) {
        let (group, offsets) = ("g".to_owned(), offset.map(offsets).unwrap_or_default());
        history.push(9, kind, Op::Committed { group, offsets });
    }

    fn history(build: impl FnOnce(&mut History)) -> History {
        let mut history = History::default();
        build(&mut history);
        history
    }

    #[test]
    fn an_answer_below_a_commit_made_before_it_was_asked_went_back() {
        let back = history(|h| {
            commit(h, 7);
            committed(h, Kind::Invoke, None);
            committed(h, Kind::Ok, Some(5));
        });
        let expected = Anomaly::CommittedOffsetWentBack {
            group: "g".into(),
            key: "t-0".into(),
            from: 7,
            to: Some(5),
        };
        assert_eq!(committed_offset_went_back(&back), [expected]);
        let gone = history(|h| {
            commit(h, 7);
            committed(h, Kind::Invoke, None);
            committed(h, Kind::Ok, None);
        });
        assert_eq!(committed_offset_went_back(&gone).len(), 1);
    }

    #[test]
    fn an_answer_below_an_earlier_answer_went_back() {
        let back = history(|h| {
            committed(h, Kind::Invoke, None);
            committed(h, Kind::Ok, Some(5));
            committed(h, Kind::Invoke, None);
            committed(h, Kind::Ok, Some(4));
        });
        assert_eq!(committed_offset_went_back(&back).len(), 1);
    }

    #[test]
    fn a_commit_while_the_coordinator_was_asked_may_be_seen_or_not() {
        for seen in [5, 7] {
            let open = history(|h| {
                commit(h, 5);
                committed(h, Kind::Invoke, None);
                commit(h, 7);
                committed(h, Kind::Ok, Some(seen));
            });
            assert_eq!(committed_offset_went_back(&open), []);
        }
    }

    #[test]
    fn what_lies_below_a_commit_was_given_to_some_member() {
        let sent = |h: &mut History| {
            h.join(1, "g");
            h.join(2, "g");
            for n in 0..4 {
                h.send_ok(0, "t-0", 10 + n, n as i64);
            }
            h.poll_ok(1, "t-0", vec![(0, 10), (1, 11)]);
            // A reader outside the group does not count.
            h.poll_ok(3, "t-0", vec![(0, 10), (1, 11), (2, 12), (3, 13)]);
        };
        let whole = history(|h| {
            sent(h);
            h.poll_ok(2, "t-0", vec![(2, 12)]);
            commit(h, 3);
        });
        let report = check::all(&whole);
        assert!(report.is_valid(), "{report}");
        let hole = history(|h| {
            sent(h);
            commit(h, 3);
        });
        let expected = Anomaly::Undelivered {
            group: "g".into(),
            key: "t-0".into(),
            value: 12,
            committed: 3,
        };
        assert_eq!(check::all(&hole).anomalies, [expected]);
    }
}

//! Is a transaction visible as a whole, once it is committed, and never otherwise?

use std::collections::{HashMap, HashSet};

use super::Anomaly;
use super::log::Log;
use crate::history::{History, Key, Kind, Op, Value};

/// Every `(position in the history, process, key, value)` that a poll returned.
fn reads(history: &History) -> impl Iterator<Item = (usize, u32, &Key, Value)> {
    let events = history.events.iter().enumerate();
    events
        .filter(|(_, event)| event.kind == Kind::Ok)
        .flat_map(|(at, event)| {
            let records = match &event.op {
                Op::Poll { records } => Some(records),
                _ => None,
            };
            records.into_iter().flatten().flat_map(move |(key, list)| {
                list.iter()
                    .map(move |(_, value)| (at, event.process, key, *value))
            })
        })
}

/// Values that were read although they were aborted, or certainly not written.
#[must_use]
pub fn aborted_read(history: &History) -> Vec<Anomaly> {
    let mut failed: HashSet<(&Key, Value)> = HashSet::new();
    for event in history
        .events
        .iter()
        .filter(|event| event.kind == Kind::Fail)
    {
        match &event.op {
            Op::Send { key, values, .. } => {
                failed.extend(values.iter().map(|value| (key, *value)));
            }
            Op::Txn { keys, values, .. } => failed.extend(keys.iter().zip(values.iter().copied())),
            _ => {}
        }
    }
    let found = reads(history).filter(|(_, _, key, value)| failed.contains(&(*key, *value)));
    let found = found.map(|(_, process, key, value)| Anomaly::AbortedRead {
        process,
        key: key.clone(),
        value,
    });
    found.collect()
}

/// Values that were read before the commit of their transaction was asked for.
#[must_use]
pub fn precommitted_read(history: &History) -> Vec<Anomaly> {
    let mut asked: HashMap<(&Key, Value), usize> = HashMap::new();
    for (at, event) in history.events.iter().enumerate() {
        if let (Kind::Invoke, Op::Txn { keys, values, .. }) = (event.kind, &event.op) {
            for place in keys.iter().zip(values.iter().copied()) {
                asked.entry(place).or_insert(at);
            }
        }
    }
    let early = reads(history)
        .filter(|(at, _, key, value)| asked.get(&(*key, *value)).is_some_and(|asked| at < asked));
    let found = early.map(|(_, process, key, value)| Anomaly::PrecommittedRead {
        process,
        key: key.clone(),
        value,
    });
    found.collect()
}

/// Transactions of unknown end that were read in part. One that was acknowledged is for
/// [`lost_write`](super::lost_write) and [`unseen`](super::unseen), one that was aborted for
/// [`aborted_read`].
#[must_use]
pub fn fractured_read(history: &History, log: &Log) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for event in history
        .events
        .iter()
        .filter(|event| event.kind == Kind::Info)
    {
        let Op::Txn { keys, values, .. } = &event.op else {
            continue;
        };
        let is_read = |key: &Key, value: &Value| {
            let known = log.keys.get(key);
            known.is_some_and(|known| known.read_values.contains(value))
        };
        let places = || keys.iter().zip(values);
        let seen = places().find(|(key, value)| is_read(key, value));
        let missing = places().find(|(key, value)| !is_read(key, value));
        if let (Some((_, seen)), Some((_, missing))) = (seen, missing) {
            found.push(Anomaly::FracturedRead {
                seen: *seen,
                missing: *missing,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    fn txn(history: &mut History, kind: Kind, values: &[Value]) {
        let op = Op::Txn {
            keys: values
                .iter()
                .map(|value| format!("t-{}", value % 2))
                .collect(),
            values: values.to_vec(),
            offsets: values.iter().map(|value| Some(*value as i64)).collect(),
            reads: Default::default(),
        };
        history.push(0, kind, op);
    }

    fn read(history: &mut History, values: &[Value]) {
        for value in values {
            history.poll_ok(
                1,
                &format!("t-{}", value % 2),
                vec![(*value as i64, *value)],
            );
        }
    }

    fn history(build: impl FnOnce(&mut History)) -> History {
        let mut history = History::default();
        build(&mut history);
        history
    }

    #[test]
    fn a_committed_transaction_is_clean() {
        let clean = history(|h| {
            txn(h, Kind::Invoke, &[2, 3]);
            read(h, &[2]);
            txn(h, Kind::Ok, &[2, 3]);
            read(h, &[3]);
            txn(h, Kind::Fail, &[4, 5]);
            txn(h, Kind::Info, &[6, 7]);
            read(h, &[6, 7]);
            txn(h, Kind::Info, &[8, 9]);
        });
        let report = check::all(&clean);
        assert!(report.is_valid(), "{report}");
        assert_eq!(report.acknowledged_count, 2);
    }

    #[test]
    fn a_value_of_an_aborted_transaction_is_an_aborted_read() {
        let dirty = history(|h| {
            txn(h, Kind::Fail, &[2, 3]);
            read(h, &[3]);
        });
        let expected = Anomaly::AbortedRead {
            process: 1,
            key: "t-1".into(),
            value: 3,
        };
        assert_eq!(aborted_read(&dirty), [expected]);
    }

    #[test]
    fn a_value_before_its_commit_is_a_precommitted_read() {
        let early = history(|h| {
            read(h, &[3]);
            txn(h, Kind::Invoke, &[2, 3]);
            txn(h, Kind::Ok, &[2, 3]);
            read(h, &[2]);
        });
        let expected = Anomaly::PrecommittedRead {
            process: 1,
            key: "t-1".into(),
            value: 3,
        };
        assert_eq!(precommitted_read(&early), [expected]);
    }

    #[test]
    fn half_a_transaction_of_unknown_end_is_fractured() {
        let half = history(|h| {
            txn(h, Kind::Info, &[2, 3]);
            read(h, &[3]);
        });
        let expected = Anomaly::FracturedRead {
            seen: 3,
            missing: 2,
        };
        assert_eq!(fractured_read(&half, &Log::of(&half)), [expected]);
    }

    #[test]
    fn a_committed_value_that_is_missing_is_lost() {
        let lost = history(|h| {
            txn(h, Kind::Ok, &[2, 4]);
            read(h, &[4]);
        });
        assert_eq!(check::lost_write(&Log::of(&lost)).len(), 1);
    }
}

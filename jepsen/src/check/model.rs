//! A log that does everything right, to make histories that must be clean, and ways to spoil them
//! that must all be found.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::check;
use crate::history::{History, Kind, Op, Value};

/// What a client does next.
#[derive(Clone, Debug)]
enum Act {
    /// Appends to a key; the answer is lost when false.
    Send { key: usize, answered: bool },
    /// One value to each of two keys, ended so.
    Txn { kind: Kind },
    /// A reader takes up to so many records of a key.
    Poll {
        reader: usize,
        key: usize,
        most: usize,
    },
    /// A reader starts from the beginning.
    Rewind { reader: usize },
}

const KEYS: usize = 2;
const READERS: usize = 3;

fn act() -> impl Strategy<Value = Act> {
    let kind = prop::sample::select(vec![Kind::Ok, Kind::Fail, Kind::Info]);
    prop_oneof![
        4 => (0..KEYS, any::<bool>()).prop_map(|(key, answered)| Act::Send { key, answered }),
        2 => kind.prop_map(|kind| Act::Txn { kind }),
        6 => (0..READERS, 0..KEYS, 1_usize..4)
            .prop_map(|(reader, key, most)| Act::Poll { reader, key, most }),
        1 => (0..READERS).prop_map(|reader| Act::Rewind { reader }),
    ]
}

fn name(key: usize) -> String {
    format!("t-{key}")
}

#[derive(Default)]
struct Model {
    history: History,
    /// Committed values and their offsets; offsets of aborted ones are gaps.
    logs: [Vec<(i64, Value)>; KEYS],
    ends: [i64; KEYS],
    places: BTreeMap<(usize, usize), usize>,
    next: Value,
}

impl Model {
    fn append(&mut self, key: usize, kept: bool) -> (Value, i64) {
        self.next += 1;
        let at = self.ends[key];
        self.ends[key] += 1;
        if kept {
            self.logs[key].push((at, self.next));
        }
        (self.next, at)
    }

    fn poll(&mut self, reader: usize, key: usize, most: usize) {
        let place = self.places.entry((reader, key)).or_default();
        let records = self.logs[key].iter().skip(*place).take(most);
        let records: Vec<(i64, Value)> = records.copied().collect();
        *place += records.len();
        if !records.is_empty() {
            self.history
                .poll_ok(10 + reader as u32, &name(key), records);
        }
    }

    fn rewind(&mut self, reader: usize) {
        self.places.retain(|(of, _), _| *of != reader);
        let keys: Vec<String> = (0..KEYS).map(name).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.history.assign(10 + reader as u32, &keys);
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Send { key, answered } => {
                let (value, at) = self.append(key, true);
                match answered {
                    true => self.history.send_ok(0, &name(key), value, at),
                    false => self.history.send_ended(0, Kind::Info, &name(key), value),
                }
            }
            Act::Txn { kind } => {
                let kept = kind != Kind::Fail;
                let places: Vec<(Value, i64)> = (0..KEYS).map(|k| self.append(k, kept)).collect();
                let txn = |offsets| Op::Txn {
                    keys: (0..KEYS).map(name).collect(),
                    values: places.iter().map(|(value, _)| *value).collect(),
                    offsets,
                    reads: BTreeMap::new(),
                };
                self.history.push(1, Kind::Invoke, txn(Vec::new()));
                let offsets = places.iter().map(|(_, at)| Some(*at)).collect();
                self.history.push(1, kind, txn(offsets));
            }
            Act::Poll { reader, key, most } => self.poll(reader, key, most),
            Act::Rewind { reader } => self.rewind(reader),
        }
    }
}

/// A clean history that ends with a reader that sees everything, from offset 0 of both keys.
fn clean(acts: &[Act]) -> History {
    let mut model = Model::default();
    for act in acts {
        model.act(act);
    }
    // So that there is something to spoil.
    for key in 0..KEYS {
        for _ in 0..3 {
            model.act(&Act::Send {
                key,
                answered: true,
            });
        }
    }
    let last = READERS;
    model.rewind(last);
    for key in 0..KEYS {
        model.poll(last, key, usize::MAX);
    }
    model.history
}

/// Takes one record out of everything that was polled.
fn lose(history: &mut History, key: &str, value: Value) {
    for event in &mut history.events {
        if let Op::Poll { records } = &mut event.op {
            for (of, list) in records {
                list.retain(|(_, v)| of != key || *v != value);
            }
        }
    }
}

fn last_poll<'a>(history: &'a mut History, key: &str) -> &'a mut Vec<(i64, Value)> {
    let polls = history.events.iter_mut().rev();
    polls
        .filter_map(|event| match &mut event.op {
            Op::Poll { records } => records.get_mut(key),
            _ => None,
        })
        .next()
        .expect("the last reader has read every key")
}

proptest! {
    #[test]
    fn what_a_right_log_does_is_clean(acts in prop::collection::vec(act(), 0..60)) {
        let report = check::all(&clean(&acts));
        prop_assert!(report.is_valid(), "{report}");
    }

    #[test]
    fn whatever_spoils_it_is_found(
        acts in prop::collection::vec(act(), 0..60),
        key in 0..KEYS,
        which in any::<prop::sample::Index>(),
        how in 0..6,
    ) {
        let mut history = clean(&acts);
        let key = name(key);
        let polled = last_poll(&mut history, &key);
        let at = which.index(polled.len() - 1);
        let (offset, value) = polled[at];
        let expected = match how {
            0 => {
                // Only of values that were acknowledged is it wrong that nobody sees them.
                let last = polled[polled.len() - 1].1;
                lose(&mut history, &key, last);
                "unseen"
            }
            1 => {
                polled.remove(at);
                // A reader after this one has read what it skipped, or somebody was told of it.
                history.send_ok(99, &key, value, offset);
                if at == 0 { return Ok(()); }
                "int-poll-skip"
            }
            2 => { polled.swap(at, at + 1); "int-nonmonotonic-poll" }
            3 => { polled.push((10_000, value)); "duplicate" }
            4 => { polled[at].1 = 20_000; "inconsistent-offsets" }
            _ => {
                let (key, aborted) = (key.clone(), 30_000);
                history.send_ended(5, Kind::Fail, &key, aborted);
                history.poll_ok(55, &key, vec![(40_000, aborted)]);
                "aborted-read"
            }
        };
        let found = check::all(&history).anomalies;
        // A value nobody acknowledged, seen once and changed, contradicts nobody.
        let contradicted = how != 4 || {
            let log = check::Log::of(&history);
            log.keys[&key].values_at[&offset].len() > 1
        };
        prop_assert!(
            !contradicted || found.iter().any(|anomaly| anomaly.name() == expected),
            "{expected} is not among {found:?}"
        );
    }
}

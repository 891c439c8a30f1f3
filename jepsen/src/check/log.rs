//! What a history says about each key's log.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{History, Key, Kind, Op, Value};

/// One key's log as clients saw it.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyLog {
    /// Values read or acknowledged at an offset; more than one is an anomaly.
    pub values_at: BTreeMap<i64, BTreeSet<Value>>,
    /// Where a value was read or acknowledged.
    pub offsets_of: BTreeMap<Value, BTreeSet<i64>>,
    /// Acknowledged values, with the acknowledged offset where there was one.
    pub acknowledged: BTreeMap<Value, Option<i64>>,
    /// Offsets returned by polls.
    pub read: BTreeSet<i64>,
    /// Values returned by polls.
    pub read_values: BTreeSet<Value>,
}

/// All keys' logs.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub(super) keys: BTreeMap<Key, KeyLog>,
}

impl Log {
    /// Gathers every acknowledged send and every poll.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let mut log = Self::default();
        for event in history.events.iter().filter(|event| event.kind == Kind::Ok) {
            match &event.op {
                Op::Send {
                    key,
                    values,
                    offsets,
                } => {
                    for (n, value) in values.iter().enumerate() {
                        log.acknowledge(key, *value, offsets.get(n).copied().flatten());
                    }
                }
                Op::Txn {
                    keys,
                    values,
                    offsets,
                    ..
                } => {
                    for (n, (key, value)) in keys.iter().zip(values).enumerate() {
                        log.acknowledge(key, *value, offsets.get(n).copied().flatten());
                    }
                }
                Op::Poll { records } => {
                    for (key, (offset, value)) in records
                        .iter()
                        .flat_map(|(key, list)| list.iter().map(move |record| (key, *record)))
                    {
                        let known = log.key(key);
                        known.note(offset, value);
                        known.read.insert(offset);
                        known.read_values.insert(value);
                    }
                }
                _ => {}
            }
        }
        log
    }

    fn key(&mut self, key: &str) -> &mut KeyLog {
        self.keys.entry(key.to_owned()).or_default()
    }

    fn acknowledge(&mut self, key: &str, value: Value, offset: Option<i64>) {
        let known = self.key(key);
        known.acknowledged.insert(value, offset);
        if let Some(offset) = offset {
            known.note(offset, value);
        }
    }

    pub(super) fn acknowledged_count(&self) -> usize {
        self.keys.values().map(|key| key.acknowledged.len()).sum()
    }

    pub(super) fn read_count(&self) -> usize {
        self.keys.values().map(|key| key.read.len()).sum()
    }
}

impl KeyLog {
    fn note(&mut self, offset: i64, value: Value) {
        self.values_at.entry(offset).or_default().insert(value);
        self.offsets_of.entry(value).or_default().insert(offset);
    }
}

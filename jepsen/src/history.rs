//! Operations, and the order in which they were invoked and completed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One logical client thread: its operations follow each other, never overlap.
pub type ProcessId = u32;

/// What is written to and read from: a partition, named `topic-partition`.
pub type Key = String;

/// What a record carries; unique within its key.
pub type Value = u64;

/// How an operation stands at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Asked for.
    Invoke,
    /// Answered with success.
    Ok,
    /// Certainly did not happen.
    Fail,
    /// Nobody knows: it may have happened, or happen later.
    Info,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "f")]
pub enum Op {
    /// Appends values to a key, in order; when `ok`, `offsets[i]` is what `values[i]` was answered
    /// (`None` where the client was not told).
    Send {
        key: Key,
        values: Vec<Value>,
        #[serde(default)]
        offsets: Vec<Option<i64>>,
    },
    /// What one poll returned: for each key `(offset, value)` in the order received.
    Poll {
        #[serde(default)]
        records: BTreeMap<Key, Vec<(i64, Value)>>,
    },
    /// The end of a transaction that appended `values[i]` to `keys[i]`: `invoke` when its commit was
    /// asked for, `ok` when that was answered, `fail` when it was aborted, `info` when nobody knows.
    /// `reads` is what the transaction polled before it appended.
    Txn {
        keys: Vec<Key>,
        values: Vec<Value>,
        #[serde(default)]
        offsets: Vec<Option<i64>>,
        #[serde(default)]
        reads: BTreeMap<Key, Vec<(i64, Value)>>,
    },
    /// A new set of partitions, or a seek: from here polls may go elsewhere in the log.
    Assign { keys: Vec<Key> },
    /// This process reads as a member of a consumer group from now on.
    Join { group: String },
    /// A commit of the next offsets to read, for a group.
    Commit {
        group: String,
        offsets: BTreeMap<Key, i64>,
    },
    /// What a group has committed, asked of its coordinator.
    Committed {
        group: String,
        #[serde(default)]
        offsets: BTreeMap<Key, i64>,
    },
    /// A transfer between accounts of one bank, in one transaction: `balances` are those it writes.
    /// The first of a bank opens all its accounts. Numbers of one bank go up.
    Transfer {
        bank: String,
        /// The partition that all accounts of the bank lie in; None when they lie in several.
        home: Option<Key>,
        number: Value,
        balances: BTreeMap<String, i64>,
    },
    /// The accounts as a reader knew them at the end of `key` (of every partition when None, at the
    /// end of the run): number of the transfer that wrote it, and balance.
    Snapshot {
        key: Option<Key>,
        balances: BTreeMap<String, (Value, i64)>,
    },
    /// A topic was created, and has this id.
    Create { topic: String, id: String },
    /// A topic was deleted.
    Delete { topic: String, id: String },
    /// All topics and their ids, at the end of the run.
    Listed { topics: BTreeMap<String, String> },
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub process: ProcessId,
    #[serde(rename = "type")]
    pub kind: Kind,
    #[serde(flatten)]
    pub op: Op,
}

/// What all clients did, in the order it was observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History {
    pub events: Vec<Event>,
}

impl History {
    /// Adds an event at the end.
    pub fn push(&mut self, process: ProcessId, kind: Kind, op: Op) {
        self.events.push(Event { process, kind, op });
    }

    /// Records a send of one value whose answer is known.
    pub fn send_ok(
        &mut self,
        process: ProcessId,
        key: &str,
        value: Value,
        offset: impl Into<Option<i64>>,
    ) {
        let op = Op::Send {
            key: key.to_owned(),
            values: vec![value],
            offsets: vec![offset.into()],
        };
        self.push(process, Kind::Ok, op);
    }

    /// Records a send of one value that nobody knows the end of (`Info`) or that failed (`Fail`).
    pub fn send_ended(&mut self, process: ProcessId, kind: Kind, key: &str, value: Value) {
        let op = Op::Send {
            key: key.to_owned(),
            values: vec![value],
            offsets: Vec::new(),
        };
        self.push(process, kind, op);
    }

    /// Records what one poll of a single key returned.
    pub fn poll_ok(&mut self, process: ProcessId, key: &str, records: Vec<(i64, Value)>) {
        let records = BTreeMap::from([(key.to_owned(), records)]);
        self.push(process, Kind::Ok, Op::Poll { records });
    }

    /// Records that a process starts reading at a place of its own choice.
    pub fn assign(&mut self, process: ProcessId, keys: &[&str]) {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        self.push(process, Kind::Ok, Op::Assign { keys });
    }

    /// Records that a process reads as a member of a group.
    pub fn join(&mut self, process: ProcessId, group: &str) {
        let group = group.to_owned();
        self.push(process, Kind::Ok, Op::Join { group });
    }

    /// Reads a history of one JSON object a line.
    ///
    /// # Errors
    /// When a line is not an [`Event`]; the message has the line's number.
    pub fn from_json_lines(text: &str) -> Result<Self, String> {
        let mut history = Self::default();
        for (number, line) in text.lines().enumerate() {
            let event = serde_json::from_str(line)
                .map_err(|error| format!("line {}: {error}", number + 1))?;
            history.events.push(event);
        }
        Ok(history)
    }

    /// Writes one JSON object a line.
    #[must_use]
    pub fn to_json_lines(&self) -> String {
        let lines = self.events.iter().map(|event| {
            serde_json::to_string(event).expect("an event has no map keys but strings")
        });
        lines.map(|line| line + "\n").collect()
    }
}

//! The checkers: each takes a history and names what must not have happened.
//!
//! [`Log`] is what all of them start from: for each key, which values were seen at which offset,
//! from acknowledgements and polls together.

mod cycles;
mod groups;
mod log;
mod order;
mod presence;
mod topics;
mod transactions;
mod transfers;

#[cfg(test)]
mod model;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::history::{History, Key, Kind, Op, ProcessId, Value};

pub use cycles::Cycles;
pub use groups::{committed_offset_went_back, undelivered};
pub use log::Log;
pub use order::{
    int_nonmonotonic_send, int_send_skip, nonmonotonic_poll, nonmonotonic_send, poll_skip,
    reassigned_steps,
};
pub use presence::{duplicate, inconsistent_offsets, lost_write, unseen};
pub use topics::topics;
pub use transactions::{aborted_read, fractured_read, precommitted_read};
pub use transfers::transfers;

/// Something that must not have happened, with where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "anomaly")]
pub enum Anomaly {
    /// An acknowledged value is missing although later offsets of its key were read.
    LostWrite {
        key: Key,
        value: Value,
        offset: Option<i64>,
    },
    /// An acknowledged value that no poll returned, past everything read: a loss, or a reader that
    /// stopped too early; in a history whose readers reached the end it must not be there.
    Unseen { key: Key, value: Value },
    /// One value at several offsets.
    Duplicate {
        key: Key,
        value: Value,
        offsets: Vec<i64>,
    },
    /// Several values at one offset.
    InconsistentOffsets {
        key: Key,
        offset: i64,
        values: Vec<Value>,
    },
    /// A reader went past records that are there, without having been assigned anew.
    PollSkip {
        process: ProcessId,
        key: Key,
        from: i64,
        to: i64,
        skipped: Vec<i64>,
    },
    /// A reader was given an offset at or below one it had been given.
    NonmonotonicPoll {
        process: ProcessId,
        key: Key,
        from: i64,
        to: i64,
    },
    /// One poll went past records that are there.
    IntPollSkip {
        process: ProcessId,
        key: Key,
        from: i64,
        to: i64,
        skipped: Vec<i64>,
    },
    /// One poll returned an offset at or below one before it.
    IntNonmonotonicPoll {
        process: ProcessId,
        key: Key,
        from: i64,
        to: i64,
    },
    /// Two values of one transaction lie in a key against the order they were sent in.
    IntNonmonotonicSend {
        process: ProcessId,
        key: Key,
        from: i64,
        to: i64,
    },
    /// Transactions of which each has read from one before it, or follows it in its process, in a
    /// circle: information flowed back in time. One value of each is named.
    G1c { values: Vec<Value> },
    /// A later send of one process was given an offset at or below an earlier one's.
    NonmonotonicSend {
        process: ProcessId,
        key: Key,
        from: i64,
        to: i64,
    },
    /// A value of an aborted transaction, or of a send that certainly failed, was read (G1a).
    AbortedRead {
        process: ProcessId,
        key: Key,
        value: Value,
    },
    /// A value was read before anybody asked for the commit of its transaction.
    PrecommittedRead {
        process: ProcessId,
        key: Key,
        value: Value,
    },
    /// Of a transaction whose end nobody was told of some values are there and others are not,
    /// although readers reached the end.
    FracturedRead { seen: Value, missing: Value },
    /// A group's coordinator told less than what had been committed before it was asked.
    CommittedOffsetWentBack {
        group: String,
        key: Key,
        from: i64,
        to: Option<i64>,
    },
    /// An acknowledged value below what a group has committed that no member was given.
    Undelivered {
        group: String,
        key: Key,
        value: Value,
        committed: i64,
    },
    /// Of a transfer one account is seen and another is not.
    TornTransfer {
        process: ProcessId,
        bank: String,
        number: Value,
        missing: String,
    },
    /// The balances of a bank do not add up to what it was opened with.
    WrongTotal {
        process: ProcessId,
        bank: String,
        total: i64,
        expected: i64,
    },
    /// A reader saw an earlier state of an account after a later one.
    AccountWentBack {
        process: ProcessId,
        account: String,
        from: Option<Value>,
        to: Value,
    },
    /// An acknowledged transfer is not there at the end.
    LostTransfer { bank: String, number: Value },
    /// Two topics were given the same id.
    TopicIdReused { topic: String, id: String },
    /// A topic whose deletion was acknowledged is still there at the end.
    DeletedTopicThere { topic: String, id: String },
    /// A topic that was created, and that nobody deleted, is not there at the end.
    CreatedTopicMissing { topic: String, id: String },
}

impl Anomaly {
    /// As Jepsen calls it, in small letters.
    #[must_use]
    pub fn name(&self) -> String {
        let named = serde_json::to_value(self).unwrap_or_default();
        named["anomaly"].as_str().unwrap_or_default().to_owned()
    }
}

/// All anomalies of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub anomalies: Vec<Anomaly>,
    /// Acknowledged sends and transfers that were checked; a history without any proves nothing.
    pub acknowledged_count: usize,
    /// Distinct (key, offset) pairs and snapshots of accounts that were read.
    pub read_count: usize,
    /// What Kafka's protocol allows although it may surprise, and how often it was seen.
    pub allowed: BTreeMap<&'static str, usize>,
}

impl Report {
    /// Whether nothing was found, and there was something to look at.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.anomalies.is_empty() && self.acknowledged_count > 0 && self.read_count > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acknowledged, read) = (self.acknowledged_count, self.read_count);
        writeln!(
            out,
            "{} anomalies, {acknowledged} acknowledged, {read} read",
            self.anomalies.len()
        )?;
        for (what, count) in self.allowed.iter().filter(|(_, count)| **count > 0) {
            writeln!(out, "  allowed: {what}, {count} times")?;
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for anomaly in &self.anomalies {
            *counts.entry(anomaly.name()).or_default() += 1;
        }
        for (name, count) in counts {
            writeln!(out, "  {count} {name}")?;
        }
        for anomaly in self.anomalies.iter().take(20) {
            writeln!(out, "  {anomaly:?}")?;
        }
        Ok(())
    }
}

fn done(history: &History, of: impl Fn(&Op) -> bool) -> usize {
    let events = history.events.iter();
    events.filter(|e| e.kind == Kind::Ok && of(&e.op)).count()
}

/// Runs every checker.
#[must_use]
pub fn all(history: &History) -> Report {
    let log = Log::of(history);
    let mut anomalies = lost_write(&log);
    anomalies.extend(unseen(&log));
    anomalies.extend(duplicate(&log));
    anomalies.extend(inconsistent_offsets(&log));
    anomalies.extend(poll_skip(history, &log));
    anomalies.extend(nonmonotonic_poll(history));
    anomalies.extend(nonmonotonic_send(history));
    anomalies.extend(int_nonmonotonic_send(history));
    anomalies.extend(aborted_read(history));
    anomalies.extend(precommitted_read(history));
    anomalies.extend(fractured_read(history, &log));
    anomalies.extend(committed_offset_went_back(history));
    anomalies.extend(undelivered(history, &log));
    anomalies.extend(transfers(history));
    anomalies.extend(topics(history));
    let cycles = Cycles::of(history, &log);
    anomalies.extend(cycles.g1c.into_iter().map(|values| Anomaly::G1c { values }));
    let (skips, back) = reassigned_steps(history, &log);
    let allowed = BTreeMap::from([
        ("poll-skip across an assignment", skips),
        ("nonmonotonic-poll across an assignment", back),
        ("int-send-skip", int_send_skip(history, &log)),
        ("G0", cycles.g0),
        ("G1c by write order", cycles.g1c_by_write_order),
    ]);
    Report {
        anomalies,
        acknowledged_count: log.acknowledged_count()
            + done(history, |op| matches!(op, Op::Transfer { .. })),
        read_count: log.read_count() + done(history, |op| matches!(op, Op::Snapshot { .. })),
        allowed,
    }
}

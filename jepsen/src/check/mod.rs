//! The checkers: each takes a history and names what must not have happened.
//!
//! [`Log`] is what all of them start from: for each key, which values were seen at which offset,
//! from acknowledgements and polls together.

mod log;
mod order;
mod presence;
mod transactions;

use std::fmt;

use serde::Serialize;

use crate::history::{History, Key, ProcessId, Value};

pub use log::Log;
pub use order::{nonmonotonic_poll, nonmonotonic_send, poll_skip};
pub use presence::{duplicate, inconsistent_offsets, lost_write, unseen};
pub use transactions::{aborted_read, fractured_read, precommitted_read};

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
}

/// All anomalies of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub anomalies: Vec<Anomaly>,
    /// Acknowledged sends that were checked; a history without any proves nothing.
    pub acknowledged_count: usize,
    /// Distinct (key, offset) pairs that were read.
    pub read_count: usize,
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
        for anomaly in self.anomalies.iter().take(20) {
            writeln!(out, "  {anomaly:?}")?;
        }
        Ok(())
    }
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
    anomalies.extend(aborted_read(history));
    anomalies.extend(precommitted_read(history));
    anomalies.extend(fractured_read(history, &log));
    Report {
        anomalies,
        acknowledged_count: log.acknowledged_count(),
        read_count: log.read_count(),
    }
}

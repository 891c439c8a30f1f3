//! What happened when: the history that is judged, and the times that are drawn.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::time::Instant;

use crate::history::{Event, History, Kind, Op, ProcessId};

/// One completed operation, for the timeline.
#[derive(Clone, Debug, Serialize)]
pub struct Timed {
    pub process: ProcessId,
    /// `send`, `txn` or `poll`.
    pub f: &'static str,
    pub kind: Kind,
    /// Of a send to one partition.
    pub partition: Option<i32>,
    pub began_ms: u64,
    pub ended_ms: u64,
    pub records: usize,
}

/// A fault and how long it lasted.
#[derive(Clone, Debug, Serialize)]
pub struct Span {
    pub fault: String,
    pub began_ms: u64,
    pub ended_ms: u64,
}

/// Everything that was observed.
#[derive(Default)]
pub struct Observed {
    pub history: History,
    pub timed: Vec<Timed>,
    pub spans: Vec<Span>,
    /// What clients were told went wrong, counted by message.
    pub errors: std::collections::BTreeMap<String, u64>,
}

/// Shared by all clients of a run.
pub struct Recorder {
    began: Instant,
    observed: Mutex<Observed>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            observed: Mutex::default(),
        }
    }
}

impl Recorder {
    /// Milliseconds since the run began.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// What was observed so far.
    pub fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event to the history.
    pub fn event(&self, process: ProcessId, kind: Kind, op: Op) {
        let event = Event { process, kind, op };
        self.observed().history.events.push(event);
    }

    /// Adds an operation to the timeline.
    pub fn timed(&self, mut timed: Timed) {
        timed.ended_ms = self.now_ms();
        self.observed().timed.push(timed);
    }

    /// Counts an error that a client was told.
    pub fn error(&self, error: &dyn std::fmt::Display) {
        // Addresses, offsets and times differ, the error is the same.
        let text: String = error.to_string().chars().take(120).collect();
        let text = text.replace(|c: char| c.is_ascii_digit(), "");
        *self.observed().errors.entry(text).or_default() += 1;
    }
}

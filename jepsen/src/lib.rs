//! Histories of what clients asked for and were told, and checkers that say what went wrong.
//!
//! The names are those of Jepsen's Kafka workload (`jepsen.tests.kafka`), so that a report here reads
//! like one there:
//! - [`history`]: operations (`send`, `poll`) as invoked and as completed: `ok`, `fail`, `info`.
//! - [`check`]: the anomalies, one function each, and [`check::all`].
//! - [`run`]: real brokers, clients and faults (the `tidelog-jepsen` program).
//!
//! Values must be unique within a key (a partition): that is what lets a record be recognised again.

pub mod check;
pub mod history;
pub mod run;

pub use check::{Anomaly, Report};
pub use history::{Event, History, Kind, Op, ProcessId};

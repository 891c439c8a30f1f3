//! What can go wrong, and which of it passes by itself.

pub use crate::error_code::ErrorCode;
use std::sync::Arc;

/// Every failure of this crate. Clones are cheap: one failed batch fails many records.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// None of the addresses to start from has a broker that answers.
    #[error("no broker answered at {addresses}: {last}")]
    NoBroker { addresses: String, last: String },
    /// The connection was lost, refused, or broke the protocol.
    #[error("connection to {address}: {reason}")]
    Connection { address: Arc<str>, reason: String },
    /// The broker does not believe who the client says it is, or the other way round.
    #[error("authentication at {address}: {reason}")]
    Authentication { address: Arc<str>, reason: String },
    /// The broker and this client share no version of an API.
    #[error(
        "the broker at {address} speaks no version of API {api} that this client does; \
         update the older of the two"
    )]
    Unsupported { address: Arc<str>, api: i16 },
    /// The bytes from a broker make no sense.
    #[error("malformed answer from {address}: {reason}")]
    Malformed { address: Arc<str>, reason: String },
    /// A broker refused.
    #[error("{what}: {}", describe(.code, .message))]
    Broker {
        what: String,
        code: ErrorCode,
        message: Option<String>,
    },
    #[error("topic {topic:?} does not exist")]
    UnknownTopic { topic: String },
    #[error("topic {topic:?} has no partition {partition}; it has {count}, counted from 0")]
    UnknownPartition {
        topic: String,
        partition: i32,
        count: usize,
    },
    /// The partition has no leader just now.
    #[error("partition {topic}-{partition} has no leader")]
    NoLeader { topic: String, partition: i32 },
    /// The deadline came before an answer that could be used.
    #[error("{what}: gave up after {waited_ms} ms; last: {last}")]
    Timeout {
        what: String,
        waited_ms: u64,
        last: String,
    },
    /// The request may or may not have been carried out: its answer was lost, and sending it again
    /// could write the records twice.
    #[error("records for {topic}-{partition} may or may not have been written: {reason}")]
    Uncertain {
        topic: String,
        partition: i32,
        reason: String,
    },
    #[error("a record of {bytes} bytes does not fit into {limit}; raise {setting}")]
    RecordTooLarge {
        bytes: usize,
        limit: usize,
        setting: &'static str,
    },
    /// A record batch that a broker sent cannot be read.
    #[error("damaged record batch at {topic}-{partition} offset {offset}: {reason}")]
    DamagedBatch {
        topic: String,
        partition: i32,
        offset: i64,
        reason: String,
    },
    #[error("{setting}: {reason}")]
    Config {
        setting: &'static str,
        reason: String,
    },
    /// The producer or consumer was closed before this was done.
    #[error("closed")]
    Closed,
    /// Another producer with this transactional id, or another member with this instance id, has
    /// taken over; this one can do nothing more.
    #[error("{what} was taken over by another: {code}")]
    Fenced { what: String, code: ErrorCode },
    /// The transaction has failed. Only aborting it is left, which dropping it does too.
    #[error("the transaction must be aborted: {reason}")]
    TransactionFailed { reason: String },
    /// Whether the transaction was committed is not known; it was or will be as a whole, or not at
    /// all.
    #[error("whether the transaction was committed is not known: {reason}")]
    TransactionUncertain { reason: String },
    /// The group has given the partition to another member meanwhile: its records come again
    /// there, and nothing was committed.
    #[error("the group {group:?} has rebalanced: {code}")]
    Rebalanced { group: String, code: ErrorCode },
}

fn describe(code: &ErrorCode, message: &Option<String>) -> String {
    match message.as_deref() {
        Some(message) if !message.is_empty() => format!("{message} ({code})"),
        _ => code.to_string(),
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The broker's code, if a broker refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Broker { code, .. }
            | Error::Fenced { code, .. }
            | Error::Rebalanced { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anyone doing something.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::NoBroker { .. } | Error::Connection { .. } | Error::NoLeader { .. } => true,
            Error::Broker { code, .. } => code.is_retriable(),
            _ => false,
        }
    }

    /// The topic is not there, or the broker asked has not heard of it yet.
    pub(crate) fn is_unknown_topic(&self) -> bool {
        match self {
            Error::UnknownTopic { .. } => true,
            Error::Broker { code, .. } => code.is_unknown_topic(),
            _ => false,
        }
    }

    /// Whether a fresher view of the cluster may help.
    pub(crate) fn wants_metadata(&self) -> bool {
        self.is_transient() || matches!(self, Error::UnknownTopic { .. })
    }

    pub(crate) fn broker(what: impl Into<String>, code: ErrorCode) -> Error {
        Error::Broker {
            what: what.into(),
            code,
            message: None,
        }
    }

    /// `Err` unless `code` is 0.
    pub(crate) fn check(
        what: impl Into<String>,
        code: i16,
        message: Option<&str>,
    ) -> Result<(), Error> {
        match ErrorCode::of(code) {
            None => Ok(()),
            Some(code) => Err(Error::Broker {
                what: what.into(),
                code,
                message: message.map(str::to_owned),
            }),
        }
    }
}

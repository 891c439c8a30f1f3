//! What can go wrong, and which of it passes by itself.

pub use crate::error_code::ErrorCode;
use std::sync::Arc;

/// Every failure of this crate. Clones are cheap: one failed batch fails many records.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// None of the addresses to start from has a broker that answers.
    #[error("no broker answered at {addresses}: {last}")]
    NoBroker {
        /// Those tried, as `host:port`, with commas between them.
        addresses: String,
        /// What the last of them said.
        last: String,
    },
    /// The connection was lost, refused, or broke the protocol.
    #[error("connection to {address}: {reason}")]
    Connection {
        /// `host:port` of the broker.
        address: Arc<str>,
        /// What the socket or the protocol says.
        reason: String,
    },
    /// The broker does not believe who the client says it is, or the other way round.
    #[error("authentication at {address}: {reason}")]
    Authentication {
        /// `host:port` of the broker.
        address: Arc<str>,
        /// What the broker said, or what is wrong with its certificate or its proof.
        reason: String,
    },
    /// The broker and this client share no version of an API.
    #[error(
        "the broker at {address} speaks no version of API {api} that this client does; \
         update the older of the two"
    )]
    Unsupported {
        /// `host:port` of the broker.
        address: Arc<str>,
        /// Kafka's number of the API, such as 0 for Produce.
        api: i16,
    },
    /// The bytes from a broker make no sense.
    #[error("malformed answer from {address}: {reason}")]
    Malformed {
        /// `host:port` of the broker.
        address: Arc<str>,
        /// Which part of the answer, and why.
        reason: String,
    },
    /// A broker refused.
    #[error("{what}: {}", describe(.code, .message))]
    Broker {
        /// What was asked for, with the name of the thing.
        what: String,
        /// Kafka's code; whether it may pass is in one table, [`ErrorCode::is_retriable`].
        code: ErrorCode,
        /// The broker's own words, where the API has room for them.
        message: Option<String>,
    },
    /// The controller knows no such topic, or no broker did for as long as `unknown_topic_timeout`.
    #[error("topic {topic:?} does not exist")]
    UnknownTopic {
        /// The name asked for.
        topic: String,
    },
    /// The topic has fewer partitions than that.
    #[error("topic {topic:?} has no partition {partition}; it has {count}, counted from 0")]
    UnknownPartition {
        /// The topic's name.
        topic: String,
        /// The index asked for.
        partition: i32,
        /// How many there are: indexes are in `[0, count)`.
        count: usize,
    },
    /// The partition has no leader just now.
    #[error("partition {topic}-{partition} has no leader")]
    NoLeader {
        /// The topic's name.
        topic: String,
        /// The partition's index, from 0 on.
        partition: i32,
    },
    /// The deadline came before an answer that could be used.
    #[error("{what}: gave up after {waited_ms} ms; last: {last}")]
    Timeout {
        /// What was tried.
        what: String,
        /// Milliseconds since the call began, all its attempts and pauses included.
        waited_ms: u64,
        /// Why the last attempt failed.
        last: String,
    },
    /// The request may or may not have been carried out: its answer was lost, and sending it again
    /// could write the records twice.
    #[error("records for {topic}-{partition} may or may not have been written: {reason}")]
    Uncertain {
        /// The topic's name.
        topic: String,
        /// The partition's index, from 0 on.
        partition: i32,
        /// How the answer was lost.
        reason: String,
    },
    /// The record is larger than a limit of this client.
    #[error("a record of {bytes} bytes does not fit into {limit}; raise {setting}")]
    RecordTooLarge {
        /// Key, value, headers and what frames them.
        bytes: usize,
        /// The most that fit, in bytes.
        limit: usize,
        /// The setting of this crate that is the limit, such as `buffer_bytes`.
        setting: &'static str,
    },
    /// A record batch that a broker sent cannot be read.
    #[error("damaged record batch at {topic}-{partition} offset {offset}: {reason}")]
    DamagedBatch {
        /// The topic's name.
        topic: String,
        /// The partition's index, from 0 on.
        partition: i32,
        /// Where the batch begins, or was asked for when that is damaged too. Seeking past it skips
        /// it.
        offset: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting has a value that cannot be used, or the call does not go with the settings.
    #[error("{setting}: {reason}")]
    Config {
        /// The field of this crate's configurations, or the call.
        setting: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The producer or consumer was closed before this was done.
    #[error("closed")]
    Closed,
    /// Another producer with this transactional id, or another member with this instance id, has
    /// taken over; this one can do nothing more.
    #[error("{what} was taken over by another: {code}")]
    Fenced {
        /// The transactional id or the membership.
        what: String,
        /// How the broker said so.
        code: ErrorCode,
    },
    /// The transaction has failed. Only aborting it is left, which dropping it does too.
    #[error("the transaction must be aborted: {reason}")]
    TransactionFailed {
        /// What failed in it first.
        reason: String,
    },
    /// Whether the transaction was committed is not known; it was or will be as a whole, or not at
    /// all.
    #[error("whether the transaction was committed is not known: {reason}")]
    TransactionUncertain {
        /// How the answer was lost.
        reason: String,
    },
    /// The group has given the partition to another member meanwhile: its records come again
    /// there, and nothing was committed.
    #[error("the group {group:?} has rebalanced: {code}")]
    Rebalanced {
        /// The group's id.
        group: String,
        /// How the coordinator said so.
        code: ErrorCode,
    },
}

fn describe(code: &ErrorCode, message: &Option<String>) -> String {
    match message.as_deref() {
        Some(message) if !message.is_empty() => format!("{message} ({code})"),
        _ => code.to_string(),
    }
}

/// What every call of this crate gives back.
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

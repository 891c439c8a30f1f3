//! What can go wrong, and which of it passes by itself.

use kafka_protocol::error::ResponseError;
use std::fmt;
use std::sync::Arc;

/// An error code of the Kafka protocol, as a broker sent it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i16);

impl ErrorCode {
    pub const OFFSET_OUT_OF_RANGE: ErrorCode = ErrorCode(1);
    pub const UNKNOWN_TOPIC_OR_PARTITION: ErrorCode = ErrorCode(3);
    pub const TOPIC_ALREADY_EXISTS: ErrorCode = ErrorCode(36);
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: ErrorCode = ErrorCode(45);
    pub const DUPLICATE_SEQUENCE_NUMBER: ErrorCode = ErrorCode(46);
    pub const INVALID_PRODUCER_EPOCH: ErrorCode = ErrorCode(47);
    pub const UNKNOWN_PRODUCER_ID: ErrorCode = ErrorCode(59);
    pub const UNKNOWN_TOPIC_ID: ErrorCode = ErrorCode(100);

    /// None for code 0, which means success.
    pub(crate) fn of(code: i16) -> Option<ErrorCode> {
        (code != 0).then_some(ErrorCode(code))
    }

    /// Whether Kafka calls the error retriable: the same request may succeed later.
    pub fn is_retriable(self) -> bool {
        ResponseError::try_from_code(self.0).is_some_and(|error| error.is_retriable())
    }

    /// The topic is unknown to the broker asked, which may only have heard of it late.
    pub fn is_unknown_topic(self) -> bool {
        self == Self::UNKNOWN_TOPIC_OR_PARTITION || self == Self::UNKNOWN_TOPIC_ID
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ResponseError::try_from_code(self.0) {
            Some(ResponseError::Unknown(code)) => write!(f, "error code {code}"),
            Some(error) => write!(f, "{error}"),
            None => f.write_str("None"),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.0)
    }
}

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
    /// The producer was closed before the record was sent.
    #[error("the producer is closed")]
    Closed,
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
            Error::Broker { code, .. } => Some(*code),
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

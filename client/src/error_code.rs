//! The error codes of the Kafka protocol, and the one table of those that pass by themselves.

use kafka_protocol::error::ResponseError;
use std::fmt;

/// An error code of the Kafka protocol, as a broker sent it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i16);

macro_rules! codes {
    ($($name:ident = $code:literal $doc:literal,)*) => {
        impl ErrorCode {
            $(#[doc = $doc] pub const $name: ErrorCode = ErrorCode($code);)*
        }
    };
}

codes! {
    OFFSET_OUT_OF_RANGE = 1 "The offset is before the first record that is kept, or after the end.",
    CORRUPT_MESSAGE = 2 "A batch arrived with a wrong checksum.",
    UNKNOWN_TOPIC_OR_PARTITION = 3 "The broker knows no such topic or partition (yet).",
    LEADER_NOT_AVAILABLE = 5 "A leader is being elected.",
    NOT_LEADER_OR_FOLLOWER = 6 "Another broker leads the partition.",
    REQUEST_TIMED_OUT = 7 "The broker did not get it done in time.",
    REPLICA_NOT_AVAILABLE = 9 "The replica is not there just now.",
    NETWORK_EXCEPTION = 13 "A connection between brokers was lost.",
    COORDINATOR_LOAD_IN_PROGRESS = 14 "The coordinator still reads its state.",
    COORDINATOR_NOT_AVAILABLE = 15 "There is no coordinator just now.",
    NOT_COORDINATOR = 16 "Another broker is the coordinator.",
    NOT_ENOUGH_REPLICAS = 19 "Too few replicas are in sync; nothing was written.",
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20 "Too few replicas are in sync; written by the leader only.",
    ILLEGAL_GENERATION = 22 "The group has rebalanced without this member.",
    INCONSISTENT_GROUP_PROTOCOL = 23 "The members of the group share no assignor.",
    UNKNOWN_MEMBER_ID = 25 "The group has no such member (any more).",
    REBALANCE_IN_PROGRESS = 27 "The group is rebalancing: join again.",
    NOT_CONTROLLER = 41 "Another broker is the controller.",
    UNSUPPORTED_VERSION = 35 "The broker does not speak this version of the API.",
    TOPIC_ALREADY_EXISTS = 36 "There is such a topic.",
    INVALID_REPLICA_ASSIGNMENT = 39 "The replicas are none, repeat, or name a broker that is not there.",
    INVALID_REQUEST = 42 "The request contradicts itself or the state of the cluster; the message says how.",
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45 "A batch before this one is missing.",
    DUPLICATE_SEQUENCE_NUMBER = 46 "The batch was written before, too long ago to say where.",
    INVALID_PRODUCER_EPOCH = 47 "A newer producer with the same id has taken over.",
    INVALID_TXN_STATE = 48 "The transaction is not in a state in which this can be done.",
    INVALID_PRODUCER_ID_MAPPING = 49 "The producer id does not belong to the transactional id.",
    CONCURRENT_TRANSACTIONS = 51 "The previous transaction is still being ended.",
    KAFKA_STORAGE_ERROR = 56 "The broker's disk is full or broken.",
    SASL_AUTHENTICATION_FAILED = 58 "Name or secret are wrong.",
    UNKNOWN_PRODUCER_ID = 59 "The broker remembers nothing of this producer.",
    NON_EMPTY_GROUP = 68 "The group has members.",
    GROUP_ID_NOT_FOUND = 69 "There is no such group.",
    FETCH_SESSION_ID_NOT_FOUND = 70 "The fetch session is forgotten.",
    INVALID_FETCH_SESSION_EPOCH = 71 "The fetch session has gone on without this request.",
    LISTENER_NOT_FOUND = 72 "The leader has no listener of this kind (yet).",
    FENCED_LEADER_EPOCH = 74 "The request knows an older leader than there is.",
    UNKNOWN_LEADER_EPOCH = 75 "The request knows a newer leader than the broker does.",
    OFFSET_NOT_AVAILABLE = 78 "The new leader does not know the end of its log yet.",
    MEMBER_ID_REQUIRED = 79 "Join again with the member id in the answer.",
    PREFERRED_LEADER_NOT_AVAILABLE = 80 "The preferred leader is away.",
    FENCED_INSTANCE_ID = 82 "Another member has taken over the static membership.",
    ELIGIBLE_LEADERS_NOT_AVAILABLE = 83 "No replica may become the leader just now.",
    ELECTION_NOT_NEEDED = 84 "The leader is already the one to be elected.",
    NO_REASSIGNMENT_IN_PROGRESS = 85 "The partition does not move.",
    GROUP_SUBSCRIBED_TO_TOPIC = 86 "Members of the group read the topic.",
    UNSTABLE_OFFSET_COMMIT = 88 "A transaction that commits offsets is still open.",
    THROTTLING_QUOTA_EXCEEDED = 89 "Too many such requests; later ones are taken.",
    PRODUCER_FENCED = 90 "A newer producer with the same transactional id has taken over.",
    UNKNOWN_TOPIC_ID = 100 "The broker knows no topic of this id (yet).",
    BROKER_ID_NOT_REGISTERED = 102 "The cluster knows no broker of this id.",
    INCONSISTENT_TOPIC_ID = 103 "The topic was created anew under another id.",
    FETCH_SESSION_TOPIC_ID_ERROR = 106 "The fetch session mixes topic names and ids.",
    FENCED_MEMBER_EPOCH = 110 "The group has gone on without this member: join again.",
    UNRELEASED_INSTANCE_ID = 111 "The static membership is still used by another member.",
    UNSUPPORTED_ASSIGNOR = 112 "The broker has no such assignor.",
    STALE_MEMBER_EPOCH = 113 "The member has a newer epoch than the request.",
    TRANSACTION_ABORTABLE = 120 "The transaction has failed and must be aborted.",
}

/// The codes after which the same request may succeed without anyone doing something. What Kafka
/// calls retriable, without elections that are not needed, and with transactions that are still
/// being ended.
const TRANSIENT: [ErrorCode; 28] = [
    ErrorCode::CORRUPT_MESSAGE,
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode::LEADER_NOT_AVAILABLE,
    ErrorCode::NOT_LEADER_OR_FOLLOWER,
    ErrorCode::REQUEST_TIMED_OUT,
    ErrorCode::REPLICA_NOT_AVAILABLE,
    ErrorCode::NETWORK_EXCEPTION,
    ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode::COORDINATOR_NOT_AVAILABLE,
    ErrorCode::NOT_COORDINATOR,
    ErrorCode::NOT_ENOUGH_REPLICAS,
    ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    ErrorCode::NOT_CONTROLLER,
    ErrorCode::CONCURRENT_TRANSACTIONS,
    ErrorCode::KAFKA_STORAGE_ERROR,
    ErrorCode::FETCH_SESSION_ID_NOT_FOUND,
    ErrorCode::INVALID_FETCH_SESSION_EPOCH,
    ErrorCode::LISTENER_NOT_FOUND,
    ErrorCode::FENCED_LEADER_EPOCH,
    ErrorCode::UNKNOWN_LEADER_EPOCH,
    ErrorCode::OFFSET_NOT_AVAILABLE,
    ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE,
    ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE,
    ErrorCode::UNSTABLE_OFFSET_COMMIT,
    ErrorCode::THROTTLING_QUOTA_EXCEEDED,
    ErrorCode::UNKNOWN_TOPIC_ID,
    ErrorCode::INCONSISTENT_TOPIC_ID,
    ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR,
];

impl ErrorCode {
    /// None for code 0, which means success.
    pub(crate) fn of(code: i16) -> Option<ErrorCode> {
        (code != 0).then_some(ErrorCode(code))
    }

    /// Whether the same request may succeed later without anyone doing something.
    pub fn is_retriable(self) -> bool {
        TRANSIENT.contains(&self)
    }

    /// The topic is unknown to the broker asked, which may only have heard of it late.
    pub fn is_unknown_topic(self) -> bool {
        self == Self::UNKNOWN_TOPIC_OR_PARTITION || self == Self::UNKNOWN_TOPIC_ID
    }

    /// The broker asked does not coordinate (any more): look the coordinator up anew.
    pub(crate) fn is_wrong_coordinator(self) -> bool {
        self == Self::NOT_COORDINATOR || self == Self::COORDINATOR_NOT_AVAILABLE
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Share groups are not spoken here; the others are as Kafka has them.
    #[test]
    fn the_table_is_that_of_kafka_but_for_named_exceptions() {
        for code in (1..=121).filter(|code| ![51, 84].contains(code)) {
            let kafka = ResponseError::try_from_code(code).is_some_and(|e| e.is_retriable());
            assert_eq!(ErrorCode(code).is_retriable(), kafka, "{code}");
        }
        assert!(ErrorCode::CONCURRENT_TRANSACTIONS.is_retriable());
    }
}

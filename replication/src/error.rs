//! What can go wrong when a command is proposed or a replica is opened.

use crate::BrokerId;
use tidelog_storage::error::StorageError;
use tidelog_storage::log::ProducerRejection;

/// Why a proposed command has no positive answer.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead the group; `leader` does, as far as is known here.
    #[error("not the leader of this group (leader: {leader:?})")]
    NotLeader {
        /// The leader's id, when known.
        leader: Option<BrokerId>,
    },
    /// The outcome is unknown: leadership was lost while the entry was under way. It may still be
    /// committed; an idempotent retry is safe.
    #[error("leadership was lost before the outcome was known")]
    OutcomeUnknown,
    /// The replicated producer check refused the batch; every replica agrees.
    #[error("refused by the producer check: {0:?}")]
    Rejected(ProducerRejection),
    /// Too few replicas answered in time; the entry may still be committed.
    #[error("not committed by a majority in time")]
    Timeout,
    /// This broker cannot take more data now (disk nearly full or too much in flight); retriable.
    #[error("storage cannot take more data now: {0}")]
    Storage(String),
    /// The group is stopped or removed.
    #[error("the group is stopped")]
    Stopped,
}

/// Errors of starting a node or opening a replica.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot listen for peers on {address}: {source}")]
    Listen {
        address: String,
        source: std::io::Error,
    },
    #[error("{context}: {source}")]
    Io {
        context: String,
        source: std::io::Error,
    },
    #[error("raft group {group}: {message}")]
    Raft { group: u64, message: String },
    #[error("{0}")]
    Refused(String),
}

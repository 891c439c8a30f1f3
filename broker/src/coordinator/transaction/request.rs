//! What a transaction shard is asked and what it answers.

use super::state::{Identity, TopicPartition};
use kafka_protocol::error::ResponseError;

/// A request to a transaction shard.
#[derive(Debug, Clone)]
pub enum Request {
    Init {
        id: String,
        timeout_ms: i32,
        expected: Option<Identity>,
        /// To be used when one is needed.
        fresh_producer_id: Option<i64>,
    },
    /// Adds partitions, or with `verify_only` looks whether they are there.
    Add {
        id: String,
        owner: Identity,
        partitions: Vec<TopicPartition>,
        verify_only: bool,
    },
    End {
        id: String,
        owner: Identity,
        commit: bool,
        /// Transaction version of the client.
        version: i16,
        fresh_producer_id: Option<i64>,
    },
    /// Waits for transactions whose end is decided. One caller at a time.
    TakeEnded,
    /// Every partition of this ended transaction has its marker.
    Marked {
        id: String,
        identity: Identity,
    },
    Describe(Vec<String>),
    List(Filters),
}

/// Which transactions are listed; empty lists are all.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    pub states: Vec<String>,
    pub producer_ids: Vec<i64>,
    /// Only those that have been under way for longer.
    pub duration_ms: Option<i64>,
}

/// A transaction whose end is decided and written down: its markers can be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub id: String,
    /// With the epoch the markers carry.
    pub identity: Identity,
    pub commit: bool,
    /// The markers' epoch is that of the next transaction (transaction version 2).
    pub bumped: bool,
    pub coordinator_epoch: i32,
    pub partitions: Vec<TopicPartition>,
}

/// A transaction as DescribeTransactions tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub id: String,
    pub identity: Identity,
    pub state: &'static str,
    pub timeout_ms: i32,
    pub start_ms: Option<i64>,
    pub partitions: Vec<TopicPartition>,
}

/// What a transaction shard answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The producer's new identity.
    Identity(Result<Identity, ResponseError>),
    /// Ask again with a fresh producer id.
    NeedProducerId,
    /// One result for each partition, in order.
    Added(Vec<Result<(), ResponseError>>),
    Ended(Vec<Ended>),
    Done,
    Described(Vec<(String, Option<Described>)>),
    Listed(Vec<Described>),
}

//! What is asked of a group shard, and answered.

use super::commits::FetchedTopic;
use super::consumer::heartbeat::Heartbeat;
use crate::coordinator::Marker;
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedNext;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatResponse, JoinGroupResponse, SyncGroupResponse,
};

/// A JoinGroup, as plain data.
#[derive(Debug, Clone, Default)]
pub struct JoinRequest {
    pub group: String,
    /// Empty: a new member.
    pub member_id: String,
    /// The id it gets if it is new; made by the caller, since it is random.
    pub new_member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub version: i16,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    /// Name and metadata, the preferred one first.
    pub protocols: Vec<(String, Bytes)>,
}

/// A SyncGroup, as plain data.
#[derive(Debug, Clone, Default)]
pub struct SyncRequest {
    pub group: String,
    pub member_id: String,
    pub instance_id: Option<String>,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    /// Of every member, from the leader only.
    pub assignments: Vec<(String, Bytes)>,
}

/// Whom LeaveGroup removes.
#[derive(Debug, Clone, Default)]
pub struct Leaving {
    pub member_id: String,
    pub instance_id: Option<String>,
}

/// One offset of an OffsetCommit.
#[derive(Debug, Clone, Default)]
pub struct CommitOffset {
    pub partition: i32,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
}

/// An OffsetCommit of partitions that exist.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    pub group: String,
    pub member_id: String,
    pub instance_id: Option<String>,
    /// Generation, or member epoch; below 0 for those that are no members.
    pub generation: i32,
    pub version: i16,
    /// Asked for by old clients.
    pub retention_ms: Option<i64>,
    pub topics: Vec<(String, Vec<CommitOffset>)>,
}

/// A TxnOffsetCommit of partitions that exist.
#[derive(Debug, Clone, Default)]
pub struct TxnCommitRequest {
    pub commit: CommitRequest,
    /// Id and epoch.
    pub producer: (i64, i16),
    pub confirmed: Confirmed,
}

/// Whether the transaction's coordinator knows that the transaction is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Confirmed {
    #[default]
    No,
    /// Yes, and [`Answer::AskCoordinator`] said this before it was asked: another number since means
    /// that the transaction has ended.
    At { marks: u64 },
    /// Yes, and the next transaction will have another epoch (transaction version 2).
    ForEpoch,
}

/// An OffsetFetch of one group.
#[derive(Debug, Clone, Default)]
pub struct FetchRequest {
    pub group: String,
    /// Set by members of KIP-848 groups.
    pub member: Option<(String, i32)>,
    /// `None`: all.
    pub topics: Option<Vec<(String, Vec<i32>)>>,
    /// Offsets that an open transaction may still change are not told.
    pub require_stable: bool,
}

/// A request to a group shard.
#[derive(Debug, Clone)]
pub enum Request {
    Join(JoinRequest),
    Sync(SyncRequest),
    Heartbeat {
        group: String,
        member_id: String,
        instance_id: Option<String>,
        generation: i32,
    },
    Leave {
        group: String,
        members: Vec<Leaving>,
    },
    /// ConsumerGroupHeartbeat.
    Beat(Box<Heartbeat>),
    /// ConsumerGroupDescribe.
    DescribeNext(Vec<String>),
    Commit(CommitRequest),
    CommitTransactional(TxnCommitRequest),
    /// The producer's transaction has ended.
    EndTransaction {
        marker: Marker,
        bumped: bool,
    },
    Fetch(FetchRequest),
    DeleteOffsets {
        group: String,
        topics: Vec<(String, Vec<i32>)>,
    },
    Describe(Vec<String>),
    /// Empty lists: all. In lower case.
    List {
        states: Vec<String>,
        types: Vec<String>,
    },
    DeleteGroups(Vec<String>),
}

/// A group as ListGroups tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    pub protocol_type: String,
    pub state: &'static str,
    pub kind: &'static str,
}

/// Done, or why not.
pub type Outcome = Result<(), ResponseError>;
/// Of each partition, by topic.
pub type Outcomes = Vec<(String, Vec<(i32, Outcome)>)>;

/// What a group shard answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Ask the transaction's coordinator first, then again with this.
    AskCoordinator {
        marks: u64,
    },
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Beat(ConsumerGroupHeartbeatResponse),
    DescribedNext(Vec<DescribedNext>),
    Done(Outcome),
    /// One result for each member, or group, asked for.
    Left(Vec<Outcome>),
    /// The result of each partition, or of all.
    Committed(Result<Outcomes, ResponseError>),
    Fetched(Result<Vec<FetchedTopic>, ResponseError>),
    Described(Vec<DescribedGroup>),
    Listed(Vec<Listed>),
}

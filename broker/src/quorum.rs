//! The state of the metadata group, told by whichever broker leads it.

use crate::broker::Broker;
use crate::peer_calls::{self, DescribeQuorum, PeerCall};
use kafka_protocol::error::ResponseError;
use std::time::Duration;
use tidelog_replication::{Quorum, QuorumReplica};

const CALL_LIMIT: Duration = Duration::from_secs(2);

/// [`Quorum`] as one broker tells it another.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuorumRecord {
    #[prost(int32, tag = "1")]
    pub leader: i32,
    #[prost(int32, tag = "2")]
    pub epoch: i32,
    /// One past the last committed index.
    #[prost(uint64, tag = "3")]
    pub high_watermark: u64,
    #[prost(message, repeated, tag = "4")]
    pub voters: Vec<ReplicaRecord>,
    #[prost(message, repeated, tag = "5")]
    pub observers: Vec<ReplicaRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplicaRecord {
    #[prost(int32, tag = "1")]
    pub broker: i32,
    /// One past the last index it has.
    #[prost(uint64, optional, tag = "2")]
    pub log_end: Option<u64>,
    /// Milliseconds since 1970.
    #[prost(int64, optional, tag = "3")]
    pub heard_ms: Option<i64>,
    #[prost(int64, optional, tag = "4")]
    pub caught_up_ms: Option<i64>,
}

impl ReplicaRecord {
    fn of(replica: &QuorumReplica) -> ReplicaRecord {
        ReplicaRecord {
            broker: replica.broker.0,
            log_end: replica.log_end,
            heard_ms: replica.heard_ms,
            caught_up_ms: replica.caught_up_ms,
        }
    }
}

impl QuorumRecord {
    fn of(quorum: &Quorum) -> QuorumRecord {
        QuorumRecord {
            leader: quorum.leader.0,
            epoch: quorum.epoch,
            high_watermark: quorum.high_watermark,
            voters: quorum.voters.iter().map(ReplicaRecord::of).collect(),
            observers: quorum.observers.iter().map(ReplicaRecord::of).collect(),
        }
    }
}

/// As this broker knows it; `None` unless it leads.
pub async fn here(broker: &Broker) -> Option<QuorumRecord> {
    let quorum = broker.node.quorum().await?;
    Some(QuorumRecord::of(&quorum))
}

/// Asks whichever broker leads the metadata group.
///
/// # Errors
/// `NOT_LEADER_OR_FOLLOWER` while there is no leader that a majority follows.
pub async fn describe(broker: &Broker) -> Result<QuorumRecord, ResponseError> {
    let none = ResponseError::NotLeaderOrFollower;
    let leader = broker.node.metadata_leader().ok_or(none)?;
    if leader == broker.id {
        return here(broker).await.ok_or(none);
    }
    let call = PeerCall::DescribeQuorum(DescribeQuorum {});
    let reply = peer_calls::ask(broker, leader, call, CALL_LIMIT).await;
    reply.ok().and_then(|reply| reply.quorum).ok_or(none)
}

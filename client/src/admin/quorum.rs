//! The metadata quorum: who votes on the cluster's metadata, and how far each voter is.

use super::{Admin, left_out, text};
use crate::error::{Error, Result};
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::describe_quorum_response::ReplicaState;
use kafka_protocol::messages::{DescribeQuorumRequest, TopicName};

const METADATA_TOPIC: &str = "__cluster_metadata";

/// One replica of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuorumReplica {
    /// The broker that has it.
    pub id: i32,
    /// The offset behind its last record; None while the leader has not heard of it.
    pub log_end: Option<i64>,
    /// When it last answered the leader, in milliseconds since 1970.
    pub last_fetch_ms: Option<i64>,
    /// The last time it was known to have all that the leader had, in milliseconds since 1970.
    pub last_caught_up_ms: Option<i64>,
}

/// The replicas of the metadata as their leader sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetadataQuorum {
    /// The broker that leads it.
    pub leader: i32,
    /// Grows with every election; the Raft term.
    pub leader_epoch: i32,
    /// What is below is committed.
    pub high_watermark: i64,
    /// Those a majority of which commits and elects.
    pub voters: Vec<QuorumReplica>,
    /// Those that follow without a vote.
    pub observers: Vec<QuorumReplica>,
}

fn known(value: i64) -> Option<i64> {
    (value >= 0).then_some(value)
}

fn replicas(states: Vec<ReplicaState>) -> Vec<QuorumReplica> {
    let one = |state: ReplicaState| QuorumReplica {
        id: state.replica_id.0,
        log_end: known(state.log_end_offset),
        last_fetch_ms: known(state.last_fetch_timestamp),
        last_caught_up_ms: known(state.last_caught_up_timestamp),
    };
    states.into_iter().map(one).collect()
}

impl Admin {
    /// Who votes on the metadata, and how far each is.
    ///
    /// # Errors
    /// When no leader can be asked before the call's deadline.
    pub async fn describe_quorum(&self) -> Result<MetadataQuorum> {
        let topic = TopicData::default()
            .with_topic_name(TopicName(text(METADATA_TOPIC)))
            .with_partitions(vec![PartitionData::default().with_partition_index(0)]);
        let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
        let what = "describe the metadata quorum";
        let mut retry = self.cluster.retry(what);
        loop {
            let attempt = async {
                let connection = self.cluster.any().await?;
                let deadline = retry.deadline();
                let response = self.cluster.send(&connection, &request, deadline).await?;
                Error::check(what, response.error_code, response.error_message.as_deref())?;
                let mut topics = response.topics.into_iter();
                let partition = topics.next().and_then(|t| t.partitions.into_iter().next());
                let partition = partition.ok_or_else(|| left_out(&connection, METADATA_TOPIC))?;
                let message = partition.error_message.as_deref();
                Error::check(what, partition.error_code, message)?;
                Ok(partition)
            };
            match attempt.await {
                Ok(partition) => {
                    return Ok(MetadataQuorum {
                        leader: partition.leader_id.0,
                        leader_epoch: partition.leader_epoch,
                        high_watermark: partition.high_watermark,
                        voters: replicas(partition.current_voters),
                        observers: replicas(partition.observers),
                    });
                }
                Err(error) => retry.pause(error).await?,
            }
        }
    }
}

//! Asks the coordinator of a transactional id, wherever it is.

use super::state::{Identity, TopicPartition};
use super::{Answer, Request};
use crate::broker::Broker;
use crate::coordinator::topic::{TRANSACTION_STATE, partition_for};
use crate::peer_calls::{self, AddPartitions, Outcome, PeerCall, TopicIndex};
use kafka_protocol::error::ResponseError;
use std::time::Duration;
use tokio::time::Instant;

/// How long one call to another broker may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(2);
const RETRY_MAX: Duration = Duration::from_millis(50);

/// Pauses between questions to a coordinator that is moving, or still ending the transaction before.
pub struct Retry {
    pause: Duration,
    deadline: Instant,
}

impl Retry {
    pub fn until(deadline: Instant) -> Retry {
        Retry {
            pause: RETRY_MIN,
            deadline,
        }
    }

    /// Waits when `error` will pass; false when there is no use or no time.
    pub async fn after(&mut self, error: ResponseError) -> bool {
        if !is_passing(error) || Instant::now() + self.pause >= self.deadline {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY_MAX);
        true
    }
}

/// Adds partitions to a transaction, or with `verify_only` looks whether they are part of it; the
/// outcome of each, in order.
pub async fn add(
    broker: &Broker,
    id: &str,
    owner: Identity,
    partitions: Vec<TopicPartition>,
    verify_only: bool,
) -> Vec<Outcome> {
    let count = partitions.len();
    add_anywhere(broker, id, owner, partitions, verify_only)
        .await
        .unwrap_or_else(|error| vec![Err(error); count])
}

/// Whether the coordinator will answer otherwise soon.
pub fn is_passing(error: ResponseError) -> bool {
    matches!(
        error,
        ResponseError::ConcurrentTransactions
            | ResponseError::NotCoordinator
            | ResponseError::CoordinatorLoadInProgress
            | ResponseError::CoordinatorNotAvailable
            | ResponseError::NetworkException
    )
}

async fn add_anywhere(
    broker: &Broker,
    id: &str,
    owner: Identity,
    partitions: Vec<TopicPartition>,
    verify_only: bool,
) -> Result<Vec<Outcome>, ResponseError> {
    let leader = {
        let image = broker.metadata.load();
        let topic = image
            .topic(TRANSACTION_STATE)
            .ok_or(ResponseError::CoordinatorNotAvailable)?;
        let index = partition_for(id, topic.partitions.len());
        broker
            .node
            .leader_of(topic.partitions[index].group)
            .ok_or(ResponseError::CoordinatorNotAvailable)?
            .leader
    };
    if leader == broker.id {
        return Ok(add_local(broker, id, owner, partitions, verify_only).await);
    }
    let count = partitions.len();
    let call = PeerCall::AddPartitions(AddPartitions {
        transactional_id: id.to_owned(),
        producer_id: owner.0,
        producer_epoch: i32::from(owner.1),
        partitions: partitions
            .into_iter()
            .map(|(topic, partition)| TopicIndex { topic, partition })
            .collect(),
        verify_only,
    });
    peer_calls::call(broker, leader, call, count, CALL_LIMIT).await
}

/// Answers another broker's call.
pub async fn add_here(broker: &Broker, add: AddPartitions) -> Vec<Outcome> {
    let owner = (add.producer_id, add.producer_epoch as i16);
    let partitions = add.partitions.into_iter();
    let partitions = partitions.map(|p| (p.topic, p.partition)).collect();
    add_local(
        broker,
        &add.transactional_id,
        owner,
        partitions,
        add.verify_only,
    )
    .await
}

/// As [`add`], once, when this broker is the coordinator.
pub async fn add_local(
    broker: &Broker,
    id: &str,
    owner: Identity,
    partitions: Vec<TopicPartition>,
    verify_only: bool,
) -> Vec<Outcome> {
    let count = partitions.len();
    let request = Request::Add {
        id: id.to_owned(),
        owner,
        partitions,
        verify_only,
    };
    match broker.transactions.call(broker, id, request).await {
        Ok(Answer::Added(outcomes)) => outcomes,
        Ok(_) => vec![Err(ResponseError::UnknownServerError); count],
        Err(unavailable) => vec![Err(unavailable.error()); count],
    }
}

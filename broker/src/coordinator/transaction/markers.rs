//! Writes the markers of transactions whose end is decided into all their partitions.
//!
//! One task for each partition of `__transaction_state` that is led here takes ended transactions from
//! the shard. Each transaction is a task of its own, so that one whose partition has no leader holds up
//! no other. It goes on until every partition has its marker: only then may the producer's next
//! transaction begin, and readers get past this one.

use super::{Answer, Ended, Request};
use crate::broker::{Broker, now_ms};
use crate::coordinator::topic::CONSUMER_OFFSETS;
use crate::coordinator::{Marker, group};
use crate::peer_calls::{self, Outcome, PeerCall, TopicIndex, WriteMarkers};
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::{BrokerId, ProposeError};
use tidelog_storage::batch::EndTxnMarker;
use tidelog_storage::log::ProducerRejection;
use tokio::sync::watch;
use tokio::task::JoinSet;

const CALL_LIMIT: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// How often partitions that this broker has begun to lead are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// The end of a transaction, for any of its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxnMarker {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
    pub commit: bool,
    /// The epoch is that of the producer's next transaction.
    pub bumped: bool,
}

/// Sends markers for the transactions coordinated here, until `stop`.
pub async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    // Dropped with this task, which ends all of them.
    let mut takers = JoinSet::new();
    let mut of_partition = HashMap::new();
    loop {
        let (led, _) = broker.transactions.led();
        of_partition.retain(|_, task: &mut tokio::task::AbortHandle| !task.is_finished());
        for partition in led {
            of_partition
                .entry(partition)
                .or_insert_with(|| takers.spawn(take(broker.clone(), partition)));
        }
        tokio::select! {
            () = tokio::time::sleep_until(broker.node.next_beat(LOOK)) => {}
            Some(_) = takers.join_next() => {}
            _ = stop.wait_for(|s| *s) => return,
        }
    }
}

/// Takes what ends in one partition, until the shard is lost.
async fn take(broker: Arc<Broker>, partition: i32) {
    let mut sending = JoinSet::new();
    loop {
        let request = broker
            .transactions
            .call_partition(partition, Request::TakeEnded);
        let ended = match request.await {
            Ok(Answer::Ended(ended)) => ended,
            Ok(_) => continue,
            // What is under way ends here too: the next coordinator begins anew.
            Err(_) => return,
        };
        for one in ended {
            sending.spawn(send(broker.clone(), partition, one));
        }
        while sending.try_join_next().is_some() {}
    }
}

/// Writes all markers of one transaction and tells the shard.
async fn send(broker: Arc<Broker>, shard: i32, ended: Ended) {
    let marker = TxnMarker {
        producer_id: ended.identity.0,
        producer_epoch: ended.identity.1,
        coordinator_epoch: ended.coordinator_epoch,
        commit: ended.commit,
        bumped: ended.bumped,
    };
    let mut left = ended.partitions;
    let mut pause = RETRY_MIN;
    while !left.is_empty() {
        left = match send_once(&broker, marker, left).await {
            Sent::Left(left) => left,
            Sent::Replaced => {
                tracing::info!(
                    transactional_id = ended.id,
                    "another coordinator has taken over the end of a transaction"
                );
                return;
            }
        };
        if !left.is_empty() {
            tracing::debug!(
                transactional_id = ended.id,
                ?left,
                "markers are tried again"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
    let marked = Request::Marked {
        id: ended.id,
        identity: ended.identity,
    };
    // Lost with the shard: then it is sent again by the next one.
    let _ = broker.transactions.call_partition(shard, marked).await;
}

enum Sent {
    /// Partitions still without a marker.
    Left(Vec<(String, i32)>),
    /// A coordinator of a later epoch has written markers.
    Replaced,
}

async fn send_once(broker: &Broker, marker: TxnMarker, partitions: Vec<(String, i32)>) -> Sent {
    let mut by_leader: BTreeMap<BrokerId, Vec<(String, i32)>> = BTreeMap::new();
    let mut left = Vec::new();
    for partition in partitions {
        match leader(broker, &partition) {
            Ok(Some(leader)) => by_leader.entry(leader).or_default().push(partition),
            // The topic is gone, and its part of the transaction with it.
            Ok(None) => {}
            Err(()) => left.push(partition),
        }
    }
    let calls = by_leader
        .into_iter()
        .map(|(leader, partitions)| async move {
            let outcomes = write_at(broker, leader, marker, partitions.clone()).await;
            (partitions, outcomes)
        });
    for (partitions, outcomes) in join_all(calls).await {
        for (partition, outcome) in partitions.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => {}
                // The producer has a later epoch there: the transaction was ended by other means.
                Err(ResponseError::InvalidProducerEpoch) => {
                    tracing::warn!(?partition, ?marker, "the transaction has ended already");
                }
                Err(ResponseError::TransactionCoordinatorFenced) => return Sent::Replaced,
                Err(_) => left.push(partition),
            }
        }
    }
    Sent::Left(left)
}

/// `Ok(None)` when the partition does not exist any more, `Err` when its leader is not known now.
fn leader(broker: &Broker, (topic, partition): &(String, i32)) -> Result<Option<BrokerId>, ()> {
    let image = broker.metadata.load();
    let known = image.topic(topic).and_then(|t| {
        let index = usize::try_from(*partition).ok()?;
        t.partitions.get(index)
    });
    match known {
        Some(meta) => {
            let leader = broker.node.leader_of(meta.group).ok_or(())?;
            Ok(Some(leader.leader))
        }
        // Old metadata may not know a topic that is there.
        None if broker.node.metadata_is_current() => Ok(None),
        None => Err(()),
    }
}

async fn write_at(
    broker: &Broker,
    leader: BrokerId,
    marker: TxnMarker,
    partitions: Vec<(String, i32)>,
) -> Vec<Outcome> {
    if leader == broker.id {
        return write(broker, marker, partitions).await;
    }
    let count = partitions.len();
    let call = PeerCall::WriteMarkers(WriteMarkers {
        producer_id: marker.producer_id,
        producer_epoch: i32::from(marker.producer_epoch),
        coordinator_epoch: marker.coordinator_epoch,
        commit: marker.commit,
        bumped: marker.bumped,
        partitions: partitions
            .into_iter()
            .map(|(topic, partition)| TopicIndex { topic, partition })
            .collect(),
    });
    peer_calls::call(broker, leader, call, count, CALL_LIMIT)
        .await
        .unwrap_or_else(|error| vec![Err(error); count])
}

/// Writes a marker into partitions this broker leads; the outcome of each, in order.
pub async fn write(
    broker: &Broker,
    marker: TxnMarker,
    partitions: Vec<(String, i32)>,
) -> Vec<Outcome> {
    let each = partitions
        .iter()
        .map(|(topic, partition)| write_one(broker, marker, topic, *partition));
    join_all(each).await
}

async fn write_one(broker: &Broker, marker: TxnMarker, topic: &str, partition: i32) -> Outcome {
    if topic == CONSUMER_OFFSETS {
        return write_offsets(broker, marker, partition).await;
    }
    let replica = {
        let image = broker.metadata.load();
        let topic = image
            .topic(topic)
            .ok_or(ResponseError::UnknownTopicOrPartition)?;
        let meta = usize::try_from(partition)
            .ok()
            .and_then(|i| topic.partitions.get(i))
            .ok_or(ResponseError::UnknownTopicOrPartition)?;
        broker
            .node
            .partition(meta.group)
            .ok_or(ResponseError::NotLeaderOrFollower)?
    };
    let end = EndTxnMarker {
        commit: marker.commit,
        coordinator_epoch: marker.coordinator_epoch,
    };
    let batch = end.batch(marker.producer_id, marker.producer_epoch, now_ms());
    match replica.propose_marker(batch, marker.bumped).await {
        Ok(_) => Ok(()),
        Err(ProposeError::Rejected(ProducerRejection::StaleEpoch { .. })) => {
            Err(ResponseError::InvalidProducerEpoch)
        }
        Err(ProposeError::Rejected(ProducerRejection::CoordinatorFenced { .. })) => {
            Err(ResponseError::TransactionCoordinatorFenced)
        }
        Err(ProposeError::Rejected(_)) => Err(ResponseError::UnknownServerError),
        Err(ProposeError::Timeout) => Err(ResponseError::RequestTimedOut),
        Err(ProposeError::Storage(_)) => Err(ResponseError::KafkaStorageError),
        Err(_) => Err(ResponseError::NotLeaderOrFollower),
    }
}

/// Markers for committed offsets go through the groups' coordinator, which writes alone there.
async fn write_offsets(broker: &Broker, marker: TxnMarker, partition: i32) -> Outcome {
    let request = group::Request::EndTransaction {
        marker: Marker {
            producer_id: marker.producer_id,
            producer_epoch: marker.producer_epoch,
            coordinator_epoch: marker.coordinator_epoch,
            commit: marker.commit,
        },
        bumped: marker.bumped,
    };
    match broker.groups.call_partition(partition, request).await {
        Ok(group::Answer::Done(outcome)) => outcome,
        Ok(_) => Err(ResponseError::UnknownServerError),
        Err(unavailable) => Err(unavailable.error()),
    }
}

//! TxnOffsetCommit (versions 0 to 5): committed offsets that become visible with their transaction.

use super::{RequestContext, owned, transactional};
use crate::broker::Broker;
use crate::coordinator::group::{
    Answer, CommitOffset, CommitRequest, Confirmed, Request, TxnCommitRequest,
};
use crate::coordinator::topic::{CONSUMER_OFFSETS, partition_for};
use crate::coordinator::transaction::remote::{self, Retry};
use crate::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestPartition;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long the transaction's coordinator may take.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// First version whose clients leave it to the broker to add the group's partition.
const ADDS_IMPLICITLY: i16 = 5;
const KNOWS_ABORTABLE: i16 = 4;
/// Clients before do not stand COORDINATOR_LOAD_IN_PROGRESS.
const KNOWS_LOADING: i16 = 2;

type Outcomes = HashMap<(String, i32), Result<(), ResponseError>>;

pub async fn handle(
    context: &RequestContext,
    request: TxnOffsetCommitRequest,
    version: i16,
) -> TxnOffsetCommitResponse {
    let broker = &context.broker;
    let image = broker.metadata.load_full();
    let asked = asked(&request, &image, version);
    let outcome = if asked.commit.topics.is_empty() {
        Ok(HashMap::new())
    } else {
        commit(broker, &request.transactional_id, asked).await
    };
    let code = |topic: &str, partition: i32| {
        if !transactional::exists(&image, topic, partition) {
            return ResponseError::UnknownTopicOrPartition.code();
        }
        let result = match &outcome {
            Ok(outcomes) => outcomes.get(&(topic.to_owned(), partition)).copied(),
            Err(error) => Some(Err(told(*error, version))),
        };
        result.and_then(Result::err).map_or(0, |e| e.code())
    };
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(p.partition_index)
                .with_error_code(code(&topic.name, p.partition_index))
        });
        TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

fn asked(
    request: &TxnOffsetCommitRequest,
    image: &MetadataImage,
    version: i16,
) -> TxnCommitRequest {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter();
        let known = partitions
            .filter(|p| transactional::exists(image, &topic.name, p.partition_index))
            .map(commit_offset);
        (topic.name.to_string(), known.collect::<Vec<_>>())
    });
    TxnCommitRequest {
        commit: CommitRequest {
            group: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            instance_id: owned(request.group_instance_id.as_ref()),
            generation: request.generation_id,
            version,
            retention_ms: None,
            topics: topics.filter(|(_, p)| !p.is_empty()).collect(),
        },
        producer: (request.producer_id.0, request.producer_epoch),
        confirmed: Confirmed::No,
    }
}

fn commit_offset(asked: &TxnOffsetCommitRequestPartition) -> CommitOffset {
    let metadata = asked.committed_metadata.as_deref().unwrap_or_default();
    CommitOffset {
        partition: asked.partition_index,
        offset: asked.committed_offset,
        leader_epoch: asked.committed_leader_epoch,
        metadata: metadata.to_owned(),
    }
}

async fn commit(
    broker: &Broker,
    transactional_id: &str,
    mut asked: TxnCommitRequest,
) -> Result<Outcomes, ResponseError> {
    if transactional_id.is_empty() || asked.commit.group.is_empty() {
        return Err(ResponseError::InvalidRequest);
    }
    let group = asked.commit.group.clone();
    let mut retry = Retry::until(Instant::now() + ASK_LIMIT);
    loop {
        let request = Request::CommitTransactional(asked.clone());
        match broker.groups.call(broker, &group, request).await {
            Ok(Answer::Committed(Ok(topics))) => {
                let each = topics.into_iter().flat_map(|(topic, partitions)| {
                    partitions
                        .into_iter()
                        .map(move |(partition, result)| ((topic.clone(), partition), result))
                });
                return Ok(each.collect());
            }
            Ok(Answer::Committed(Err(error))) => return Err(error),
            Ok(Answer::AskCoordinator { marks }) if asked.confirmed == Confirmed::No => {
                match ask(broker, transactional_id, &asked).await {
                    Ok(()) if asked.commit.version >= ADDS_IMPLICITLY => {
                        asked.confirmed = Confirmed::ForEpoch;
                    }
                    Ok(()) => asked.confirmed = Confirmed::At { marks },
                    // From the beginning: the marker of the transaction before may have come.
                    Err(error) if retry.after(error).await => {}
                    Err(error) => return Err(unconfirmed(error)),
                }
            }
            Ok(_) => return Err(ResponseError::UnknownServerError),
            Err(unavailable) => return Err(unavailable.error()),
        }
    }
}

/// Adds the group's partition to the transaction, or with older clients looks whether it is part of it.
async fn ask(broker: &Broker, id: &str, asked: &TxnCommitRequest) -> Result<(), ResponseError> {
    let partitions = {
        let image = broker.metadata.load();
        let topic = image.topic(CONSUMER_OFFSETS);
        topic.map_or(0, |t| t.partitions.len())
    };
    let index = partition_for(&asked.commit.group, partitions) as i32;
    let partition = (CONSUMER_OFFSETS.to_owned(), index);
    let verify_only = asked.commit.version < ADDS_IMPLICITLY;
    let outcomes = remote::add(broker, id, asked.producer, vec![partition], verify_only);
    outcomes.await.into_iter().collect()
}

fn unconfirmed(error: ResponseError) -> ResponseError {
    match error {
        ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
        // Of the transaction's coordinator, not the group's: the client tries again.
        error if remote::is_passing(error) => ResponseError::CoordinatorNotAvailable,
        error => error,
    }
}

fn told(error: ResponseError, version: i16) -> ResponseError {
    match error {
        ResponseError::TransactionAbortable if version < KNOWS_ABORTABLE => {
            ResponseError::InvalidTxnState
        }
        ResponseError::CoordinatorLoadInProgress if version < KNOWS_LOADING => {
            ResponseError::CoordinatorNotAvailable
        }
        error => error,
    }
}

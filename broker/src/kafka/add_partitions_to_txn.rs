//! AddPartitionsToTxn (versions 0 to 5): makes partitions part of a transaction. From version 4 on it is
//! for brokers, with several transactions in one request, and may only ask whether they are (KIP-890).

use super::{RequestContext, transactional};
use crate::coordinator::transaction::remote;
use crate::coordinator::transaction::state::Identity;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};

const BATCHED: i16 = 4;
const KNOWS_FENCED: i16 = 2;
const KNOWS_ABORTABLE: i16 = 5;

pub async fn handle(
    context: &RequestContext,
    request: AddPartitionsToTxnRequest,
    version: i16,
) -> AddPartitionsToTxnResponse {
    if version < BATCHED {
        let owner = (
            request.v3_and_below_producer_id.0,
            request.v3_and_below_producer_epoch,
        );
        let id = &request.v3_and_below_transactional_id;
        let topics = request.v3_and_below_topics;
        let results = add(context, id, owner, topics, false, version).await;
        return AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results);
    }
    let mut all = Vec::with_capacity(request.transactions.len());
    for asked in request.transactions {
        let owner = (asked.producer_id.0, asked.producer_epoch);
        let id = asked.transactional_id;
        let results = add(
            context,
            &id,
            owner,
            asked.topics,
            asked.verify_only,
            version,
        )
        .await;
        all.push(
            AddPartitionsToTxnResult::default()
                .with_transactional_id(id)
                .with_topic_results(results),
        );
    }
    AddPartitionsToTxnResponse::default().with_results_by_transaction(all)
}

async fn add(
    context: &RequestContext,
    id: &str,
    owner: Identity,
    topics: Vec<AddPartitionsToTxnTopic>,
    verify_only: bool,
    version: i16,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let broker = &context.broker;
    let partitions = transactional::partitions(&topics);
    let image = broker.metadata.load_full();
    let known: Vec<bool> = partitions
        .iter()
        .map(|(topic, partition)| transactional::exists(&image, topic, *partition))
        .collect();
    let mut codes = if id.is_empty() {
        vec![ResponseError::InvalidRequest.code(); known.len()]
    } else if known.iter().all(|k| *k) {
        let named = partitions.iter().map(|(t, p)| (t.to_string(), *p));
        let named = named.collect();
        let outcomes = remote::add_local(broker, id, owner, named, verify_only).await;
        let codes = outcomes
            .into_iter()
            .map(|o| o.err().map_or(0, |e| told(e, version).code()));
        codes.collect()
    } else {
        // All or nothing, as in Kafka.
        let code = |known: &bool| {
            if *known {
                ResponseError::OperationNotAttempted.code()
            } else {
                ResponseError::UnknownTopicOrPartition.code()
            }
        };
        known.iter().map(code).collect()
    }
    .into_iter();
    let results = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| {
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(*p)
                .with_partition_error_code(codes.next().unwrap_or_default())
        });
        let partitions = partitions.collect();
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name)
            .with_results_by_partition(partitions)
    });
    results.collect()
}

fn told(error: ResponseError, version: i16) -> ResponseError {
    match error {
        ResponseError::TransactionAbortable if version < KNOWS_ABORTABLE => {
            ResponseError::InvalidTxnState
        }
        error => transactional::fenced(error, version >= KNOWS_FENCED),
    }
}

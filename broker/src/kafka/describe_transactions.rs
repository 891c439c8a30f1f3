//! DescribeTransactions (version 0, KIP-664): transactional ids coordinated here.

use super::{RequestContext, text};
use crate::broker::Broker;
use crate::coordinator::transaction::{Answer, Described, Request};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_protocol::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ProducerId, TopicName,
    TransactionalId,
};
use std::collections::BTreeMap;

pub async fn handle(
    context: &RequestContext,
    request: DescribeTransactionsRequest,
    _version: i16,
) -> DescribeTransactionsResponse {
    let mut states = Vec::with_capacity(request.transactional_ids.len());
    for id in request.transactional_ids {
        states.push(match describe(&context.broker, &id).await {
            Ok(described) => state(id, described),
            Err(error) => TransactionState::default()
                .with_transactional_id(id)
                .with_error_code(error.code()),
        });
    }
    DescribeTransactionsResponse::default().with_transaction_states(states)
}

async fn describe(broker: &Broker, id: &str) -> Result<Described, ResponseError> {
    if id.is_empty() {
        return Err(ResponseError::InvalidRequest);
    }
    let request = Request::Describe(vec![id.to_owned()]);
    match broker.transactions.call(broker, id, request).await {
        Ok(Answer::Described(mut all)) => all
            .pop()
            .and_then(|(_, described)| described)
            .ok_or(ResponseError::TransactionalIdNotFound),
        Ok(_) => Err(ResponseError::UnknownServerError),
        Err(unavailable) => Err(unavailable.error()),
    }
}

fn state(id: TransactionalId, described: Described) -> TransactionState {
    let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in described.partitions {
        topics.entry(topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        TopicData::default()
            .with_topic(TopicName(text(topic)))
            .with_partitions(partitions)
    });
    TransactionState::default()
        .with_transactional_id(id)
        .with_transaction_state(text(described.state))
        .with_transaction_timeout_ms(described.timeout_ms)
        .with_transaction_start_time_ms(described.start_ms.unwrap_or(-1))
        .with_producer_id(ProducerId(described.identity.0))
        .with_producer_epoch(described.identity.1)
        .with_topics(topics.collect())
}

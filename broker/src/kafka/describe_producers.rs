//! DescribeProducers (version 0, KIP-664): the producers a partition knows, and their open transactions.

use super::{RequestContext, find_led, find_topic, text};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};
use tidelog_storage::log::ProducerInfo;

pub async fn handle(
    context: &RequestContext,
    request: DescribeProducersRequest,
    _version: i16,
) -> DescribeProducersResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            let partition = PartitionResponse::default().with_partition_index(*index);
            match producers(context, &topic.name, *index) {
                Ok(producers) => partition
                    .with_active_producers(producers.into_iter().map(producer_state).collect()),
                Err(error) => partition
                    .with_error_code(error.code())
                    .with_error_message(Some(text(error.to_string()))),
            }
        });
        let partitions = partitions.collect();
        TopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions)
    });
    DescribeProducersResponse::default().with_topics(topics.collect())
}

fn producers(
    context: &RequestContext,
    topic: &str,
    index: i32,
) -> Result<Vec<ProducerInfo>, ResponseError> {
    let image = context.broker.metadata.load();
    let topic = find_topic(&image, topic, uuid::Uuid::nil())?;
    let found = find_led(&context.broker, &topic, index, -1)?;
    Ok(found.partition.log().producers())
}

fn producer_state(producer: ProducerInfo) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(producer.producer_id))
        .with_producer_epoch(i32::from(producer.epoch))
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.last_timestamp)
        .with_coordinator_epoch(producer.coordinator_epoch.unwrap_or(-1))
        .with_current_txn_start_offset(producer.txn_first_offset.unwrap_or(-1))
}

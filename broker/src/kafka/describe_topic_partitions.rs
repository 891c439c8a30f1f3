//! DescribeTopicPartitions (KIP-966): topics page by page.

use super::metadata::PartitionState;
use super::{RequestContext, text};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};

pub async fn handle(
    context: &RequestContext,
    request: DescribeTopicPartitionsRequest,
    _version: i16,
) -> DescribeTopicPartitionsResponse {
    let broker = &context.broker;
    let image = broker.metadata.load_full();
    let most = broker.config.int("max.request.partition.size.limit") as i32;
    let mut left = request.response_partition_limit.clamp(1, most) as usize;
    let mut names: Vec<String> = if request.topics.is_empty() {
        image.topics.keys().cloned().collect()
    } else {
        request.topics.iter().map(|t| t.name.to_string()).collect()
    };
    names.sort();
    names.dedup();
    let from = request
        .cursor
        .map(|c| (c.topic_name.to_string(), c.partition_index.max(0) as usize));
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        let first = match &from {
            Some((topic, _)) if name < *topic => continue,
            Some((topic, partition)) if name == *topic => *partition,
            _ => 0,
        };
        let shown = Some(TopicName(text(name.clone())));
        let mut described =
            DescribeTopicPartitionsResponseTopic::default().with_name(shown.clone());
        described.topic_authorized_operations = i32::MIN;
        let Some(topic) = image.topic(&name) else {
            response
                .topics
                .push(described.with_error_code(ResponseError::UnknownTopicOrPartition.code()));
            continue;
        };
        let end = topic.partitions.len().min(first + left);
        if left == 0 || (end < topic.partitions.len() && first >= end) {
            response.next_cursor = Some(
                Cursor::default()
                    .with_topic_name(TopicName(text(name)))
                    .with_partition_index(first as i32),
            );
            return response;
        }
        let partitions = (first..end)
            .map(|index| {
                let state = PartitionState::of(broker, &topic.partitions[index]);
                DescribeTopicPartitionsResponsePartition::default()
                    .with_error_code(state.error_code)
                    .with_partition_index(index as i32)
                    .with_leader_id(state.leader)
                    .with_leader_epoch(state.epoch)
                    .with_replica_nodes(state.replicas)
                    .with_isr_nodes(state.in_sync)
                    .with_eligible_leader_replicas(Some(Vec::new()))
                    .with_last_known_elr(Some(Vec::new()))
                    .with_offline_replicas(state.offline)
            })
            .collect();
        left -= end.saturating_sub(first);
        response.topics.push(
            described
                .with_topic_id(topic.id)
                .with_is_internal(crate::coordinator::topic::is_internal(&topic.name))
                .with_partitions(partitions),
        );
        if end < topic.partitions.len() {
            response.next_cursor = Some(
                Cursor::default()
                    .with_topic_name(TopicName(text(name)))
                    .with_partition_index(end as i32),
            );
            return response;
        }
    }
    response
}

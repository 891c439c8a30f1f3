//! ListPartitionReassignments (version 0): partitions under way to other replicas.

use super::{RequestContext, text};
use crate::metadata::PartitionMeta;
use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    BrokerId, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};

pub async fn handle(
    context: &RequestContext,
    request: ListPartitionReassignmentsRequest,
    _version: i16,
) -> ListPartitionReassignmentsResponse {
    let image = context.broker.metadata.load_full();
    let mut topics = Vec::new();
    for topic in image.topics.values() {
        let asked = request.topics.as_ref().map(|asked| {
            let of_topic = asked.iter().filter(|t| *t.name == *topic.name);
            of_topic
                .flat_map(|t| t.partition_indexes.iter().copied())
                .collect::<Vec<i32>>()
        });
        let ongoing: Vec<_> = topic
            .partitions
            .iter()
            .enumerate()
            .map(|(index, partition)| (index as i32, partition))
            .filter(|(index, partition)| {
                partition.reassignment.is_some()
                    && asked.as_ref().is_none_or(|asked| asked.contains(index))
            })
            .map(|(index, partition)| describe(index, partition))
            .collect();
        if !ongoing.is_empty() {
            let named = OngoingTopicReassignment::default()
                .with_name(TopicName(text(topic.name.clone())))
                .with_partitions(ongoing);
            topics.push(named);
        }
    }
    ListPartitionReassignmentsResponse::default().with_topics(topics)
}

fn describe(index: i32, partition: &PartitionMeta) -> OngoingPartitionReassignment {
    let ids = |brokers: &[tidelog_replication::BrokerId]| -> Vec<BrokerId> {
        brokers.iter().map(|b| BrokerId(b.0)).collect()
    };
    OngoingPartitionReassignment::default()
        .with_partition_index(index)
        .with_replicas(ids(&partition.replicas))
        .with_adding_replicas(ids(&partition.adding()))
        .with_removing_replicas(ids(&partition.removing()))
}

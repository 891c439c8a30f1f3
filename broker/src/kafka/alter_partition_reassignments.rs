//! AlterPartitionReassignments (versions 0 and 1): begins, changes and cancels moves of partitions.
//! Answered once the change is committed; the moves themselves take as long as their copies do.

use super::{RequestContext, text};
use crate::metadata::changes::{Refused, alter_reassignments};
use crate::metadata::command::ReassignmentChange;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
};

pub async fn handle(
    context: &RequestContext,
    request: AlterPartitionReassignmentsRequest,
    version: i16,
) -> AlterPartitionReassignmentsResponse {
    // Before version 1 the number of replicas could always be changed.
    let factor_may_change = version < 1 || request.allow_replication_factor_change;
    let mut changes = Vec::new();
    let image = context.broker.metadata.load_full();
    let mut topics: Vec<ReassignableTopicResponse> = Vec::new();
    // Where in the answer each change's outcome goes.
    let mut places = Vec::new();
    for asked in request.topics {
        let topic = image.topic(&asked.name);
        let mut partitions = Vec::new();
        for partition in asked.partitions {
            let mut response = ReassignablePartitionResponse::default()
                .with_partition_index(partition.partition_index);
            let target = partition
                .replicas
                .map(|r| r.iter().map(|b| b.0).collect::<Vec<i32>>());
            match (topic, target) {
                (None, _) => {
                    response.error_code = ResponseError::UnknownTopicOrPartition.code();
                    response.error_message = Some(text("Unable to find a topic of that name."));
                }
                // Cancelling is null, not an empty list.
                (Some(_), Some(target)) if target.is_empty() => {
                    response.error_code = ResponseError::InvalidReplicaAssignment.code();
                    response.error_message = Some(text(
                        "The manual partition assignment includes an empty replica list.",
                    ));
                }
                (Some(topic), target) => {
                    places.push((topics.len(), partitions.len()));
                    changes.push(ReassignmentChange {
                        topic_id: topic.id.as_bytes().to_vec(),
                        partition: partition.partition_index,
                        target: target.unwrap_or_default(),
                    });
                }
            }
            partitions.push(response);
        }
        let answered = ReassignableTopicResponse::default()
            .with_name(asked.name)
            .with_partitions(partitions);
        topics.push(answered);
    }
    let response = AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(factor_may_change);
    if !changes.is_empty() {
        match alter_reassignments(&context.broker, changes, factor_may_change).await {
            Ok(outcomes) => {
                for ((topic, partition), outcome) in places.into_iter().zip(outcomes) {
                    if let Err(Refused { error, message }) = outcome {
                        let answer = &mut topics[topic].partitions[partition];
                        answer.error_code = error.code();
                        answer.error_message = Some(text(message));
                    }
                }
            }
            Err(Refused { error, message }) => {
                return response
                    .with_error_code(error.code())
                    .with_error_message(Some(text(message)));
            }
        }
    }
    response.with_responses(topics)
}

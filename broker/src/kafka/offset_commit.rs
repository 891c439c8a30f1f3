//! OffsetCommit (versions 2 to 9).

use super::{RequestContext, owned};
use crate::coordinator::group::{Answer, CommitOffset, CommitRequest, Request};
use crate::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use std::collections::HashMap;

/// Versions in which a client may ask for a retention of its own.
const WITH_RETENTION: std::ops::RangeInclusive<i16> = 2..=4;

pub async fn handle(
    context: &RequestContext,
    request: OffsetCommitRequest,
    version: i16,
) -> OffsetCommitResponse {
    let broker = &context.broker;
    let image = broker.metadata.load_full();
    let known: Vec<(String, Vec<CommitOffset>)> = request
        .topics
        .iter()
        .map(|topic| {
            let partitions = topic.partitions.iter();
            let known = partitions.filter(|p| exists(&image, &topic.name, p.partition_index));
            (topic.name.to_string(), known.map(commit_offset).collect())
        })
        .filter(|(_, partitions): &(String, Vec<CommitOffset>)| !partitions.is_empty())
        .collect();
    let outcome = if known.is_empty() {
        Ok(HashMap::new())
    } else {
        let asked = CommitRequest {
            group: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            instance_id: owned(request.group_instance_id.as_ref()),
            generation: request.generation_id_or_member_epoch,
            version,
            retention_ms: (WITH_RETENTION.contains(&version) && request.retention_time_ms >= 0)
                .then_some(request.retention_time_ms),
            topics: known,
        };
        commit(context, asked).await
    };
    let code = |topic: &str, partition: i32| match &outcome {
        Ok(results) => results
            .get(topic)
            .and_then(|r| r.get(&partition))
            .copied()
            .unwrap_or_else(|| ResponseError::UnknownTopicOrPartition.code()),
        Err(_) if !exists(&image, topic, partition) => {
            ResponseError::UnknownTopicOrPartition.code()
        }
        Err(error) => error.code(),
    };
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(p.partition_index)
                .with_error_code(code(&topic.name, p.partition_index))
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn exists(image: &MetadataImage, topic: &str, partition: i32) -> bool {
    let count = image.topic(topic).map_or(0, |t| t.partitions.len());
    usize::try_from(partition).is_ok_and(|p| p < count)
}

fn commit_offset(asked: &OffsetCommitRequestPartition) -> CommitOffset {
    let metadata = asked.committed_metadata.as_deref().unwrap_or_default();
    CommitOffset {
        partition: asked.partition_index,
        offset: asked.committed_offset,
        leader_epoch: asked.committed_leader_epoch,
        metadata: metadata.to_owned(),
    }
}

type Codes = HashMap<String, HashMap<i32, i16>>;

async fn commit(context: &RequestContext, asked: CommitRequest) -> Result<Codes, ResponseError> {
    let broker = &context.broker;
    let group = asked.group.clone();
    match broker
        .groups
        .call(broker, &group, Request::Commit(asked))
        .await
    {
        Ok(Answer::Committed(Ok(topics))) => {
            let mut codes = Codes::new();
            for (topic, partitions) in topics {
                let of_topic = codes.entry(topic).or_default();
                for (partition, result) in partitions {
                    of_topic.insert(partition, result.err().map_or(0, |e| e.code()));
                }
            }
            Ok(codes)
        }
        Ok(Answer::Committed(Err(error))) => Err(error),
        Ok(_) => Err(ResponseError::UnknownServerError),
        Err(unavailable) => Err(unavailable.error()),
    }
}

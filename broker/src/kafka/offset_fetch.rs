//! OffsetFetch (versions 1 to 9): of one group, from version 8 on of several.

use super::{RequestContext, text};
use crate::coordinator::group::{Answer, FetchRequest, FetchedOffset, FetchedTopic, Request};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse, TopicName};

/// First version with several groups.
const BATCHED: i16 = 8;
/// First version with an error for the whole answer.
const WITH_ERROR: i16 = 2;

pub async fn handle(
    context: &RequestContext,
    request: OffsetFetchRequest,
    version: i16,
) -> OffsetFetchResponse {
    if version < BATCHED {
        return single(context, request, version).await;
    }
    let require_stable = request.require_stable;
    let groups = request.groups.into_iter().map(|asked| async move {
        let member = asked
            .member_id
            .as_ref()
            .filter(|_| version >= 9)
            .map(|m| (m.to_string(), asked.member_epoch));
        let fetched = fetch(
            context,
            FetchRequest {
                group: asked.group_id.to_string(),
                member,
                topics: asked.topics.as_deref().map(names),
                require_stable,
            },
        )
        .await;
        let group = OffsetFetchResponseGroup::default().with_group_id(asked.group_id);
        match fetched {
            Ok(topics) => group.with_topics(topics.into_iter().map(batched_topic).collect()),
            Err(error) => group.with_error_code(error.code()),
        }
    });
    let groups = futures_util::future::join_all(groups).await;
    OffsetFetchResponse::default().with_groups(groups)
}

fn names(topics: &[OffsetFetchRequestTopics]) -> Vec<(String, Vec<i32>)> {
    topics
        .iter()
        .map(|t| (t.name.to_string(), t.partition_indexes.clone()))
        .collect()
}

async fn single(
    context: &RequestContext,
    request: OffsetFetchRequest,
    version: i16,
) -> OffsetFetchResponse {
    let topics = request.topics.map(|topics| {
        topics
            .into_iter()
            .map(|t| (t.name.to_string(), t.partition_indexes))
            .collect::<Vec<_>>()
    });
    let asked = FetchRequest {
        group: request.group_id.to_string(),
        member: None,
        topics: topics.clone(),
        require_stable: request.require_stable,
    };
    match fetch(context, asked).await {
        Ok(topics) => {
            let topics = topics.into_iter().map(single_topic).collect();
            OffsetFetchResponse::default().with_topics(topics)
        }
        Err(error) if version >= WITH_ERROR => {
            OffsetFetchResponse::default().with_error_code(error.code())
        }
        Err(error) => {
            let topics = topics.unwrap_or_default().into_iter().map(|(name, all)| {
                let partitions = all.into_iter().map(|index| {
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(index)
                        .with_committed_offset(-1)
                        .with_metadata(Some(text("")))
                        .with_error_code(error.code())
                });
                OffsetFetchResponseTopic::default()
                    .with_name(TopicName(text(name)))
                    .with_partitions(partitions.collect())
            });
            OffsetFetchResponse::default().with_topics(topics.collect())
        }
    }
}

async fn fetch(
    context: &RequestContext,
    asked: FetchRequest,
) -> Result<Vec<FetchedTopic>, ResponseError> {
    let broker = &context.broker;
    let group = asked.group.clone();
    match broker
        .groups
        .call(broker, &group, Request::Fetch(asked))
        .await
    {
        Ok(Answer::Fetched(fetched)) => fetched,
        Ok(_) => Err(ResponseError::UnknownServerError),
        Err(unavailable) => Err(unavailable.error()),
    }
}

/// Offset, leader epoch, metadata and error code of a partition; −1 where nothing is committed.
fn told(offset: FetchedOffset) -> (i64, i32, String, i16) {
    match offset.committed {
        _ if offset.unstable => {
            let code = ResponseError::UnstableOffsetCommit.code();
            (-1, -1, String::new(), code)
        }
        Some(committed) => (
            committed.offset,
            committed.leader_epoch.unwrap_or(-1),
            committed.metadata.into(),
            0,
        ),
        None => (-1, -1, String::new(), 0),
    }
}

fn batched_topic((name, offsets): FetchedTopic) -> OffsetFetchResponseTopics {
    let partitions = offsets.into_iter().map(|offset| {
        let partition = offset.partition;
        let (committed, epoch, metadata, code) = told(offset);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(partition)
            .with_committed_offset(committed)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(text(metadata)))
            .with_error_code(code)
    });
    OffsetFetchResponseTopics::default()
        .with_name(TopicName(text(name)))
        .with_partitions(partitions.collect())
}

fn single_topic((name, offsets): FetchedTopic) -> OffsetFetchResponseTopic {
    let partitions = offsets.into_iter().map(|offset| {
        let partition = offset.partition;
        let (committed, epoch, metadata, code) = told(offset);
        OffsetFetchResponsePartition::default()
            .with_partition_index(partition)
            .with_committed_offset(committed)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(text(metadata)))
            .with_error_code(code)
    });
    OffsetFetchResponseTopic::default()
        .with_name(TopicName(text(name)))
        .with_partitions(partitions.collect())
}

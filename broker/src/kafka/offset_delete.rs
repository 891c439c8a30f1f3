//! OffsetDelete (version 0).

use super::{RequestContext, text};
use crate::coordinator::group::{Answer, Request};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse, TopicName};

pub async fn handle(
    context: &RequestContext,
    request: OffsetDeleteRequest,
    _version: i16,
) -> OffsetDeleteResponse {
    let refuse =
        |error: ResponseError| OffsetDeleteResponse::default().with_error_code(error.code());
    if request.group_id.is_empty() {
        return refuse(ResponseError::InvalidGroupId);
    }
    let broker = &context.broker;
    let image = broker.metadata.load_full();
    let mut known = Vec::new();
    let mut unknown = Vec::new();
    for topic in &request.topics {
        let count = image.topic(&topic.name).map_or(0, |t| t.partitions.len());
        let asked = topic.partitions.iter().map(|p| p.partition_index);
        let (there, not): (Vec<i32>, Vec<i32>) =
            asked.partition(|p| usize::try_from(*p).is_ok_and(|p| p < count));
        known.push((topic.name.to_string(), there));
        let error = Err(ResponseError::UnknownTopicOrPartition);
        unknown.extend(not.into_iter().map(|p| (topic.name.to_string(), p, error)));
    }
    let asked = Request::DeleteOffsets {
        group: request.group_id.to_string(),
        topics: known,
    };
    let mut results = match broker.groups.call(broker, &request.group_id, asked).await {
        Ok(Answer::Committed(Ok(results))) => results,
        Ok(Answer::Committed(Err(error))) => return refuse(error),
        Ok(_) => return refuse(ResponseError::UnknownServerError),
        Err(unavailable) => return refuse(unavailable.error()),
    };
    for (topic, partition, error) in unknown {
        if let Some((_, partitions)) = results.iter_mut().find(|(name, _)| *name == topic) {
            partitions.push((partition, error));
        }
    }
    let topics = results.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, result)| {
            OffsetDeleteResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(result.err().map_or(0, |e| e.code()))
        });
        OffsetDeleteResponseTopic::default()
            .with_name(TopicName(text(name)))
            .with_partitions(partitions.collect())
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}

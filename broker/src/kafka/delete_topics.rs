//! DeleteTopics (versions 1 to 6): by name, or by id from version 6 on.

use super::{RequestContext, text};
use crate::coordinator::topic::is_internal;
use crate::metadata::changes::{Refused, delete_topic, judged_by_current};
use crate::metadata::image::Topic;
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use std::sync::Arc;
use uuid::Uuid;

pub async fn handle(
    context: &RequestContext,
    request: DeleteTopicsRequest,
    version: i16,
) -> DeleteTopicsResponse {
    let asked: Vec<(Option<TopicName>, Uuid)> = if version >= 6 {
        request
            .topics
            .into_iter()
            .map(|t| (t.name, t.topic_id))
            .collect()
    } else {
        request
            .topic_names
            .into_iter()
            .map(|n| (Some(n), Uuid::nil()))
            .collect()
    };
    // All at once: without a controller each of them waits for one.
    let each = asked.into_iter().map(async |(name, id)| {
        let deleted = judged_by_current(&context.broker, || delete(context, name.as_ref(), id));
        let result = DeletableTopicResult::default();
        match deleted.await {
            Ok(topic) => result
                .with_name(Some(TopicName(text(topic.name.clone()))))
                .with_topic_id(topic.id),
            Err(refused) => result
                .with_name(name)
                .with_topic_id(id)
                .with_error_code(refused.error.code())
                .with_error_message(Some(text(refused.message))),
        }
    });
    DeleteTopicsResponse::default().with_responses(join_all(each).await)
}

/// Deletes the topic that a name or, without one, an id stands for in the metadata here.
async fn delete(
    context: &RequestContext,
    name: Option<&TopicName>,
    id: Uuid,
) -> Result<Arc<Topic>, Refused> {
    let image = context.broker.metadata.load_full();
    let (topic, unknown) = match name {
        Some(name) => (image.topic(name), ResponseError::UnknownTopicOrPartition),
        None => (image.topic_by_id(id), ResponseError::UnknownTopicId),
    };
    let topic = topic
        .cloned()
        .ok_or_else(|| Refused::new(unknown, "This server does not host this topic."))?;
    if is_internal(&topic.name) {
        return Err(Refused::new(
            ResponseError::InvalidTopicException,
            format!(
                "'{}' is internal: it holds what coordinators know.",
                topic.name
            ),
        ));
    }
    match delete_topic(&context.broker, topic.id).await {
        Ok(()) => Ok(topic),
        // Of another topic of that name, which this broker still remembered, nothing follows for the present one.
        Err(refused) if refused.error == ResponseError::UnknownTopicOrPartition => {
            Err(Refused::new(unknown, refused.message))
        }
        Err(refused) => Err(refused),
    }
}

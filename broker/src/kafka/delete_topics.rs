//! DeleteTopics (versions 1 to 6): by name, or by id from version 6 on.

use super::{RequestContext, text};
use crate::coordinator::topic::is_internal;
use crate::metadata::changes::{CATCH_UP_LIMIT, Refused, delete_topic};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
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
    let find = |name: &Option<TopicName>, id: Uuid| {
        let image = context.broker.metadata.load();
        match name {
            Some(name) => image.topic(name).cloned(),
            None => image.topic_by_id(id).cloned(),
        }
    };
    let mut current = Ok(());
    if asked.iter().any(|(name, id)| find(name, *id).is_none()) {
        // Who is told that a topic is not there takes it for deleted, but this broker may not have heard of it yet.
        let node = &context.broker.node;
        current = node.catch_up_with_metadata(CATCH_UP_LIMIT).await;
    }
    let mut responses = Vec::with_capacity(asked.len());
    for (name, id) in asked {
        let topic = find(&name, id);
        let result = DeletableTopicResult::default();
        responses.push(match topic {
            Some(topic) => {
                let shown = Some(TopicName(text(topic.name.clone())));
                let result = result.with_name(shown).with_topic_id(topic.id);
                let deleted = if is_internal(&topic.name) {
                    Err(Refused::new(
                        ResponseError::InvalidTopicException,
                        format!(
                            "'{}' is internal: it holds what coordinators know.",
                            topic.name
                        ),
                    ))
                } else {
                    delete_topic(&context.broker, topic.id).await
                };
                match deleted {
                    Ok(()) => result,
                    Err(refused) => result
                        .with_error_code(refused.error.code())
                        .with_error_message(Some(text(refused.message))),
                }
            }
            None if current.is_err() => result
                .with_name(name)
                .with_topic_id(id)
                .with_error_code(ResponseError::NotController.code())
                .with_error_message(Some(text(
                    "The controller could not be asked whether there is such a topic; try again.",
                ))),
            None => {
                let error = if name.is_some() {
                    ResponseError::UnknownTopicOrPartition
                } else {
                    ResponseError::UnknownTopicId
                };
                result
                    .with_name(name)
                    .with_topic_id(id)
                    .with_error_code(error.code())
                    .with_error_message(Some(text("This server does not host this topic.")))
            }
        });
    }
    DeleteTopicsResponse::default().with_responses(responses)
}

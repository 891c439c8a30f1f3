//! CreateTopics (versions 2 to 7).

use super::{RequestContext, text};
use crate::config::table::TOPIC;
use crate::config::topic::{TopicSource, effective};
use crate::metadata::changes::{NewTopic, Refused, create_topic, judged_by_current, plan_topic};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tidelog_replication::BrokerId;
use uuid::Uuid;

/// Longest a creation waits for leaders, whatever the client asks for.
const WAIT_MAX_MS: i32 = 60_000;

pub async fn handle(
    context: &RequestContext,
    request: CreateTopicsRequest,
    _version: i16,
) -> CreateTopicsResponse {
    let limit = Duration::from_millis(request.timeout_ms.clamp(0, WAIT_MAX_MS) as u64);
    let mut results = Vec::with_capacity(request.topics.len());
    for (i, asked) in request.topics.iter().enumerate() {
        let twice = request
            .topics
            .iter()
            .enumerate()
            .any(|(j, o)| i != j && o.name == asked.name);
        let result = if twice {
            Err(Refused::new(
                ResponseError::InvalidRequest,
                "Duplicate topic name.",
            ))
        } else {
            create(context, asked, request.validate_only, limit).await
        };
        results.push(result.unwrap_or_else(|refused| {
            CreatableTopicResult::default()
                .with_name(asked.name.clone())
                .with_error_code(refused.error.code())
                .with_error_message(Some(text(refused.message)))
                .with_num_partitions(-1)
                .with_replication_factor(-1)
                .with_configs(Some(Vec::new()))
        }));
    }
    CreateTopicsResponse::default().with_topics(results)
}

async fn create(
    context: &RequestContext,
    asked: &CreatableTopic,
    validate_only: bool,
    limit: Duration,
) -> Result<CreatableTopicResult, Refused> {
    let broker = &context.broker;
    let new = new_topic(asked)?;
    let (id, partitions, factor) = if validate_only {
        let plan = judged_by_current(broker, async || plan_topic(broker, &new)).await?;
        let factor = plan.partitions.first().map_or(0, |p| p.brokers.len());
        (Uuid::nil(), plan.partitions.len(), factor)
    } else {
        let topic = create_topic(broker, &new, limit).await?;
        let factor = topic.partitions.first().map_or(0, |p| p.replicas.len());
        (topic.id, topic.partitions.len(), factor)
    };
    let image = broker.metadata.load();
    let configs = TOPIC
        .iter()
        .map(|setting| {
            let (value, source) = effective(setting, &new.configs, &broker.config, &image);
            CreatableTopicConfigs::default()
                .with_name(text(setting.name))
                .with_value(Some(text(value)))
                .with_config_source(source_code(source))
        })
        .collect();
    Ok(CreatableTopicResult::default()
        .with_name(asked.name.clone())
        .with_topic_id(id)
        .with_num_partitions(partitions as i32)
        .with_replication_factor(factor as i16)
        .with_configs(Some(configs)))
}

/// Kafka's `ConfigSource` ids.
pub fn source_code(source: TopicSource) -> i8 {
    match source {
        TopicSource::Topic => 1,
        TopicSource::DynamicBroker => 2,
        TopicSource::DynamicDefaultBroker => 3,
        TopicSource::StaticBroker => 4,
        TopicSource::Default => 5,
    }
}

fn new_topic(asked: &CreatableTopic) -> Result<NewTopic, Refused> {
    let mut configs = BTreeMap::new();
    for config in &asked.configs {
        let value = config.value.as_ref().ok_or_else(|| {
            Refused::new(
                ResponseError::InvalidConfig,
                format!(
                    "Null value not supported for topic configs: {}",
                    config.name
                ),
            )
        })?;
        configs.insert(config.name.to_string(), value.to_string());
    }
    Ok(NewTopic {
        name: asked.name.to_string(),
        partitions: (asked.num_partitions != -1).then_some(asked.num_partitions),
        replication_factor: (asked.replication_factor != -1).then_some(asked.replication_factor),
        assignments: assignments(asked)?,
        configs,
    })
}

/// Manual assignments in partition order; they must name partitions 0, 1, 2 … once each.
fn assignments(asked: &CreatableTopic) -> Result<Option<Vec<Vec<BrokerId>>>, Refused> {
    if asked.assignments.is_empty() {
        return Ok(None);
    }
    if asked.num_partitions != -1 || asked.replication_factor != -1 {
        return Err(Refused::new(
            ResponseError::InvalidRequest,
            "A manual partition assignment was specified, but numPartitions or replicationFactor was not set to -1.",
        ));
    }
    let sets: BTreeMap<i32, Vec<BrokerId>> = asked
        .assignments
        .iter()
        .map(|a| {
            (
                a.partition_index,
                a.broker_ids.iter().map(|b| BrokerId(b.0)).collect(),
            )
        })
        .collect();
    let contiguous =
        sets.len() == asked.assignments.len() && sets.keys().copied().eq(0..sets.len() as i32);
    if !contiguous {
        return Err(Refused::new(
            ResponseError::InvalidReplicaAssignment,
            "partitions should be a consecutive 0-based integer sequence",
        ));
    }
    Ok(Some(sets.into_values().collect()))
}

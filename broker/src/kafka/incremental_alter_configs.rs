//! IncrementalAlterConfigs (KIP-339): set, delete, append and subtract single configs.

use super::describe_configs::{RESOURCE_BROKER, RESOURCE_GROUP, RESOURCE_TOPIC};
use super::{RequestContext, text};
use crate::config::check::{broker_setting, check, group_setting, nearest, topic_setting};
use crate::config::group::check_group_settings;
use crate::config::table::{BROKER, Kind, Scope};
use crate::config::topic::{check_topic_settings, effective};
use crate::metadata::changes::{Refused, alter_configs, alter_group_configs, judged_by_current};
use crate::metadata::image::{DECOMMISSION, MAINTENANCE};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, IncrementalAlterConfigsRequest,
};
use kafka_protocol::messages::incremental_alter_configs_response::{
    AlterConfigsResourceResponse, IncrementalAlterConfigsResponse,
};
use std::collections::BTreeMap;
use tidelog_replication::BrokerId;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// New values by name; `None`: back to the default.
pub type Changes = BTreeMap<String, Option<String>>;

pub async fn handle(
    context: &RequestContext,
    request: IncrementalAlterConfigsRequest,
    _version: i16,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        let result = match changes(context, resource) {
            Ok(changes) => {
                let name = resource.resource_name.as_str();
                apply(
                    context,
                    resource.resource_type,
                    name,
                    changes,
                    request.validate_only,
                )
                .await
            }
            Err(refused) => Err(refused),
        };
        let answer = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        responses.push(match result {
            Ok(()) => answer.with_error_message(None),
            Err(refused) => answer
                .with_error_code(refused.error.code())
                .with_error_message(Some(text(refused.message))),
        });
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

/// Kafka's throttles of moves (KIP-73). There are none here, so that nothing can be set; but
/// `kafka-reassign-partitions` takes them back after every move, whether or not it set any.
const THROTTLES: [&str; 5] = [
    "leader.replication.throttled.rate",
    "follower.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
    "leader.replication.throttled.replicas",
    "follower.replication.throttled.replicas",
];

/// Checks changes and, unless `validate_only`, commits them.
pub async fn apply(
    context: &RequestContext,
    resource_type: i8,
    name: &str,
    mut changes: Changes,
    validate_only: bool,
) -> Result<(), Refused> {
    changes.retain(|name, value| value.is_some() || !THROTTLES.contains(&name.as_str()));
    let (topic, broker) = match resource_type {
        RESOURCE_TOPIC => {
            judged_by_current(&context.broker, async || {
                check_topic(context, name, &changes)
            })
            .await?;
            (Some(name.to_owned()), None)
        }
        RESOURCE_BROKER => {
            check_broker(&changes)?;
            let broker = broker_of(context, name)?;
            let of_one = [MAINTENANCE, DECOMMISSION];
            let of_one = of_one.iter().find(|name| changes.contains_key(**name));
            if let (None, Some(name)) = (broker, of_one) {
                return Err(Refused::new(
                    ResponseError::InvalidConfig,
                    format!("{name} is set for one broker, not for all: somebody has to go on"),
                ));
            }
            (None, broker)
        }
        RESOURCE_GROUP => {
            check_group(context, name, &changes)?;
            if validate_only {
                return Ok(());
            }
            let changes = changes.into_iter().collect();
            return alter_group_configs(&context.broker, name.to_owned(), changes).await;
        }
        other => {
            return Err(Refused::new(
                ResponseError::InvalidRequest,
                format!("Unexpected resource type {other}."),
            ));
        }
    };
    if validate_only || changes.is_empty() {
        return Ok(());
    }
    alter_configs(
        &context.broker,
        topic,
        broker,
        changes.into_iter().collect(),
    )
    .await
}

fn broker_of(context: &RequestContext, name: &str) -> Result<Option<BrokerId>, Refused> {
    if name.is_empty() {
        return Ok(None);
    }
    let id = name.parse().ok().map(BrokerId);
    match id {
        Some(id) if context.broker.metadata.load().brokers.contains_key(&id) => Ok(Some(id)),
        _ => Err(Refused::new(
            ResponseError::InvalidRequest,
            format!("broker {name} is not registered"),
        )),
    }
}

fn check_group(context: &RequestContext, name: &str, changes: &Changes) -> Result<(), Refused> {
    if name.is_empty() {
        return Err(Refused::new(
            ResponseError::InvalidRequest,
            "Default group resources are not allowed.",
        ));
    }
    let image = context.broker.metadata.load();
    let mut own = image.group_configs.get(name).cloned().unwrap_or_default();
    for (name, value) in changes {
        // A deleted name has to exist as well; its default is a valid value.
        let default = || group_setting(name).map(|s| s.default.to_owned());
        let value = value.clone().or_else(default).unwrap_or_default();
        own.insert(name.clone(), value);
    }
    check_group_settings(&own, &context.broker.config, &image)
        .map_err(|m| Refused::new(ResponseError::InvalidConfig, m))
}

fn check_topic(context: &RequestContext, name: &str, changes: &Changes) -> Result<(), Refused> {
    if context.broker.metadata.load().topic(name).is_none() {
        return Err(Refused::new(
            ResponseError::UnknownTopicOrPartition,
            format!("The topic '{name}' does not exist."),
        ));
    }
    let set: BTreeMap<String, String> = changes
        .iter()
        .map(|(n, v)| {
            // A deleted name has to exist as well; its default is a valid value.
            let value = v.clone().or(topic_setting(n).map(|s| s.default.to_owned()));
            (n.clone(), value.unwrap_or_default())
        })
        .collect();
    check_topic_settings(&set).map_err(|m| Refused::new(ResponseError::InvalidConfig, m))
}

fn check_broker(changes: &Changes) -> Result<(), Refused> {
    for (name, value) in changes {
        let invalid = |m: String| Refused::new(ResponseError::InvalidConfig, m);
        let setting = broker_setting(name).ok_or_else(|| {
            let hint = nearest(name, BROKER.iter().map(|s| s.name))
                .map_or(String::new(), |n| format!("; did you mean {n}?"));
            invalid(format!("Unknown broker config name: {name}{hint}"))
        })?;
        if setting.scope == Scope::Static {
            return Err(Refused::new(
                ResponseError::InvalidRequest,
                format!("{name} cannot be changed while the broker runs; set it in its file"),
            ));
        }
        if let Some(value) = value {
            check(setting.kind, value).map_err(|m| {
                invalid(format!(
                    "Invalid value {value} for configuration {name}: {m}"
                ))
            })?;
        }
    }
    Ok(())
}

fn changes(context: &RequestContext, resource: &AlterConfigsResource) -> Result<Changes, Refused> {
    let mut changes = Changes::new();
    for config in &resource.configs {
        let name = config.name.to_string();
        let value = config.value.as_ref().map(ToString::to_string);
        if changes.contains_key(&name) {
            return Err(Refused::new(
                ResponseError::InvalidRequest,
                format!("Error due to duplicate config keys: {name}"),
            ));
        }
        let new = match (config.config_operation, value) {
            (DELETE, _) => None,
            (SET, Some(value)) => Some(value),
            (APPEND | SUBTRACT, Some(value)) => Some(list_change(
                context,
                resource,
                &name,
                &value,
                config.config_operation,
            )?),
            (SET | APPEND | SUBTRACT, None) => {
                return Err(Refused::new(
                    ResponseError::InvalidConfig,
                    format!("Null value not supported for : {name}"),
                ));
            }
            (other, _) => {
                return Err(Refused::new(
                    ResponseError::InvalidRequest,
                    format!("Unknown operation {other}"),
                ));
            }
        };
        changes.insert(name, new);
    }
    Ok(changes)
}

/// Adds words to, or removes them from, a list config.
fn list_change(
    context: &RequestContext,
    resource: &AlterConfigsResource,
    name: &str,
    words: &str,
    operation: i8,
) -> Result<String, Refused> {
    let image = context.broker.metadata.load();
    let present = match (
        resource.resource_type,
        topic_setting(name),
        broker_setting(name),
    ) {
        (RESOURCE_TOPIC, Some(setting), _) if matches!(setting.kind, Kind::Words(_)) => image
            .topic(&resource.resource_name)
            .map(|t| effective(setting, &t.configs, &context.broker.config, &image).0),
        (RESOURCE_BROKER, _, Some(setting)) if matches!(setting.kind, Kind::Words(_)) => {
            let id = resource.resource_name.parse().ok().map(BrokerId);
            let set = image
                .broker_configs
                .get(&id)
                .and_then(|c| c.get(name))
                .cloned();
            Some(set.unwrap_or_else(|| setting.default.to_owned()))
        }
        _ => {
            return Err(Refused::new(
                ResponseError::InvalidConfig,
                format!("Config value append is not allowed for config: {name}"),
            ));
        }
    };
    let present = present.unwrap_or_default();
    let mut list: Vec<&str> = present.split(',').filter(|w| !w.is_empty()).collect();
    for word in words.split(',').map(str::trim) {
        list.retain(|w| *w != word);
        if operation == APPEND {
            list.push(word);
        }
    }
    Ok(list.join(","))
}

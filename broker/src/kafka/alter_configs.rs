//! AlterConfigs (versions 0 to 2): replaces all configs of a resource.

use super::describe_configs::{RESOURCE_BROKER, RESOURCE_GROUP, RESOURCE_TOPIC};
use super::incremental_alter_configs::{Changes, apply};
use super::{RequestContext, text};
use kafka_protocol::messages::alter_configs_request::{AlterConfigsRequest, AlterConfigsResource};
use kafka_protocol::messages::alter_configs_response::{
    AlterConfigsResourceResponse, AlterConfigsResponse,
};
use tidelog_replication::BrokerId;

pub async fn handle(
    context: &RequestContext,
    request: AlterConfigsRequest,
    _version: i16,
) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        let changes = whole_replacement(context, resource);
        let name = resource.resource_name.as_str();
        let result = apply(
            context,
            resource.resource_type,
            name,
            changes,
            request.validate_only,
        )
        .await;
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
    AlterConfigsResponse::default().with_responses(responses)
}

/// What is set and not named goes back to its default.
fn whole_replacement(context: &RequestContext, resource: &AlterConfigsResource) -> Changes {
    let image = context.broker.metadata.load();
    let present = match resource.resource_type {
        RESOURCE_TOPIC => image
            .topic(&resource.resource_name)
            .map(|t| t.configs.clone()),
        RESOURCE_BROKER => {
            let id = resource.resource_name.parse().ok().map(BrokerId);
            image.broker_configs.get(&id).cloned()
        }
        RESOURCE_GROUP => image
            .group_configs
            .get(resource.resource_name.as_str())
            .cloned(),
        _ => None,
    };
    let mut changes: Changes = present
        .unwrap_or_default()
        .into_keys()
        .map(|name| (name, None))
        .collect();
    for config in &resource.configs {
        let value = config.value.as_ref().map(ToString::to_string);
        changes.insert(config.name.to_string(), value);
    }
    changes
}

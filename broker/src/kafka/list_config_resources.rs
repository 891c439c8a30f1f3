//! ListConfigResources (versions 0 and 1): what configs there are (KIP-1142).

use super::describe_configs::{RESOURCE_BROKER, RESOURCE_GROUP, RESOURCE_TOPIC};
use super::{RequestContext, text};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};

/// Client metrics, all that version 0 knows: there are none here.
const RESOURCE_CLIENT_METRICS: i8 = 16;
/// Levels of a broker's loggers: none are configs here.
const RESOURCE_BROKER_LOGGER: i8 = 8;
const ALL: [i8; 5] = [
    RESOURCE_TOPIC,
    RESOURCE_BROKER,
    RESOURCE_BROKER_LOGGER,
    RESOURCE_CLIENT_METRICS,
    RESOURCE_GROUP,
];

pub async fn handle(
    context: &RequestContext,
    request: ListConfigResourcesRequest,
    version: i16,
) -> ListConfigResourcesResponse {
    let types: &[i8] = match &request.resource_types[..] {
        _ if version == 0 => &[RESOURCE_CLIENT_METRICS],
        [] => &ALL,
        asked => asked,
    };
    if types.iter().any(|t| !ALL.contains(t)) {
        let error = ResponseError::UnsupportedVersion;
        return ListConfigResourcesResponse::default().with_error_code(error.code());
    }
    let image = context.broker.metadata.load();
    let mut found: Vec<(i8, String)> = Vec::new();
    if types.contains(&RESOURCE_TOPIC) {
        found.extend(image.topics.keys().map(|t| (RESOURCE_TOPIC, t.clone())));
    }
    if types.contains(&RESOURCE_BROKER) {
        let brokers = image.brokers.keys();
        found.extend(brokers.map(|b| (RESOURCE_BROKER, b.to_string())));
    }
    if types.contains(&RESOURCE_GROUP) {
        let groups = image.group_configs.keys();
        found.extend(groups.map(|g| (RESOURCE_GROUP, g.clone())));
    }
    let resources = found.into_iter().map(|(kind, name)| {
        ConfigResource::default()
            .with_resource_name(text(name))
            .with_resource_type(kind)
    });
    ListConfigResourcesResponse::default().with_config_resources(resources.collect())
}

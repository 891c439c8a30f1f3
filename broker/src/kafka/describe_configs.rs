//! DescribeConfigs (versions 1 to 4): topics, brokers and groups, with sources and synonyms as in Kafka.

use super::create_topics::source_code;
use super::{RequestContext, text};
use crate::config::Source;
use crate::config::table::{BROKER, GROUP, Kind, Scope, Setting, TOPIC, TopicSetting};
use crate::config::topic::{TopicSource, effective};
use crate::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::{
    DescribeConfigsRequest, DescribeConfigsResource,
};
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult,
    DescribeConfigsSynonym,
};
use std::collections::BTreeMap;
use tidelog_replication::BrokerId;

/// Kafka's `ConfigResource.Type` ids.
pub const RESOURCE_TOPIC: i8 = 2;
pub const RESOURCE_BROKER: i8 = 4;
pub const RESOURCE_GROUP: i8 = 32;

/// Kafka's `ConfigSource` of a group's own config.
const SOURCE_GROUP: i8 = 8;

pub async fn handle(
    context: &RequestContext,
    request: DescribeConfigsRequest,
    _version: i16,
) -> DescribeConfigsResponse {
    let image = context.broker.metadata.load_full();
    let results = request
        .resources
        .iter()
        .map(|resource| {
            let asked = Asked {
                resource,
                synonyms: request.include_synonyms,
                documentation: request.include_documentation,
            };
            let answer = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match describe(context, &image, &asked) {
                Ok(configs) => answer.with_configs(configs).with_error_message(None),
                Err((error, message)) => answer
                    .with_error_code(error.code())
                    .with_error_message(Some(text(message))),
            }
        })
        .collect();
    DescribeConfigsResponse::default().with_results(results)
}

struct Asked<'a> {
    resource: &'a DescribeConfigsResource,
    synonyms: bool,
    documentation: bool,
}

impl Asked<'_> {
    fn wants(&self, name: &str) -> bool {
        self.resource
            .configuration_keys
            .as_ref()
            .is_none_or(|keys| keys.is_empty() || keys.iter().any(|k| k.as_str() == name))
    }
}

type Described = Result<Vec<DescribeConfigsResourceResult>, (ResponseError, String)>;

fn describe(context: &RequestContext, image: &MetadataImage, asked: &Asked<'_>) -> Described {
    let name = asked.resource.resource_name.as_str();
    match asked.resource.resource_type {
        RESOURCE_TOPIC => {
            let topic = image.topic(name).ok_or_else(|| {
                (
                    ResponseError::UnknownTopicOrPartition,
                    format!("The topic '{name}' does not exist."),
                )
            })?;
            Ok(TOPIC
                .iter()
                .filter(|s| asked.wants(s.name))
                .map(|s| {
                    let of = (&topic.configs, source_code(TopicSource::Topic));
                    own_config(context, image, of, s, asked)
                })
                .collect())
        }
        RESOURCE_BROKER if name.is_empty() => {
            let set = image.broker_configs.get(&None);
            Ok(BROKER
                .iter()
                .filter(|s| asked.wants(s.name))
                .filter_map(|s| {
                    let value = set?.get(s.name)?;
                    Some(entry(s.name, value, 3, s.kind, s.doc, false, asked))
                })
                .collect())
        }
        RESOURCE_BROKER => {
            let id = name.parse().ok().map(BrokerId);
            if id != Some(context.broker.id) {
                return Err((
                    ResponseError::InvalidRequest,
                    format!(
                        "Unexpected broker id, expected {}, but received {name}",
                        context.broker.id
                    ),
                ));
            }
            Ok(BROKER
                .iter()
                .filter(|s| asked.wants(s.name))
                .map(|s| broker_config(context, image, s, asked))
                .collect())
        }
        RESOURCE_GROUP => {
            let nothing = Default::default();
            // A group has configs before it has members.
            let own = image.group_configs.get(name).unwrap_or(&nothing);
            Ok(GROUP
                .iter()
                .filter(|s| asked.wants(s.name))
                .map(|s| own_config(context, image, (own, SOURCE_GROUP), s, asked))
                .collect())
        }
        other => Err((
            ResponseError::InvalidRequest,
            format!("Unsupported resource type: {other}"),
        )),
    }
}

/// A config of a topic or a group: `own` are its explicit ones, with their source.
fn own_config(
    context: &RequestContext,
    image: &MetadataImage,
    (own, own_source): (&BTreeMap<String, String>, i8),
    setting: &TopicSetting,
    asked: &Asked<'_>,
) -> DescribeConfigsResourceResult {
    let config = &context.broker.config;
    let (value, source) = effective(setting, own, config, image);
    let code = match source {
        TopicSource::Topic => own_source,
        other => source_code(other),
    };
    let mut described = entry(
        setting.name,
        &value,
        code,
        setting.kind,
        setting.doc,
        false,
        asked,
    );
    if asked.synonyms {
        if source == TopicSource::Topic {
            described.synonyms.push(synonym(setting.name, &value, code));
        }
        let (below, from) = effective(setting, &Default::default(), config, image);
        if from != TopicSource::Default {
            let name = setting.broker.unwrap_or(setting.name);
            described
                .synonyms
                .push(synonym(name, &below, source_code(from)));
        }
        let name = setting.broker.unwrap_or(setting.name);
        described.synonyms.push(synonym(
            name,
            setting.default,
            source_code(TopicSource::Default),
        ));
    }
    described
}

fn broker_config(
    context: &RequestContext,
    image: &MetadataImage,
    setting: &Setting,
    asked: &Asked<'_>,
) -> DescribeConfigsResourceResult {
    let config = &context.broker.config;
    let dynamic = |id: Option<BrokerId>| {
        image
            .broker_configs
            .get(&id)
            .and_then(|c| c.get(setting.name))
            .cloned()
    };
    let mut layers = Vec::new();
    if let Some(value) = dynamic(Some(context.broker.id)) {
        layers.push((value, 2));
    }
    if let Some(value) = dynamic(None) {
        layers.push((value, 3));
    }
    if config.source(setting.name) != &Source::Default {
        layers.push((config.text(setting.name).to_owned(), 4));
    }
    layers.push((setting.default.to_owned(), 5));
    let (value, source) = layers[0].clone();
    let read_only = setting.scope == Scope::Static;
    let mut described = entry(
        setting.name,
        &value,
        source,
        setting.kind,
        setting.doc,
        read_only,
        asked,
    );
    if asked.synonyms {
        described.synonyms = layers
            .iter()
            .map(|(value, source)| synonym(setting.name, value, *source))
            .collect();
    }
    described
}

fn synonym(name: &str, value: &str, source: i8) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym::default()
        .with_name(text(name))
        .with_value(Some(text(value)))
        .with_source(source)
}

fn entry(
    name: &str,
    value: &str,
    source: i8,
    kind: Kind,
    doc: &str,
    read_only: bool,
    asked: &Asked<'_>,
) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult::default()
        .with_name(text(name))
        .with_value(Some(text(value)))
        .with_read_only(read_only)
        .with_config_source(source)
        .with_config_type(type_code(kind))
        .with_documentation(asked.documentation.then(|| text(doc)))
}

/// Kafka's `ConfigType` ids.
fn type_code(kind: Kind) -> i8 {
    match kind {
        Kind::Bool => 1,
        Kind::Text | Kind::Word(_) => 2,
        Kind::Int(_, max) if max <= i64::from(i32::MAX) => 3,
        Kind::Int(..) => 5,
        Kind::Double | Kind::Number => 6,
        Kind::Words(_) => 7,
    }
}

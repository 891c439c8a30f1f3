//! Settings of topics and brokers, read and changed.

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_configs_request::{
    AlterConfigsResource, AlterableConfig as WholeConfig,
};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource as IncrementalResource, AlterableConfig,
};
use kafka_protocol::messages::*;
use tidelog_tests::wire::Wire;

use super::calls::{MISSING, TOPIC, code, ensure_codes, text};

const TOPIC_RESOURCE: i8 = 2;
const BROKER_RESOURCE: i8 = 4;

pub async fn describe_configs(wire: &mut Wire, version: i16) -> Result<()> {
    let resource = |kind, name: &str, keys: Option<&[&str]>| {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(keys.map(|keys| keys.iter().map(|k| text(*k)).collect()))
    };
    let request = DescribeConfigsRequest::default()
        .with_include_synonyms(true)
        .with_include_documentation(version >= 3)
        .with_resources(vec![
            resource(TOPIC_RESOURCE, TOPIC, Some(&["segment.bytes"])),
            resource(BROKER_RESOURCE, "1", None),
            resource(BROKER_RESOURCE, "", None),
            resource(TOPIC_RESOURCE, MISSING, None),
            resource(BROKER_RESOURCE, "77", None),
        ]);
    let response = wire.call(&request, version).await?;
    ensure_codes(
        response.results.iter().map(|r| r.error_code),
        &[
            0,
            0,
            0,
            code(ResponseError::UnknownTopicOrPartition),
            code(ResponseError::InvalidRequest),
        ],
    )?;
    let segment = response.results[0].configs.first().context("a config")?;
    ensure!(segment.value.as_deref() == Some("1073741824") && segment.config_source == 5);
    ensure!(!segment.synonyms.is_empty(), "no synonyms");
    ensure!(segment.synonyms[0].name.as_str() == "log.segment.bytes");
    ensure!((version >= 3) == (segment.config_type == 3));
    // The codec gives an absent text as an empty one.
    let documented = segment
        .documentation
        .as_deref()
        .is_some_and(|doc| !doc.is_empty());
    ensure!((version >= 3) == documented);
    Ok(())
}

pub async fn alter_configs(wire: &mut Wire, version: i16) -> Result<()> {
    let resource = |kind, name: &str, config: &str, value: &str| {
        let config = WholeConfig::default()
            .with_name(text(config))
            .with_value(Some(text(value)));
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configs(vec![config])
    };
    let request = AlterConfigsRequest::default().with_resources(vec![
        resource(TOPIC_RESOURCE, TOPIC, "max.message.bytes", "100000"),
        resource(TOPIC_RESOURCE, MISSING, "retention.ms", "1"),
        resource(TOPIC_RESOURCE, TOPIC, "no.such.config", "1"),
    ]);
    let response = wire.call(&request, version).await?;
    ensure_codes(
        response.responses.iter().map(|r| r.error_code),
        &[
            0,
            code(ResponseError::UnknownTopicOrPartition),
            code(ResponseError::InvalidConfig),
        ],
    )
}

pub async fn incremental_alter_configs(wire: &mut Wire, version: i16) -> Result<()> {
    let resource = |kind, name: &str, configs: &[(&str, i8, Option<&str>)]| {
        let configs = configs
            .iter()
            .map(|(name, operation, value)| {
                AlterableConfig::default()
                    .with_name(text(*name))
                    .with_config_operation(*operation)
                    .with_value(value.map(text))
            })
            .collect();
        IncrementalResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configs(configs)
    };
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![
        resource(
            TOPIC_RESOURCE,
            TOPIC,
            &[
                ("max.message.bytes", 1, None),
                ("cleanup.policy", 2, Some("compact")),
            ],
        ),
        resource(
            BROKER_RESOURCE,
            "",
            &[("log.retention.ms", 0, Some("604800000"))],
        ),
        resource(TOPIC_RESOURCE, MISSING, &[("retention.ms", 0, Some("1"))]),
        resource(BROKER_RESOURCE, "1", &[("no.such.config", 0, Some("1"))]),
        resource(9, "x", &[("retention.ms", 0, Some("1"))]),
    ]);
    let response = wire.call(&request, version).await?;
    ensure_codes(
        response.responses.iter().map(|r| r.error_code),
        &[
            0,
            0,
            code(ResponseError::UnknownTopicOrPartition),
            code(ResponseError::InvalidConfig),
            code(ResponseError::InvalidRequest),
        ],
    )?;
    let undo = request.with_resources(vec![resource(
        TOPIC_RESOURCE,
        TOPIC,
        &[("cleanup.policy", 1, None)],
    )]);
    let response = wire.call(&undo, version).await?;
    ensure_codes(response.responses.iter().map(|r| r.error_code), &[0])
}

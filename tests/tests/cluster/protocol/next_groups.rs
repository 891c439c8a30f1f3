//! The requests of groups of the next protocol (KIP-848), in every version, and of groups' configs.

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::*;
use tidelog_tests::read::topic_name;
use tidelog_tests::wire::Wire;

use super::calls::{TOPIC, code, ensure_codes, text};
use super::groups::coordinator_serves;

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
const RESOURCE_GROUP: i8 = 32;

/// Whether `api` is one of these; if so, it is sent and judged.
pub async fn call(wire: &mut Wire, api: ApiKey, version: i16) -> Result<()> {
    match api {
        ApiKey::ConsumerGroupHeartbeat => heartbeat(wire, version).await,
        ApiKey::ConsumerGroupDescribe => describe(wire, version).await,
        ApiKey::ListConfigResources => list_config_resources(wire, version).await,
        other => super::transactions::call(wire, other, version).await,
    }
}

fn joining(group: &str, member: &str) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_member_id(text(member))
        .with_rebalance_timeout_ms(30_000)
        .with_subscribed_topic_names(Some(vec![topic_name(TOPIC)]))
        .with_topic_partitions(Some(Vec::new()))
}

async fn heartbeat(wire: &mut Wire, version: i16) -> Result<()> {
    let group = format!("next-{version}");
    coordinator_serves(wire, &group).await?;
    // Before version 1 the coordinator makes the member id.
    let id = if version == 0 { "" } else { "me" };
    let joined = wire.call(&joining(&group, id), version).await?;
    ensure_codes([joined.error_code], &[0])?;
    ensure!(joined.member_epoch == 1 && joined.heartbeat_interval_ms == 5_000);
    let id = joined.member_id.context("no member id")?;
    ensure!((version == 0) == (id.len() == 36));
    let told = joined.assignment.context("no assignment")?.topic_partitions;
    ensure!(told.len() == 1 && !told[0].partitions.is_empty());

    let held = TopicPartitions::default()
        .with_topic_id(told[0].topic_id)
        .with_partitions(told[0].partitions.clone());
    let still = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text(&group)))
        .with_member_id(id)
        .with_member_epoch(1)
        .with_topic_partitions(Some(vec![held]));
    let beat = wire.call(&still, version).await?;
    ensure_codes([beat.error_code], &[0])?;
    ensure!(beat.assignment.is_none(), "nothing has changed");

    let mut refused = vec![
        (
            still.clone().with_member_epoch(9),
            ResponseError::FencedMemberEpoch,
        ),
        (
            still.clone().with_member_id(text("nobody")),
            ResponseError::UnknownMemberId,
        ),
        (
            still.clone().with_group_id(GroupId(text("none"))),
            ResponseError::GroupIdNotFound,
        ),
        (
            still.clone().with_group_id(GroupId(text(""))),
            ResponseError::InvalidRequest,
        ),
        (
            joining(&group, "you").with_server_assignor(Some(text("sticky"))),
            ResponseError::UnsupportedAssignor,
        ),
    ];
    if version >= 1 {
        let pattern = joining(&group, "you").with_subscribed_topic_regex(Some(text("(")));
        refused.push((pattern, ResponseError::InvalidRegularExpression));
    }
    for (request, error) in refused {
        let answer = wire.call(&request, version).await?;
        ensure_codes([answer.error_code], &[code(error)])?;
        ensure!(answer.error_message.is_some());
    }
    if version >= 1 {
        // A pattern that names the same topic, and nothing by name.
        let pattern = joining(&group, "you")
            .with_subscribed_topic_names(Some(Vec::new()))
            .with_subscribed_topic_regex(Some(text(format!(r"\Q{TOPIC}\E"))));
        let answer = wire.call(&pattern, version).await?;
        ensure_codes([answer.error_code], &[0])?;
        ensure!(answer.member_epoch == 2);
    }
    let left = wire.call(&still.with_member_epoch(-1), version).await?;
    ensure_codes([left.error_code], &[0])?;
    ensure!(left.member_epoch == -1);
    Ok(())
}

async fn describe(wire: &mut Wire, version: i16) -> Result<()> {
    let group = format!("next-described-{version}");
    coordinator_serves(wire, &group).await?;
    ensure_codes(
        [wire.call(&joining(&group, "me"), 1).await?.error_code],
        &[0],
    )?;
    let ids = [group.as_str(), "none", ""].map(|id| GroupId(text(id)));
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(ids.to_vec());
    let described = wire.call(&request, version).await?.groups;
    let missing = code(ResponseError::GroupIdNotFound);
    let codes = described.iter().map(|g| g.error_code);
    ensure_codes(codes, &[0, missing, code(ResponseError::InvalidGroupId)])?;
    let known = &described[0];
    ensure!(&*known.group_state == "Stable" && &*known.assignor_name == "uniform");
    ensure!(known.group_epoch == 1 && known.assignment_epoch == 1);
    let member = &known.members[0];
    ensure!(&*member.member_id == "me" && member.member_epoch == 1);
    ensure!(member.assignment == member.target_assignment);
    ensure!(&**member.assignment.topic_partitions[0].topic_name == TOPIC);
    ensure!(member.member_type == if version >= 1 { 1 } else { -1 });
    Ok(())
}

async fn list_config_resources(wire: &mut Wire, version: i16) -> Result<()> {
    let set = |name: &str, value: &str| {
        let config = AlterableConfig::default()
            .with_name(text(name))
            .with_value(Some(text(value)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(RESOURCE_GROUP)
            .with_resource_name(text("configured"))
            .with_configs(vec![config]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    for (name, value, error) in [
        ("consumer.session.timeout.ms", "50000", 0),
        (
            "consumer.session.timeout.ms",
            "1",
            code(ResponseError::InvalidConfig),
        ),
        (
            "consumer.session.timeout",
            "50000",
            code(ResponseError::InvalidConfig),
        ),
    ] {
        let altered = wire.call(&set(name, value), 1).await?;
        ensure_codes(altered.responses.iter().map(|r| r.error_code), &[error])?;
    }
    if version == 0 {
        let listed = wire.call(&ListConfigResourcesRequest::default(), 0).await?;
        ensure!(listed.error_code == 0 && listed.config_resources.is_empty());
        return Ok(());
    }
    let kinds = vec![RESOURCE_TOPIC, RESOURCE_BROKER, RESOURCE_GROUP];
    let request = ListConfigResourcesRequest::default().with_resource_types(kinds);
    let listed = wire.call(&request, version).await?;
    ensure_codes([listed.error_code], &[0])?;
    for (kind, name) in [
        (RESOURCE_TOPIC, TOPIC),
        (RESOURCE_BROKER, "1"),
        (RESOURCE_GROUP, "configured"),
    ] {
        let found = listed
            .config_resources
            .iter()
            .any(|r| r.resource_type == kind && &*r.resource_name == name);
        ensure!(found, "{name} is not among {:?}", listed.config_resources);
    }
    let unknown = ListConfigResourcesRequest::default().with_resource_types(vec![77]);
    let refused = wire.call(&unknown, version).await?.error_code;
    ensure_codes([refused], &[code(ResponseError::UnsupportedVersion)])
}

//! Topics made, grown and deleted.

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::*;
use tidelog_tests::read::topic_name;
use tidelog_tests::wire::Wire;
use uuid::Uuid;

use super::calls::{MISSING, TIMEOUT_MS, TOPIC, code, ensure_codes, text};

pub async fn create_topic(wire: &mut Wire, name: &str, partitions: i32) -> Result<Uuid> {
    let topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default()
        .with_timeout_ms(TIMEOUT_MS)
        .with_topics(vec![topic]);
    let response = wire.call(&request, 7).await?;
    ensure_codes(response.topics.iter().map(|t| t.error_code), &[0])?;
    Ok(response.topics[0].topic_id)
}

pub async fn create_topics(wire: &mut Wire, version: i16) -> Result<()> {
    let topic = |name: String| {
        CreatableTopic::default()
            .with_name(topic_name(&name))
            .with_num_partitions(1)
            .with_replication_factor(1)
    };
    let config = |name: &str, value: &str| {
        CreatableTopicConfig::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
    };
    let assignment = CreatableReplicaAssignment::default()
        .with_partition_index(0)
        .with_broker_ids(vec![BrokerId(1)]);
    let good =
        topic(format!("created-{version}")).with_configs(vec![config("retention.ms", "1000")]);
    let assigned = topic(format!("assigned-{version}"))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(vec![assignment]);
    let request = CreateTopicsRequest::default()
        .with_timeout_ms(TIMEOUT_MS)
        .with_topics(vec![
            good.clone(),
            assigned,
            topic("../escape".to_owned()),
            topic(TOPIC.to_owned()),
            topic(format!("odd-{version}")).with_configs(vec![config("no.such.config", "1")]),
            topic(format!("wide-{version}")).with_replication_factor(3),
            topic(format!("none-{version}")).with_num_partitions(0),
        ]);
    let expected = [
        0,
        0,
        code(ResponseError::InvalidTopicException),
        code(ResponseError::TopicAlreadyExists),
        code(ResponseError::InvalidConfig),
        code(ResponseError::InvalidReplicationFactor),
        code(ResponseError::InvalidPartitions),
    ];
    let dry = wire
        .call(&request.clone().with_validate_only(true), version)
        .await?;
    ensure_codes(dry.topics.iter().map(|t| t.error_code), &expected).context("validate only")?;
    let response = wire.call(&request, version).await?;
    ensure_codes(response.topics.iter().map(|t| t.error_code), &expected)?;
    let created = &response.topics[0];
    ensure!((version >= 7) != created.topic_id.is_nil());
    if version >= 5 {
        ensure!(created.num_partitions == 1 && created.replication_factor == 1);
        let configs = created.configs.as_ref().context("configs")?;
        let retention = configs.iter().find(|c| c.name.as_str() == "retention.ms");
        ensure!(retention.and_then(|c| c.value.as_deref()) == Some("1000"));
    }
    Ok(())
}

pub async fn delete_topics(wire: &mut Wire, version: i16) -> Result<()> {
    let name = format!("doomed-{version}");
    let id = create_topic(wire, &name, 1).await?;
    let request = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS);
    let unknown = code(ResponseError::UnknownTopicOrPartition);
    if version >= 6 {
        let by_id = |id| {
            DeleteTopicState::default()
                .with_name(None)
                .with_topic_id(id)
        };
        let by_name = DeleteTopicState::default().with_name(Some(topic_name(MISSING)));
        let request = request.with_topics(vec![by_id(id), by_id(Uuid::from_u128(5)), by_name]);
        let response = wire.call(&request, version).await?;
        let mut codes: Vec<_> = response.responses.iter().map(|r| r.error_code).collect();
        codes.sort_unstable();
        let mut expected = [0, code(ResponseError::UnknownTopicId), unknown];
        expected.sort_unstable();
        return ensure_codes(codes, &expected);
    }
    let request = request.with_topic_names(vec![topic_name(&name), topic_name(MISSING)]);
    let response = wire.call(&request, version).await?;
    ensure_codes(
        response.responses.iter().map(|r| r.error_code),
        &[0, unknown],
    )
}

pub async fn create_partitions(wire: &mut Wire, version: i16) -> Result<()> {
    let topic = |name: &str, count| {
        CreatePartitionsTopic::default()
            .with_name(topic_name(name))
            .with_count(count)
            .with_assignments(None)
    };
    let grown = format!("grown-{version}");
    create_topic(wire, &grown, 1).await?;
    let request = CreatePartitionsRequest::default()
        .with_timeout_ms(TIMEOUT_MS)
        .with_topics(vec![topic(&grown, 3), topic(TOPIC, 1), topic(MISSING, 3)]);
    let expected = [
        0,
        code(ResponseError::InvalidPartitions),
        code(ResponseError::UnknownTopicOrPartition),
    ];
    let dry = request.clone().with_validate_only(true);
    let response = wire.call(&dry, version).await?;
    ensure_codes(response.results.iter().map(|r| r.error_code), &expected)?;
    let response = wire.call(&request, version).await?;
    ensure_codes(response.results.iter().map(|r| r.error_code), &expected)
}

//! The calls of operators: moves of partitions, and how far the metadata group is.

use anyhow::{Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use tidelog_tests::read::topic_name;
use tidelog_tests::wire::Wire;

use super::calls::{MISSING, TOPIC, code, ensure_codes};

pub async fn call(wire: &mut Wire, api: ApiKey, version: i16) -> Result<()> {
    match api {
        ApiKey::AlterPartitionReassignments => alter_reassignments(wire, version).await,
        ApiKey::ListPartitionReassignments => list_reassignments(wire, version).await,
        ApiKey::DescribeQuorum => describe_quorum(wire, version).await,
        ApiKey::UnregisterBroker => unregister_broker(wire, version).await,
        ApiKey::UpdateFeatures => update_features(wire, version).await,
        other => super::groups::call(wire, other, version).await,
    }
}

async fn alter_reassignments(wire: &mut Wire, version: i16) -> Result<()> {
    let partition = |index, target: Option<&[i32]>| {
        let nodes = target.map(|t| t.iter().copied().map(BrokerId).collect());
        ReassignablePartition::default()
            .with_partition_index(index)
            .with_replicas(nodes)
    };
    let topic = |name: &str, partitions| {
        ReassignableTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions)
    };
    let request = AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(30_000)
        .with_topics(vec![
            topic(
                TOPIC,
                vec![
                    partition(0, Some(&[1])),
                    partition(0, None),
                    partition(1, Some(&[99])),
                    partition(1, Some(&[])),
                    partition(9, Some(&[1])),
                ],
            ),
            topic(MISSING, vec![partition(0, None)]),
        ]);
    let response = wire.call(&request, version).await?;
    ensure!(response.error_code == 0, "{response:?}");
    let answers = response.responses.iter().flat_map(|t| &t.partitions);
    let invalid = code(ResponseError::InvalidReplicaAssignment);
    let unknown = code(ResponseError::UnknownTopicOrPartition);
    ensure_codes(
        answers.map(|p| p.error_code),
        &[
            0,
            code(ResponseError::NoReassignmentInProgress),
            invalid,
            invalid,
            unknown,
            unknown,
        ],
    )
}

async fn list_reassignments(wire: &mut Wire, version: i16) -> Result<()> {
    let named = ListPartitionReassignmentsTopics::default()
        .with_name(topic_name(TOPIC))
        .with_partition_indexes(vec![0, 9]);
    for topics in [None, Some(vec![named])] {
        let request = ListPartitionReassignmentsRequest::default()
            .with_timeout_ms(30_000)
            .with_topics(topics);
        let response = wire.call(&request, version).await?;
        ensure!(
            response.error_code == 0 && response.topics.is_empty(),
            "{response:?}"
        );
    }
    Ok(())
}

async fn describe_quorum(wire: &mut Wire, version: i16) -> Result<()> {
    let asked = TopicData::default()
        .with_topic_name(topic_name("__cluster_metadata"))
        .with_partitions(vec![PartitionData::default()]);
    let request = DescribeQuorumRequest::default().with_topics(vec![asked]);
    let response = wire.call(&request, version).await?;
    ensure!(response.error_code == 0, "{response:?}");
    let partitions: Vec<_> = response.topics.iter().flat_map(|t| &t.partitions).collect();
    ensure_codes(partitions.iter().map(|p| p.error_code), &[0])?;
    ensure!(partitions[0].leader_id.0 == 1 && partitions[0].current_voters.len() == 1);
    Ok(())
}

/// One that is there, one that is not, none.
async fn update_features(wire: &mut Wire, version: i16) -> Result<()> {
    let update = |name: &str, level| {
        FeatureUpdateKey::default()
            .with_feature(StrBytes::from_string(name.to_owned()))
            .with_max_version_level(level)
            .with_upgrade_type(1)
    };
    let refused = code(ResponseError::InvalidUpdateVersion);
    for (updates, expected) in [
        (vec![update("group.version", 1)], 0),
        (vec![update("group.version", 1), update("none", 1)], refused),
        (vec![update("group.version", 0)], refused),
        (vec![], code(ResponseError::InvalidRequest)),
    ] {
        let names: Vec<_> = updates.iter().map(|u| u.feature.clone()).collect();
        let request = UpdateFeaturesRequest::default()
            .with_timeout_ms(10_000)
            .with_feature_updates(updates);
        let response = wire.call(&request, version).await?;
        ensure!(response.error_code == expected, "{response:?}");
        ensure!(
            response.error_message.is_some() == (expected != 0),
            "{response:?}"
        );
        let results = response.results.iter();
        let expected = if version < 2 && expected == 0 {
            names
        } else {
            Vec::new()
        };
        ensure!(results.clone().all(|r| r.error_code == 0));
        ensure!(
            results.map(|r| r.feature.clone()).eq(expected),
            "{response:?}"
        );
    }
    Ok(())
}

/// One that is not there, and the only one there is.
async fn unregister_broker(wire: &mut Wire, version: i16) -> Result<()> {
    for (id, expected) in [
        (77, ResponseError::BrokerIdNotRegistered),
        (1, ResponseError::InvalidRequest),
    ] {
        let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(id));
        let response = wire.call(&request, version).await?;
        ensure!(response.error_code == code(expected), "{response:?}");
    }
    Ok(())
}

//! Partitions move to other brokers, under load and while brokers die.

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId as NodeId, CreateTopicsRequest,
    DescribeQuorumRequest, ListPartitionReassignmentsRequest, UnregisterBrokerRequest,
};
use std::collections::BTreeMap;
use tidelog_jepsen::{History, check};
use tidelog_tests::broker::BrokerId;
use tidelog_tests::load::Load;
use tidelog_tests::read::{self, topic_name};
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, ClusterOptions, topics, wait};

use super::RECOVERY_LIMIT;

pub const TOPIC: &str = "moving";
pub const PARTITIONS: i32 = 4;

/// Three brokers; what joins them gets nothing by itself.
pub async fn start() -> Result<Cluster> {
    let options = ClusterOptions {
        settings: vec![("balance.enable".to_owned(), "false".to_owned())],
        ..ClusterOptions::default()
    };
    Cluster::start_with(options).await
}

async fn reassign(
    cluster: &Cluster,
    asked: BrokerId,
    targets: &[(i32, Option<Vec<i32>>)],
) -> Result<Vec<i16>> {
    reassign_of(cluster, asked, TOPIC, targets).await
}

/// Kafka's error code of each partition; `None` cancels.
pub async fn reassign_of(
    cluster: &Cluster,
    asked: BrokerId,
    topic: &str,
    targets: &[(i32, Option<Vec<i32>>)],
) -> Result<Vec<i16>> {
    let partitions = targets.iter().map(|(partition, target)| {
        let nodes = target
            .as_ref()
            .map(|t| t.iter().copied().map(NodeId).collect());
        ReassignablePartition::default()
            .with_partition_index(*partition)
            .with_replicas(nodes)
    });
    let topic = ReassignableTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(partitions.collect());
    let request = AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(30_000)
        .with_allow_replication_factor_change(true)
        .with_topics(vec![topic]);
    let response = Wire::connect(cluster.broker(asked).kafka)
        .await?
        .call(&request, 1)
        .await?;
    ensure!(response.error_code == 0, "{response:?}");
    let answers = response.responses.into_iter().flat_map(|t| t.partitions);
    Ok(answers.map(|p| p.error_code).collect())
}

/// Adding and removing replicas of the partitions under way.
pub async fn under_way(
    cluster: &Cluster,
    asked: BrokerId,
) -> Result<BTreeMap<i32, (Vec<i32>, Vec<i32>)>> {
    let request = ListPartitionReassignmentsRequest::default().with_timeout_ms(30_000);
    let response = Wire::connect(cluster.broker(asked).kafka)
        .await?
        .call(&request, 0)
        .await?;
    ensure!(response.error_code == 0, "{response:?}");
    let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|n| n.0).collect();
    Ok(response
        .topics
        .into_iter()
        .flat_map(|t| t.partitions)
        .map(|p| {
            (
                p.partition_index,
                (ids(p.adding_replicas), ids(p.removing_replicas)),
            )
        })
        .collect())
}

pub async fn unregister(cluster: &Cluster, asked: BrokerId, id: BrokerId) -> Result<i16> {
    let request = UnregisterBrokerRequest::default().with_broker_id(NodeId(id));
    let mut wire = Wire::connect(cluster.broker(asked).kafka).await?;
    Ok(wire.call(&request, 0).await?.error_code)
}

/// The voters of the metadata group, in order.
async fn metadata_voters(cluster: &Cluster, asked: BrokerId) -> Result<Vec<i32>> {
    let partition = vec![PartitionData::default()];
    let topic = TopicData::default().with_topic_name(topic_name("__cluster_metadata"));
    let request =
        DescribeQuorumRequest::default().with_topics(vec![topic.with_partitions(partition)]);
    let mut wire = Wire::connect(cluster.broker(asked).kafka).await?;
    let response = wire.call(&request, 2).await?;
    let partitions = response.topics.into_iter().flat_map(|t| t.partitions);
    let voters = partitions.flat_map(|p| p.current_voters);
    Ok(voters.map(|v| v.replica_id.0).collect())
}

async fn moved(cluster: &Cluster, asked: BrokerId) -> Result<()> {
    wait::until("all moves", RECOVERY_LIMIT, async || {
        Ok(under_way(cluster, asked).await?.is_empty().then_some(()))
    })
    .await
}

pub async fn replicas(cluster: &Cluster, asked: BrokerId) -> Result<BTreeMap<i32, Vec<i32>>> {
    let answer = topics::metadata(cluster, asked, TOPIC).await?;
    let topic = answer.topics.into_iter().next().context("the topic")?;
    Ok(topic
        .partitions
        .into_iter()
        .map(|p| {
            (
                p.partition_index,
                p.replica_nodes.into_iter().map(|n| n.0).collect(),
            )
        })
        .collect())
}

pub fn has_folder(cluster: &Cluster, broker: BrokerId, partition: i32) -> bool {
    let partitions = cluster.broker(broker).data_dir.join("partitions");
    partitions.join(format!("{TOPIC}-{partition}")).exists()
}

/// Reads the topic through a client and from every replica it has, and judges the whole history.
pub async fn judge(cluster: &Cluster, asked: BrokerId, mut history: History) -> Result<()> {
    let placed = replicas(cluster, asked).await?;
    let seen =
        read::read_by_client(&cluster.broker(asked).kafka.to_string(), TOPIC, PARTITIONS).await?;
    for (partition, records) in (0..).zip(seen) {
        let key = tidelog_tests::load::key_of(TOPIC, partition);
        let end = records.last().map_or(0, |(offset, _)| offset + 1);
        history.assign(1_000, &[&key]);
        history.poll_ok(1_000, &key, records);
        for broker in &placed[&partition] {
            let reader = 1_000 + broker.cast_unsigned();
            let at = cluster.broker(*broker).kafka;
            history.assign(reader, &[&key]);
            history.poll_ok(
                reader,
                &key,
                read::read_replica(at, TOPIC, partition, end).await?,
            );
        }
    }
    let report = check::all(&history);
    ensure!(report.is_valid(), "{report}");
    Ok(())
}

/// Two brokers join three, everything moves to them and one of the old, the brokers left behind lose their
/// folders, and producers see none of it.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_move_to_brokers_that_join_while_they_are_written_to() -> Result<()> {
    let mut cluster = start().await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    let load = Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    cluster.join(4).await?;
    cluster.join(5).await?;
    load.progress(100, RECOVERY_LIMIT).await?;

    let target = vec![5, 4, 3];
    let all: Vec<_> = (0..PARTITIONS).map(|p| (p, Some(target.clone()))).collect();
    ensure!(reassign(&cluster, 4, &all).await? == [0; PARTITIONS as usize]);
    moved(&cluster, 4).await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    for (partition, replicas) in replicas(&cluster, 4).await? {
        ensure!(replicas == target, "{partition}: {replicas:?}");
    }
    for (broker, partition) in [(1, 0), (2, 0), (1, 3), (2, 3)] {
        let what = format!("removal of {TOPIC}-{partition} at broker {broker}");
        wait::until(&what, RECOVERY_LIMIT, async || {
            Ok((!has_folder(&cluster, broker, partition)).then_some(()))
        })
        .await?;
    }
    // The old ones are not needed any more. One is unregistered while it runs, and ends; one after it was lost.
    let in_use = unregister(&cluster, 4, 3).await?;
    ensure!(in_use == ResponseError::InvalidRequest.code(), "{in_use}");
    ensure!(unregister(&cluster, 4, 1).await? == 0);
    let what = "the end of a broker that was unregistered";
    wait::until(what, RECOVERY_LIMIT, async || {
        cluster.broker_mut(1).take_ended()
    })
    .await?;
    cluster.broker_mut(2).kill()?;
    ensure!(unregister(&cluster, 5, 2).await? == 0);
    wait::until("three metadata voters", RECOVERY_LIMIT, async || {
        Ok((metadata_voters(&cluster, 4).await? == [3, 4, 5]).then_some(()))
    })
    .await?;
    // Neither comes back under its id.
    for id in [1, 2] {
        cluster.start_one(id)?;
        let what = format!("the end of broker {id}, which is not wanted");
        wait::until(&what, RECOVERY_LIMIT, async || {
            cluster.broker_mut(id).take_ended()
        })
        .await?;
    }
    load.progress(300, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    judge(&cluster, 4, written.history).await
}

/// The leader and the newcomer die in the middle of a move, and it ends; another is cancelled and is as if it
/// had never been asked for.
#[tokio::test(flavor = "multi_thread")]
async fn moves_survive_deaths_and_can_be_cancelled() -> Result<()> {
    let mut cluster = start().await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    cluster.join(4).await?;
    let load = Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    let before = replicas(&cluster, 4).await?;

    // The newcomer is dead: nothing comes of it, and the others go on.
    cluster.broker_mut(4).kill()?;
    let refused = reassign(&cluster, 1, &[(0, Some(vec![9, 2, 3])), (7, None)]).await?;
    let invalid = ResponseError::InvalidReplicaAssignment.code();
    ensure!(refused == [invalid, ResponseError::UnknownTopicOrPartition.code()]);
    let asked = [(0, Some(vec![4, 2, 3])), (1, Some(vec![2, 3, 4]))];
    ensure!(reassign(&cluster, 1, &asked).await? == [0, 0]);
    ensure!(under_way(&cluster, 1).await?[&0] == (vec![4], vec![1]));
    load.progress(300, RECOVERY_LIMIT).await?;
    ensure!(
        under_way(&cluster, 2).await?.len() == 2,
        "moved to a dead broker"
    );
    ensure!(reassign(&cluster, 1, &[(0, None)]).await? == [0]);
    wait::until(
        "the end of what was cancelled",
        RECOVERY_LIMIT,
        async || {
            Ok((under_way(&cluster, 1).await?.keys().collect::<Vec<_>>() == [&1]).then_some(()))
        },
    )
    .await?;
    ensure!(replicas(&cluster, 1).await?[&0] == before[&0]);
    let none = ResponseError::NoReassignmentInProgress.code();
    ensure!(reassign(&cluster, 1, &[(0, None)]).await? == [none]);

    // It comes back while the leader dies.
    cluster.restart(4).await?;
    let leader = topics::leader_of(&cluster, TOPIC, 1).await?;
    cluster.broker_mut(leader).kill()?;
    load.progress(100, RECOVERY_LIMIT).await?;
    cluster.restart(leader).await?;
    moved(&cluster, 4).await?;
    ensure!(replicas(&cluster, 4).await?[&1] == [2, 3, 4]);
    // One replica more, then one only, and back.
    for target in [vec![1, 2, 3, 4], vec![2], vec![3, 1]] {
        wait::until("the move is taken", RECOVERY_LIMIT, async || {
            let answer = reassign(&cluster, 2, &[(2, Some(target.clone()))]).await?;
            // A broker may still be removing the replica that it had before.
            ensure!(answer == [0] || answer == [invalid], "{answer:?}");
            Ok((answer == [0]).then_some(()))
        })
        .await?;
        moved(&cluster, 2).await?;
        load.progress(100, RECOVERY_LIMIT).await?;
        ensure!(replicas(&cluster, 2).await?[&2] == target);
    }
    let written = load.finish().await?;
    judge(&cluster, 4, written.history).await
}

/// Found by `tidelog-jepsen run --seed 11 --faults move,...`: a partition that began to move before any of its first
/// replicas was up was formed by nobody when they came, because a newcomer was preferred.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moves_before_it_was_formed_is_formed() -> Result<()> {
    let options = ClusterOptions {
        brokers: 5,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start_with(options).await?;
    cluster.broker_mut(2).kill()?;
    cluster.broker_mut(3).kill()?;
    let first = CreatableReplicaAssignment::default()
        .with_partition_index(0)
        .with_broker_ids(vec![NodeId(2), NodeId(3)]);
    let topic = CreatableTopic::default()
        .with_name(topic_name(TOPIC))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(vec![first]);
    let request = CreateTopicsRequest::default()
        .with_timeout_ms(1_000)
        .with_topics(vec![topic]);
    let mut wire = Wire::connect(cluster.broker(1).kafka).await?;
    let created = wire.call(&request, 5).await?;
    ensure!(created.topics[0].error_code == 0, "{created:?}");
    ensure!(reassign(&cluster, 1, &[(0, Some(vec![1, 4, 5]))]).await? == [0]);
    cluster.restart(2).await?;
    cluster.restart(3).await?;
    moved(&cluster, 1).await?;
    ensure!(replicas(&cluster, 1).await?[&0] == [1, 4, 5]);
    let load = Load::start(&cluster.bootstrap(), TOPIC, 1).await?;
    load.progress(100, RECOVERY_LIMIT).await?;
    load.finish().await?;
    Ok(())
}

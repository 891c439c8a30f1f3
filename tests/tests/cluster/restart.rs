//! Brokers stop and start again with their data.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{CreateTopicsRequest, MetadataRequest};
use tidelog_tests::load::Load;
use tidelog_tests::read::topic_name;
use tidelog_tests::wire::Wire;
use tidelog_tests::{BrokerId, Cluster, topics, wait};

use super::reassignment::{self, PARTITIONS, TOPIC, has_folder};
use super::{RECOVERY_LIMIT, judge};

/// Deleted and made again while a broker is away.
const TWICE: &str = "twice";

/// What a broker tells of topics.
async fn told(wire: &mut Wire, topics: &[&str]) -> Result<Vec<MetadataResponseTopic>> {
    let asked = topics.iter().map(|name| topic_name(name));
    let asked = asked.map(|name| MetadataRequestTopic::default().with_name(Some(name)));
    let request = MetadataRequest::default()
        .with_topics(Some(asked.collect()))
        .with_allow_auto_topic_creation(false);
    Ok(wire.call(&request, 12).await?.topics)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_cluster_starts_again_with_its_data() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "stopped";
    topics::create(&cluster, topic, 2, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, 2).await?;
    load.progress(1_000, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    for broker in &mut cluster.brokers {
        broker.stop().await?;
    }
    cluster.start_all().await?;
    judge(&cluster, topic, 2, written.history).await?;
    Ok(())
}

/// Each broker is stopped cleanly and started again under load; the producer sees no error.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_request() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "rolling";
    topics::create(&cluster, topic, 3, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, 3).await?;
    for id in 1..=3 {
        load.progress(300, RECOVERY_LIMIT).await?;
        cluster.broker_mut(id).stop().await?;
        load.progress(300, RECOVERY_LIMIT).await?;
        cluster.restart(id).await?;
    }
    let written = load.finish().await?;
    judge(&cluster, topic, 3, written.history).await?;
    Ok(())
}

/// Whoever asks a broker the moment it listens must hear of today's topics, not of yesterday's: of one that was
/// deleted and made again the new id, and one that was made meanwhile can be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_knows_what_was_made_without_it() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    topics::create(&cluster, TWICE, 1, 3).await?;
    for round in 0..3 {
        let topic = format!("made-meanwhile-{round}");
        let away = round + 1;
        cluster.broker_mut(away).kill()?;
        topics::create(&cluster, &topic, 1, 3).await?;
        let other = away % 3 + 1;
        let mut wire = Wire::connect(cluster.broker(other).kafka).await?;
        let before = told(&mut wire, &[TWICE]).await?[0].topic_id;
        topics::delete(&cluster, other, TWICE).await?;
        topics::create(&cluster, TWICE, 1, 3).await?;
        let made_again = wait::until("the new topic's id", RECOVERY_LIMIT, async || {
            let told = told(&mut wire, &[TWICE]).await?;
            let id = told[0].topic_id;
            Ok((told[0].error_code == 0 && id != before).then_some(id))
        })
        .await?;
        // Nobody answers it at first.
        let others: Vec<BrokerId> = (1..=3).filter(|id| *id != away).collect();
        for id in &others {
            cluster.broker(*id).pause()?;
        }
        cluster.start_one(away)?;
        let address = cluster.broker(away).kafka;
        let mut wire = wait::until("the broker listens", RECOVERY_LIMIT, async || {
            Ok(Some(Wire::connect(address).await?))
        })
        .await?;
        let deleted = topics::delete(&cluster, away, &topic);
        let wake = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            others
                .iter()
                .try_for_each(|id| cluster.broker(*id).resume())
        };
        let (deleted, woken) = tokio::join!(deleted, wake);
        woken?;
        deleted?;
        let id = told(&mut wire, &[TWICE]).await?[0].topic_id;
        ensure!(id == made_again, "broker {away} tells of an earlier topic");
        cluster.broker_mut(away).wait_ready(RECOVERY_LIMIT).await?;
    }
    Ok(())
}

/// A broker starts with the metadata of its last checkpoint. By them it is the only founder of a partition that it
/// has given away since: it must not form the group once more, beside the replica that has the records, also when it
/// has heard of the present metadata by the time it comes to that partition.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_moved_away_is_not_made_again_by_old_metadata() -> Result<()> {
    let mut cluster = reassignment::start().await?;
    // Opened before the other, in the order of names; it takes a while.
    topics::create(&cluster, "before", 300, 3).await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 1).await?;
    let placed = reassignment::replicas(&cluster, 3).await?;
    let alone = placed.into_iter().find(|(_, replicas)| replicas == &[3]);
    let (partition, _) = alone.context("a partition at broker 3")?;
    cluster.broker_mut(3).stop().await?;
    cluster.restart(3).await?;

    let target = [(partition, Some(vec![1]))];
    let answers = reassignment::reassign_of(&cluster, 1, TOPIC, &target).await?;
    ensure!(answers == [0], "{answers:?}");
    wait::until("the removal at broker 3", RECOVERY_LIMIT, async || {
        Ok((!has_folder(&cluster, 3, partition)).then_some(()))
    })
    .await?;

    cluster.broker_mut(3).kill()?;
    cluster.restart(3).await?;
    ensure!(
        !has_folder(&cluster, 3, partition),
        "the replica is made again"
    );
    let load = Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    reassignment::judge(&cluster, 1, written.history).await
}

/// A broker that hears nobody does not know whether a topic that it remembers is still there: it must not tell who
/// creates one of that name that it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_the_others_does_not_say_that_a_topic_exists() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    topics::create(&cluster, TWICE, 1, 3).await?;
    cluster.broker_mut(3).stop().await?;
    cluster.restart(3).await?;
    // As it is now, it remembers the topic.
    cluster.broker_mut(3).kill()?;
    let create = CreateTopicsRequest::default()
        .with_topics(vec![
            CreatableTopic::default()
                .with_name(topic_name(TWICE))
                .with_num_partitions(1)
                .with_replication_factor(3),
        ])
        .with_timeout_ms(10_000);
    let answer = async |cluster: &Cluster| {
        let mut wire = Wire::connect(cluster.broker(3).kafka).await?;
        Ok::<i16, anyhow::Error>(wire.call(&create, 5).await?.topics[0].error_code)
    };
    let exists = ResponseError::TopicAlreadyExists.code();
    topics::delete(&cluster, 1, TWICE).await?;
    for id in [1, 2] {
        cluster.broker(id).pause()?;
    }
    cluster.start_one(3)?;
    let address = cluster.broker(3).kafka;
    wait::until("the broker listens", RECOVERY_LIMIT, async || {
        Ok(Some(Wire::connect(address).await?))
    })
    .await?;
    let code = answer(&cluster).await?;
    ensure!(code == ResponseError::NotController.code(), "error {code}");
    for id in [1, 2] {
        cluster.broker(id).resume()?;
    }
    wait::until("the new topic", RECOVERY_LIMIT, async || {
        let code = answer(&cluster).await?;
        ensure!(code != exists, "broker 3 tells of an earlier topic");
        Ok((code == 0).then_some(()))
    })
    .await
}

/// Nor may it tell who deletes that topic that there is none, when another of that name has been made meanwhile. Found by
/// `tidelog-jepsen run --minutes 30 --seed 205`, where the broker had only been paused.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_remembers_an_earlier_topic_deletes_the_present_one() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    topics::create(&cluster, TWICE, 1, 3).await?;
    cluster.broker_mut(3).stop().await?;
    cluster.restart(3).await?;
    // As it is now, it remembers the topic.
    cluster.broker_mut(3).kill()?;
    topics::delete(&cluster, 1, TWICE).await?;
    topics::create(&cluster, TWICE, 1, 3).await?;
    for id in [1, 2] {
        cluster.broker(id).pause()?;
    }
    cluster.start_one(3)?;
    let address = cluster.broker(3).kafka;
    wait::until("the broker listens", RECOVERY_LIMIT, async || {
        Ok(Some(Wire::connect(address).await?))
    })
    .await?;
    let wake = async {
        // It begins with what it remembers once it has waited for the others in vain, 5 s.
        tokio::time::sleep(Duration::from_secs(7)).await;
        [1, 2]
            .into_iter()
            .try_for_each(|id| cluster.broker(id).resume())
    };
    let (deleted, woken) = tokio::join!(topics::delete(&cluster, 3, TWICE), wake);
    woken?;
    deleted?;
    let mut wire = Wire::connect(address).await?;
    let code = told(&mut wire, &[TWICE]).await?[0].error_code;
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    ensure!(code == unknown, "error {code}");
    Ok(())
}

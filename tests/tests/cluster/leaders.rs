//! Leadership goes where it is asked to go.

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ElectLeadersRequest;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use tidelog_tests::broker::BrokerId;
use tidelog_tests::load::Load;
use tidelog_tests::read::topic_name;
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, ClusterOptions, topics, wait};

use super::{RECOVERY_LIMIT, judge};

const TOPIC: &str = "preferred";
const PARTITIONS: i32 = 6;

/// Kafka's error code for each partition, by partition; `partitions` none: of all there are.
async fn elect(
    cluster: &Cluster,
    asked: BrokerId,
    partitions: Option<Vec<i32>>,
) -> Result<Vec<i16>> {
    let topic = |partitions| {
        let topic = TopicPartitions::default().with_topic(topic_name(TOPIC));
        vec![topic.with_partitions(partitions)]
    };
    let request = ElectLeadersRequest::default()
        .with_timeout_ms(30_000)
        .with_topic_partitions(partitions.map(topic));
    let broker = cluster.broker(asked).kafka;
    let response = Wire::connect(broker).await?.call(&request, 2).await?;
    ensure!(response.error_code == 0, "{response:?}");
    let results = response.replica_election_results.into_iter();
    Ok(results
        .flat_map(|topic| topic.partition_result)
        .map(|partition| partition.error_code)
        .collect())
}

/// A broker that was away leads nothing when nobody asks (`auto.leader.rebalance.enable=false`), and
/// what it is preferred for when somebody does, under load, whichever broker is asked.
#[tokio::test(flavor = "multi_thread")]
async fn preferred_leaders_are_elected_when_asked_for() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions {
        settings: vec![(
            "auto.leader.rebalance.enable".to_owned(),
            "false".to_owned(),
        )],
        ..ClusterOptions::default()
    })
    .await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    let load = Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    let away = topics::leader_of(&cluster, TOPIC, 0).await?;
    let asked = 1 + away % 3;
    cluster.broker_mut(away).kill()?;
    load.progress(300, RECOVERY_LIMIT).await?;
    // Back before others are elected it would rightly be elected itself.
    wait::until("other leaders", RECOVERY_LIMIT, async || {
        let led = topics::leaders(&cluster, asked, TOPIC).await?;
        let others = led.values().filter(|leader| **leader != away);
        Ok((others.count() == PARTITIONS as usize).then_some(()))
    })
    .await?;

    let refused = wait::until("a refusal", RECOVERY_LIMIT, async || {
        let codes = elect(&cluster, asked, Some(vec![0])).await?;
        let refused = ResponseError::PreferredLeaderNotAvailable.code();
        Ok((codes == [refused]).then_some(()))
    });
    refused.await?;

    cluster.restart(away).await?;
    let preferred: Vec<i32> = preferred_of(&cluster, asked).await?;
    let led: Vec<i32> = topics::leaders(&cluster, asked, TOPIC)
        .await?
        .into_values()
        .collect();
    // One may have come back because a busy machine made its leader look dead; not all of them.
    ensure!(led != preferred, "nobody asked for {led:?}");
    wait::until("elections", RECOVERY_LIMIT, async || {
        let codes = elect(&cluster, asked, None).await?;
        Ok(codes.iter().all(|code| *code == 0).then_some(()))
    })
    .await?;
    let led: Vec<i32> = topics::leaders(&cluster, asked, TOPIC)
        .await?
        .into_values()
        .collect();
    ensure!(
        led == preferred,
        "{led:?} lead, {preferred:?} are preferred"
    );
    ensure!(led.contains(&away));
    let codes = elect(&cluster, away, Some((0..PARTITIONS).collect())).await?;
    ensure!(codes == vec![ResponseError::ElectionNotNeeded.code(); PARTITIONS as usize]);

    load.progress(300, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    judge(&cluster, TOPIC, PARTITIONS, written.history).await?;
    Ok(())
}

/// The first replica of each partition.
async fn preferred_of(cluster: &Cluster, broker: BrokerId) -> Result<Vec<i32>> {
    let answer = topics::metadata(cluster, broker, TOPIC).await?;
    let topic = answer.topics.into_iter().next().context("the topic")?;
    let mut partitions = topic.partitions;
    partitions.sort_by_key(|partition| partition.partition_index);
    Ok(partitions
        .iter()
        .filter_map(|partition| partition.replica_nodes.first().map(|node| node.0))
        .collect())
}

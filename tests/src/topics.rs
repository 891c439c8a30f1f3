//! Topics and their leaders, for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{DeleteTopicsRequest, MetadataRequest, MetadataResponse};
use krafka::Kafka;
use krafka::admin::{CreateTopicsOptions, NewTopic};

use crate::broker::BrokerId;
use crate::cluster::Cluster;
use crate::load::connect;
use crate::read::topic_name;
use crate::wait;
use crate::wire::Wire;

const METADATA_VERSION: i16 = 9;
const LEADER_LIMIT: Duration = Duration::from_secs(30);

/// Creates a topic and waits until every partition has a leader.
///
/// # Errors
/// When the cluster refuses it or no leader comes up.
pub async fn create(cluster: &Cluster, topic: &str, partitions: i32, replicas: i16) -> Result<()> {
    ask_for(
        &connect(&cluster.bootstrap()).await?,
        topic,
        partitions,
        replicas,
    )
    .await?;
    for partition in 0..partitions {
        leader_of(cluster, topic, partition).await?;
    }
    Ok(())
}

/// Has a topic created; its partitions may have no leaders yet.
///
/// # Errors
/// When the cluster refuses it.
pub async fn ask_for(kafka: &Kafka, topic: &str, partitions: i32, replicas: i16) -> Result<()> {
    let wanted = NewTopic::new(topic, partitions, replicas)?;
    let mut answers = kafka
        .admin()
        .create_topics([wanted], CreateTopicsOptions::default())
        .await?;
    answers.remove(topic).context("an answer for the topic")??;
    Ok(())
}

/// Has a topic deleted by one broker.
///
/// # Errors
/// When the broker refuses it.
pub async fn delete(cluster: &Cluster, asked: BrokerId, topic: &str) -> Result<()> {
    let request = DeleteTopicsRequest::default()
        .with_topic_names(vec![topic_name(topic)])
        .with_timeout_ms(10_000);
    let mut wire = Wire::connect(cluster.broker(asked).kafka).await?;
    let answer = wire.call(&request, 5).await?;
    let error = answer.responses[0].error_code;
    ensure!(error == 0, "broker {asked} deletes {topic}: error {error}");
    Ok(())
}

/// Metadata of one topic, as one broker tells it.
///
/// # Errors
/// When it does not answer.
pub async fn metadata(
    cluster: &Cluster,
    broker: BrokerId,
    topic: &str,
) -> Result<MetadataResponse> {
    let asked = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![asked]))
        .with_allow_auto_topic_creation(false);
    Wire::connect(cluster.broker(broker).kafka)
        .await?
        .call(&request, METADATA_VERSION)
        .await
}

/// The leader of each partition, as one broker tells it; partitions without one are left out.
///
/// # Errors
/// When it does not answer.
pub async fn leaders(
    cluster: &Cluster,
    broker: BrokerId,
    topic: &str,
) -> Result<BTreeMap<i32, BrokerId>> {
    let answer = metadata(cluster, broker, topic).await?;
    let partitions = answer.topics.into_iter().flat_map(|topic| topic.partitions);
    let led = partitions.filter(|partition| partition.leader_id.0 >= 0);
    Ok(led
        .map(|partition| (partition.partition_index, partition.leader_id.0))
        .collect())
}

/// The leader of a partition, as a running broker tells it.
///
/// # Errors
/// When there is none within half a minute.
pub async fn leader_of(cluster: &Cluster, topic: &str, partition: i32) -> Result<BrokerId> {
    let what = format!("a leader of {topic}-{partition}");
    wait::until(&what, LEADER_LIMIT, async || {
        for broker in cluster.brokers.iter().filter(|broker| broker.is_started()) {
            // It may have been struck a moment ago: the others know as well.
            let Ok(known) = leaders(cluster, broker.id, topic).await else {
                continue;
            };
            if let Some(leader) = known.get(&partition) {
                return Ok(Some(*leader));
            }
        }
        Ok(None)
    })
    .await
}

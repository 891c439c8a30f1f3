//! Brokers stop and start again with their data.

use anyhow::{Result, ensure};
use kafka_protocol::messages::MetadataRequest;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use tidelog_tests::load::Load;
use tidelog_tests::read::topic_name;
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, topics, wait};

use super::{RECOVERY_LIMIT, judge};

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

/// Whoever asks a broker the moment it listens must not hear that a topic of today does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_knows_what_was_made_without_it() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    for round in 0..3 {
        let topic = format!("made-meanwhile-{round}");
        let away = round + 1;
        cluster.broker_mut(away).kill()?;
        topics::create(&cluster, &topic, 1, 3).await?;
        cluster.start_one(away)?;
        let address = cluster.broker(away).kafka;
        let mut wire = wait::until("the broker listens", RECOVERY_LIMIT, async || {
            Ok(Some(Wire::connect(address).await?))
        })
        .await?;
        let asked = MetadataRequestTopic::default().with_name(Some(topic_name(&topic)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![asked]))
            .with_allow_auto_topic_creation(false);
        let answer = wire.call(&request, 9).await?;
        let error = answer.topics[0].error_code;
        ensure!(error != 3, "broker {away} does not know {topic}");
        cluster.broker_mut(away).wait_ready(RECOVERY_LIMIT).await?;
    }
    Ok(())
}

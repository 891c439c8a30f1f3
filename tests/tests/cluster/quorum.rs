//! DescribeQuorum: what any broker tells of the metadata group.

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::describe_quorum_response::PartitionData as Described;
use kafka_protocol::messages::{DescribeQuorumRequest, DescribeQuorumResponse};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};
use tidelog_tests::broker::BrokerId;
use tidelog_tests::read::topic_name;
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, dev, topics, wait};

use super::RECOVERY_LIMIT;

/// A caught-up replica was so a moment ago.
const FRESH_MS: i64 = 15_000;

async fn ask(
    cluster: &Cluster,
    asked: BrokerId,
    topic: &str,
    version: i16,
) -> Result<DescribeQuorumResponse> {
    let topic = TopicData::default()
        .with_topic_name(topic_name(topic))
        .with_partitions(vec![PartitionData::default().with_partition_index(0)]);
    let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
    let broker = cluster.broker(asked).kafka;
    Wire::connect(broker).await?.call(&request, version).await
}

/// The partition of an answer without an error; none while there is no leader.
fn described(response: DescribeQuorumResponse) -> Result<Option<Described>> {
    ensure!(response.error_code == 0, "{response:?}");
    let topic = response.topics.into_iter().next().context("the topic")?;
    let partition = topic.partitions.into_iter().next().context("partition 0")?;
    if partition.error_code == ResponseError::NotLeaderOrFollower.code() {
        return Ok(None);
    }
    ensure!(partition.error_code == 0, "{partition:?}");
    Ok(Some(partition))
}

async fn quorum(cluster: &Cluster, asked: BrokerId) -> Result<Described> {
    wait::until("the quorum", RECOVERY_LIMIT, async || {
        described(ask(cluster, asked, "__cluster_metadata", 1).await?)
    })
    .await
}

fn now_ms() -> Result<i64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broker_tells_how_far_the_voters_of_the_metadata_are() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let before = quorum(&cluster, 1).await?;
    topics::create(&cluster, "one", 1, 3).await?;
    for asked in 1..=3 {
        let told = wait::until("voters that are caught up", RECOVERY_LIMIT, async || {
            let told = quorum(&cluster, asked).await?;
            let ends = told.current_voters.iter().map(|voter| voter.log_end_offset);
            let caught_up = ends.clone().all(|end| end == told.high_watermark);
            Ok(caught_up.then_some(told))
        })
        .await?;
        let voters: Vec<i32> = told.current_voters.iter().map(|v| v.replica_id.0).collect();
        ensure!(voters == [1, 2, 3], "{told:?}");
        ensure!(voters.contains(&told.leader_id.0) && told.leader_epoch > 0);
        ensure!(told.observers.is_empty(), "{told:?}");
        ensure!(told.high_watermark > before.high_watermark, "{told:?}");
        let now_ms = now_ms()?;
        for voter in &told.current_voters {
            for at in [voter.last_fetch_timestamp, voter.last_caught_up_timestamp] {
                ensure!(
                    at <= now_ms && at > now_ms - FRESH_MS,
                    "{now_ms}: {voter:?}"
                );
            }
        }
    }

    let newest = ask(&cluster, 2, "__cluster_metadata", 2).await?;
    for node in &newest.nodes {
        let peer = cluster.broker(node.node_id.0).peer.port();
        let ports: Vec<u16> = node.listeners.iter().map(|l| l.port).collect();
        ensure!(ports == [peer], "{node:?}");
    }
    ensure!(newest.nodes.len() == 3, "{newest:?}");
    let newest = described(newest)?.context("a leader")?;
    let known = newest.current_voters.iter();
    ensure!(known.clone().all(|v| !v.replica_directory_id.is_nil()));
    let refused = ask(&cluster, 1, "one", 0).await?;
    let code = refused.topics[0].partitions[0].error_code;
    ensure!(code == ResponseError::UnknownTopicOrPartition.code());

    // A voter that is away falls behind, and the time at which it was caught up stays.
    let away = 1 + newest.leader_id.0 % 3;
    let asked = 1 + away % 3;
    cluster.broker_mut(away).kill()?;
    let killed_ms = now_ms()?;
    topics::create(&cluster, "two", 1, 3).await?;
    let told = wait::until("a commit without it", RECOVERY_LIMIT, async || {
        let told = quorum(&cluster, asked).await?;
        Ok((told.high_watermark > newest.high_watermark).then_some(told))
    })
    .await?;
    let voters = told.current_voters.iter();
    let (gone, others): (Vec<_>, Vec<_>) = voters.partition(|v| v.replica_id.0 == away);
    let gone = gone.first().context("the voter that is away")?;
    ensure!(gone.log_end_offset < told.high_watermark, "{told:?}");
    ensure!(gone.last_caught_up_timestamp <= killed_ms, "{told:?}");
    let reached = others
        .iter()
        .filter(|v| v.log_end_offset >= told.high_watermark);
    ensure!(reached.count() == 2, "{told:?}");

    let bootstrap = cluster.broker(asked).kafka.to_string();
    let output = dev::run(&[
        "cluster",
        "quorum",
        "--output",
        "json",
        "--bootstrap",
        &bootstrap,
    ])?;
    ensure!(output.status.success(), "{output:?}");
    let shown: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(shown["leader"] == told.leader_id.0, "{shown}");
    let replicas = shown["replicas"].as_array().context("replicas")?;
    let lag = |id: i32| {
        let replica = replicas.iter().find(|r| r["broker"] == id)?;
        replica["lag"].as_i64()
    };
    ensure!(
        lag(told.leader_id.0) == Some(0) && lag(away) > Some(0),
        "{shown}"
    );
    Ok(())
}

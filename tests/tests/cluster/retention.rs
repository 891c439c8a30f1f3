//! Old records leave on all replicas at once, by settings that are changed while the brokers run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use kafka_protocol::protocol::StrBytes;
use tidelog_tests::keyed::{Writer, batch};
use tidelog_tests::produce::produce;
use tidelog_tests::read::{fetch, topic_name};
use tidelog_tests::wire::Wire;
use tidelog_tests::{Broker, Cluster, ClusterOptions, segments, topics, wait};

const LIMIT: Duration = Duration::from_secs(30);

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| d.as_millis() as i64)
}

async fn start() -> Result<Cluster> {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Cluster::start_with(ClusterOptions {
        settings: vec![
            setting("log.segment.bytes", "1048576"),
            setting("log.retention.check.interval.ms", "100"),
        ],
        ..ClusterOptions::default()
    })
    .await
}

/// Four records of 256 KiB a round.
async fn write(cluster: &Cluster, writer: &mut Writer, rounds: u32, timestamp: i64) -> Result<()> {
    for round in 0..rounds {
        let updates: Vec<_> = (0..4)
            .map(|n| (round * 4 + n, Some(vec![7; 250_000])))
            .collect();
        writer.write(cluster, &updates, timestamp).await?;
    }
    Ok(())
}

async fn alter(cluster: &Cluster, topic: &str, name: &str, value: &str) -> Result<()> {
    let (error, message) = try_alter(cluster, topic, name, value).await?;
    ensure!(error == 0, "{name}={value}: {error} {message}");
    Ok(())
}

/// Error code and message.
async fn try_alter(
    cluster: &Cluster,
    topic: &str,
    name: &str,
    value: &str,
) -> Result<(i16, String)> {
    let config = AlterableConfig::default()
        .with_name(StrBytes::from_string(name.to_owned()))
        .with_value(Some(StrBytes::from_string(value.to_owned())));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(StrBytes::from_string(topic.to_owned()))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let broker = cluster.brokers.iter().find(|b| b.is_started());
    let mut wire = Wire::connect(broker.context("a running broker")?.kafka).await?;
    let answer = wire.call(&request, 1).await?;
    let told = &answer.responses[0];
    let message = told.error_message.as_ref().map(ToString::to_string);
    Ok((told.error_code, message.unwrap_or_default()))
}

/// Waits until every broker tells clients the same log start, and it is as wanted.
async fn starts_at(cluster: &Cluster, topic: &str, wanted: impl Fn(i64) -> bool) -> Result<i64> {
    wait::until("all replicas start at the same offset", LIMIT, async || {
        let mut starts = Vec::new();
        for broker in &cluster.brokers {
            let mut wire = Wire::connect(broker.kafka).await?;
            starts.push(fetch(&mut wire, topic, 0, i64::MAX).await?.log_start_offset);
        }
        let same = starts.iter().all(|s| *s == starts[0]);
        Ok((same && wanted(starts[0])).then_some(starts[0]))
    })
    .await
}

/// Waits until a replica has as many segments as wanted: they go just after the log start has moved.
async fn files_become(broker: &Broker, topic: &str, wanted: impl Fn(usize) -> bool) -> Result<()> {
    let dir = segments::partition_dir(broker, topic, 0);
    wait::until("segments are removed", LIMIT, async || {
        Ok(wanted(segments::files(&dir)?.len()).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_is_changed_at_run_time_and_all_replicas_follow() -> Result<()> {
    let cluster = start().await?;
    let topic = "retained";
    topics::create(&cluster, topic, 1, 3).await?;
    let mut writer = Writer::new(topic);
    write(&cluster, &mut writer, 6, now_ms()).await?;
    starts_at(&cluster, topic, |s| s == 0).await?;
    // By size: 24 records, a little less than four a segment.
    alter(&cluster, topic, "retention.bytes", "3000000").await?;
    let start = starts_at(&cluster, topic, |s| s > 0).await?;
    ensure!((9..=15).contains(&start), "{start}");
    for broker in &cluster.brokers {
        files_become(broker, topic, |count| count <= 5).await?;
    }
    // By time, also what the segment being written holds.
    alter(&cluster, topic, "retention.ms", "1").await?;
    starts_at(&cluster, topic, |s| s == 24).await?;
    alter(&cluster, topic, "retention.ms", "-1").await?;
    write(&cluster, &mut writer, 1, now_ms()).await?;
    starts_at(&cluster, topic, |s| s == 24).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_deleted_up_to_the_high_watermark_everywhere() -> Result<()> {
    let mut cluster = start().await?;
    let topic = "deleted";
    topics::create(&cluster, topic, 1, 3).await?;
    let mut writer = Writer::new(topic);
    write(&cluster, &mut writer, 3, now_ms()).await?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    let partition = DeleteRecordsPartition::default().with_offset(-1);
    let request = DeleteRecordsRequest::default()
        .with_timeout_ms(10_000)
        .with_topics(vec![
            DeleteRecordsTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(vec![partition]),
        ]);
    let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
    let answer = wire.call(&request, 2).await?;
    let told = answer.topics[0].partitions.first().context("a partition")?;
    ensure!((told.error_code, told.low_watermark) == (0, 12), "{told:?}");
    starts_at(&cluster, topic, |s| s == 12).await?;
    for broker in &cluster.brokers {
        files_become(broker, topic, |count| count == 0).await?;
    }
    // It stays so, and writing goes on.
    cluster.broker_mut(leader).kill()?;
    write(&cluster, &mut writer, 1, now_ms()).await?;
    cluster.restart(leader).await?;
    starts_at(&cluster, topic, |s| s == 12).await?;
    Ok(())
}

const MESSAGE_TOO_LARGE: i16 = 10;
const NOT_ENOUGH_REPLICAS: i16 = 19;
const INVALID_TIMESTAMP: i16 = 32;
const INVALID_CONFIG: i16 = 40;

/// Sends one batch of one record to the leader until it is answered as wanted: settings reach brokers one
/// after another.
async fn answered(cluster: &Cluster, topic: &str, timestamp: i64, wanted: i16) -> Result<()> {
    let what = format!("error {wanted} for a batch of {timestamp}");
    wait::until(&what, LIMIT, async || {
        let leader = topics::leader_of(cluster, topic, 0).await?;
        let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
        let batch = batch(&[(1, Some(vec![5; 500]))], timestamp)?;
        let told = produce(&mut wire, topic, 0, batch).await?;
        Ok((told.error_code == wanted).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_topic_hold_from_the_next_batch_on() -> Result<()> {
    let mut cluster = start().await?;
    let topic = "settings";
    topics::create(&cluster, topic, 1, 3).await?;
    answered(&cluster, topic, now_ms(), 0).await?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;

    // The broker compresses what comes without compression.
    alter(&cluster, topic, "compression.type", "zstd").await?;
    wait::until("a compressed batch", LIMIT, async || {
        let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
        let sent = batch(&[(1, Some(vec![5; 50_000]))], now_ms())?;
        let at = produce(&mut wire, topic, 0, sent).await?.base_offset;
        let data = fetch(&mut wire, topic, 0, at).await?.records;
        let stored = data.context("the batch")?;
        let codec = stored.get(22).context("attributes")? & 7;
        Ok((codec == 4 && stored.len() < 1_000).then_some(()))
    })
    .await?;
    alter(&cluster, topic, "compression.type", "producer").await?;

    alter(&cluster, topic, "max.message.bytes", "200").await?;
    answered(&cluster, topic, now_ms(), MESSAGE_TOO_LARGE).await?;
    alter(&cluster, topic, "max.message.bytes", "100000").await?;
    alter(&cluster, topic, "message.timestamp.before.max.ms", "60000").await?;
    answered(&cluster, topic, now_ms() - 120_000, INVALID_TIMESTAMP).await?;
    alter(&cluster, topic, "message.timestamp.after.max.ms", "60000").await?;
    answered(&cluster, topic, now_ms() + 120_000, INVALID_TIMESTAMP).await?;
    answered(&cluster, topic, now_ms(), 0).await?;
    for (name, value) in [("flush.messages", "1"), ("flush.ms", "1000")] {
        alter(&cluster, topic, name, value).await?;
    }
    let unclean = "unclean.leader.election.enable";
    let (error, message) = try_alter(&cluster, topic, unclean, "true").await?;
    ensure!(
        error == INVALID_CONFIG && message.contains("must be false"),
        "{error} {message}"
    );

    // All three, where two are a majority.
    alter(&cluster, topic, "min.insync.replicas", "3").await?;
    answered(&cluster, topic, now_ms(), 0).await?;
    let away = leader % 3 + 1;
    cluster.broker_mut(away).kill()?;
    answered(&cluster, topic, now_ms(), NOT_ENOUGH_REPLICAS).await?;
    alter(&cluster, topic, "min.insync.replicas", "2").await?;
    answered(&cluster, topic, now_ms(), 0).await
}

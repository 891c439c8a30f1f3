//! Replicas move by themselves: to brokers that join, off brokers that leave, and off those that died.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tidelog_tests::broker::BrokerId;
use tidelog_tests::load::Load;
use tidelog_tests::{Cluster, ClusterOptions, topics, wait};

use super::RECOVERY_LIMIT;
use super::reassignment::{PARTITIONS, TOPIC, has_folder, judge, replicas, under_way, unregister};

/// How many replicas each broker has, and how many partitions prefer it.
async fn shares(cluster: &Cluster, asked: BrokerId) -> Result<BTreeMap<BrokerId, (usize, usize)>> {
    let mut shares: BTreeMap<BrokerId, (usize, usize)> = BTreeMap::new();
    for (_, replicas) in replicas(cluster, asked).await? {
        for (place, broker) in replicas.into_iter().enumerate() {
            let share = shares.entry(broker).or_default();
            share.0 += 1;
            share.1 += usize::from(place == 0);
        }
    }
    Ok(shares)
}

fn is_even(shares: &BTreeMap<BrokerId, (usize, usize)>, brokers: &[BrokerId]) -> bool {
    let within_one = |count: fn(&(usize, usize)) -> usize| {
        let counts = shares.values().map(count);
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0) <= 1
    };
    shares.keys().copied().eq(brokers.iter().copied()) && within_one(|s| s.0) && within_one(|s| s.1)
}

async fn wait_until_even(cluster: &Cluster, asked: BrokerId, brokers: &[BrokerId]) -> Result<()> {
    let mut last = BTreeMap::new();
    let even = wait::until("an even spread", RECOVERY_LIMIT, async || {
        last = shares(cluster, asked).await?;
        // While a partition moves it has more replicas than it will.
        let moves = !under_way(cluster, asked).await?.is_empty();
        Ok((!moves && is_even(&last, brokers)).then_some(()))
    });
    let waited = even.await;
    waited.with_context(|| format!("replicas and preferred leaders by broker: {last:?}"))
}

/// Two brokers join three and get their share, the first two are emptied and taken out, and producers see none
/// of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_and_shrinks_by_itself_while_it_is_written_to() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    let load = Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    // Without another broker nobody can take what it holds.
    let refused = cluster.refused(&["broker", "decommission", "1"])?;
    ensure!(refused.contains("only 2 brokers stay"), "{refused}");
    cluster.join(4).await?;
    cluster.join(5).await?;
    wait_until_even(&cluster, 4, &[1, 2, 3, 4, 5]).await?;
    load.progress(300, RECOVERY_LIMIT).await?;

    cluster.command(&["broker", "decommission", "1", "--no-wait"])?;
    let told = cluster.command(&[
        "broker",
        "decommission",
        "2",
        "--wait",
        "60",
        "--output",
        "json",
    ])?;
    let told: Vec<Value> = told
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let last = told.last().context("progress")?;
    ensure!(
        last["partitions_left"] == 0 && last["broker"] == 2,
        "{told:?}"
    );
    let first = told.first().context("progress")?;
    ensure!(first["partitions_left"].as_u64() > Some(0), "{told:?}");
    // Goes on where it is, and says the same when it is over.
    cluster.command(&["broker", "decommission", "1", "--wait", "60"])?;
    let over = cluster.command(&["broker", "decommission", "1"])?;
    ensure!(over.contains("tidelog broker unregister 1"), "{over}");
    let left = shares(&cluster, 4).await?;
    ensure!(left.keys().eq(&[3, 4, 5]), "{left:?}");
    for (broker, partition) in [(1, 0), (2, 0), (1, 3), (2, 3)] {
        let what = format!("removal of {TOPIC}-{partition} at broker {broker}");
        wait::until(&what, RECOVERY_LIMIT, async || {
            Ok((!has_folder(&cluster, broker, partition)).then_some(()))
        })
        .await?;
    }
    // Nothing new comes to those that leave.
    topics::create(&cluster, "new", 6, 3).await?;
    let placed = topics::metadata(&cluster, 4, "new").await?;
    let mut placed = placed.topics.iter().flat_map(|t| &t.partitions);
    ensure!(placed.all(|p| p.replica_nodes.iter().all(|b| b.0 >= 3)));
    ensure!(unregister(&cluster, 4, 1).await? == 0);
    ensure!(unregister(&cluster, 4, 2).await? == 0);
    load.progress(300, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    judge(&cluster, 4, written.history).await
}

/// What a dead broker held is built anew on another; when it comes back it is as good as new. One that is being
/// emptied may stay after all.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_broker_is_replaced_and_an_emptied_one_may_stay() -> Result<()> {
    let options = ClusterOptions {
        brokers: 4,
        settings: vec![("broker.dead.timeout.ms".to_owned(), "4000".to_owned())],
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start_with(options).await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    let load = Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    let before = shares(&cluster, 1).await?;
    ensure!(before.contains_key(&3), "{before:?}");

    // One that is back soon keeps what it has.
    cluster.broker_mut(3).kill()?;
    load.progress(100, RECOVERY_LIMIT).await?;
    cluster.restart(3).await?;
    ensure!(shares(&cluster, 1).await? == before);

    cluster.broker_mut(3).kill()?;
    wait::until("replicas off the dead broker", RECOVERY_LIMIT, async || {
        Ok((!shares(&cluster, 1).await?.contains_key(&3)).then_some(()))
    })
    .await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    cluster.restart(3).await?;
    wait_until_even(&cluster, 3, &[1, 2, 3, 4]).await?;

    // Everything goes, and is fetched back.
    cluster.command(&["broker", "decommission", "4", "--wait", "60"])?;
    let left = shares(&cluster, 1).await?;
    ensure!(!left.contains_key(&4), "{left:?}");
    let kept = cluster.command(&["broker", "decommission", "4", "--cancel"])?;
    ensure!(kept.contains("broker 4 stays"), "{kept}");
    wait_until_even(&cluster, 1, &[1, 2, 3, 4]).await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    judge(&cluster, 1, written.history).await
}

/// Nothing moves until it is asked for, and then no faster than is allowed.
#[tokio::test(flavor = "multi_thread")]
async fn spreading_waits_to_be_asked_and_keeps_to_its_rate() -> Result<()> {
    const RATE: u64 = 1 << 20;
    const WRITTEN: usize = 6 << 20;
    let options = ClusterOptions {
        settings: vec![("balance.enable".to_owned(), "false".to_owned())],
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start_with(options).await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    let kafka = tidelog_tests::load::connect(&cluster.bootstrap()).await?;
    let producer = tidelog_tests::load::producer(&kafka).await?;
    let value = "x".repeat(16 << 10);
    for _ in 0..WRITTEN / value.len() {
        let record = krafka::Record::new(TOPIC, value.clone()).partition(0);
        let delivered = producer.enqueue(record).await?.await?;
        ensure!(delivered.is_success());
    }
    cluster.join(4).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let left = shares(&cluster, 1).await?;
    ensure!(!left.contains_key(&4), "{left:?}");

    let rate = format!("replication.throttled.rate={RATE}");
    cluster.command(&["broker", "alter", "all", "--set", &rate])?;
    let started = Instant::now();
    cluster.command(&["broker", "decommission", "1", "--wait", "60"])?;
    let took = started.elapsed();
    let least = Duration::from_secs_f64(WRITTEN as f64 / RATE as f64) / 2;
    ensure!(took > least, "6 MiB at 1 MiB/s were moved in {took:?}");
    let left = shares(&cluster, 2).await?;
    ensure!(left.keys().eq(&[2, 3, 4]), "{left:?}");

    cluster.command(&["broker", "decommission", "1", "--cancel"])?;
    cluster.command(&["broker", "alter", "all", "--set", "balance.enable=true"])?;
    wait_until_even(&cluster, 2, &[1, 2, 3, 4]).await
}

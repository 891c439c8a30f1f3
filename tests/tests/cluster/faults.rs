//! Brokers die and stop while an idempotent producer writes: every acknowledged record is there once,
//! in order, at the acknowledged offset, on every broker.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ListOffsetsRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tidelog_tests::load::Load;
use tidelog_tests::read::topic_name;
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, ClusterOptions, topics, wait};

use super::{RECOVERY_LIMIT, judge};

const PARTITIONS: i32 = 3;

/// Acknowledged before and after each fault: enough that batches are in flight when it strikes.
const STEP: u64 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn kill_of_a_leader_loses_and_doubles_nothing() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "leader-killed";
    topics::create(&cluster, topic, PARTITIONS, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, PARTITIONS).await?;
    for round in 0..3 {
        load.progress(STEP, RECOVERY_LIMIT).await?;
        let leader = topics::leader_of(&cluster, topic, round % PARTITIONS).await?;
        cluster.broker_mut(leader).kill()?;
        load.progress(STEP, RECOVERY_LIMIT).await?;
        cluster.restart(leader).await?;
    }
    load.progress(STEP, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    judge(&cluster, topic, PARTITIONS, written.history).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_of_a_follower_loses_and_doubles_nothing() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "follower-killed";
    topics::create(&cluster, topic, 1, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, 1).await?;
    for _ in 0..3 {
        load.progress(STEP, RECOVERY_LIMIT).await?;
        let leader = topics::leader_of(&cluster, topic, 0).await?;
        let follower = leader % 3 + 1;
        cluster.broker_mut(follower).kill()?;
        load.progress(STEP, RECOVERY_LIMIT).await?;
        cluster.restart(follower).await?;
    }
    let written = load.finish().await?;
    judge(&cluster, topic, 1, written.history).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_of_all_three_at_once_loses_and_doubles_nothing() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "all-killed";
    topics::create(&cluster, topic, PARTITIONS, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, PARTITIONS).await?;
    for _ in 0..2 {
        load.progress(STEP, RECOVERY_LIMIT).await?;
        for broker in &mut cluster.brokers {
            broker.kill()?;
        }
        cluster.start_all().await?;
        load.progress(STEP, RECOVERY_LIMIT).await?;
    }
    let written = load.finish().await?;
    judge(&cluster, topic, PARTITIONS, written.history).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_that_wakes_up_loses_and_doubles_nothing() -> Result<()> {
    let cluster = Cluster::start().await?;
    let topic = "paused";
    topics::create(&cluster, topic, PARTITIONS, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, PARTITIONS).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    cluster.broker(leader).pause()?;
    // The others have taken its partitions over when they name another leader and writes go on.
    let witness = leader % 3 + 1;
    wait::until(
        "another leader than the paused one",
        RECOVERY_LIMIT,
        async || {
            let now = topics::leaders(&cluster, witness, topic).await?;
            Ok((now.len() == 3 && now.values().all(|id| *id != leader)).then_some(()))
        },
    )
    .await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    cluster.broker(leader).resume()?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    judge(&cluster, topic, PARTITIONS, written.history).await?;
    Ok(())
}

/// Where a partition ends only its leader knows, and one that hears of nobody may have been replaced. Found by the
/// simulation of brokers, seed 4172: a leader that was cut off told an end below what another had acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_followers_does_not_tell_where_the_log_ends() -> Result<()> {
    let cluster = Cluster::start().await?;
    let topic = "ended";
    topics::create(&cluster, topic, 1, 3).await?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
    let mut ask = async |timestamp: i64| {
        let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
        let asked = ListOffsetsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        // One after the other, their waits would add up to seconds.
        let request = ListOffsetsRequest::default().with_topics(vec![asked; 20]);
        let began = Instant::now();
        let mut response = wire.call(&request, 7).await?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(4), "answered after {took:?}");
        anyhow::Ok(response.topics.remove(0).partitions.remove(0))
    };
    wait::until("an end", RECOVERY_LIMIT, async || {
        let latest = ask(-1).await?;
        Ok((latest.error_code == 0 && latest.offset == 0).then_some(()))
    })
    .await?;
    let others = (1..=3).filter(|id| *id != leader);
    for id in others.clone() {
        cluster.broker(id).pause()?;
    }
    // What they answered last may be counted on for a moment.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for end in [-1, -3, 1] {
        let told = ask(end).await?;
        ensure!(
            told.error_code == ResponseError::NotLeaderOrFollower.code() && told.offset == -1,
            "{end}: {told:?}"
        );
    }
    let earliest = ask(-2).await?;
    ensure!(
        (earliest.error_code, earliest.offset) == (0, 0),
        "{earliest:?}"
    );
    for id in others {
        cluster.broker(id).resume()?;
    }
    wait::until("an end again", RECOVERY_LIMIT, async || {
        Ok((ask(-1).await?.error_code == 0).then_some(()))
    })
    .await
}

/// From `kill -9` of a leader to the next acknowledged write of its partition, by a real client.
#[tokio::test(flavor = "multi_thread")]
async fn writes_resume_within_three_seconds_of_a_leaders_death() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions {
        alone: true,
        ..ClusterOptions::default()
    })
    .await?;
    let topic = "failover";
    topics::create(&cluster, topic, PARTITIONS, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, PARTITIONS).await?;
    let mut pauses = Vec::new();
    for round in 0..6 {
        let partition = round % PARTITIONS;
        load.progress(STEP, RECOVERY_LIMIT).await?;
        let leader = topics::leader_of(&cluster, topic, partition).await?;
        let killed_at = Instant::now();
        cluster.broker_mut(leader).kill()?;
        // Acknowledgements on their way when the leader died arrive at once; the one that counts
        // comes from its successor.
        wait::until("a leader that lives", RECOVERY_LIMIT, async || {
            let witness = leader % 3 + 1;
            let now = topics::leaders(&cluster, witness, topic).await?;
            Ok(now
                .get(&partition)
                .is_some_and(|id| *id != leader)
                .then_some(()))
        })
        .await?;
        let elected_at = Instant::now();
        let acked_at = wait::until("a write acknowledged", RECOVERY_LIMIT, async || {
            Ok(load.first_ack_after(partition, elected_at))
        })
        .await?;
        pauses.push(acked_at - killed_at);
        cluster.restart(leader).await?;
    }
    load.finish().await?;
    pauses.sort_unstable();
    println!("from kill to the next acknowledged write: {pauses:?}");
    let worst = *pauses.last().expect("six rounds");
    ensure!(
        worst <= Duration::from_secs(3),
        "a write waited {worst:?} for a new leader: {pauses:?}"
    );
    Ok(())
}

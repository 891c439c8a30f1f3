//! What a partition remembers of its producers, through everything that happens to its replicas.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::InitProducerIdRequest;
use tidelog_client::{Admin, ConfigChange, ConfigResource, TopicPartition};
use tidelog_jepsen::History;
use tidelog_tests::batch::Batch;
use tidelog_tests::client_suite::ground::client;
use tidelog_tests::load::connect;
use tidelog_tests::produce::{Produced, produce, produce_to};
use tidelog_tests::wire::Wire;
use tidelog_tests::{BrokerId, Cluster, ClusterOptions, bulk, topics, wait};
use tokio::time::Instant;

use super::RECOVERY_LIMIT;

const BATCHES: i32 = 7;
/// How long a leader waits for a majority before it refuses what it has taken.
const MAJORITY_LIMIT: Duration = Duration::from_millis(400);
/// More than leaders keep for a follower.
const AWAY_BYTES: u64 = 32 << 20;

async fn producer_id(cluster: &Cluster) -> Result<i64> {
    let init = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000);
    let mut wire = Wire::connect(cluster.broker(1).kafka).await?;
    let given = wire.call(&init, 4).await?;
    ensure!(given.error_code == 0, "{given:?}");
    Ok(given.producer_id.0)
}

/// Sends the batch of that number to the partition's leader until it has an answer that lasts.
async fn send(cluster: &Cluster, topic: &str, id: i64, number: i32) -> Result<Produced> {
    let batch = Batch::of(&[b"x", b"y"]).by(id, 0, 2 * number).encode();
    wait::until("a produce answer", RECOVERY_LIMIT, async || {
        let leader = topics::leader_of(cluster, topic, 0).await?;
        let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
        let told = produce(&mut wire, topic, 0, batch.clone()).await?;
        let passing = [
            ResponseError::NotLeaderOrFollower,
            ResponseError::RequestTimedOut,
        ];
        let passing = passing.iter().any(|e| e.code() == told.error_code);
        Ok((!passing).then_some(told))
    })
    .await
}

/// The last five batches get their offsets again, older ones are out of order; nothing is written.
async fn repetitions_are_known(cluster: &Cluster, topic: &str, id: i64) -> Result<()> {
    for number in 0..BATCHES {
        let told = send(cluster, topic, id, number).await?;
        let expected = if number < BATCHES - 5 {
            (ResponseError::OutOfOrderSequenceNumber.code(), -1)
        } else {
            (0, i64::from(2 * number))
        };
        ensure!(
            (told.error_code, told.base_offset) == expected,
            "batch {number}: {told:?}"
        );
    }
    Ok(())
}

/// Waits until a broker leads the partition, as it does where it is preferred and has caught up.
async fn led_by(cluster: &Cluster, topic: &str, broker: BrokerId) -> Result<()> {
    wait::until("the preferred leader", RECOVERY_LIMIT, async || {
        let leader = topics::leader_of(cluster, topic, 0).await?;
        Ok((leader == broker).then_some(()))
    })
    .await
}

/// Redpanda #5356 and #3039: a repetition is known by every leader there may be: one that was elected, one that
/// has copied the log after the batches had been evicted, and one that has only its disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_gets_its_offset_whatever_has_happened_to_the_replicas() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "repeated";
    topics::create(&cluster, topic, 1, 3).await?;
    let id = producer_id(&cluster).await?;
    let preferred = topics::leader_of(&cluster, topic, 0).await?;
    for number in 0..BATCHES {
        let told = send(&cluster, topic, id, number).await?;
        ensure!(told.error_code == 0, "{told:?}");
        ensure!(told.base_offset == i64::from(2 * number), "{told:?}");
    }
    repetitions_are_known(&cluster, topic, id).await?;

    // Another leader.
    cluster.broker_mut(preferred).kill()?;
    repetitions_are_known(&cluster, topic, id).await?;

    // The records are gone, and so is the Raft log behind them.
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    let at = cluster.broker(leader).kafka;
    bulk::write(at, topic, 0, AWAY_BYTES, 0, &mut History::default()).await?;
    let admin = Admin::new(client(&at.to_string())).await?;
    let place = TopicPartition::new(topic, 0);
    let start = admin
        .delete_records(&[(place.clone(), None)].into())
        .await?;
    ensure!(start[&place] > i64::from(2 * BATCHES), "{start:?}");
    repetitions_are_known(&cluster, topic, id).await?;

    // A leader that has them from others only.
    cluster.restart(preferred).await?;
    led_by(&cluster, topic, preferred).await?;
    let log = fs::read_to_string(&cluster.broker(preferred).log_path)?;
    ensure!(log.contains("copying from peers"), "it needed no snapshot");
    repetitions_are_known(&cluster, topic, id).await?;

    // And everybody from their disks.
    for broker in 1..=3 {
        cluster.broker_mut(broker).kill()?;
    }
    cluster.start_all().await?;
    repetitions_are_known(&cluster, topic, id).await?;
    let next = send(&cluster, topic, id, BATCHES).await?;
    ensure!(next.error_code == 0, "{next:?}");
    Ok(())
}

/// `producer.id.expiration.ms`: replicas forget the same producers, so an heir of the leader does not know them.
#[tokio::test(flavor = "multi_thread")]
async fn silent_producers_are_forgotten_by_all_replicas() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions {
        settings: vec![("producer.id.expiration.ms".into(), "2000".into())],
        ..ClusterOptions::default()
    })
    .await?;
    let topic = "forgotten";
    topics::create(&cluster, topic, 1, 3).await?;
    let id = producer_id(&cluster).await?;
    ensure!(send(&cluster, topic, id, 0).await?.error_code == 0);
    let place = TopicPartition::new(topic, 0);
    let known = async |cluster: &Cluster| -> Result<bool> {
        let admin = Admin::new(client(&cluster.bootstrap())).await?;
        let producers = admin.describe_producers(&place).await?;
        Ok(producers.iter().any(|p| p.producer_id == id))
    };
    ensure!(known(&cluster).await?, "forgotten at once");
    wait::until("the producer to be forgotten", RECOVERY_LIMIT, async || {
        Ok((!known(&cluster).await?).then_some(()))
    })
    .await?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    cluster.broker_mut(leader).kill()?;
    // A gap in its numbers would be refused if it were known.
    let told = send(&cluster, topic, id, 5).await?;
    ensure!((told.error_code, told.base_offset) == (0, 2), "{told:?}");
    known(&cluster).await?.then_some(()).context("it is back")
}

/// A producer that pipelines has its second batch on the way while the first one is refused. The partition does
/// not know the producer yet, and would take the second one for the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_does_not_overtake_one_that_was_refused() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "overtaking";
    topics::create(&cluster, topic, 1, 3).await?;
    let admin = Admin::new(client(&cluster.bootstrap())).await?;
    let wanted = ConfigChange::Set("min.insync.replicas".to_owned(), "3".to_owned());
    admin
        .alter_configs(&ConfigResource::Topic(topic.into()), &[wanted], false)
        .await?;
    let id = producer_id(&cluster).await?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
    let mut told = async |batch: Batch| produce(&mut wire, topic, 0, batch.encode()).await;
    let numbered = |number: i32| Batch::of(&[b"x", b"y"]).by(id, 0, 2 * number);

    let away = (1..=3).find(|b| *b != leader).context("a follower")?;
    cluster.broker_mut(away).kill()?;
    let refused = ResponseError::NotEnoughReplicas.code();
    wait::until("too few replicas", RECOVERY_LIMIT, async || {
        let probe = told(Batch::of(&[b"probe"])).await?;
        Ok((probe.error_code == refused).then_some(()))
    })
    .await?;
    ensure!(told(numbered(0)).await?.error_code == refused);
    cluster.restart(away).await?;
    let end = wait::until("all replicas", RECOVERY_LIMIT, async || {
        let probe = told(Batch::of(&[b"probe"])).await?;
        Ok((probe.error_code == 0).then_some(probe.base_offset + 1))
    })
    .await?;

    for number in [1, 2] {
        let late = told(numbered(number)).await?;
        let expected = ResponseError::OutOfOrderSequenceNumber.code();
        ensure!(late.error_code == expected, "batch {number}: {late:?}");
    }
    for number in [0, 1, 2] {
        let written = told(numbered(number)).await?;
        let expected = (0, end + i64::from(2 * number));
        ensure!(
            (written.error_code, written.base_offset) == expected,
            "batch {number}: {written:?}"
        );
    }
    Ok(())
}

/// Whoever is named as leader takes batches at once, so that a producer's first one is not refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_takes_batches_as_soon_as_it_is_named() -> Result<()> {
    const TOPICS: usize = 20;
    const PARTITIONS: i32 = 12;
    let cluster = Cluster::start().await?;
    let kafka = connect(&cluster.bootstrap()).await?;
    for number in 0..TOPICS {
        let topic = format!("new-{number}");
        let creation = topics::ask_for(&kafka, &topic, PARTITIONS, 3);
        let writers = (1..=3).map(|broker| write_when_named(&cluster, broker, &topic, PARTITIONS));
        let (created, written) = tokio::join!(creation, try_join_all(writers));
        created?;
        let written: i32 = written?.iter().sum();
        ensure!(written == PARTITIONS, "{topic}: {written}");
    }
    Ok(())
}

/// Writes to each partition of a topic as soon as the broker says that it leads it, until all have leaders.
async fn write_when_named(
    cluster: &Cluster,
    broker: BrokerId,
    topic: &str,
    partitions: i32,
) -> Result<i32> {
    let mut wire = Wire::connect(cluster.broker(broker).kafka).await?;
    let mut left: BTreeSet<i32> = (0..partitions).collect();
    let mut written = 0;
    let until = Instant::now() + RECOVERY_LIMIT;
    while !left.is_empty() {
        ensure!(Instant::now() < until, "{topic}: {left:?} have no leaders");
        let known = topics::leaders(cluster, broker, topic).await?;
        let named = known.into_iter().filter(|(p, _)| left.remove(p));
        let led: Vec<i32> = named
            .filter(|(_, l)| *l == broker)
            .map(|(p, _)| p)
            .collect();
        if led.is_empty() {
            continue;
        }
        let batch = Batch::of(&[b"x"]).encode();
        let asked_at = Instant::now();
        for (partition, told) in produce_to(&mut wire, topic, &led, &batch).await? {
            // A machine under load may take longer than that to show it a majority.
            let refused = told.error_code == ResponseError::NotLeaderOrFollower.code();
            if refused && asked_at.elapsed() >= MAJORITY_LIMIT {
                left.insert(partition);
                continue;
            }
            ensure!(told.error_code == 0, "{topic}-{partition}: {told:?}");
            written += 1;
        }
    }
    Ok(written)
}

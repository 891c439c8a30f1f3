//! Transactions through the deaths of everybody who has a part in them.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use kafka_protocol::error::ResponseError;
use tidelog_tests::txn::{self, Committed, TxnProducer, read_committed};
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, topics, wait};

use super::RECOVERY_LIMIT;

const TIMEOUT_MS: i32 = 60_000;

pub(super) fn code(error: ResponseError) -> i16 {
    error.code()
}

/// Waits until everything in a partition is decided, on a broker that leads it.
pub(super) async fn settled(cluster: &Cluster, topic: &str, partition: i32) -> Result<Committed> {
    let what = format!("no open transaction in {topic}-{partition}");
    wait::until(&what, RECOVERY_LIMIT, async || {
        let leader = topics::leader_of(cluster, topic, partition).await?;
        let read = read_committed(cluster.broker(leader), topic, partition).await?;
        Ok((read.last_stable_offset == read.high_watermark).then_some(read))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_shows_committed_transactions_only() -> Result<()> {
    let cluster = Cluster::start().await?;
    topics::create(&cluster, "seen", 1, 3).await?;
    let mut expected = Vec::new();
    for old in [true, false] {
        let mut producer = TxnProducer::init(&cluster, "seen", TIMEOUT_MS, old).await?;
        for round in 0..6 {
            let values = [format!("{old}-{round}-a"), format!("{old}-{round}-b")];
            let values = [values[0].as_str(), values[1].as_str()];
            ensure!(producer.produce(&cluster, "seen", 0, &values).await?.0 == 0);
            let leader = topics::leader_of(&cluster, "seen", 0).await?;
            let open = read_committed(cluster.broker(leader), "seen", 0).await?;
            ensure!(open.values == expected, "open: {open:?}");
            ensure!(open.last_stable_offset == open.high_watermark - 2);
            let commit = round % 2 == 0;
            ensure!(producer.end(&cluster, commit).await? == 0);
            if commit {
                expected.extend(values.map(str::to_owned));
            }
            settled(&cluster, "seen", 0).await?;
        }
    }
    for broker in &cluster.brokers {
        wait::until("the replica to follow", RECOVERY_LIMIT, async || {
            let read = read_committed(broker, "seen", 0).await?;
            let stable = read.last_stable_offset == read.high_watermark;
            Ok((read.values == expected && stable).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// One partition on every broker; a broker that leads one of them, but does not coordinate, dies when
/// the end is decided. The others have their markers at once, its partition when it has a leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_between_the_markers_leaves_no_half_transaction() -> Result<()> {
    for old in [true, false] {
        let mut cluster = Cluster::start().await?;
        topics::create(&cluster, "half", 6, 3).await?;
        let mut producer = TxnProducer::init(&cluster, "half", TIMEOUT_MS, old).await?;
        for partition in 0..6 {
            let written = producer
                .produce(&cluster, "half", partition, &["x"])
                .await?;
            ensure!(written.0 == 0, "{written:?}");
        }
        let coordinator = txn::coordinator(&cluster, "half").await?.id;
        let victim = (1..=3).find(|id| *id != coordinator).unwrap_or(1);
        cluster.broker_mut(victim).kill()?;
        ensure!(producer.end(&cluster, true).await? == 0);
        for partition in 0..6 {
            let read = settled(&cluster, "half", partition).await?;
            ensure!(read.values == ["x"], "{partition}: {read:?}");
        }
        // The next transaction begins once all of this one's markers are written.
        for partition in 0..6 {
            let written = producer
                .produce(&cluster, "half", partition, &["y"])
                .await?;
            ensure!(written.0 == 0, "{written:?}");
        }
        ensure!(producer.end(&cluster, false).await? == 0);
        for partition in 0..6 {
            let read = settled(&cluster, "half", partition).await?;
            ensure!(read.values == ["x"], "{partition}: {read:?}");
        }
    }
    Ok(())
}

/// The coordinator dies right after it has answered; the next one ends what it had decided. One that
/// has decided nothing leaves the transaction open, and the producer goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn another_coordinator_ends_what_the_killed_one_has_decided() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    topics::create(&cluster, "decided", 3, 3).await?;
    let mut producer = TxnProducer::init(&cluster, "decided", TIMEOUT_MS, false).await?;
    for partition in 0..3 {
        let written = producer
            .produce(&cluster, "decided", partition, &["x"])
            .await?;
        ensure!(written.0 == 0, "{written:?}");
    }
    let coordinator = txn::coordinator(&cluster, "decided").await?;
    let (id, address) = (coordinator.id, coordinator.kafka);
    let mut wire = Wire::connect(address).await?;
    let request = producer.end_request(true);
    let answer = wire.call(&request, producer.end_version()).await?;
    ensure!(answer.error_code == 0, "{answer:?}");
    cluster.broker_mut(id).kill()?;
    for partition in 0..3 {
        let read = settled(&cluster, "decided", partition).await?;
        ensure!(read.values == ["x"], "{partition}: {read:?}");
    }
    // The answer might have been lost: asked again, the new one tells the same.
    ensure!(producer.end(&cluster, true).await? == 0);
    ensure!(producer.epoch == answer.producer_epoch);

    cluster.restart(id).await?;
    let written = producer.produce(&cluster, "decided", 0, &["y"]).await?;
    ensure!(written.0 == 0, "{written:?}");
    let id = txn::coordinator(&cluster, "decided").await?.id;
    cluster.broker_mut(id).kill()?;
    let written = producer.produce(&cluster, "decided", 1, &["y"]).await?;
    ensure!(written.0 == 0, "{written:?}");
    ensure!(producer.end(&cluster, true).await? == 0);
    for partition in 0..2 {
        let read = settled(&cluster, "decided", partition).await?;
        ensure!(read.values == ["x", "y"], "{partition}: {read:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn zombies_are_fenced_and_transactions_run_out_of_time() -> Result<()> {
    let cluster = Cluster::start().await?;
    topics::create(&cluster, "fenced", 1, 3).await?;
    for old in [true, false] {
        let mut zombie = TxnProducer::init(&cluster, "fenced", TIMEOUT_MS, old).await?;
        ensure!(zombie.produce(&cluster, "fenced", 0, &["z"]).await?.0 == 0);
        let mut heir = TxnProducer::init(&cluster, "fenced", 1_000, old).await?;
        let read = settled(&cluster, "fenced", 0).await?;
        ensure!(read.values.is_empty(), "{read:?}");
        ensure!(heir.produce(&cluster, "fenced", 0, &["h"]).await?.0 == 0);
        let written = zombie.produce(&cluster, "fenced", 0, &["z"]).await?.0;
        let refused = [
            ResponseError::InvalidProducerEpoch,
            ResponseError::ProducerFenced,
        ];
        ensure!(refused.map(code).contains(&written), "{written}");
        let ended = zombie.end(&cluster, true).await?;
        ensure!(ended == code(ResponseError::ProducerFenced), "{ended}");
        // Nobody ends the heir's: it runs out of time, and the heir is fenced too.
        let read = settled(&cluster, "fenced", 0).await?;
        ensure!(read.values.is_empty(), "{read:?}");
        let ended = heir.end(&cluster, true).await?;
        ensure!(ended == code(ResponseError::ProducerFenced), "{ended}");
    }
    Ok(())
}

/// KAFKA-17754: an EndTxn that was held up on its way, sent again on another connection in the
/// meantime, must not end the transaction after.
#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_end_does_not_hit_the_next_transaction() -> Result<()> {
    let cluster = Cluster::start().await?;
    topics::create(&cluster, "delayed", 1, 3).await?;
    let mut producer = TxnProducer::init(&cluster, "delayed", TIMEOUT_MS, false).await?;
    ensure!(producer.produce(&cluster, "delayed", 0, &["a"]).await?.0 == 0);
    let coordinator = txn::coordinator(&cluster, "delayed").await?;
    let mut held_up = Wire::connect(coordinator.kafka).await?;
    let request = producer.end_request(true);
    let (correlation, bytes) = held_up.encode(&request, producer.end_version())?;
    // All but its last byte is there already.
    let mut frame = (bytes.len() as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(&bytes);
    let (last, most) = frame.split_last().expect("bytes");
    held_up.send_bytes(most).await?;

    ensure!(producer.end(&cluster, true).await? == 0);
    ensure!(producer.produce(&cluster, "delayed", 0, &["b"]).await?.0 == 0);
    held_up.send_bytes(&[*last]).await?;
    let mut answer = held_up.receive_frame().await?.expect("an answer");
    type End = kafka_protocol::messages::EndTxnRequest;
    let answer = Wire::decode::<End>(&mut answer, producer.end_version(), correlation)?;
    ensure!(
        answer.error_code == code(ResponseError::ProducerFenced),
        "{answer:?}"
    );
    let leader = topics::leader_of(&cluster, "delayed", 0).await?;
    let read = read_committed(cluster.broker(leader), "delayed", 0).await?;
    ensure!(read.values == ["a"], "{read:?}");
    ensure!(producer.end(&cluster, false).await? == 0);
    let read = settled(&cluster, "delayed", 0).await?;
    ensure!(read.values == ["a"], "{read:?}");
    Ok(())
}

/// Requests sent one after another without waiting, the first of which begins the transaction: they
/// are taken in that order.
#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_of_a_new_transaction_keep_their_order() -> Result<()> {
    let cluster = Cluster::start().await?;
    topics::create(&cluster, "pipelined", 1, 3).await?;
    let leader = topics::leader_of(&cluster, "pipelined", 0).await?;
    for old in [true, false] {
        let mut producer = TxnProducer::init(&cluster, "pipelined", TIMEOUT_MS, old).await?;
        for _ in 0..3 {
            if old {
                ensure!(producer.add(&cluster, "pipelined", 0).await? == 0);
            }
            let version = producer.produce_version();
            let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
            let mut sent = Vec::new();
            for i in 0..20 {
                let request = producer.request("pipelined", 0, &[&format!("{i:02}")]);
                let (correlation, bytes) = wire.encode(&request, version)?;
                wire.send_frame(&bytes).await?;
                sent.push(correlation);
            }
            type Produce = kafka_protocol::messages::ProduceRequest;
            for correlation in sent {
                let mut frame = wire.receive_frame().await?.expect("an answer");
                let answer = Wire::decode::<Produce>(&mut frame, version, correlation)?;
                let answer = &answer.responses[0].partition_responses[0];
                ensure!(answer.error_code == 0, "{answer:?}");
            }
            ensure!(producer.end(&cluster, true).await? == 0);
        }
    }
    let read = settled(&cluster, "pipelined", 0).await?;
    let once: Vec<String> = (0..20).map(|i| format!("{i:02}")).collect();
    ensure!(read.values == vec![once; 6].concat(), "{read:?}");
    Ok(())
}

/// A batch of no transaction the coordinator knows is refused, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn records_outside_of_a_transaction_are_refused() -> Result<()> {
    let cluster = Cluster::start().await?;
    topics::create(&cluster, "outside", 2, 3).await?;
    let mut producer = TxnProducer::init(&cluster, "outside", TIMEOUT_MS, true).await?;
    ensure!(producer.add(&cluster, "outside", 0).await? == 0);
    let mut codes = BTreeSet::new();
    for version in [10, 11] {
        // Not added: partition 1.
        let request = producer.request("outside", 1, &["lost"]);
        let leader = topics::leader_of(&cluster, "outside", 1).await?;
        let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
        let answer = wire.call(&request, version).await?;
        codes.insert(answer.responses[0].partition_responses[0].error_code);
    }
    let expected = [
        ResponseError::InvalidTxnState,
        ResponseError::TransactionAbortable,
    ];
    ensure!(codes == expected.map(code).into(), "{codes:?}");
    let mut stranger = TxnProducer::init(&cluster, "stranger", TIMEOUT_MS, false).await?;
    stranger.producer_id += 1_000_000;
    let written = stranger.produce(&cluster, "outside", 1, &["lost"]).await?.0;
    ensure!(
        written == code(ResponseError::InvalidProducerIdMapping),
        "{written}"
    );
    let read = settled(&cluster, "outside", 1).await?;
    ensure!(read.high_watermark == 0, "{read:?}");
    Ok(())
}

//! Time limits of transactions, and coordinators that do not do their part.

use anyhow::{Result, ensure};
use kafka_protocol::error::ResponseError;
use tidelog_client::{Admin, TransactionFilters};
use tidelog_tests::client_suite::ground::client;
use tidelog_tests::txn::{self, TxnProducer, read_committed};
use tidelog_tests::wire::Wire;
use tidelog_tests::{BrokerId, Cluster, ClusterOptions, topics, wait};

use super::RECOVERY_LIMIT;
use super::transactions::{code, settled};

/// A topic with one partition, led by another broker than that.
async fn led_elsewhere(cluster: &Cluster, name: &str, broker: BrokerId) -> Result<String> {
    for n in 0..6 {
        let topic = format!("{name}-{n}");
        topics::create(cluster, &topic, 1, 3).await?;
        if topics::leader_of(cluster, &topic, 0).await? != broker {
            return Ok(topic);
        }
    }
    anyhow::bail!("{broker} leads every topic")
}

/// The coordinator hangs (it is stopped, its connections stay) while a transaction is open, and while one that
/// it has decided lacks its markers. Another one takes over and ends it: readers go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_hangs_does_not_hold_the_last_stable_offset() -> Result<()> {
    let cluster = Cluster::start().await?;
    for decided in [false, true] {
        let id = format!("hangs-{decided}");
        let mut producer = TxnProducer::init(&cluster, &id, 3_000, false).await?;
        let coordinator = txn::coordinator(&cluster, &id).await?;
        let topic = led_elsewhere(&cluster, &id, coordinator.id).await?;
        let topic = topic.as_str();
        ensure!(producer.produce(&cluster, topic, 0, &["x"]).await?.0 == 0);
        let leader = topics::leader_of(&cluster, topic, 0).await?;
        let held = read_committed(cluster.broker(leader), topic, 0).await?;
        ensure!(held.last_stable_offset < held.high_watermark, "{held:?}");
        if decided {
            let mut wire = Wire::connect(coordinator.kafka).await?;
            let request = producer.end_request(true);
            let answer = wire.call(&request, producer.end_version()).await?;
            ensure!(answer.error_code == 0, "{answer:?}");
        }
        coordinator.pause()?;
        let read = wait::until("the last stable offset", RECOVERY_LIMIT, async || {
            let read = read_committed(cluster.broker(leader), topic, 0).await?;
            Ok((read.last_stable_offset == read.high_watermark).then_some(read))
        })
        .await;
        coordinator.resume()?;
        let expected: &[&str] = if decided { &["x"] } else { &[] };
        ensure!(
            read.as_ref().is_ok_and(|r| r.values == expected),
            "{read:?}"
        );
        // What the hanging one still does changes nothing.
        let again = producer.end(&cluster, true).await?;
        let told = if decided {
            0
        } else {
            code(ResponseError::ProducerFenced)
        };
        ensure!(again == told, "{again}");
        let read = settled(&cluster, topic, 0).await?;
        ensure!(read.values == expected, "{read:?}");
    }
    Ok(())
}

/// `transactional.id.expiration.ms`: what is silent for so long is gone, on the heir of its coordinator too.
#[tokio::test(flavor = "multi_thread")]
async fn idle_transactional_ids_expire() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions {
        settings: vec![("transactional.id.expiration.ms".into(), "3000".into())],
        ..ClusterOptions::default()
    })
    .await?;
    topics::create(&cluster, "idle", 1, 3).await?;
    let mut producer = TxnProducer::init(&cluster, "idle", 60_000, false).await?;
    ensure!(producer.produce(&cluster, "idle", 0, &["x"]).await?.0 == 0);
    ensure!(producer.end(&cluster, true).await? == 0);
    // One that is open stays, for longer than the other one has.
    let mut open = TxnProducer::init(&cluster, "open", 60_000, false).await?;
    ensure!(open.produce(&cluster, "idle", 0, &["y"]).await?.0 == 0);
    let admin = Admin::new(client(&cluster.bootstrap())).await?;
    let listed = async || -> Result<Vec<String>> {
        let all = TransactionFilters::default();
        let listed = admin.list_transactions(&all).await?;
        Ok(listed.into_iter().map(|t| t.transactional_id).collect())
    };
    ensure!(listed().await?.contains(&"idle".to_owned()), "gone at once");
    wait::until("the idle id to be forgotten", RECOVERY_LIMIT, async || {
        Ok((listed().await? == ["open"]).then_some(()))
    })
    .await?;
    let coordinator = txn::coordinator(&cluster, "idle").await?.id;
    cluster.broker_mut(coordinator).kill()?;
    let told = producer.end(&cluster, true).await?;
    ensure!(
        told == code(ResponseError::InvalidProducerIdMapping),
        "{told}"
    );
    ensure!(open.end(&cluster, true).await? == 0);
    // Who comes again begins anew.
    let again = TxnProducer::init(&cluster, "idle", 60_000, false).await?;
    ensure!(
        again.epoch == 0 && again.producer_id != producer.producer_id,
        "{} {}",
        again.producer_id,
        again.epoch
    );
    Ok(())
}

/// KIP-890: a batch of an epoch whose transaction has ended opens no transaction, whichever end it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_after_the_end_is_refused() -> Result<()> {
    let cluster = Cluster::start().await?;
    topics::create(&cluster, "late", 2, 3).await?;
    for commit in [true, false] {
        let id = format!("late-{commit}");
        let mut producer = TxnProducer::init(&cluster, &id, 60_000, false).await?;
        ensure!(producer.produce(&cluster, "late", 0, &["in"]).await?.0 == 0);
        // One for each partition: with a marker of this transaction, and without.
        let late = [0, 1].map(|partition| producer.request("late", partition, &["late"]));
        ensure!(producer.end(&cluster, commit).await? == 0);
        settled(&cluster, "late", 0).await?;
        for (partition, request) in (0..).zip(&late) {
            let leader = topics::leader_of(&cluster, "late", partition).await?;
            let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
            let answer = wire.call(request, producer.produce_version()).await?;
            let told = answer.responses[0].partition_responses[0].error_code;
            ensure!(
                told == code(ResponseError::InvalidProducerEpoch),
                "{partition}: {told}"
            );
            let read = read_committed(cluster.broker(leader), "late", partition).await?;
            ensure!(read.last_stable_offset == read.high_watermark, "{read:?}");
            ensure!(!read.values.contains(&"late".to_owned()), "{read:?}");
        }
    }
    Ok(())
}

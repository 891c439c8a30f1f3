//! Compacted topics on three brokers, each of which compacts by itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tidelog_tests::keyed::{Replica, Update, Writer};
use tidelog_tests::{Broker, Cluster, ClusterOptions, read, segments, topics, wait};

use super::RECOVERY_LIMIT;

const KEYS: u32 = 400;
const VALUE_BYTES: usize = 2_000;
fn options() -> ClusterOptions {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    ClusterOptions {
        settings: vec![
            setting("log.cleanup.policy", "\"compact\""),
            setting("log.segment.bytes", "1048576"),
            setting("log.cleaner.backoff.ms", "100"),
            setting("log.cleaner.min.cleanable.ratio", "0.2"),
            setting("log.cleaner.delete.retention.ms", "1000"),
            setting("journal.file.bytes", "4194304"),
        ],
        ..ClusterOptions::default()
    }
}

/// Updates that no earlier round made: the value tells the round.
fn updates(round: u32) -> Vec<Update> {
    let update = |n: u32| {
        let mixed = (round * 20 + n).wrapping_mul(2_654_435_761);
        let key = mixed % KEYS;
        // Not compressible to nothing.
        let value = (0..VALUE_BYTES / 4).flat_map(|i| {
            let word = mixed.wrapping_add(i as u32).wrapping_mul(0x9e37_79b9);
            word.to_be_bytes()
        });
        let deletes = mixed.is_multiple_of(11);
        (key, (!deletes).then(|| value.collect()))
    };
    (0..20).map(update).collect()
}

async fn write(cluster: &Cluster, writer: &mut Writer, rounds: std::ops::Range<u32>) -> Result<()> {
    for round in rounds {
        let timestamp = 1_700_000_000_000 + i64::from(round);
        writer.write(cluster, &updates(round), timestamp).await?;
    }
    Ok(())
}

fn log_bytes(dir: &Path) -> u64 {
    let files = segments::files(dir).unwrap_or_default();
    files
        .iter()
        .filter_map(|f| fs::metadata(f).ok())
        .map(|m| m.len())
        .sum()
}

/// Waits until a broker has given up most of what it was sent.
async fn compacted(broker: &Broker, topic: &str, below: u64) -> Result<()> {
    let dir = segments::partition_dir(broker, topic, 0);
    let what = format!("broker {} has compacted", broker.id);
    wait::until(&what, RECOVERY_LIMIT, async || {
        Ok((log_bytes(&dir) < below).then_some(()))
    })
    .await
}

/// Each broker gives the same answer as the model, whatever it has compacted.
async fn check(cluster: &Cluster, topic: &str, writer: &Writer) -> Result<()> {
    let end = writer.end;
    let mut all = Vec::new();
    for broker in &cluster.brokers {
        wait::until("the replica has all", RECOVERY_LIMIT, async || {
            let now = read::end_offset(broker.kafka, topic, 0).await?;
            Ok((now >= end).then_some(()))
        })
        .await?;
        let replica = Replica::read(broker, topic, 0).await?;
        println!(
            "broker {}: {} records and {} batches without any of {end} offsets",
            broker.id,
            replica.records.len(),
            replica.empty_batches
        );
        ensure!(
            replica.latest() == writer.model,
            "broker {} does not hold what was written",
            broker.id
        );
        all.push(replica.records);
    }
    // A record that two of them have is the same on both.
    for (offset, record) in &all[0] {
        for other in &all[1..] {
            ensure!(
                other.get(offset).is_none_or(|o| o == record),
                "offset {offset}"
            );
        }
    }
    Ok(())
}

/// The leader is killed while all compact, and a replica that was away copies from logs with gaps.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_compact_by_themselves_agree_through_kills_and_copies() -> Result<()> {
    let mut cluster = Cluster::start_with(options()).await?;
    let topic = "compacted";
    topics::create(&cluster, topic, 1, 3).await?;
    let mut writer = Writer::new(topic);
    write(&cluster, &mut writer, 0..150).await?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    let away = leader % 3 + 1;
    cluster.broker_mut(away).kill()?;
    write(&cluster, &mut writer, 150..700).await?;
    let written = writer.written_bytes;
    ensure!(written > 16 << 20, "only {written} bytes");
    compacted(cluster.broker(leader), topic, written / 3).await?;
    // Enough for the leader's Raft log to have forgotten what the replica lacks.
    cluster.restart(away).await?;
    write(&cluster, &mut writer, 700..750).await?;
    wait::until("the replica is there again", RECOVERY_LIMIT, async || {
        let end = read::end_offset(cluster.broker(leader).kafka, topic, 0).await?;
        let here = read::end_offset(cluster.broker(away).kafka, topic, 0).await?;
        Ok((here >= end).then_some(()))
    })
    .await?;
    cluster.broker_mut(leader).kill()?;
    write(&cluster, &mut writer, 750..900).await?;
    cluster.restart(leader).await?;
    write(&cluster, &mut writer, 900..950).await?;
    for broker in &cluster.brokers {
        compacted(broker, topic, written / 3).await?;
    }
    check(&cluster, topic, &writer).await?;
    // Killed all at once, and started again.
    for broker in &mut cluster.brokers {
        broker.kill()?;
    }
    cluster.start_all().await?;
    write(&cluster, &mut writer, 950..960).await?;
    check(&cluster, topic, &writer).await
}

/// kill -9 at whatever point of a compaction, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_while_it_compacts_has_lost_nothing() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions {
        brokers: 1,
        ..options()
    })
    .await?;
    let topic = "killed";
    topics::create(&cluster, topic, 1, 1).await?;
    let mut writer = Writer::new(topic);
    for round in 0..6 {
        write(&cluster, &mut writer, round * 100..round * 100 + 100).await?;
        let dir = segments::partition_dir(cluster.broker(1), topic, 0);
        // It is at it, or has just done it.
        let written = writer.written_bytes;
        wait::until("a compaction", Duration::from_secs(5), async || {
            let busy = fs::read_dir(&dir)?.flatten().any(|e| {
                let path = e.path();
                path.extension()
                    .is_some_and(|x| x == "cleaned" || x == "swap")
            });
            Ok((busy || log_bytes(&dir) < written / 2).then_some(()))
        })
        .await?;
        cluster.broker_mut(1).kill()?;
        cluster.restart(1).await?;
        check(&cluster, topic, &writer).await?;
    }
    compacted(cluster.broker(1), topic, writer.written_bytes / 3).await
}

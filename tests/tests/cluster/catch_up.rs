//! A replica that was away while much was written catches up: nobody waits for it, the leader's
//! memory stays small, and what it then has is byte for byte what the others have.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidelog_jepsen::{History, check};
use tidelog_tests::load::{Ack, Load, key_of};
use tidelog_tests::{
    Broker, BrokerId, Cluster, ClusterOptions, bulk, read, segments, topics, wait,
};

use super::RECOVERY_LIMIT;

const PARTITIONS: i32 = 3;
const STEP: u64 = 200;

/// What the leader may hold for a replica that is far behind.
const MEMORY_MAX: u64 = 256 << 20;

/// MiB written while the replica is away; more by hand, `TIDELOG_CATCH_UP_MIB=5120`.
fn away_bytes(default_mib: u64) -> Result<u64> {
    let mib = match std::env::var("TIDELOG_CATCH_UP_MIB") {
        Ok(text) => text.parse().context("TIDELOG_CATCH_UP_MIB")?,
        Err(_) => default_mib,
    };
    Ok(mib << 20)
}

/// Memory of brokers that is not a file's, and by how much it has grown.
struct Memory {
    /// Process and its bytes at first.
    first: Vec<(u32, u64)>,
    grown: u64,
}

impl Memory {
    fn of<'a>(brokers: impl Iterator<Item = &'a Broker>) -> Result<Self> {
        let mut first = Vec::new();
        for broker in brokers {
            let pid = broker.pid().context("it runs")?;
            first.push((pid, anonymous_bytes(pid)?));
        }
        Ok(Self { first, grown: 0 })
    }

    fn look(&mut self) -> Result<()> {
        for (pid, first) in &self.first {
            let now = anonymous_bytes(*pid)?;
            self.grown = self.grown.max(now.saturating_sub(*first));
        }
        Ok(())
    }
}

fn anonymous_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let text = line.context("a memory field")?.trim_end_matches("kB");
        Ok(text.trim().parse::<u64>()? << 10)
    };
    Ok(field("VmRSS:")?.saturating_sub(field("RssFile:")?))
}

/// Writes `bytes` evenly to all partitions of a topic.
async fn write_everywhere(
    cluster: &Cluster,
    topic: &str,
    bytes: u64,
    round: u64,
    history: &mut History,
) -> Result<()> {
    let each = bytes / u64::from(PARTITIONS.cast_unsigned());
    for partition in 0..PARTITIONS {
        let leader = topics::leader_of(cluster, topic, partition).await?;
        let at = cluster.broker(leader).kafka;
        bulk::write(at, topic, partition, each, round, history).await?;
    }
    Ok(())
}

/// Where each partition ends on a broker: its high watermark there.
async fn ends(broker: &Broker, topic: &str) -> Result<BTreeMap<i32, i64>> {
    let mut ends = BTreeMap::new();
    for partition in 0..PARTITIONS {
        ends.insert(
            partition,
            read::end_offset(broker.kafka, topic, partition).await?,
        );
    }
    Ok(ends)
}

/// Waits until a broker has everything that another one has now, and looks at something meanwhile.
async fn caught_up(
    behind: &Broker,
    ahead: &Broker,
    topic: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<()>,
) -> Result<()> {
    let wanted = ends(ahead, topic).await?;
    wait::until("the replica has caught up", limit, async || {
        look()?;
        let now = ends(behind, topic).await?;
        Ok(wanted.iter().all(|(p, end)| now[p] >= *end).then_some(()))
    })
    .await
}

/// The longest time between two acknowledgements of a partition after `since`.
fn worst_pause(acks: &[Ack], since: Instant) -> Duration {
    let mut last: BTreeMap<i32, Instant> = (0..PARTITIONS).map(|p| (p, since)).collect();
    let mut worst = Duration::ZERO;
    for ack in acks.iter().filter(|ack| ack.at > since) {
        let before = last.insert(ack.partition, ack.at).unwrap_or(since);
        worst = worst.max(ack.at.saturating_duration_since(before));
    }
    worst
}

fn small_files() -> Vec<(String, String)> {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        setting("journal.file.bytes", "8388608"),
        setting("log.segment.bytes", "16777216"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_catches_up_beside_the_producers() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions {
        alone: true,
        settings: small_files(),
        ..ClusterOptions::default()
    })
    .await?;
    let topic = "far-behind";
    let bytes = away_bytes(240)?;
    let limit = RECOVERY_LIMIT * 10;
    topics::create(&cluster, topic, PARTITIONS, 3).await?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    let away = leader % 3 + 1;
    cluster.broker_mut(away).kill()?;
    let mut memory = Memory::of(cluster.brokers.iter().filter(|b| b.id != away))?;
    let mut history = History::default();
    let began = Instant::now();
    write_everywhere(&cluster, topic, bytes, 0, &mut history).await?;
    println!("{} MiB written in {:?}", bytes >> 20, began.elapsed());
    memory.look()?;

    let load = Load::start(&cluster.bootstrap(), topic, PARTITIONS).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    let began = Instant::now();
    cluster.restart(away).await?;
    let behind = cluster.broker(away);
    let ahead = cluster.broker(leader);
    let (written, caught) = tokio::join!(
        write_everywhere(&cluster, topic, bytes / 8, 1, &mut history),
        caught_up(behind, ahead, topic, limit, || memory.look()),
    );
    written?;
    caught?;
    println!("caught up in {:?}", began.elapsed());
    ensure!(
        fs::read_to_string(&behind.log_path)?.contains("copying from peers"),
        "the replica was never so far behind that it had to copy"
    );
    load.progress(STEP, RECOVERY_LIMIT).await?;
    memory.look()?;
    let grown = memory.grown;
    let written = load.finish().await?;
    let pause = worst_pause(&written.acks, began);
    println!("memory grew by {} MiB, worst pause {pause:?}", grown >> 20);
    ensure!(grown < MEMORY_MAX, "memory grew by {grown} bytes");
    ensure!(pause < Duration::from_secs(2), "a write waited {pause:?}");
    history.events.extend(written.history.events);

    // Now it has to stand in for another.
    cluster.broker_mut(leader).kill()?;
    let load = Load::start_at(&cluster.bootstrap(), topic, PARTITIONS, 1_000_000_000).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    history.events.extend(load.finish().await?.history.events);
    cluster.restart(leader).await?;
    all_the_same(&cluster, topic, bytes).await?;
    judge_one(&cluster, away, topic, history).await
}

/// Every broker holds the same bytes, at least `bytes` of them.
async fn all_the_same(cluster: &Cluster, topic: &str, bytes: u64) -> Result<()> {
    for broker in &cluster.brokers {
        for other in &cluster.brokers {
            caught_up(broker, other, topic, RECOVERY_LIMIT, || Ok(())).await?;
        }
    }
    let (one, rest) = cluster.brokers.split_first().context("brokers")?;
    for other in rest {
        let mut same = 0;
        for partition in 0..PARTITIONS {
            same += segments::compare(one, other, topic, partition)?;
        }
        ensure!(same >= bytes, "only {same} bytes are on two brokers");
    }
    Ok(())
}

/// Judges a history against what one broker holds; the others hold the same bytes.
async fn judge_one(
    cluster: &Cluster,
    broker: BrokerId,
    topic: &str,
    mut history: History,
) -> Result<()> {
    let broker = cluster.broker(broker);
    for (partition, end) in ends(broker, topic).await? {
        let key = key_of(topic, partition);
        let records = read::read_replica(broker.kafka, topic, partition, end).await?;
        history.assign(1_000, &[&key]);
        history.poll_ok(1_000, &key, records);
    }
    let report = check::all(&history);
    ensure!(report.is_valid(), "{report}");
    Ok(())
}

/// A replica is killed while it copies and starts again; then the one it copies from is killed. Each
/// time enough is left to copy.
#[tokio::test(flavor = "multi_thread")]
async fn kills_while_a_replica_catches_up_lose_and_double_nothing() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions {
        settings: small_files(),
        ..ClusterOptions::default()
    })
    .await?;
    let topic = "interrupted";
    let bytes = 120 << 20;
    topics::create(&cluster, topic, PARTITIONS, 3).await?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    let away = leader % 3 + 1;
    let mut history = History::default();
    cluster.broker_mut(away).kill()?;
    write_everywhere(&cluster, topic, bytes, 0, &mut history).await?;
    let load = Load::start(&cluster.bootstrap(), topic, PARTITIONS).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    for round in 0..4 {
        cluster.start_one(away)?;
        let some = (round + 1) * bytes / 10;
        wait::until("a part copied", RECOVERY_LIMIT, async || {
            let stored = stored_bytes(cluster.broker(away), topic)?;
            Ok((stored >= some).then_some(()))
        })
        .await?;
        cluster.broker_mut(away).kill()?;
    }
    let stored = stored_bytes(cluster.broker(away), topic)?;
    ensure!(stored < bytes, "it was done before it could be killed");
    cluster.start_one(away)?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    cluster.broker_mut(leader).kill()?;
    // The only majority left is the one with the replica that is still copying.
    load.progress(STEP, RECOVERY_LIMIT).await?;
    cluster.restart(leader).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    history.events.extend(load.finish().await?.history.events);
    all_the_same(&cluster, topic, bytes).await?;
    judge_one(&cluster, away, topic, history).await
}

/// Bytes of a topic's batches in the segment files of a broker.
fn stored_bytes(broker: &Broker, topic: &str) -> Result<u64> {
    let mut bytes = 0;
    for partition in 0..PARTITIONS {
        let dir = segments::partition_dir(broker, topic, partition);
        for file in segments::files(&dir)? {
            bytes += fs::metadata(file)?.len();
        }
    }
    Ok(bytes)
}

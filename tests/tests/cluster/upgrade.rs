//! Rolling upgrades: brokers of the build before (`tests/previous`) and of the present one work together under
//! load, go back, and go on; the levels are raised once all know them, and then the old build is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId as NodeId, ListPartitionReassignmentsRequest,
};
use tidelog_client::{ClientConfig, Consumer, ConsumerConfig, GroupConfig, OffsetReset};
use tidelog_tests::broker::BrokerId;
use tidelog_tests::cluster::{binary, find_previous_binary, previous_binary};
use tidelog_tests::load::Load;
use tidelog_tests::txn::{TxnProducer, read_committed};
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, ClusterOptions, dev, read, topics, wait};
use tokio::task::JoinHandle;

use super::damage::{ended, printed_bytes};
use super::features::{GROUP, METADATA, NEWEST, level, update};
use super::{RECOVERY_LIMIT, judge};

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 6;
/// Kafka's upgrade types.
const UPGRADE: i8 = 1;
const DOWNGRADE: i8 = 2;

/// Offsets by partition.
type Seen = BTreeMap<i32, BTreeSet<i64>>;

/// A group with one member, which reads and commits as long as this lives.
struct Reader {
    name: &'static str,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<Result<()>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn open(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    fn start(cluster: &Cluster, name: &'static str, group: GroupConfig) -> Reader {
        let client = ClientConfig::new(&cluster.bootstrap());
        let config = ConsumerConfig::group(group.with_auto_commit(None))
            .with_offset_reset(OffsetReset::Earliest)
            .with_wait_max(Duration::from_millis(50));
        let seen = Arc::new(Mutex::new(Seen::new()));
        let notes = seen.clone();
        let task: JoinHandle<Result<()>> = tokio::spawn(async move {
            let mut consumer = Consumer::new(client, config).await?;
            consumer.subscribe([TOPIC]).await?;
            loop {
                // Coordinators and leaders move: it is told, and asks again.
                let Ok(fetched) = consumer.next().await else {
                    continue;
                };
                let offsets = fetched.records.iter().map(|record| record.offset);
                open(&notes)
                    .entry(fetched.partition)
                    .or_default()
                    .extend(offsets);
                let _ = consumer.commit().await;
            }
        });
        Reader { name, seen, task }
    }

    fn count(&self) -> usize {
        open(&self.seen).values().map(BTreeSet::len).sum()
    }

    /// Waits until it has read more.
    async fn progress(&self) -> Result<()> {
        let from = self.count();
        wait::until(
            &format!("{} to read", self.name),
            RECOVERY_LIMIT,
            async || Ok((self.count() > from).then_some(())),
        )
        .await
    }

    /// Waits until it has read everything.
    async fn finish(self, cluster: &Cluster) -> Result<()> {
        for partition in 0..PARTITIONS {
            let what = format!("{} to read all of {TOPIC}-{partition}", self.name);
            wait::until(&what, RECOVERY_LIMIT, async || {
                let leader = topics::leader_of(cluster, TOPIC, partition).await?;
                // Leadership may just be going back to a broker that was away.
                let at = cluster.broker(leader).kafka;
                let Ok(end) = read::end_offset(at, TOPIC, partition).await else {
                    return Ok(None);
                };
                let seen = open(&self.seen);
                let read = seen.get(&partition).map_or(0, BTreeSet::len) as i64;
                Ok((read == end).then_some(()))
            })
            .await?;
        }
        Ok(())
    }
}

/// Restarts a broker with the binary that is in use, as docs/operations.md says.
async fn change(cluster: &mut Cluster, id: BrokerId) -> Result<()> {
    let named = id.to_string();
    cluster.command(&["broker", "maintenance", &named, "on"])?;
    cluster.broker_mut(id).stop().await?;
    cluster.restart(id).await?;
    cluster.command(&["broker", "maintenance", &named, "off"])?;
    Ok(())
}

/// What clients do, whichever brokers run which build: topics are made and grown, transactions commit and abort,
/// a partition moves.
async fn everything_works(cluster: &Cluster, name: &str) -> Result<()> {
    topics::create(cluster, name, 2, 3).await?;
    cluster.command(&["topic", "alter", name, "--config", "retention.ms=3600000"])?;
    let mut producer = TxnProducer::init(cluster, name, 60_000, false).await?;
    for (value, commits) in [("kept", true), ("dropped", false), ("kept too", true)] {
        let (code, _) = producer.produce(cluster, name, 0, &[value]).await?;
        ensure!(code == 0, "{value}: {code}");
        let code = producer.end(cluster, commits).await?;
        ensure!(code == 0, "{value}: {code}");
    }
    let what = "the transactions to be decided";
    wait::until(what, RECOVERY_LIMIT, async || {
        let leader = topics::leader_of(cluster, name, 0).await?;
        let Ok(read) = read_committed(cluster.broker(leader), name, 0).await else {
            return Ok(None);
        };
        Ok((read.values == ["kept", "kept too"]).then_some(()))
    })
    .await?;
    for target in [vec![1, 2], vec![3, 1, 2]] {
        move_to(cluster, name, &target).await?;
    }
    Ok(())
}

/// Moves partition 1 of a topic, and waits until it is there.
async fn move_to(cluster: &Cluster, topic: &str, target: &[BrokerId]) -> Result<()> {
    let nodes = target.iter().copied().map(NodeId).collect();
    let partition = ReassignablePartition::default()
        .with_partition_index(1)
        .with_replicas(Some(nodes));
    let request = AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(30_000)
        .with_allow_replication_factor_change(true)
        .with_topics(vec![
            ReassignableTopic::default()
                .with_name(read::topic_name(topic))
                .with_partitions(vec![partition]),
        ]);
    let mut wire = Wire::connect(cluster.broker(1).kafka).await?;
    wait::until("the move to begin", RECOVERY_LIMIT, async || {
        let answer = wire.call(&request, 1).await?;
        let mut codes = answer.responses.iter().flat_map(|t| &t.partitions);
        let code = codes.next().context("an answer")?.error_code;
        // The replica that was there before may still be on its way out.
        let again = code == ResponseError::InvalidReplicaAssignment.code();
        ensure!(code == 0 || again, "{answer:?}");
        Ok((code == 0).then_some(()))
    })
    .await?;
    let what = format!("{topic}-1 to be on {target:?}");
    wait::until(&what, RECOVERY_LIMIT, async || {
        let request = ListPartitionReassignmentsRequest::default().with_timeout_ms(30_000);
        let under_way = wire.call(&request, 0).await?;
        ensure!(under_way.error_code == 0, "{under_way:?}");
        let answer = topics::metadata(cluster, 1, topic).await?;
        let mut partitions = answer.topics.into_iter().flat_map(|t| t.partitions);
        let moved = partitions.find(|p| p.partition_index == 1);
        let nodes = moved.context("partition 1")?.replica_nodes.into_iter();
        let there = nodes.map(|n| n.0).eq(target.iter().copied());
        Ok((there && under_way.topics.is_empty()).then_some(()))
    })
    .await
}

/// The level is not raised, whoever is asked: a broker of the present build, or the controller, which may be of
/// the one before.
async fn is_refused(cluster: &Cluster) -> Result<()> {
    let newest = NEWEST.to_string();
    let bootstrap = cluster.bootstrap();
    let mut args = vec!["cluster", "feature", "set", METADATA, &newest];
    args.extend(["--bootstrap", &bootstrap]);
    let output = dev::run(&args)?;
    let reason = String::from_utf8(output.stderr)?;
    let clear = [
        "Broker 1 does not run, or its build does not know this level",
        "update the older of the two",
    ];
    ensure!(
        !output.status.success() && clear.iter().any(|c| reason.contains(c)),
        "{reason}"
    );
    let code = update(cluster, METADATA, 2, UPGRADE, false).await?;
    ensure!(code == ResponseError::InvalidUpdateVersion.code(), "{code}");
    ensure!(level(cluster, 2, METADATA).await? == (1, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_run_together_until_all_know_the_next_level() -> Result<()> {
    if find_previous_binary()?.is_none() {
        println!("skipped: this checkout has no history to build an older binary from");
        return Ok(());
    }
    let mut cluster = Cluster::start_with(ClusterOptions {
        previous: true,
        ..ClusterOptions::default()
    })
    .await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    let load = Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    let classic = Reader::start(&cluster, "classic", GroupConfig::new("classic"));
    let next = GroupConfig::new("next").assigned_by_broker();
    let next = Reader::start(&cluster, "next", next);
    everything_works(&cluster, "before").await?;

    for id in [2, 3, 1] {
        cluster.use_binary(binary()?);
        change(&mut cluster, id).await?;
        if id == 2 {
            everything_works(&cluster, "one-of-three").await?;
            // Nothing is written that the others would not understand: it may go back.
            is_refused(&cluster).await?;
            cluster.use_binary(previous_binary()?);
            change(&mut cluster, 2).await?;
            load.progress(100, RECOVERY_LIMIT).await?;
            cluster.use_binary(binary()?);
            change(&mut cluster, 2).await?;
        }
        load.progress(100, RECOVERY_LIMIT).await?;
        classic.progress().await?;
        next.progress().await?;
        if id == 3 {
            everything_works(&cluster, "two-of-three").await?;
            is_refused(&cluster).await?;
        }
    }
    everything_works(&cluster, "all").await?;

    let invalid = ResponseError::InvalidUpdateVersion.code();
    ensure!(update(&cluster, GROUP, 0, DOWNGRADE, false).await? == invalid);
    let newest = i16::try_from(NEWEST)?;
    for to in 2..=newest {
        let what = format!("{METADATA} {to}");
        wait::until(&what, RECOVERY_LIMIT, async || {
            let code = update(&cluster, METADATA, to, UPGRADE, false).await?;
            ensure!(code == 0 || code == invalid, "{to}: {code}");
            Ok((code == 0).then_some(()))
        })
        .await?;
    }
    for id in 1..=3 {
        wait::until("the level everywhere", RECOVERY_LIMIT, async || {
            Ok((level(&cluster, id, METADATA).await?.0 == newest).then_some(()))
        })
        .await?;
    }
    // All brokers have told what they know.
    wait::until("the other levels", RECOVERY_LIMIT, async || {
        Ok((update(&cluster, GROUP, 1, UPGRADE, false).await? == 0).then_some(()))
    })
    .await?;
    everything_works(&cluster, "raised").await?;
    load.progress(100, RECOVERY_LIMIT).await?;

    the_old_build_is_refused(&mut cluster).await?;
    load.progress(100, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    classic.finish(&cluster).await?;
    next.finish(&cluster).await?;
    judge(&cluster, TOPIC, PARTITIONS, written.history).await?;
    Ok(())
}

/// In a folder of its own cluster, and in a new one.
async fn the_old_build_is_refused(cluster: &mut Cluster) -> Result<()> {
    cluster.use_binary(previous_binary()?);
    cluster.broker_mut(3).stop().await?;
    let before = printed_bytes(cluster.broker(3));
    cluster.start_one(3)?;
    let log = ended(cluster.broker_mut(3), before).await?;
    ensure!(
        log.contains(&format!(
            "format version {NEWEST} is not known to this build"
        )),
        "{log}"
    );

    cluster.start_joining(4)?;
    let reason = "broker 4 runs a build that knows metadata.version 1 at most";
    for id in [1, 2, 4] {
        wait::until("broker 4 to be refused", RECOVERY_LIMIT, async || {
            Ok(cluster.broker(id).log_tail().contains(reason).then_some(()))
        })
        .await?;
    }
    ensure!(!cluster.broker(4).is_ready().await);
    cluster.broker_mut(4).kill()?;
    cluster.use_binary(binary()?);
    cluster.brokers.retain(|broker| broker.id != 4);
    cluster
        .restart(3)
        .await
        .context("broker 3 with its own build")
}

//! Consumer groups while their coordinators die, stop and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{DeleteTopicsRequest, FindCoordinatorRequest};
use kafka_protocol::protocol::StrBytes;
use krafka::consumer::AutoOffsetReset;
use tidelog_tests::group::{self, Committer};
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, ClusterOptions, load, produce, read, segments, topics, wait};

use super::RECOVERY_LIMIT;

const OFFSETS: &str = "__consumer_offsets";
const TOPIC: &str = "read-by-groups";

/// Three brokers whose groups do not wait for more members at first.
async fn start() -> Result<Cluster> {
    let delay = "group.initial.rebalance.delay.ms".to_owned();
    Cluster::start_with(ClusterOptions {
        settings: vec![(delay, "0".to_owned())],
        ..ClusterOptions::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_internal_topic_is_made_once_and_closed_to_clients() -> Result<()> {
    let cluster = start().await?;
    // All brokers are asked at the same moment.
    let ask = cluster.brokers.iter().map(|broker| async {
        let mut wire = Wire::connect(broker.kafka).await?;
        let key = StrBytes::from_static_str("a-group");
        let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![key]);
        wire.call(&find, 4).await
    });
    let [a, b, c] = <[_; 3]>::try_from(ask.collect::<Vec<_>>())
        .ok()
        .context("three brokers")?;
    let (a, b, c) = tokio::join!(a, b, c);
    for answer in [a, b, c] {
        let code = answer?.coordinators[0].error_code;
        let later = ResponseError::CoordinatorNotAvailable.code();
        ensure!(code == 0 || code == later, "FindCoordinator: {code}");
    }
    group::coordinator(&cluster, "a-group").await?;
    let described = topics::metadata(&cluster, 1, OFFSETS).await?;
    let topic = described.topics.first().context("the topic")?;
    ensure!(topic.is_internal && topic.partitions.len() == 16);
    ensure!(topic.partitions.iter().all(|p| p.replica_nodes.len() == 3));

    let leader = topics::leader_of(&cluster, OFFSETS, 0).await?;
    let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
    let invalid = ResponseError::InvalidTopicException.code();
    let batch = produce::batch([bytes::Bytes::from_static(b"forged")])?;
    let produced = produce::produce(&mut wire, OFFSETS, 0, batch).await?;
    ensure!(produced.error_code == invalid, "{produced:?}");
    let name = read::topic_name(OFFSETS);
    let delete = DeleteTopicsRequest::default()
        .with_topic_names(vec![name])
        .with_timeout_ms(5_000);
    let deleted = wire.call(&delete, 4).await?;
    ensure!(deleted.responses[0].error_code == invalid);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_and_generations_outlive_their_coordinator() -> Result<()> {
    let mut cluster = start().await?;
    topics::create(&cluster, TOPIC, 1, 3).await?;
    let group = "outlives";
    let first = group::coordinator(&cluster, group).await?.id;
    let mut wire = Wire::connect(cluster.broker(first).kafka).await?;
    let member = group::join_alone(&mut wire, group, "").await?;
    // A second generation of the same member.
    let member = group::join_alone(&mut wire, group, &member.member).await?;
    let stale = Committer {
        generation: member.generation - 1,
        ..member.clone()
    };
    ensure!(
        group::commit(&mut wire, group, &member, TOPIC, 42)
            .await?
            .is_none()
    );
    // Others are told at once that they have nothing to do with it.
    for other in cluster.brokers.iter().filter(|b| b.id != first) {
        let mut wire = Wire::connect(other.kafka).await?;
        let said = group::heartbeat(&mut wire, group, &member).await?;
        ensure!(said == Some(ResponseError::NotCoordinator), "{said:?}");
    }
    for round in 0..2 {
        let coordinator = group::coordinator(&cluster, group).await?.id;
        cluster.broker_mut(coordinator).kill()?;
        let next = group::coordinator(&cluster, group).await?;
        ensure!(next.id != coordinator);
        let mut wire = Wire::connect(next.kafka).await?;
        let committed = group::offsets(&mut wire, group).await?;
        ensure!(committed == BTreeMap::from([((TOPIC.to_owned(), 0), 42 + round)]));
        ensure!(group::heartbeat(&mut wire, group, &member).await?.is_none());
        let illegal = Some(ResponseError::IllegalGeneration);
        ensure!(group::commit(&mut wire, group, &stale, TOPIC, 1).await? == illegal);
        let unknown = Some(ResponseError::UnknownMemberId);
        let nobody = Committer::nobody();
        ensure!(group::commit(&mut wire, group, &nobody, TOPIC, 1).await? == unknown);
        let said = group::commit(&mut wire, group, &member, TOPIC, 43 + round).await?;
        ensure!(said.is_none(), "{said:?}");
        cluster.restart(coordinator).await?;
    }
    // All at once: what is committed is on disk.
    for broker in &mut cluster.brokers {
        broker.kill()?;
    }
    cluster.start_all().await?;
    let last = group::coordinator(&cluster, group).await?;
    let mut wire = Wire::connect(last.kafka).await?;
    let committed = group::offsets(&mut wire, group).await?;
    ensure!(committed.values().eq([&44]), "{committed:?}");
    ensure!(group::heartbeat(&mut wire, group, &member).await?.is_none());
    Ok(())
}

/// The coordinator's log is compacted under it, and what the next one reads is what counts.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_outlive_the_compaction_of_their_log() -> Result<()> {
    const PARTITIONS: i32 = 50;
    const ROUNDS: i64 = 700;
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut cluster = Cluster::start_with(ClusterOptions {
        settings: vec![
            setting("group.initial.rebalance.delay.ms", "0"),
            setting("offsets.topic.segment.bytes", "1048576"),
            setting("log.cleaner.backoff.ms", "100"),
            setting("log.cleaner.min.cleanable.ratio", "0.1"),
        ],
        ..ClusterOptions::default()
    })
    .await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    let (group, nobody) = ("compacted", Committer::nobody());
    let coordinator = group::coordinator(&cluster, group).await?.id;
    let mut wire = Wire::connect(cluster.broker(coordinator).kafka).await?;
    let member = group::join_alone(&mut wire, group, "").await?;
    let stays = group::commit(&mut wire, group, &nobody, TOPIC, 1).await?;
    ensure!(stays == Some(ResponseError::UnknownMemberId), "{stays:?}");
    for round in 0..ROUNDS {
        let offsets: Vec<i64> = (0..i64::from(PARTITIONS))
            .map(|p| round * 100 + p)
            .collect();
        let said = group::commit_all(&mut wire, group, &member, TOPIC, &offsets).await?;
        ensure!(said.is_none(), "{said:?}");
    }
    let written = |broker: &tidelog_tests::Broker| -> Result<u64> {
        let mut bytes = 0;
        for partition in 0..16 {
            let dir = segments::partition_dir(broker, OFFSETS, partition);
            for file in segments::files(&dir).unwrap_or_default() {
                bytes += std::fs::metadata(file).map_or(0, |m| m.len());
            }
        }
        Ok(bytes)
    };
    for broker in &cluster.brokers {
        let what = format!("broker {} has compacted", broker.id);
        wait::until(&what, RECOVERY_LIMIT, async || {
            Ok((10_000..1_500_000)
                .contains(&written(broker)?)
                .then_some(()))
        })
        .await?;
    }
    let expected: BTreeMap<(String, i32), i64> = (0..PARTITIONS)
        .map(|p| ((TOPIC.to_owned(), p), (ROUNDS - 1) * 100 + i64::from(p)))
        .collect();
    for _ in 0..2 {
        let old = group::coordinator(&cluster, group).await?.id;
        cluster.broker_mut(old).kill()?;
        let next = group::coordinator(&cluster, group).await?;
        let mut wire = Wire::connect(next.kafka).await?;
        ensure!(group::offsets(&mut wire, group).await? == expected);
        let said = group::heartbeat(&mut wire, group, &member).await?;
        ensure!(said.is_none(), "{said:?}");
        cluster.restart(old).await?;
    }
    Ok(())
}

/// A coordinator that was stopped and does not know yet that it has been replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_slept_tells_no_old_offset() -> Result<()> {
    let cluster = start().await?;
    topics::create(&cluster, TOPIC, 1, 3).await?;
    let group = "slept";
    let nobody = Committer::nobody();
    for round in 0..3 {
        let old = group::coordinator(&cluster, group).await?;
        let mut to_old = Wire::connect(old.kafka).await?;
        let (before, after) = (round * 2, round * 2 + 1);
        let said = group::commit(&mut to_old, group, &nobody, TOPIC, before).await?;
        ensure!(said.is_none(), "{said:?}");
        old.pause()?;
        let others = cluster.brokers.iter().filter(|b| b.id != old.id);
        let others: Vec<_> = others.map(|b| b.kafka).collect();
        let committed = wait::until("another coordinator", RECOVERY_LIMIT, async || {
            for other in &others {
                let mut wire = Wire::connect(*other).await?;
                let said = group::commit(&mut wire, group, &nobody, TOPIC, after).await?;
                if said.is_none() {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
        .await;
        // Asked before it has woken: the first thing it reads.
        let ask = group::offsets(&mut to_old, group);
        let wake = async {
            tokio::task::yield_now().await;
            old.resume()
        };
        let (told, woken) = tokio::join!(ask, wake);
        committed?;
        woken?;
        if let Ok(told) = told {
            ensure!(told.values().eq([&after]), "round {round}: {told:?}");
        }
    }
    Ok(())
}

/// What all consumers of a group have seen and done, in the order in which they did.
#[derive(Default)]
struct Diary {
    seen: BTreeMap<i32, BTreeSet<i64>>,
    /// Acknowledged commits: the next offset of each partition.
    committed: BTreeMap<i32, i64>,
    wrong: Vec<String>,
}

impl Diary {
    fn count(&self) -> usize {
        self.seen.values().map(BTreeSet::len).sum()
    }
}

fn page(diary: &Mutex<Diary>) -> MutexGuard<'_, Diary> {
    diary.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads and commits until told to stop; being dropped is its death.
async fn consume(
    bootstrap: String,
    group: String,
    diary: Arc<Mutex<Diary>>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let kafka = load::connect(&bootstrap).await?;
    let consumer = kafka
        .consumer(group)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .enable_auto_commit(false)
        .session_timeout(Duration::from_secs(6))
        .heartbeat_interval(Duration::from_millis(500))
        .build()
        .await?;
    consumer.subscribe([TOPIC]).await?;
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok(records) = consumer.poll(Duration::from_millis(100)).await else {
            continue;
        };
        {
            let mut diary = page(&diary);
            for record in records {
                let (partition, offset) = (record.partition, record.offset);
                if next.get(&partition) != Some(&offset) {
                    // It begins, or begins again: where the last commit was, and with nothing left out.
                    let committed = diary.committed.get(&partition).copied().unwrap_or(0);
                    let unseen = diary.seen.get(&partition).and_then(|s| s.last());
                    let unseen = unseen.map_or(0, |last| last + 1);
                    if offset < committed || offset > unseen {
                        diary.wrong.push(format!(
                            "{partition}: begins at {offset}, committed {committed}, unseen {unseen}"
                        ));
                    }
                }
                next.insert(partition, offset + 1);
                diary.seen.entry(partition).or_default().insert(offset);
            }
        }
        if consumer.commit().await.is_ok() {
            let assigned = consumer.assignment().await;
            let mut diary = page(&diary);
            for partition in assigned.values().flatten().copied() {
                if let Some(next) = next.get(&partition) {
                    let known = diary.committed.entry(partition).or_insert(0);
                    *known = (*known).max(*next);
                }
            }
        }
    }
    consumer.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_reads_everything_while_members_and_coordinators_die() -> Result<()> {
    const PARTITIONS: i32 = 6;
    const STEP: usize = 600;
    let mut cluster = start().await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    let group = "reads-everything";
    let diary = Arc::new(Mutex::new(Diary::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let bootstrap = cluster.bootstrap();
    let member = || {
        tokio::spawn(consume(
            bootstrap.clone(),
            group.to_owned(),
            diary.clone(),
            stop.clone(),
        ))
    };
    let mut members = vec![member(), member(), member()];
    let writer = load::Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    let progress = async |more: usize| {
        let from = page(&diary).count();
        wait::until("more records read", RECOVERY_LIMIT, async || {
            Ok((page(&diary).count() >= from + more).then_some(()))
        })
        .await
    };
    progress(STEP).await?;
    // A member dies without a word; another comes.
    members.remove(0).abort();
    members.push(member());
    progress(STEP).await?;
    let coordinator = group::coordinator(&cluster, group).await?.id;
    cluster.broker_mut(coordinator).kill()?;
    progress(STEP).await?;
    cluster.restart(coordinator).await?;
    progress(STEP).await?;
    let written = writer.finish().await?;
    let mut total = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let leader = topics::leader_of(&cluster, TOPIC, partition).await?;
        let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
        let end = read::fetch(&mut wire, TOPIC, partition, 0).await?;
        total.insert(partition, end.high_watermark);
    }
    drop(written);
    wait::until("all records read", RECOVERY_LIMIT, async || {
        let diary = page(&diary);
        let all = total.iter().all(|(partition, end)| {
            let seen = diary.seen.get(partition).map_or(0, BTreeSet::len);
            seen as i64 == *end
        });
        Ok(all.then_some(()))
    })
    .await?;
    stop.store(true, Ordering::Relaxed);
    for member in members {
        member.await??;
    }
    let diary = page(&diary);
    ensure!(diary.wrong.is_empty(), "{:#?}", diary.wrong);
    Ok(())
}

//! Consumer groups of the next protocol (KIP-848): members that are slow, die or change the protocol, and
//! coordinators that are killed. The members are our own client's; `tests/interop` has others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kafka_protocol::messages::ListGroupsRequest;
use tidelog_client::{
    ClientConfig, Committer, Consumer, ConsumerConfig, GroupConfig, OffsetReset, RebalanceHook,
    TopicPartition,
};
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, ClusterOptions, group, load, read, topics, wait};
use tokio::task::JoinHandle;

use super::RECOVERY_LIMIT;

const TOPIC: &str = "read-by-next-groups";
const PARTITIONS: i32 = 6;

/// Three brokers that expect heartbeats often and miss members soon.
async fn start() -> Result<Cluster> {
    let settings = [
        ("group.initial.rebalance.delay.ms", "0"),
        ("group.consumer.min.heartbeat.interval.ms", "100"),
        ("group.consumer.heartbeat.interval.ms", "300"),
        ("group.consumer.min.session.timeout.ms", "1000"),
        ("group.consumer.session.timeout.ms", "4000"),
    ];
    let cluster = Cluster::start_with(ClusterOptions {
        settings: settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..ClusterOptions::default()
    })
    .await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    Ok(cluster)
}

/// What all members of a group have seen and done, in the order in which they did.
#[derive(Default)]
struct Diary {
    seen: BTreeMap<i32, BTreeSet<i64>>,
    /// Acknowledged commits: the next offset of each partition.
    committed: BTreeMap<i32, i64>,
    /// When which member read how many records.
    reads: Vec<(Instant, &'static str, usize)>,
    again: usize,
    wrong: Vec<String>,
}

impl Diary {
    fn count(&self) -> usize {
        self.seen.values().map(BTreeSet::len).sum()
    }

    fn by(&self, member: &str) -> usize {
        let of = self.reads.iter().filter(|(_, m, _)| *m == member);
        of.map(|(_, _, count)| count).sum()
    }

    /// Records a member read within a span, and the longest time in it without any.
    fn during(&self, member: &str, (from, to): (Instant, Instant)) -> (usize, Duration) {
        let (mut last, mut longest, mut total) = (from, Duration::ZERO, 0);
        for (at, who, count) in &self.reads {
            if *who == member && (from..to).contains(at) {
                longest = longest.max(*at - last);
                last = *at;
                total += count;
            }
        }
        (total, longest.max(to - last))
    }
}

type Shared<T> = Arc<Mutex<T>>;

fn open<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes its time to give partitions up, and says when it did so first.
#[derive(Clone, Default)]
struct Slow {
    takes: Duration,
    first: Shared<Option<(Instant, Instant)>>,
}

impl RebalanceHook for Slow {
    fn revoked<'a>(
        &'a mut self,
        partitions: &'a [TopicPartition],
        _: &'a Committer,
    ) -> BoxFuture<'a, ()> {
        async {
            if partitions.is_empty() || self.takes.is_zero() {
                return;
            }
            let began = Instant::now();
            tokio::time::sleep(self.takes).await;
            open(&self.first).get_or_insert((began, Instant::now()));
        }
        .boxed()
    }
}

/// A running member. Being dropped is its death: nobody is told.
struct Member {
    task: JoinHandle<Result<()>>,
    leaves: Arc<AtomicBool>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Member {
    async fn leave(mut self) -> Result<()> {
        self.leaves.store(true, Ordering::Relaxed);
        (&mut self.task).await?
    }
}

/// A group, its members and their diary.
struct Group {
    bootstrap: String,
    name: &'static str,
    diary: Shared<Diary>,
}

impl Group {
    fn new(cluster: &Cluster, name: &'static str) -> Group {
        Group {
            bootstrap: cluster.bootstrap(),
            name,
            diary: Shared::default(),
        }
    }

    /// A member of the next protocol.
    fn add(&self, member: &'static str) -> Member {
        let config = GroupConfig::new(self.name).assigned_by_broker();
        self.add_as(member, config, Slow::default())
    }

    fn add_as(&self, member: &'static str, config: GroupConfig, slow: Slow) -> Member {
        let leaves = Arc::new(AtomicBool::new(false));
        let config = ConsumerConfig::group(config.with_auto_commit(None))
            .with_offset_reset(OffsetReset::Earliest)
            .with_wait_max(Duration::from_millis(50));
        let client = ClientConfig::new(&self.bootstrap);
        let (diary, stop) = (self.diary.clone(), leaves.clone());
        let task = tokio::spawn(async move {
            let mut consumer = Consumer::new(client, config).await?;
            consumer.set_rebalance_hook(slow);
            consumer.subscribe([TOPIC]).await?;
            consume(&mut consumer, member, &diary, &stop).await;
            Ok(consumer.close().await?)
        });
        Member { task, leaves }
    }

    /// Waits until so many more records have been read.
    async fn progress(&self, more: usize) -> Result<()> {
        let from = open(&self.diary).count();
        wait::until("more records read", RECOVERY_LIMIT, async || {
            Ok((open(&self.diary).count() >= from + more).then_some(()))
        })
        .await
    }

    async fn reads(&self, member: &str) -> Result<()> {
        let from = open(&self.diary).by(member);
        wait::until(&format!("{member} to read"), RECOVERY_LIMIT, async || {
            Ok((open(&self.diary).by(member) > from).then_some(()))
        })
        .await
    }

    /// Waits until every record there is has been read.
    async fn reads_all(&self, cluster: &Cluster) -> Result<()> {
        let mut ends = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let leader = topics::leader_of(cluster, TOPIC, partition).await?;
            let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
            let fetched = read::fetch(&mut wire, TOPIC, partition, 0).await?;
            ends.insert(partition, fetched.high_watermark);
        }
        wait::until("all records read", RECOVERY_LIMIT, async || {
            let diary = open(&self.diary);
            let all = ends.iter().all(|(partition, end)| {
                diary.seen.get(partition).map_or(0, BTreeSet::len) as i64 == *end
            });
            Ok(all.then_some(()))
        })
        .await
    }

    fn judge(&self) -> Result<()> {
        let diary = open(&self.diary);
        println!(
            "{}: {} records, {} read again",
            self.name,
            diary.count(),
            diary.again
        );
        ensure!(diary.wrong.is_empty(), "{:#?}", diary.wrong);
        Ok(())
    }

    /// As its coordinator lists it: type and state.
    async fn kind(&self, cluster: &Cluster) -> Result<(String, String)> {
        let coordinator = group::coordinator(cluster, self.name).await?;
        let mut wire = Wire::connect(coordinator.kafka).await?;
        let listed = wire.call(&ListGroupsRequest::default(), 5).await?;
        let mut groups = listed.groups.into_iter();
        let mine = groups
            .find(|g| g.group_id.as_str() == self.name)
            .context("the group is not listed")?;
        Ok((mine.group_type.to_string(), mine.group_state.to_string()))
    }
}

/// Reads, notes and commits until told to leave.
async fn consume(
    consumer: &mut Consumer,
    member: &'static str,
    diary: &Mutex<Diary>,
    leaves: &AtomicBool,
) {
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    while !leaves.load(Ordering::Relaxed) {
        let Ok(fetched) = consumer.next().await else {
            continue;
        };
        let partition = fetched.partition;
        let (Some(first), Some(last)) = (fetched.records.first(), fetched.records.last()) else {
            continue;
        };
        let (first, end) = (first.offset, last.offset + 1);
        {
            let mut diary = open(diary);
            if next.get(&partition) != Some(&first) {
                // It begins, or begins again: where the last commit was, and with nothing left out.
                let committed = diary.committed.get(&partition).copied().unwrap_or(0);
                let seen = diary.seen.get(&partition).and_then(BTreeSet::last);
                let unseen = seen.map_or(0, |last| last + 1);
                if first < committed || first > unseen {
                    diary.wrong.push(format!(
                        "{member}, {partition}: begins at {first}, committed {committed}, unseen {unseen}"
                    ));
                }
            }
            for record in &fetched.records {
                let new = diary
                    .seen
                    .entry(partition)
                    .or_default()
                    .insert(record.offset);
                diary.again += usize::from(!new);
            }
            let count = fetched.records.len();
            diary.reads.push((Instant::now(), member, count));
        }
        next.insert(partition, end);
        if consumer.commit().await.is_ok() {
            let mut diary = open(diary);
            let known = diary.committed.entry(partition).or_insert(0);
            *known = (*known).max(end);
        }
    }
}

/// The point of the protocol.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_slow_to_revoke_stops_nobody_else() -> Result<()> {
    let cluster = start().await?;
    let group = Group::new(&cluster, "slow");
    let slow = Slow {
        takes: Duration::from_secs(6),
        ..Slow::default()
    };
    let config = GroupConfig::new(group.name).assigned_by_broker();
    let _slow = group.add_as("slow", config, slow.clone());
    let writer = load::Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    group.reads("slow").await?;
    // The second joins once the first has given half up; from then on both hold three partitions.
    let _quick = group.add("quick");
    group.reads("quick").await?;
    wait::until("the first revocation", RECOVERY_LIMIT, async || {
        Ok(open(&slow.first).take())
    })
    .await?;
    group.reads("slow").await?;
    group.reads("quick").await?;

    // The third needs one partition of each. It reads what the quick one gave up at once.
    let began = Instant::now();
    let _third = group.add("third");
    group.reads("third").await?;
    let third_after = began.elapsed();
    ensure!(
        open(&slow.first).is_none(),
        "the third waited for the slow one"
    );
    let span = wait::until("the slow one to revoke", RECOVERY_LIMIT, async || {
        Ok(*open(&slow.first))
    })
    .await?;
    group.progress(PARTITIONS as usize).await?;
    drop(writer.finish().await?);
    let (quick, pause) = open(&group.diary).during("quick", span);
    let (third, _) = open(&group.diary).during("third", span);
    let (held, _) = open(&group.diary).during("slow", span);
    println!(
        "in the {:?} the slow member took to revoke: quick read {quick} records (longest pause \
         {pause:?}), the third, which read {third_after:?} after it came, {third}, slow {held}",
        span.1 - span.0
    );
    ensure!(quick > 0 && third > 0);
    ensure!(pause < slow.takes / 2, "quick paused {pause:?}");
    group.reads_all(&cluster).await?;
    group.judge()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_reads_everything_while_members_and_coordinators_die() -> Result<()> {
    const STEP: usize = 600;
    let mut cluster = start().await?;
    let group = Group::new(&cluster, "reads-everything-next");
    let (first, second) = (group.add("first"), group.add("second"));
    let _third = group.add("third");
    let writer = load::Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    for member in ["first", "second", "third"] {
        group.reads(member).await?;
    }
    // One dies without a word, one leaves, another comes.
    drop(first);
    let _fourth = group.add("fourth");
    group.reads("fourth").await?;
    second.leave().await?;
    group.progress(STEP).await?;
    let coordinator = group::coordinator(&cluster, group.name).await?.id;
    cluster.broker_mut(coordinator).kill()?;
    group.progress(STEP).await?;
    let _fifth = group.add("fifth");
    group.reads("fifth").await?;
    cluster.restart(coordinator).await?;
    group.progress(STEP).await?;
    drop(writer.finish().await?);
    group.reads_all(&cluster).await?;
    let (kind, state) = group.kind(&cluster).await?;
    ensure!(kind == "consumer", "{kind} {state}");
    group.judge()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_changes_its_protocol_while_it_reads_and_changes_it_back() -> Result<()> {
    const STEP: usize = 300;
    let cluster = start().await?;
    let group = Group::new(&cluster, "changes");
    let classic = || GroupConfig::new(group.name).with_session_timeout(Duration::from_secs(6));
    let old = group.add_as("old", classic(), Slow::default());
    let older = group.add_as("older", classic(), Slow::default());
    let writer = load::Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    group.reads("old").await?;
    group.reads("older").await?;
    let (kind, _) = group.kind(&cluster).await?;
    ensure!(kind == "classic", "{kind}");

    // One comes with the next protocol: the others go on with theirs.
    let new = group.add("new");
    for member in ["new", "old", "older"] {
        group.reads(member).await?;
    }
    let (kind, _) = group.kind(&cluster).await?;
    ensure!(kind == "consumer", "{kind}");
    group.progress(STEP).await?;

    // It leaves: only members of the classic protocol are left.
    new.leave().await?;
    let (kind, state) = group.kind(&cluster).await?;
    ensure!(kind == "classic", "{kind} {state}");
    group.progress(STEP).await?;

    // Once more, and now the old ones leave.
    let _new = group.add("newer");
    group.reads("newer").await?;
    old.leave().await?;
    older.leave().await?;
    group.progress(STEP).await?;
    drop(writer.finish().await?);
    group.reads_all(&cluster).await?;
    let (kind, state) = group.kind(&cluster).await?;
    ensure!(
        (kind.as_str(), state.as_str()) == ("consumer", "Stable"),
        "{kind} {state}"
    );
    group.judge()
}

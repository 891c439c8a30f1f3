//! One large group of the next protocol. Run by itself:
//! `cargo test -p tidelog-tests --test cluster consumer_group_scale -- --ignored --nocapture`

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, GroupId};
use kafka_protocol::protocol::StrBytes;
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, ClusterOptions, group, read, topics, wait};
use tokio::task::JoinSet;
use uuid::Uuid;

const TOPIC: &str = "large";
const GROUP: &str = "large-group";
const MEMBERS: usize = 500;
const PARTITIONS: i32 = 1_000;
const CONNECTIONS: usize = 10;
const HEARTBEAT: Duration = Duration::from_secs(1);
const SESSION: Duration = Duration::from_secs(4);

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// A member that does at once what it is told.
#[derive(Default, Clone)]
struct Member {
    id: String,
    epoch: i32,
    owned: BTreeSet<i32>,
    topic_id: Uuid,
    dead: bool,
}

impl Member {
    fn heartbeat(&self) -> ConsumerGroupHeartbeatRequest {
        let joining = self.epoch == 0;
        let owned = (!self.owned.is_empty()).then(|| {
            TopicPartitions::default()
                .with_topic_id(self.topic_id)
                .with_partitions(self.owned.iter().copied().collect())
        });
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_member_id(text(&self.id))
            .with_member_epoch(self.epoch)
            .with_rebalance_timeout_ms(if joining { 60_000 } else { -1 })
            .with_subscribed_topic_names(joining.then(|| vec![read::topic_name(TOPIC)]))
            .with_topic_partitions(Some(owned.into_iter().collect()))
    }
}

type Members = Arc<Mutex<Vec<Member>>>;

fn open(members: &Members) -> std::sync::MutexGuard<'_, Vec<Member>> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Heartbeats of every tenth member, once a second; at once again after it was told something new.
async fn keep_alive(mut wire: Wire, first: usize, members: Members) -> Result<()> {
    let mut due: Vec<(usize, Instant)> = (first..MEMBERS)
        .step_by(CONNECTIONS)
        .map(|i| (i, Instant::now()))
        .collect();
    loop {
        for (index, due) in &mut due {
            if *due > Instant::now() || open(&members)[*index].dead {
                continue;
            }
            let request = open(&members)[*index].heartbeat();
            let answer = wire.call(&request, 1).await?;
            ensure!(answer.error_code == 0, "{answer:?}");
            *due = Instant::now() + HEARTBEAT;
            let member = &mut open(&members)[*index];
            member.epoch = answer.member_epoch;
            if let Some(told) = answer.assignment {
                member.owned.clear();
                for topic in told.topic_partitions {
                    member.topic_id = topic.topic_id;
                    member.owned.extend(topic.partitions);
                }
                // As real clients do when they have given partitions up or taken them.
                *due = Instant::now();
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All living members are at one epoch and hold everything.
fn settled(members: &Members) -> bool {
    let members = open(members);
    let living: Vec<&Member> = members.iter().filter(|m| !m.dead).collect();
    let held: BTreeSet<i32> = living.iter().flat_map(|m| &m.owned).copied().collect();
    let total: usize = living.iter().map(|m| m.owned.len()).sum();
    let epochs: BTreeSet<i32> = living.iter().map(|m| m.epoch).collect();
    epochs.len() == 1 && held.len() == PARTITIONS as usize && total == held.len()
}

/// CPU time of a process so far, and its resident memory in MiB.
fn usage(pid: u32) -> Result<(Duration, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(") ").context("stat")?.1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    // utime and stime, in hundredths of a second.
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let pages: u64 = fields[21].parse()?;
    Ok((Duration::from_millis(ticks * 10), (pages * 4096) >> 20))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes the machine for half a minute"]
async fn five_hundred_members_on_a_thousand_partitions() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(120);
    let ms = |d: Duration| d.as_millis().to_string();
    let settings = [
        ("group.consumer.min.heartbeat.interval.ms", ms(HEARTBEAT)),
        ("group.consumer.heartbeat.interval.ms", ms(HEARTBEAT)),
        ("group.consumer.min.session.timeout.ms", ms(SESSION)),
        ("group.consumer.session.timeout.ms", ms(SESSION)),
    ];
    let cluster = Cluster::start_with(ClusterOptions {
        settings: settings
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        alone: true,
        ..ClusterOptions::default()
    })
    .await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 1).await?;
    let coordinator = group::coordinator(&cluster, GROUP).await?;
    let pid = coordinator.pid().context("running")?;
    let member = |i| Member {
        id: format!("member-{i:03}"),
        ..Member::default()
    };
    let members: Members = Arc::new(Mutex::new((0..MEMBERS).map(member).collect()));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for first in 0..CONNECTIONS {
        let wire = Wire::connect(coordinator.kafka).await?;
        tasks.spawn(keep_alive(wire, first, members.clone()));
    }
    wait::until("all to have joined", LIMIT, async || {
        Ok(settled(&members).then_some(()))
    })
    .await?;
    let (cpu, rss) = usage(pid)?;
    println!(
        "{MEMBERS} members joined and settled in {:?}; CPU so far {cpu:?}, {rss} MiB",
        began.elapsed()
    );

    // Nothing happens but heartbeats.
    let quiet = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (after, _) = usage(pid)?;
    println!(
        "heartbeats alone: {:.1} % of a core for {MEMBERS} a second",
        (after - cpu).as_secs_f64() / quiet.elapsed().as_secs_f64() * 100.0
    );

    let killed = Instant::now();
    let held = {
        let mut members = open(&members);
        members[7].dead = true;
        members[7].owned.len()
    };
    wait::until("its partitions to be held by others", LIMIT, async || {
        Ok(settled(&members).then_some(()))
    })
    .await?;
    let took = killed.elapsed();
    println!(
        "a member with {held} partitions is killed: settled after {took:?}, {:?} of it after its session",
        took.saturating_sub(SESSION)
    );
    ensure!(took < SESSION + Duration::from_secs(5));
    ensure!(tasks.try_join_next().is_none(), "a connection has ended");
    Ok(())
}

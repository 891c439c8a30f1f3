//! Many members of consumer groups that do nothing but be members: how a cluster bears them.
//!
//! `group_scale BOOTSTRAP GROUPS MEMBERS PARTITIONS`: forms GROUPS groups of MEMBERS each, whose leaders
//! spread PARTITIONS over them, lets them send heartbeats for a while, then kills one member of each
//! group. Prints how long each took, in milliseconds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use tidelog_tests::wire::Wire;

const SESSION_MS: i32 = 6_000;
const HEARTBEAT: Duration = Duration::from_millis(2_000);
const QUIET: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_millis(50);
const TOPIC: &str = "spread";

/// The generation each member of each group is in; `None` while it is in none.
#[derive(Default)]
struct Board {
    groups: HashMap<usize, Vec<Option<i32>>>,
    /// When the first member of any group heard of a rebalance.
    heard: Option<Instant>,
}

type Shared = Arc<Mutex<Board>>;

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

struct Member {
    bootstrap: SocketAddr,
    group: usize,
    place: usize,
    partitions: usize,
    board: Shared,
    id: String,
}

impl Member {
    fn group_id(&self) -> GroupId {
        GroupId(text(format!("scale-{}", self.group)))
    }

    fn note(&self, generation: Option<i32>) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        if generation.is_none() {
            board.heard.get_or_insert_with(Instant::now);
        }
        if let Some(places) = board.groups.get_mut(&self.group) {
            places[self.place] = generation;
        }
    }

    async fn run(mut self) {
        loop {
            if self.belong().await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn connect(&self) -> Result<Wire> {
        let mut wire = Wire::connect(self.bootstrap).await?;
        let find = FindCoordinatorRequest::default()
            .with_coordinator_keys(vec![self.group_id().0.clone()]);
        let found = wire.call(&find, 4).await?;
        let found = found.coordinators.first().context("an answer")?;
        if found.error_code != 0 {
            bail!("no coordinator");
        }
        let address = format!("{}:{}", &*found.host, found.port);
        Wire::connect(address.parse()?).await
    }

    /// Joins, and is a member until the connection or the coordinator is lost.
    async fn belong(&mut self) -> Result<()> {
        let mut wire = self.connect().await?;
        loop {
            let generation = self.join(&mut wire).await?;
            self.note(Some(generation));
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                let request = HeartbeatRequest::default()
                    .with_group_id(self.group_id())
                    .with_generation_id(generation)
                    .with_member_id(text(self.id.clone()));
                let code = wire.call(&request, 3).await?.error_code;
                if code == ResponseError::UnknownMemberId.code() {
                    self.id.clear();
                }
                if code != 0 {
                    self.note(None);
                    break;
                }
            }
        }
    }

    async fn join(&mut self, wire: &mut Wire) -> Result<i32> {
        loop {
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(text("range"))
                .with_metadata(subscription());
            let request = JoinGroupRequest::default()
                .with_group_id(self.group_id())
                .with_session_timeout_ms(SESSION_MS)
                .with_rebalance_timeout_ms(60_000)
                .with_member_id(text(self.id.clone()))
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol]);
            let joined = wire.call(&request, 5).await?;
            if joined.error_code == ResponseError::MemberIdRequired.code() {
                self.id = joined.member_id.to_string();
                continue;
            }
            if joined.error_code != 0 {
                self.id.clear();
                bail!("JoinGroup: {}", joined.error_code);
            }
            self.id = joined.member_id.to_string();
            let count = joined.members.len();
            let assignments = joined.members.into_iter().enumerate().map(|(i, m)| {
                let mine = (i..self.partitions).step_by(count.max(1));
                SyncGroupRequestAssignment::default()
                    .with_member_id(m.member_id)
                    .with_assignment(assignment(mine))
            });
            let request = SyncGroupRequest::default()
                .with_group_id(self.group_id())
                .with_generation_id(joined.generation_id)
                .with_member_id(text(self.id.clone()))
                .with_assignments(assignments.collect());
            let code = wire.call(&request, 3).await?.error_code;
            if code == 0 {
                return Ok(joined.generation_id);
            }
            if code == ResponseError::UnknownMemberId.code() {
                self.id.clear();
            }
        }
    }
}

/// Kafka's consumer formats, version 0.
fn subscription() -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    put_topic(&mut bytes);
    bytes.put_i32(-1);
    bytes.freeze()
}

fn assignment(partitions: impl ExactSizeIterator<Item = usize>) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    put_topic(&mut bytes);
    bytes.put_i32(partitions.len() as i32);
    for partition in partitions {
        bytes.put_i32(partition as i32);
    }
    bytes.put_i32(-1);
    bytes.freeze()
}

fn put_topic(bytes: &mut BytesMut) {
    bytes.put_i16(TOPIC.len() as i16);
    bytes.put_slice(TOPIC.as_bytes());
}

/// Waits until all living members of each group are in the same generation, above `above`.
async fn settled(board: &Shared, above: i32, living: impl Fn(usize) -> bool) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let done = {
            let board = board.lock().unwrap_or_else(PoisonError::into_inner);
            board.groups.values().all(|places| {
                let alive: Vec<_> = (0..places.len()).filter(|p| living(*p)).collect();
                let first = alive.first().and_then(|p| places[*p]);
                first.is_some_and(|g| g > above) && alive.iter().all(|p| places[*p] == first)
            })
        };
        if done {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("not settled within {LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn newest(board: &Shared) -> i32 {
    let board = board.lock().unwrap_or_else(PoisonError::into_inner);
    let generations = board.groups.values().flatten().flatten();
    generations.copied().max().unwrap_or(0)
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, groups, members, partitions] = &arguments[..] else {
        bail!("group_scale BOOTSTRAP GROUPS MEMBERS PARTITIONS");
    };
    let (groups, members): (usize, usize) = (groups.parse()?, members.parse()?);
    let partitions: usize = partitions.parse()?;
    let brokers: Vec<SocketAddr> = bootstrap
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let board: Shared = Arc::default();
    let began = Instant::now();
    let mut tasks = Vec::new();
    for group in 0..groups {
        let mut shared = board.lock().unwrap_or_else(PoisonError::into_inner);
        shared.groups.insert(group, vec![None; members]);
        drop(shared);
        for place in 0..members {
            let member = Member {
                bootstrap: brokers[(group + place) % brokers.len()],
                group,
                place,
                partitions,
                board: board.clone(),
                id: String::new(),
            };
            tasks.push((place, tokio::spawn(member.run())));
        }
    }
    settled(&board, 0, |_| true).await?;
    println!("formed_ms {}", began.elapsed().as_millis());
    tokio::time::sleep(QUIET).await;
    settled(&board, 0, |_| true).await?;
    println!("quiet_ms {}", QUIET.as_millis());
    let before = newest(&board);
    board.lock().unwrap_or_else(PoisonError::into_inner).heard = None;
    let killed = Instant::now();
    for (_, task) in tasks.iter().filter(|(place, _)| *place == 0) {
        task.abort();
    }
    // Groups have been through different numbers of generations, one group alone through one.
    let above = if groups == 1 { before } else { 0 };
    let heard = loop {
        let heard = board.lock().unwrap_or_else(PoisonError::into_inner).heard;
        if let Some(heard) = heard {
            break heard;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    if groups > 1 {
        // All sessions have run out by then.
        let noticed = Duration::from_millis(SESSION_MS as u64) + HEARTBEAT;
        tokio::time::sleep(noticed.saturating_sub(killed.elapsed())).await;
    }
    settled(&board, above, |place| place != 0).await?;
    println!("first_heard_after_kill_ms {}", (heard - killed).as_millis());
    println!("settled_after_kill_ms {}", killed.elapsed().as_millis());
    println!("rebalance_ms {}", heard.elapsed().as_millis());
    Ok(())
}

//! Clients: each has a task on every broker, because a client finds the leader, wherever it is.

use super::cluster::Cluster;
use crate::entropy::Random;
use crate::history::Outcome;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidelog_replication::{GroupId, Node, Partition, ProposeError, Role};
use tidelog_storage::batch::{BatchBuilder, batch_crc};

/// Batches a producer sends before it waits; brokers remember the last five.
const IN_FLIGHT_MAX: usize = 4;
const LOOK_PAUSE: Duration = Duration::from_millis(25);

/// The clients' own state, which no crash of a broker touches.
pub struct Clients {
    /// One idempotent producer a partition.
    producers: BTreeMap<GroupId, Mutex<Producer>>,
    next_command: AtomicU64,
    stopped: AtomicBool,
    /// Counts of what was acknowledged, by partition; the metadata under group 0.
    acknowledged: Mutex<BTreeMap<GroupId, u64>>,
}

#[derive(Default)]
struct Producer {
    /// Sent and not acknowledged, in the order of their sequences.
    unacknowledged: VecDeque<Sent>,
    next_sequence: i32,
    /// The broker whose answer it waits for.
    waits_for: Option<usize>,
}

#[derive(Clone)]
struct Sent {
    value: u64,
    sequence: i32,
    batch: Bytes,
}

impl Clients {
    pub fn new(groups: &[GroupId]) -> Clients {
        Clients {
            producers: groups.iter().map(|g| (*g, Mutex::default())).collect(),
            next_command: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
            acknowledged: Mutex::default(),
        }
    }

    /// Nothing new is sent from now on; what was sent is still sent again.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The broker is gone: whoever waited for it tries another one.
    pub fn broker_gone(&self, broker: usize) {
        for producer in self.producers.values() {
            let mut producer = producer.lock();
            if producer.waits_for == Some(broker) {
                producer.waits_for = None;
            }
        }
    }

    pub fn acknowledged(&self) -> BTreeMap<GroupId, u64> {
        self.acknowledged.lock().clone()
    }

    /// Whether every producer has been told of all it has sent.
    pub fn are_done(&self) -> bool {
        let mut producers = self.producers.values();
        producers.all(|p| p.lock().unacknowledged.is_empty())
    }

    fn count(&self, group: GroupId) {
        *self.acknowledged.lock().entry(group).or_default() += 1;
    }
}

/// Starts the clients of a partition on the broker.
pub fn start(
    cluster: &Arc<Cluster>,
    partition: &Arc<Partition>,
    broker: usize,
    random: &mut Random,
) {
    let mut own = || Random::new(random.next(), 0);
    let (first, second) = (own(), own());
    tokio::spawn(produce(cluster.clone(), partition.clone(), broker, first));
    tokio::spawn(produce_once(cluster.clone(), partition.clone(), second));
}

fn leads(partition: &Partition) -> bool {
    matches!(partition.role(), Role::Leader { .. })
}

/// An idempotent producer: what was not acknowledged is sent again until it is.
async fn produce(
    cluster: Arc<Cluster>,
    partition: Arc<Partition>,
    broker: usize,
    mut random: Random,
) {
    let group = partition.spec().group;
    let producer = &cluster.clients.producers[&group];
    loop {
        tokio::time::sleep(random.millis(1, 40)).await;
        let waits = producer.lock().waits_for.is_some();
        if waits || !leads(&partition) {
            tokio::time::sleep(LOOK_PAUSE).await;
            continue;
        }
        let sent = fill(&cluster, group, broker, &mut random);
        let proposals: Vec<_> = sent
            .iter()
            .map(|s| partition.propose(s.batch.clone()))
            .collect();
        for (sent, proposal) in sent.iter().zip(proposals) {
            let answer = proposal.await;
            if producer.lock().waits_for != Some(broker) {
                break;
            }
            match answer {
                Ok(appended) => {
                    let offset = appended.base_offset;
                    let outcome = Outcome::Acknowledged { offset };
                    cluster.history.lock().settle(group, sent.value, outcome);
                    cluster.clients.count(group);
                    producer
                        .lock()
                        .unacknowledged
                        .retain(|u| u.sequence != sent.sequence);
                }
                Err(error) => {
                    let what = format!("{}: {} is sent again: {error}", group.0, sent.value);
                    cluster.history.lock().note(&what);
                    break;
                }
            }
        }
        let mut producer = producer.lock();
        if producer.waits_for == Some(broker) {
            producer.waits_for = None;
        }
    }
}

/// What is to be sent now: all that is not acknowledged, and some more.
fn fill(cluster: &Cluster, group: GroupId, broker: usize, random: &mut Random) -> Vec<Sent> {
    let mut producer = cluster.clients.producers[&group].lock();
    producer.waits_for = Some(broker);
    let more = 1 + random.below(IN_FLIGHT_MAX);
    while producer.unacknowledged.len() < more && !cluster.clients.stopped.load(Ordering::Relaxed) {
        let value = cluster.history.lock().send(group);
        let (sequence, records) = (producer.next_sequence, 1 + random.below(3) as i32);
        producer.next_sequence += records;
        let id = group.0 as i64;
        let batch = batch(value, records, Some((id, sequence)), random);
        producer.unacknowledged.push_back(Sent {
            value,
            sequence,
            batch,
        });
    }
    producer.unacknowledged.iter().cloned().collect()
}

/// A producer without sequences: it sends each value once.
async fn produce_once(cluster: Arc<Cluster>, partition: Arc<Partition>, mut random: Random) {
    let group = partition.spec().group;
    loop {
        tokio::time::sleep(random.millis(1, 150)).await;
        if cluster.clients.stopped.load(Ordering::Relaxed) || !leads(&partition) {
            tokio::time::sleep(LOOK_PAUSE).await;
            continue;
        }
        let value = cluster.history.lock().send(group);
        let records = 1 + random.below(3) as i32;
        let outcome = match partition
            .propose(batch(value, records, None, &mut random))
            .await
        {
            Ok(appended) => {
                cluster.clients.count(group);
                Outcome::Acknowledged {
                    offset: appended.base_offset,
                }
            }
            Err(ProposeError::NotLeader { .. } | ProposeError::Rejected(_)) => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        };
        cluster.history.lock().settle(group, value, outcome);
    }
}

/// Changes the metadata through this broker.
pub async fn write_metadata(cluster: Arc<Cluster>, node: Arc<Node>, mut random: Random) {
    loop {
        tokio::time::sleep(random.millis(10, 400)).await;
        if cluster.clients.stopped.load(Ordering::Relaxed) {
            continue;
        }
        let command = cluster.clients.next_command.fetch_add(1, Ordering::Relaxed);
        let bytes = Bytes::copy_from_slice(&command.to_be_bytes());
        if node.propose_metadata(bytes, false).await.is_ok() {
            cluster.history.lock().metadata_acknowledged(command);
            cluster.clients.count(GroupId(0));
        }
    }
}

/// A batch whose records have `value` as their key; of a producer that counts, `(id, sequence)`.
fn batch(value: u64, records: i32, producer: Option<(i64, i32)>, random: &mut Random) -> Bytes {
    let mut builder = BatchBuilder::new(0, 0, value as i64, None);
    for _ in 0..records {
        let bytes = match random.below(40) {
            0 => random.below(100 << 10),
            1..10 => random.below(4 << 10),
            _ => random.below(100),
        };
        builder.push(&value.to_be_bytes(), Some(&vec![value as u8; bytes]));
    }
    let mut bytes = builder.finish().to_vec();
    if let Some((id, sequence)) = producer {
        bytes[43..51].copy_from_slice(&id.to_be_bytes());
        bytes[51..53].copy_from_slice(&0_i16.to_be_bytes());
        bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
        let crc = batch_crc(&bytes);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    bytes.into()
}

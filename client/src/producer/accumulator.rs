//! Records waiting to be sent, in one open batch a partition.

use super::slot::{Batch, Payload};
use super::spare::Spare;
use super::{Delivery, ProducerConfig, Progress};
use crate::batch::BatchBuilder;
use crate::error::{Error, Result};
use crate::partitioner::{Chooser, Partitioner};
use crate::record::Record;
use futures_util::FutureExt;
use futures_util::future::Shared;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    /// The topic that the broker answered for; nil when it was told the topic's name, or did not answer.
    pub topic_id: Uuid,
    pub base_offset: Option<i64>,
}

pub(super) type Outcome = Shared<oneshot::Receiver<Result<Written>>>;

/// A batch that is complete and not yet taken by the sender.
#[derive(Debug)]
pub(super) struct FilledBatch {
    /// Counts up over all batches, so within a partition it is the order.
    pub id: u64,
    pub topic: Arc<str>,
    pub partition: i32,
    pub builder: BatchBuilder,
    pub opened_at: Instant,
    /// Bytes reserved for it in the buffer.
    pub reserved_bytes: usize,
    pub outcome: oneshot::Sender<Result<Written>>,
}

#[derive(Debug)]
pub(super) struct Accumulator {
    state: Mutex<State>,
    /// Tells the sender that there is something to look at.
    pub(super) wake: Notify,
    space: Semaphore,
    buffered: AtomicUsize,
    /// Callers waiting for room.
    waiting: AtomicUsize,
    delivered_records: AtomicU64,
    failed: Mutex<Failed>,
    batch_bytes: usize,
    buffer_bytes: usize,
    linger: Duration,
    partitioner: Partitioner,
}

#[derive(Debug, Default)]
struct Failed {
    records: u64,
    first: Option<Error>,
}

#[derive(Debug, Default)]
struct State {
    topics: Vec<Topic>,
    /// Where each is in `topics`.
    by_name: HashMap<Arc<str>, usize>,
    /// The topic of the last record: the next one often has the same.
    recent: usize,
    filled: VecDeque<FilledBatch>,
    /// Of every batch whose fate is open, for [`Accumulator::flush`].
    outcomes: HashMap<u64, Outcome>,
    next_id: u64,
    spare: Spare,
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    chooser: Chooser,
    partitions: Vec<Place>,
}

/// Of one partition.
#[derive(Debug, Default)]
struct Place {
    open: Option<Open>,
    /// Of the batch before: the next one is likely to have as many, and so does not move while it grows.
    last_bytes: usize,
}

impl Place {
    fn close(&mut self) -> Option<FilledBatch> {
        let batch = self.open.take()?.batch;
        self.last_bytes = batch.builder.len();
        Some(batch)
    }
}

impl State {
    /// Where the topic is in `topics`.
    fn find(&mut self, name: &Arc<str>) -> usize {
        let same = |topic: &Topic| topic.name == *name;
        if !self.topics.get(self.recent).is_some_and(same) {
            self.recent = match self.by_name.get(name) {
                Some(&at) => at,
                None => {
                    self.by_name.insert(name.clone(), self.topics.len());
                    self.topics.push(Topic {
                        name: name.clone(),
                        chooser: Chooser::new(),
                        partitions: Vec::new(),
                    });
                    self.topics.len() - 1
                }
            };
        }
        self.recent
    }

    fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        self.topics
            .iter_mut()
            .flat_map(|topic| &mut topic.partitions)
    }
}

#[derive(Debug)]
struct Open {
    batch: FilledBatch,
    shared: Outcome,
}

impl Accumulator {
    pub(super) fn new(config: &ProducerConfig) -> Accumulator {
        Accumulator {
            state: Mutex::default(),
            wake: Notify::new(),
            space: Semaphore::new(config.buffer_bytes),
            buffered: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            delivered_records: AtomicU64::new(0),
            failed: Mutex::default(),
            batch_bytes: config.batch_bytes,
            buffer_bytes: config.buffer_bytes,
            linger: config.linger,
            partitioner: config.partitioner.clone(),
        }
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Takes room in the buffer if there is some and nobody waits for it already.
    pub(super) fn try_reserve(&self, bytes: usize) -> bool {
        let reserved = self.space.try_acquire_many(bytes as u32);
        reserved.map(|permit| permit.forget()).is_ok() && {
            self.buffered.fetch_add(bytes, Ordering::Relaxed);
            true
        }
    }

    /// Waits for room in the buffer, first come first served. False when the producer is closed.
    pub(super) async fn reserve(&self, bytes: usize) -> bool {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        self.wake.notify_one();
        let Ok(permit) = self.space.acquire_many(bytes as u32).await else {
            return false;
        };
        permit.forget();
        self.buffered.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// Tells a batch's fate and gives its room back.
    pub(super) fn finish(&self, batch: Batch, outcome: Result<Written>) {
        let records = batch.count as u64;
        match &outcome {
            Ok(_) => {
                self.delivered_records.fetch_add(records, Ordering::Relaxed);
            }
            Err(error) => {
                let mut failed = self.failed.lock();
                failed.records += records;
                failed.first.get_or_insert_with(|| error.clone());
            }
        }
        // Nobody may wait for it.
        let _ = batch.outcome.send(outcome);
        {
            let mut state = self.state.lock();
            state.outcomes.remove(&batch.id);
            if let Payload::Sealed(bytes) = batch.payload {
                state.spare.give_back(bytes);
            }
        }
        self.release(batch.reserved_bytes);
    }

    pub(super) fn progress(&self) -> Progress {
        let failed = self.failed.lock();
        Progress {
            delivered_records: self.delivered_records.load(Ordering::Relaxed),
            failed_records: failed.records,
            first_error: failed.first.clone(),
            buffered_bytes: self.buffered.load(Ordering::Relaxed),
        }
    }

    fn release(&self, bytes: usize) {
        self.buffered.fetch_sub(bytes, Ordering::Relaxed);
        self.space.add_permits(bytes);
    }

    /// Appends to the open batch of the record's partition. The `bytes` are reserved already, and
    /// are given back if this fails.
    pub(super) fn append(
        &self,
        record: &Record,
        timestamp_ms: i64,
        partitions: usize,
        bytes: usize,
    ) -> Result<Delivery> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let found = state.find(&record.topic);
        let topic = &mut state.topics[found];
        let partitioner = &self.partitioner;
        let partition =
            topic
                .chooser
                .choose(partitioner, record, partitions, bytes, self.batch_bytes);
        let at = usize::try_from(partition)
            .ok()
            .filter(|&at| at < partitions);
        let Some(at) = at else {
            self.release(bytes);
            return Err(Error::UnknownPartition {
                topic: record.topic.to_string(),
                partition,
                count: partitions,
            });
        };
        if topic.partitions.len() <= at {
            topic.partitions.resize_with(at + 1, Place::default);
        }
        let place = &mut topic.partitions[at];
        let mut wake = false;
        let is_full = |o: &Open| o.batch.builder.len() + bytes > self.batch_bytes;
        if place.open.as_ref().is_some_and(is_full) {
            state.filled.extend(place.close());
            wake = true;
        }
        let (open, index) = match &mut place.open {
            Some(open) => {
                let index = open.batch.builder.count();
                open.batch.builder.push(record, timestamp_ms);
                open.batch.reserved_bytes += bytes;
                (&*open, index)
            }
            empty => {
                wake = true;
                let id = state.next_id;
                state.next_id += 1;
                let buffer = state.spare.take(place.last_bytes);
                let builder = BatchBuilder::new(record, timestamp_ms, buffer);
                let open = Open::new(id, &topic.name, partition, builder, bytes);
                state.outcomes.insert(id, open.shared.clone());
                (&*empty.insert(open), 0)
            }
        };
        let delivery = Delivery {
            outcome: open.shared.clone(),
            partition,
            index,
        };
        if wake {
            self.wake.notify_one();
        }
        Ok(delivery)
    }

    /// Closes every open batch, and returns the outcomes of all batches that are not finished.
    pub(super) fn flush(&self) -> Vec<Outcome> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut closed: VecDeque<_> = state.places().filter_map(Place::close).collect();
        state.filled.append(&mut closed);
        self.wake.notify_one();
        // One that someone has seen is not on its way, though it may still be listed.
        let open = state.outcomes.values().filter(|o| o.peek().is_none());
        open.cloned().collect()
    }

    /// Takes the batches that are full or have lingered long enough, and says when to look again.
    /// A batch of a partition that is `busy` with earlier ones goes on growing instead.
    pub(super) fn take_due(
        &self,
        now: Instant,
        busy: impl Fn(&Arc<str>, i32) -> bool,
    ) -> (VecDeque<FilledBatch>, Option<Instant>) {
        let mut next: Option<Instant> = None;
        let mut state = self.state.lock();
        let state = &mut *state;
        // Callers wait for room, and only open batches could make some: those go without lingering. While
        // others are on their way they make room; to cut the open ones short each time would leave
        // smaller and smaller batches.
        let open = state.places().filter(|place| place.open.is_some()).count();
        let hurry = self.waiting.load(Ordering::Relaxed) > 0 && open == state.outcomes.len();
        let mut closed = VecDeque::new();
        for place in state.places() {
            let Some(open) = &place.open else { continue };
            let due = open.batch.opened_at + self.linger;
            if hurry {
                closed.extend(place.close());
            } else if busy(&open.batch.topic, open.batch.partition) {
                continue;
            } else if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
            } else {
                closed.extend(place.close());
            }
        }
        state.filled.append(&mut closed);
        (std::mem::take(&mut state.filled), next)
    }
}

impl Open {
    fn new(
        id: u64,
        topic: &Arc<str>,
        partition: i32,
        builder: BatchBuilder,
        reserved_bytes: usize,
    ) -> Open {
        let (outcome, receiver) = oneshot::channel();
        Open {
            batch: FilledBatch {
                id,
                topic: topic.clone(),
                partition,
                builder,
                opened_at: Instant::now(),
                reserved_bytes,
                outcome,
            },
            shared: receiver.shared(),
        }
    }
}

#[cfg(test)]
#[path = "accumulator_tests.rs"]
mod tests;

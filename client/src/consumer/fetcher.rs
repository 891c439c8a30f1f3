//! Fetches from the leaders of partitions, ahead of who reads them.
//!
//! One fetch a leader is on its way while earlier answers are being read; all together they stay
//! within `prefetch_bytes_max`. Partitions come and go one by one, so each has an id that no other
//! partition gets later: an answer for one that went is recognised and dropped.

use super::fetch::{self, Answer, FetchDone, Target};
use super::{ConsumerConfig, Fetched, Isolation, OffsetReset};
use crate::batch::{DamagedBatch, FetchedBatch};
use crate::cluster::Cluster;
use crate::error::{Error, ErrorCode, Result};
use crate::offsets::{self, Places, StartPosition};
use crate::record::ConsumerRecord;
use crate::retry::Backoff;
use crate::topic_partition::TopicPartition;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, HashMap, VecDeque};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

/// Decompressed bytes after which what is read is handed out.
const YIELD_BYTES: usize = 8 << 20;
/// Compressed bytes from which on decompression leaves the async workers.
const READ_INLINE_BYTES_MAX: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Fetcher {
    cluster: Cluster,
    config: ConsumerConfig,
    partitions: BTreeMap<u64, Partition>,
    ids: HashMap<TopicPartition, u64>,
    next_id: u64,
    fetching: FuturesUnordered<BoxFuture<'static, FetchDone>>,
    /// Brokers with a fetch on its way, and when its answer is overdue.
    busy: HashMap<i32, Instant>,
    ready: VecDeque<Ready>,
    ready_bytes: usize,
    /// What the answers on their way may have at most.
    reserved_bytes: usize,
    backoff: Backoff,
    /// Nothing is fetched before this, and then the cluster is looked at anew.
    refresh_at: Option<Instant>,
    failing_since: Option<Instant>,
    /// Where the next round over the partitions starts, so that none starves.
    turn: u64,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub place: TopicPartition,
    /// From where to fetch next. None until `start` is looked up.
    fetch_from: Option<i64>,
    start: StartPosition,
    pub paused: bool,
    end_told: bool,
    /// The end as the leader last said it.
    pub end: Option<i64>,
    /// From where to hand out next. None until `start` is looked up.
    pub position: Option<i64>,
    /// What is handed out and dealt with: may be committed without asking.
    pub settled: Option<i64>,
    /// As last committed by this consumer, or found when it began.
    pub committed: Option<i64>,
}

/// An answer waiting to be read.
#[derive(Debug)]
struct Ready {
    id: u64,
    topic_id: Uuid,
    from: i64,
    batches: VecDeque<FetchedBatch>,
    high_watermark: i64,
    last_stable_offset: i64,
}

impl Fetcher {
    pub(super) fn new(cluster: Cluster, config: ConsumerConfig) -> Fetcher {
        let backoff = Backoff::new(cluster.config());
        Fetcher {
            cluster,
            config,
            partitions: BTreeMap::new(),
            ids: HashMap::new(),
            next_id: 0,
            fetching: FuturesUnordered::new(),
            busy: HashMap::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            reserved_bytes: 0,
            backoff,
            refresh_at: None,
            failing_since: None,
            turn: 0,
        }
    }

    /// Reads this partition too, from `start` on.
    pub(super) fn add(&mut self, place: TopicPartition, start: StartPosition) {
        self.remove(&place);
        let id = self.next_id;
        self.next_id += 1;
        self.ids.insert(place.clone(), id);
        let partition = Partition {
            place,
            fetch_from: None,
            start,
            paused: false,
            end_told: false,
            end: None,
            position: None,
            settled: None,
            committed: None,
        };
        self.partitions.insert(id, partition);
    }

    pub(super) fn remove(&mut self, place: &TopicPartition) {
        if let Some(id) = self.ids.remove(place) {
            self.partitions.remove(&id);
            self.drop_ready(id);
        }
    }

    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.partitions.clear();
        self.ready.clear();
        self.ready_bytes = 0;
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.values()
    }

    pub(super) fn by_id(&mut self, id: u64) -> Option<&mut Partition> {
        self.partitions.get_mut(&id)
    }

    pub(super) fn get(&self, place: &TopicPartition) -> Option<&Partition> {
        self.partitions.get(self.ids.get(place)?)
    }

    pub(super) fn get_mut(&mut self, place: &TopicPartition) -> Option<&mut Partition> {
        self.partitions.get_mut(self.ids.get(place)?)
    }

    /// Hands out nothing of the partition until it is resumed. What is fetched of it already is
    /// fetched again then, so that it takes no room meanwhile.
    pub(super) fn pause(&mut self, place: &TopicPartition) {
        let Some(&id) = self.ids.get(place) else {
            return;
        };
        self.fetch_again(id);
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.paused = true;
        }
    }

    /// Goes on from `start`; False when the partition is not read.
    pub(super) fn seek(&mut self, place: &TopicPartition, start: StartPosition) -> bool {
        let Some(&id) = self.ids.get(place) else {
            return false;
        };
        self.drop_ready(id);
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.start = start;
            partition.fetch_from = None;
            partition.position = None;
            partition.end_told = false;
        }
        true
    }

    /// Waits for the next records, or for the end of a partition. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<(u64, Fetched)> {
        loop {
            self.look_up_positions().await?;
            self.look_after_overdue();
            if self.refresh_at.is_some_and(|at| at <= Instant::now()) {
                self.refresh().await?;
            }
            self.launch();
            if let Some(fetched) = self.read_ready().await? {
                return Ok(fetched);
            }
            let wake_at = self
                .refresh_at
                .unwrap_or_else(|| Instant::now() + self.config.wait_max);
            tokio::select! {
                Some(done) = self.fetching.next(), if !self.fetching.is_empty() => {
                    self.take(done)?;
                }
                () = sleep_until(wake_at) => {}
            }
        }
    }

    async fn look_up_positions(&mut self) -> Result<()> {
        let unknown = self.partitions.values().filter(|p| p.position.is_none());
        let places: Places<StartPosition> = unknown
            .map(|p| ((p.place.topic.to_string(), p.place.partition), p.start))
            .collect();
        if places.is_empty() {
            return Ok(());
        }
        let found = offsets::find(&self.cluster, places, self.config.isolation).await?;
        for partition in self.partitions.values_mut() {
            if partition.position.is_none() {
                let place = &partition.place;
                let offset = found.get(&(place.topic.to_string(), place.partition));
                partition.position = offset.copied();
                partition.fetch_from = partition.position;
            }
        }
        Ok(())
    }

    fn overdue_at(&self) -> Instant {
        let patience = self.cluster.config().metadata_timeout / 2;
        Instant::now() + self.config.wait_max + patience
    }

    /// A leader that hangs keeps its connection open. Its partitions may be led by another broker
    /// meanwhile: once the view says so, they are fetched there, whatever comes of the old fetch.
    fn look_after_overdue(&mut self) {
        let now = Instant::now();
        let next = self.overdue_at();
        for overdue_at in self.busy.values_mut().filter(|at| **at <= now) {
            *overdue_at = next;
            self.refresh_at.get_or_insert(now);
        }
    }

    async fn refresh(&mut self) -> Result<()> {
        match self.cluster.refresh().await {
            Ok(_) => self.refresh_at = None,
            Err(error) => self.failed(error)?,
        }
        Ok(())
    }

    /// Notes a failure that may pass.
    ///
    /// # Errors
    /// When it does not pass by itself, or has lasted for the call timeout.
    fn failed(&mut self, error: Error) -> Result<()> {
        let unknown = error.code().is_some_and(ErrorCode::is_unknown_topic);
        if !unknown && !error.wants_metadata() {
            return Err(error);
        }
        tracing::debug!("consumer: {error}");
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let limit = self.cluster.config().call_timeout;
        if since.elapsed() > limit {
            self.failing_since = None;
            return Err(Error::Timeout {
                what: "fetch".to_owned(),
                waited_ms: limit.as_millis() as u64,
                last: error.to_string(),
            });
        }
        let pause = self.backoff.next();
        self.refresh_at.get_or_insert(Instant::now() + pause);
        Ok(())
    }

    /// Starts a fetch at every leader that has none on its way, as far as there is room.
    fn launch(&mut self) {
        if self.refresh_at.is_some() || self.room_bytes() == 0 {
            return;
        }
        let mut targets: HashMap<i32, Vec<Target>> = HashMap::new();
        let turn = self.turn;
        let first = self.partitions.range(turn + 1..).next();
        self.turn = first.map_or(0, |(&id, _)| id);
        let (before, from) = (self.partitions.range(..turn), self.partitions.range(turn..));
        for (&id, partition) in from.chain(before) {
            let Some(offset) = partition.fetch_from.filter(|_| !partition.paused) else {
                continue;
            };
            let place = &partition.place;
            match self.cluster.leader(&place.topic, place.partition) {
                Ok((info, led, leader)) if !self.busy.contains_key(&leader) => {
                    targets.entry(leader).or_default().push(Target {
                        id,
                        topic: place.topic.clone(),
                        topic_id: info.uuid(),
                        partition: place.partition,
                        leader_epoch: led.leader_epoch,
                        offset,
                    });
                }
                Ok(_) => {}
                Err(_) => {
                    let pause = self.backoff.next();
                    self.refresh_at.get_or_insert(Instant::now() + pause);
                }
            }
        }
        for (leader, targets) in targets {
            let bytes_max = self.config.bytes_max.min(self.room_bytes());
            if bytes_max == 0 {
                return;
            }
            self.reserved_bytes += bytes_max;
            self.busy.insert(leader, self.overdue_at());
            let cluster = self.cluster.clone();
            let config = self.config.clone();
            let fetch = fetch::fetch(cluster, config, leader, bytes_max, targets);
            self.fetching.push(Box::pin(fetch));
        }
    }

    fn room_bytes(&self) -> usize {
        let taken = self.ready_bytes + self.reserved_bytes;
        self.config.prefetch_bytes_max.saturating_sub(taken)
    }

    /// Puts an answer where it is read from, and moves the positions on.
    fn take(&mut self, done: FetchDone) -> Result<()> {
        self.busy.remove(&done.broker);
        self.reserved_bytes -= done.reserved_bytes;
        let mut first_error = None;
        for (id, from, answer) in done.answers {
            let Some(partition) = self.partitions.get_mut(&id) else {
                continue;
            };
            if partition.fetch_from != Some(from) || partition.paused {
                continue;
            }
            match answer {
                Ok(answer) => {
                    self.failing_since = None;
                    self.backoff.reset();
                    self.take_answer(id, from, answer);
                }
                Err(error) if error.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE) => {
                    match self.config.offset_reset {
                        OffsetReset::Fail => first_error = Some(error),
                        OffsetReset::Earliest => partition.start_over(StartPosition::Earliest),
                        OffsetReset::Latest => partition.start_over(StartPosition::Latest),
                    }
                }
                Err(error) => {
                    if let Err(error) = self.failed(error) {
                        first_error = Some(error);
                    }
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn take_answer(&mut self, id: u64, from: i64, answer: Answer) {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return;
        };
        let end = match self.config.isolation {
            Isolation::ReadCommitted if answer.last_stable_offset >= 0 => answer.last_stable_offset,
            _ => answer.high_watermark,
        };
        let next = answer.batches.back().map_or(from, |b| b.last_offset + 1);
        partition.fetch_from = Some(next.max(from));
        partition.end = Some(end);
        let at_end = next >= end;
        let news = !answer.batches.is_empty() || (at_end && !partition.end_told);
        partition.end_told = at_end;
        if news {
            self.ready_bytes += answer.batches.iter().map(FetchedBatch::len).sum::<usize>();
            self.ready.push_back(Ready {
                id,
                topic_id: answer.topic_id,
                from,
                batches: answer.batches,
                high_watermark: answer.high_watermark,
                last_stable_offset: end,
            });
        }
    }

    /// Reads some of the oldest answer. It is let go only once read, so that a dropped future loses
    /// nothing.
    async fn read_ready(&mut self) -> Result<Option<(u64, Fetched)>> {
        let Some(ready) = self.ready.front() else {
            return Ok(None);
        };
        let id = ready.id;
        let Some(place) = self.partitions.get(&id).map(|p| p.place.clone()) else {
            self.drop_ready(id);
            return Ok(None);
        };
        let (from, max) = (ready.from, self.config.decompressed_batch_bytes_max);
        let batches = ready.batches.clone();
        let sent_bytes: usize = batches.iter().map(FetchedBatch::len).sum();
        let compressed = batches.iter().any(FetchedBatch::is_compressed);
        let read = if compressed && sent_bytes >= READ_INLINE_BYTES_MAX {
            let place = place.clone();
            let reading = move || read_some(&batches, &place, from, max);
            let reading = tokio::task::spawn_blocking(reading);
            reading.await.map_err(|_| Error::Closed)?
        } else {
            read_some(&batches, &place, from, max)
        };
        let (records, count) = match read {
            Ok(read) => read,
            Err(damaged) => {
                self.fetch_again(id);
                return Err(Error::DamagedBatch {
                    topic: place.topic.to_string(),
                    partition: place.partition,
                    offset: damaged.offset,
                    reason: damaged.reason,
                });
            }
        };
        let Some(mut ready) = self.ready.pop_front() else {
            return Ok(None);
        };
        let mut next_offset = ready.from;
        for batch in ready.batches.drain(..count) {
            self.ready_bytes -= batch.len();
            next_offset = next_offset.max(batch.last_offset + 1);
        }
        let fetched = Fetched {
            topic: place.topic,
            topic_id: ready.topic_id.into_bytes(),
            partition: place.partition,
            records,
            next_offset,
            high_watermark: ready.high_watermark,
            last_stable_offset: ready.last_stable_offset,
        };
        if !ready.batches.is_empty() {
            ready.from = next_offset;
            self.ready.push_front(ready);
        }
        Ok(Some((id, fetched)))
    }

    /// Forgets what is fetched of a partition and not handed out, so that it is fetched again.
    fn fetch_again(&mut self, id: u64) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.fetch_from = partition.position;
            partition.end_told = false;
        }
        self.drop_ready(id);
    }

    fn drop_ready(&mut self, id: u64) {
        self.ready.retain(|ready| ready.id != id);
        let left = self.ready.iter().flat_map(|ready| &ready.batches);
        self.ready_bytes = left.map(FetchedBatch::len).sum();
    }
}

impl Partition {
    fn start_over(&mut self, start: StartPosition) {
        self.start = start;
        self.fetch_from = None;
        self.position = None;
    }
}

type Read = std::result::Result<(Vec<ConsumerRecord>, usize), DamagedBatch>;

/// The records of the first batches, and how many batches those are.
fn read_some(
    batches: &VecDeque<FetchedBatch>,
    place: &TopicPartition,
    from: i64,
    max: usize,
) -> Read {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut count = 0;
    for batch in batches {
        let first = records.len();
        batch.read(place, from, max, &mut records)?;
        count += 1;
        bytes += records[first..].iter().map(record_bytes).sum::<usize>();
        if bytes >= YIELD_BYTES {
            break;
        }
    }
    Ok((records, count))
}

fn record_bytes(record: &ConsumerRecord) -> usize {
    let key = record.key.as_ref().map_or(0, |k| k.len());
    key + record.value.as_ref().map_or(0, |v| v.len()) + size_of::<ConsumerRecord>()
}

//! The consumer: reads assigned partitions in offset order, from their leaders, by long polls.
//!
//! One fetch per leader is on its way while its last answer is being read, so memory stays within
//! two answers a broker. `fetch` is one request and its answer.

mod fetch;

use crate::batch::FetchedBatch;
use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::error::{Error, ErrorCode, Result};
use crate::offsets::{self, Places, StartPosition};
use crate::record::ConsumerRecord;
use crate::retry::Backoff;
use fetch::{Answer, FetchDone, Target};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What to do when the position is no longer, or not yet, in the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutOfRange {
    /// [`Consumer::next`] fails.
    #[default]
    Fail,
    Earliest,
    Latest,
}

/// How records are fetched.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// How long a broker may wait for `bytes_min`.
    pub wait_max: Duration,
    pub bytes_min: usize,
    /// Of one answer; exceeded only by a single larger batch.
    pub bytes_max: usize,
    pub partition_bytes_max: usize,
    /// A batch that becomes larger than this when decompressed is refused.
    pub decompressed_batch_bytes_max: usize,
    pub out_of_range: OutOfRange,
}

impl Default for ConsumerConfig {
    fn default() -> ConsumerConfig {
        ConsumerConfig {
            wait_max: Duration::from_millis(500),
            bytes_min: 1,
            bytes_max: 16 << 20,
            partition_bytes_max: 4 << 20,
            decompressed_batch_bytes_max: 256 << 20,
            out_of_range: OutOfRange::Fail,
        }
    }
}

/// Records of one partition, in offset order.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub topic: Arc<str>,
    pub partition: i32,
    /// Empty when there is only the end to report, or nothing but control records.
    pub records: Vec<ConsumerRecord>,
    /// Where the next records of this partition will start.
    pub next_offset: i64,
    /// The first offset that is not committed yet.
    pub high_watermark: i64,
}

impl Fetched {
    /// No committed record follows, as the leader saw it.
    pub fn at_end(&self) -> bool {
        self.next_offset >= self.high_watermark
    }
}

/// Reads partitions it is assigned, without a group.
#[derive(Debug)]
pub struct Consumer {
    cluster: Cluster,
    config: ConsumerConfig,
    assigned: Vec<Assigned>,
    fetching: FuturesUnordered<BoxFuture<'static, FetchDone>>,
    /// Brokers with a fetch on its way, and when its answer is overdue.
    busy: HashMap<i32, Instant>,
    ready: VecDeque<Ready>,
    ready_bytes: usize,
    backoff: Backoff,
    /// Nothing is fetched before this, and then the cluster is looked at anew.
    refresh_at: Option<Instant>,
    failing_since: Option<Instant>,
    turn: usize,
}

#[derive(Debug)]
struct Assigned {
    topic: Arc<str>,
    partition: i32,
    /// None until `start` is looked up.
    position: Option<i64>,
    start: StartPosition,
    end_told: bool,
}

/// An answer waiting to be read.
#[derive(Debug)]
struct Ready {
    at: usize,
    from: i64,
    batches: VecDeque<FetchedBatch>,
    high_watermark: i64,
}

/// Decompressed bytes after which what is read is handed out.
const YIELD_BYTES: usize = 8 << 20;
/// Compressed bytes from which on decompression leaves the async workers.
const READ_INLINE_BYTES_MAX: usize = 16 << 10;

impl Consumer {
    /// # Errors
    /// [`Error::NoBroker`] when no bootstrap address answers.
    pub async fn new(client: ClientConfig, config: ConsumerConfig) -> Result<Consumer> {
        let cluster = Cluster::connect(client).await?;
        let backoff = Backoff::new(cluster.config());
        Ok(Consumer {
            cluster,
            config,
            assigned: Vec::new(),
            fetching: FuturesUnordered::new(),
            busy: HashMap::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            backoff,
            refresh_at: None,
            failing_since: None,
            turn: 0,
        })
    }

    /// Reads these partitions from now on, and no others.
    ///
    /// # Errors
    /// When a topic or partition does not exist.
    pub async fn assign(
        &mut self,
        partitions: impl IntoIterator<Item = (String, i32, StartPosition)>,
    ) -> Result<()> {
        let mut assigned = Vec::new();
        for (topic, partition, start) in partitions {
            let info = self.cluster.topic(&topic, false).await?;
            if info.partition(partition).is_none() {
                return Err(Error::UnknownPartition {
                    topic,
                    partition,
                    count: info.partitions.len(),
                });
            }
            assigned.push(Assigned {
                topic: topic.into(),
                partition,
                position: None,
                start,
                end_told: false,
            });
        }
        self.assigned = assigned;
        self.ready.clear();
        self.ready_bytes = 0;
        // Answers to come name partitions by their place in the old assignment.
        self.fetching.clear();
        self.busy.clear();
        Ok(())
    }

    /// The indexes of a topic's partitions.
    ///
    /// # Errors
    /// When the topic does not exist.
    pub async fn partitions(&self, topic: &str) -> Result<Vec<i32>> {
        let info = self.cluster.topic(topic, false).await?;
        Ok(info.partitions.iter().map(|p| p.index).collect())
    }

    /// The offset of each place.
    ///
    /// # Errors
    /// When one cannot be found before the call's deadline.
    pub async fn offsets(
        &self,
        places: impl IntoIterator<Item = (String, i32, StartPosition)>,
    ) -> Result<Vec<(String, i32, i64)>> {
        let places = places.into_iter().map(|(topic, p, at)| ((topic, p), at));
        let found = offsets::find(&self.cluster, places.collect()).await?;
        Ok(found.into_iter().map(|((t, p), o)| (t, p, o)).collect())
    }

    /// Waits for the next records, or for the end of a partition, told once each time it is reached.
    /// Goes on through leader changes and lost connections. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Timeout`] when nothing could be reached for the call timeout, and what does not pass
    /// by itself: a deleted topic, a damaged batch, an offset out of range. Calling again goes on
    /// where this ended.
    pub async fn next(&mut self) -> Result<Fetched> {
        loop {
            self.look_up_positions().await?;
            self.look_after_overdue();
            if self.refresh_at.is_some_and(|at| at <= Instant::now()) {
                self.refresh().await?;
            }
            if self.ready_bytes <= self.config.bytes_max {
                self.launch();
            }
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
        let unknown = self.assigned.iter().filter(|a| a.position.is_none());
        let places: Places<StartPosition> = unknown
            .map(|a| ((a.topic.to_string(), a.partition), a.start))
            .collect();
        if places.is_empty() {
            return Ok(());
        }
        let found = offsets::find(&self.cluster, places).await?;
        for assigned in &mut self.assigned {
            if assigned.position.is_none() {
                let place = (assigned.topic.to_string(), assigned.partition);
                assigned.position = found.get(&place).copied();
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

    /// Starts a fetch at every leader that has none on its way.
    fn launch(&mut self) {
        if self.refresh_at.is_some() {
            return;
        }
        let mut targets: HashMap<i32, Vec<Target>> = HashMap::new();
        let count = self.assigned.len();
        self.turn = (self.turn + 1) % count.max(1);
        for step in 0..count {
            let at = (self.turn + step) % count;
            let assigned = &self.assigned[at];
            let Some(offset) = assigned.position else {
                continue;
            };
            match self.cluster.leader(&assigned.topic, assigned.partition) {
                Ok((info, partition, leader)) if !self.busy.contains_key(&leader) => {
                    targets.entry(leader).or_default().push(Target {
                        at,
                        topic: assigned.topic.clone(),
                        topic_id: info.uuid(),
                        partition: assigned.partition,
                        leader_epoch: partition.leader_epoch,
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
            self.busy.insert(leader, self.overdue_at());
            let cluster = self.cluster.clone();
            let config = self.config.clone();
            self.fetching
                .push(Box::pin(fetch::fetch(cluster, config, leader, targets)));
        }
    }

    /// Puts an answer where it is read from, and moves the positions on.
    fn take(&mut self, done: FetchDone) -> Result<()> {
        self.busy.remove(&done.broker);
        let mut first_error = None;
        for (at, from, answer) in done.answers {
            let assigned = &mut self.assigned[at];
            if assigned.position != Some(from) {
                continue;
            }
            match answer {
                Ok(answer) => {
                    self.failing_since = None;
                    self.backoff.reset();
                    self.take_answer(at, from, answer);
                }
                Err(error) if error.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE) => {
                    match self.config.out_of_range {
                        OutOfRange::Fail => first_error = Some(error),
                        OutOfRange::Earliest => {
                            assigned.start = StartPosition::Earliest;
                            assigned.position = None;
                        }
                        OutOfRange::Latest => {
                            assigned.start = StartPosition::Latest;
                            assigned.position = None;
                        }
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

    fn take_answer(&mut self, at: usize, from: i64, answer: Answer) {
        let assigned = &mut self.assigned[at];
        let next = answer.batches.back().map_or(from, |b| b.last_offset + 1);
        assigned.position = Some(next.max(from));
        let at_end = next >= answer.high_watermark;
        let news = !answer.batches.is_empty() || (at_end && !assigned.end_told);
        assigned.end_told = at_end;
        if news {
            self.ready_bytes += answer.batches.iter().map(FetchedBatch::len).sum::<usize>();
            self.ready.push_back(Ready {
                at,
                from,
                batches: answer.batches,
                high_watermark: answer.high_watermark,
            });
        }
    }

    /// Reads some of the oldest answer. It is let go only once read, so that a dropped future loses
    /// nothing.
    async fn read_ready(&mut self) -> Result<Option<Fetched>> {
        let Some(ready) = self.ready.front() else {
            return Ok(None);
        };
        let (from, max) = (ready.from, self.config.decompressed_batch_bytes_max);
        let batches = ready.batches.clone();
        let sent_bytes: usize = batches.iter().map(FetchedBatch::len).sum();
        let compressed = batches.iter().any(FetchedBatch::is_compressed);
        let read = if compressed && sent_bytes >= READ_INLINE_BYTES_MAX {
            let reading = tokio::task::spawn_blocking(move || read_some(&batches, from, max));
            reading.await.map_err(|_| Error::Closed)?
        } else {
            read_some(&batches, from, max)
        };
        let Some(mut ready) = self.ready.pop_front() else {
            return Ok(None);
        };
        let at = ready.at;
        let assigned = &self.assigned[at];
        let (records, count) = match read {
            Ok(read) => read,
            Err(damaged) => {
                let error = Error::DamagedBatch {
                    topic: assigned.topic.to_string(),
                    partition: assigned.partition,
                    offset: damaged.offset,
                    reason: damaged.reason,
                };
                self.ready.push_front(ready);
                self.fetch_again(at);
                return Err(error);
            }
        };
        let mut next_offset = ready.from;
        for batch in ready.batches.drain(..count) {
            self.ready_bytes -= batch.len();
            next_offset = next_offset.max(batch.last_offset + 1);
        }
        let fetched = Fetched {
            topic: assigned.topic.clone(),
            partition: assigned.partition,
            records,
            next_offset,
            high_watermark: ready.high_watermark,
        };
        if !ready.batches.is_empty() {
            ready.from = next_offset;
            self.ready.push_front(ready);
        }
        Ok(Some(fetched))
    }
}

impl Consumer {
    /// Forgets what is fetched of a partition and not read, so that it is fetched again.
    fn fetch_again(&mut self, at: usize) {
        let oldest = self.ready.iter().find(|ready| ready.at == at);
        if let Some(from) = oldest.map(|ready| ready.from) {
            self.assigned[at].position = Some(from);
        }
        self.ready.retain(|ready| ready.at != at);
        let left = self.ready.iter().flat_map(|ready| &ready.batches);
        self.ready_bytes = left.map(FetchedBatch::len).sum();
    }
}

type Read = std::result::Result<(Vec<ConsumerRecord>, usize), crate::batch::DamagedBatch>;

/// The records of the first batches, and how many batches those are.
fn read_some(batches: &VecDeque<FetchedBatch>, from: i64, max: usize) -> Read {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut count = 0;
    for batch in batches {
        let first = records.len();
        batch.read(from, max, &mut records)?;
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

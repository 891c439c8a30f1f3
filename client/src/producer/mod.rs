//! The producer: records wait in batches a partition, one task sends them.
//!
//! `accumulator` is where records wait, `sender` the task, `slot` what it keeps of each partition,
//! `request` one Produce request and its answer.

mod accumulator;
mod request;
mod sender;
mod slot;

use crate::batch::size_bound;
use crate::cluster::Cluster;
use crate::compression::Compression;
use crate::config::ClientConfig;
use crate::error::{Error, Result};
use crate::record::Record;
use accumulator::{Accumulator, Outcome};
use sender::Sender;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

/// Who must have a record before it counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// Nobody: the broker does not answer, and offsets stay unknown.
    None,
    /// The leader.
    Leader,
    /// Every replica in sync; for Tidelog, a majority on disk.
    #[default]
    All,
}

impl Acks {
    fn code(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// How records are sent.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    pub acks: Acks,
    /// Numbers the batches so that none is written twice or out of order, whatever is sent again.
    /// Only with [`Acks::All`].
    pub idempotent: bool,
    pub compression: Compression,
    /// A batch is sent when it has this many bytes before compression, or after `linger`.
    pub batch_bytes: usize,
    pub linger: Duration,
    /// Records waiting or on their way; [`Producer::send`] waits when they are more.
    pub buffer_bytes: usize,
    /// Batches of several partitions travel together up to this size.
    pub request_bytes_max: usize,
    /// Requests to one broker that are not answered yet; 5 is the most a broker can put in order.
    pub in_flight_max: usize,
    /// From [`Producer::send`] to the last attempt.
    pub delivery_timeout: Duration,
    /// Lets the broker create topics that do not exist, if it is set to (`auto.create.topics.enable`).
    pub create_topics: bool,
}

impl Default for ProducerConfig {
    fn default() -> ProducerConfig {
        ProducerConfig {
            acks: Acks::All,
            idempotent: true,
            compression: Compression::None,
            batch_bytes: 512 << 10,
            linger: Duration::from_millis(5),
            buffer_bytes: 32 << 20,
            request_bytes_max: 4 << 20,
            in_flight_max: 5,
            delivery_timeout: Duration::from_secs(120),
            create_topics: true,
        }
    }
}

impl ProducerConfig {
    fn check(&self) -> Result<()> {
        let bad = |setting, reason: String| Err(Error::Config { setting, reason });
        if self.idempotent && self.acks != Acks::All {
            return bad("idempotent", "needs acks=all".to_owned());
        }
        if !(1..=5).contains(&self.in_flight_max) {
            let reason = format!("{} is not between 1 and 5", self.in_flight_max);
            return bad("in_flight_max", reason);
        }
        let range = 1024..=1 << 30;
        for (setting, bytes) in [
            ("batch_bytes", self.batch_bytes),
            ("buffer_bytes", self.buffer_bytes),
        ] {
            if !range.contains(&bytes) {
                return bad(setting, format!("{bytes} is not between 1024 and 2^30"));
            }
        }
        Ok(())
    }
}

/// Where a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPosition {
    pub partition: i32,
    /// None when the broker did not say: `acks=0`, or a batch it had already and no longer remembers
    /// the place of.
    pub offset: Option<i64>,
}

/// Resolves when the record is written, or is known not to be. Dropping it changes nothing.
#[derive(Debug, Clone)]
#[must_use = "the record's fate is known only from this, or as a whole from flush()"]
pub struct Delivery {
    outcome: Outcome,
    partition: i32,
    index: i32,
}

impl Future for Delivery {
    type Output = Result<RecordPosition>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let written = match ready!(Pin::new(&mut self.outcome).poll(context)) {
            Ok(outcome) => outcome?,
            // The sending task ended with the batch in its hands.
            Err(_) => return Poll::Ready(Err(Error::Closed)),
        };
        Poll::Ready(Ok(RecordPosition {
            partition: self.partition,
            offset: written.base_offset.map(|base| base + i64::from(self.index)),
        }))
    }
}

/// Sends records. Share it by reference or in an `Arc`; call [`Producer::close`] at the end, because
/// dropping it gives up what is not sent yet.
#[derive(Debug)]
pub struct Producer {
    cluster: Cluster,
    accumulator: Arc<Accumulator>,
    create_topics: bool,
    task: JoinHandle<()>,
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Producer {
    /// # Errors
    /// [`Error::NoBroker`] when no bootstrap address answers, [`Error::Config`] for settings that
    /// exclude each other.
    pub async fn new(client: ClientConfig, config: ProducerConfig) -> Result<Producer> {
        config.check()?;
        let cluster = Cluster::connect(client).await?;
        let create_topics = config.create_topics;
        let accumulator = Arc::new(Accumulator::new(&config));
        let sender = Sender::new(cluster.clone(), config, accumulator.clone());
        Ok(Producer {
            cluster,
            accumulator,
            create_topics,
            task: tokio::spawn(sender.run()),
        })
    }

    /// Puts `record` into its batch, waiting for room first when too much is on its way. Records
    /// for one partition are written in the order of these calls.
    ///
    /// # Errors
    /// When the record cannot be sent at all: its topic or partition does not exist, it is too
    /// large, or no room was made in time. What happens later is the [`Delivery`]'s.
    pub async fn send(&self, record: Record) -> Result<Delivery> {
        let bytes = size_bound(&record);
        let limit = self.accumulator.buffer_bytes();
        if bytes > limit {
            return Err(Error::RecordTooLarge {
                bytes,
                limit,
                setting: "buffer_bytes",
            });
        }
        let topic = match self.cluster.cached_topic(&record.topic) {
            Some(topic) => topic,
            None => {
                self.cluster
                    .topic(&record.topic, self.create_topics)
                    .await?
            }
        };
        self.make_room(bytes).await?;
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(now_ms);
        self.accumulator
            .append(&record, timestamp_ms, topic.partitions.len(), bytes)
    }

    async fn make_room(&self, bytes: usize) -> Result<()> {
        if self.accumulator.try_reserve(bytes) {
            return Ok(());
        }
        let limit = self.cluster.config().call_timeout;
        let reserved = tokio::time::timeout(limit, self.accumulator.reserve(bytes)).await;
        match reserved {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Closed),
            Err(_) => Err(Error::Timeout {
                what: "make room for the record".to_owned(),
                waited_ms: limit.as_millis() as u64,
                last: "the buffer is full of records that the brokers have not taken".to_owned(),
            }),
        }
    }

    /// Waits until every record sent before this call is written or given up.
    ///
    /// # Errors
    /// The first failure among the batches that were still on their way.
    pub async fn flush(&self) -> Result<()> {
        let mut first = Ok(());
        for outcome in self.accumulator.flush() {
            let outcome = outcome.await.unwrap_or(Err(Error::Closed));
            first = first.and(outcome.map(|_| ()));
        }
        first
    }

    /// Flushes, then ends the sending task.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(self) -> Result<()> {
        self.flush().await
    }

    /// How far it has come since it was made.
    pub fn progress(&self) -> Progress {
        self.accumulator.progress()
    }
}

/// What has become of the records so far.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    pub delivered_records: u64,
    pub failed_records: u64,
    pub first_error: Option<Error>,
    /// Records waiting or on their way.
    pub buffered_bytes: usize,
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

//! The producer: records wait in batches a partition, one task sends them.
//!
//! `accumulator` is where records wait, `spare` the buffers they wait in, `sender` the task, `slot` what
//! it keeps of each partition, `request` one Produce request and its answer, `transaction` what becomes
//! visible together, `config` the settings.

mod accumulator;
mod config;
mod request;
mod sender;
mod slot;
mod spare;
mod transaction;

pub use config::{Acks, ProducerConfig};
pub use transaction::Transaction;

use crate::batch::size_bound;
use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::trace::TraceContext;
use accumulator::{Accumulator, Outcome};
use sender::Sender;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use transaction::Transactional;

/// Where a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPosition {
    /// The id of the topic that it was written to; another when a deleted topic's name came back.
    /// All zero when the broker did not say: `acks=0`, or one too old to be told by id (KIP-516).
    pub topic_id: [u8; 16],
    /// The partition it went to: the one asked for, or the partitioner's choice.
    pub partition: i32,
    /// None when the broker did not say: `acks=0`, or a batch it had already and no longer remembers
    /// the place of.
    pub offset: Option<i64>,
}

/// Resolves when the record is written, or is known not to be. Dropping it changes nothing; what
/// became of records is then told as a whole, by [`Producer::flush`] or [`Transaction::commit`].
#[derive(Debug, Clone)]
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
            topic_id: written.topic_id.into_bytes(),
            partition: self.partition,
            offset: written.base_offset.map(|base| base + i64::from(self.index)),
        }))
    }
}

/// Sends records. Clones are the same producer; call [`Producer::close`] at the end, because
/// dropping the last one gives up what is not sent yet.
#[derive(Debug, Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    accumulator: Arc<Accumulator>,
    create_topics: bool,
    trace: bool,
    transactional: Option<Arc<Transactional>>,
    task: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Producer {
    /// Connects; with a [`ProducerConfig::transactional_id`] it also takes over from an earlier
    /// producer of this id, aborting what that one left open.
    ///
    /// # Errors
    /// [`Error::NoBroker`] when no bootstrap address answers, [`Error::Config`] for settings that
    /// exclude each other.
    pub async fn new(client: ClientConfig, config: ProducerConfig) -> Result<Producer> {
        config.check()?;
        let cluster = Cluster::connect(client).await?;
        let (create_topics, trace) = (config.create_topics, config.trace);
        let transactional = match &config.transactional_id {
            Some(id) => {
                let timeout = config.transaction_timeout;
                let begun = Transactional::begin_anew(cluster.clone(), id, timeout);
                Some(Arc::new(begun.await?))
            }
            None => None,
        };
        let accumulator = Arc::new(Accumulator::new(&config));
        let sender = Sender::new(
            cluster.clone(),
            config,
            accumulator.clone(),
            transactional.clone(),
        );
        Ok(Producer {
            inner: Arc::new(Inner {
                cluster,
                accumulator,
                create_topics,
                trace,
                transactional,
                task: tokio::spawn(sender.run()),
            }),
        })
    }

    /// Puts `record` into its batch, waiting for room first when too much is on its way. Records
    /// for one partition are written in the order of these calls.
    ///
    /// # Errors
    /// When the record cannot be sent at all: its topic or partition does not exist, it is too
    /// large, or no room was made in time; or when the producer is transactional and the record
    /// belongs into a [`Transaction`]. What happens later is the [`Delivery`]'s.
    pub async fn send(&self, record: Record) -> Result<Delivery> {
        if self.inner.transactional.is_some() {
            return Err(Error::Config {
                setting: "transactional_id",
                reason: "is set: send within a transaction".to_owned(),
            });
        }
        self.inner.send(record).await
    }

    /// Opens a transaction, waiting until the one before is ended.
    ///
    /// # Errors
    /// [`Error::Config`] without a [`ProducerConfig::transactional_id`], [`Error::Fenced`] when
    /// another producer with this id has begun.
    pub async fn begin(&self) -> Result<Transaction> {
        Transaction::begin(self.inner.clone()).await
    }

    /// Waits until every record sent before this call is written or given up.
    ///
    /// # Errors
    /// The first failure among the batches that were still on their way.
    pub async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    /// Flushes; the sending task ends with the last clone.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(self) -> Result<()> {
        self.flush().await
    }

    /// How far it has come since it was made.
    pub fn progress(&self) -> Progress {
        self.inner.accumulator.progress()
    }
}

impl Inner {
    fn transactional(&self) -> Result<&Arc<Transactional>> {
        self.transactional.as_ref().ok_or_else(|| Error::Config {
            setting: "transactional_id",
            reason: "is not set".to_owned(),
        })
    }

    async fn send(&self, mut record: Record) -> Result<Delivery> {
        if self.trace {
            TraceContext::attach(&mut record);
        }
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

    async fn flush(&self) -> Result<()> {
        let mut first = Ok(());
        for outcome in self.accumulator.flush() {
            let outcome = outcome.await.unwrap_or(Err(Error::Closed));
            first = first.and(outcome.map(|_| ()));
        }
        first
    }
}

/// What has become of the records so far.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Records that are written, since the producer was made.
    pub delivered_records: u64,
    /// Records that are known not to be written, or of which that is not known.
    pub failed_records: u64,
    /// Why the first of `failed_records` failed.
    pub first_error: Option<Error>,
    /// Records waiting or on their way.
    pub buffered_bytes: usize,
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

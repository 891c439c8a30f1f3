//! Records that cannot be dealt with: tried again, and in the end put aside with the reason.

use crate::consumer::Consumer;
use crate::error::{Error, Result};
use crate::offsets::StartPosition;
use crate::producer::Producer;
use crate::record::{ConsumerRecord, Header, Record};
use crate::retry::RetryPolicy;
use crate::topic_partition::TopicPartition;
use bytes::Bytes;
use std::collections::HashMap;
use std::fmt::Display;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep, sleep_until};

const REASON: &str = "dlq.reason";
const TOPIC: &str = "dlq.topic";
const PARTITION: &str = "dlq.partition";
const OFFSET: &str = "dlq.offset";
/// How many retry topics the record has been through.
const ROUND: &str = "dlq.round";
/// Not to be tried before this, in milliseconds since 1970.
const DUE: &str = "dlq.due";

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Handled {
    /// The handler dealt with it.
    Done,
    /// It waits in a retry topic.
    Later,
    /// It is in the dead-letter topic.
    PutAside,
}

/// A consumer whose records are handled one by one; what fails is tried again by a policy, in place
/// or after a while through retry topics, and then put into `TOPIC.dlq` with the reason and its
/// original position in headers (`dlq.reason`, `dlq.topic`, `dlq.partition`, `dlq.offset`).
///
/// A record counts as dealt with once the handler succeeded or the record is written elsewhere: no
/// record is lost, and after a crash some may be handled twice.
///
/// ```no_run
/// # async fn example(consumer: tidelog_client::Consumer, producer: tidelog_client::Producer)
/// # -> tidelog_client::Result<()> {
/// use std::time::Duration;
/// use tidelog_client::{DeadLetters, RetryPolicy};
///
/// let policy = RetryPolicy::exponential(Duration::from_millis(100), Duration::from_secs(5));
/// let mut orders = DeadLetters::new(consumer, producer, policy.with_tries(5));
/// orders.subscribe(["orders"]).await?;
/// loop {
///     orders.next(async |record| charge(record).await).await?;
/// }
/// # }
/// # async fn charge(_: &tidelog_client::ConsumerRecord) -> Result<(), String> { Ok(()) }
/// ```
#[derive(Debug)]
pub struct DeadLetters {
    consumer: Consumer,
    producer: Producer,
    policy: RetryPolicy,
    delays: Vec<Duration>,
    /// Partitions of retry topics whose next record is not due.
    waiting: HashMap<TopicPartition, Instant>,
}

impl DeadLetters {
    /// Handles the records of `consumer`; `producer` writes those that fail elsewhere. It must not
    /// be transactional. `policy` says how often to try in place; without a limit in tries or time
    /// nothing is ever put aside.
    pub fn new(consumer: Consumer, producer: Producer, policy: RetryPolicy) -> DeadLetters {
        DeadLetters {
            consumer,
            producer,
            policy,
            delays: Vec::new(),
            waiting: HashMap::new(),
        }
    }

    /// After the tries in place the record is tried again after each of these delays, through the
    /// topics `TOPIC.retry.1`, `TOPIC.retry.2` and so on, while later records go on.
    #[must_use]
    pub fn with_retry_topics(mut self, delays: impl Into<Vec<Duration>>) -> DeadLetters {
        self.delays = delays.into();
        self
    }

    /// Subscribes to the topics, and to their retry topics.
    ///
    /// # Errors
    /// As [`Consumer::subscribe`].
    pub async fn subscribe<T: Into<String>>(
        &mut self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let mut all = Vec::new();
        for topic in topics {
            let topic = topic.into();
            all.extend((1..=self.delays.len()).map(|round| retry_topic(&topic, round)));
            all.push(topic);
        }
        self.waiting.clear();
        self.consumer.subscribe(all).await
    }

    /// The consumer, for what else is to be done with it.
    pub fn consumer(&mut self) -> &mut Consumer {
        &mut self.consumer
    }

    /// Waits for a record and handles it.
    ///
    /// # Errors
    /// What keeps records from being read or written elsewhere; the record then comes again after
    /// the next start. What the handler says never ends up here.
    pub async fn next<E, F>(&mut self, mut handler: F) -> Result<Handled>
    where
        E: Display,
        F: AsyncFnMut(&ConsumerRecord) -> Result<(), E>,
    {
        let record = self.due_record().await?;
        let Err(reason) = self.try_in_place(&record, &mut handler).await else {
            return Ok(Handled::Done);
        };
        self.put_elsewhere(&record, &reason).await
    }

    /// Handles records until `handler` or the cluster fails for good, or the future is dropped.
    ///
    /// # Errors
    /// As [`DeadLetters::next`].
    pub async fn run<E, F>(&mut self, mut handler: F) -> Result<()>
    where
        E: Display,
        F: AsyncFnMut(&ConsumerRecord) -> Result<(), E>,
    {
        loop {
            self.next(&mut handler).await?;
        }
    }

    /// Leaves the group after committing what is dealt with.
    ///
    /// # Errors
    /// As [`Consumer::close`].
    pub async fn close(self) -> Result<()> {
        self.consumer.close().await
    }

    /// The next record that is due; partitions whose next one is not are paused meanwhile.
    async fn due_record(&mut self) -> Result<ConsumerRecord> {
        loop {
            let now = Instant::now();
            let due = self.waiting.iter().filter(|(_, at)| **at <= now);
            let due: Vec<_> = due.map(|(place, _)| place.clone()).collect();
            self.consumer.resume(&due);
            for place in due {
                self.waiting.remove(&place);
            }
            let next = self.waiting.values().min().copied();
            let record = tokio::select! {
                record = self.consumer.next_record() => record?,
                () = wait_until(next) => continue,
            };
            let wait = number(&record, DUE).map_or(0, |due| due - now_ms());
            if wait <= 0 {
                return Ok(record);
            }
            let place = TopicPartition::new(record.topic.clone(), record.partition);
            self.consumer
                .seek(&place, StartPosition::Offset(record.offset))?;
            self.consumer.pause([&place]);
            let until = Instant::now() + Duration::from_millis(wait as u64);
            self.waiting.insert(place, until);
        }
    }

    async fn try_in_place<E, F>(
        &self,
        record: &ConsumerRecord,
        handler: &mut F,
    ) -> Result<(), String>
    where
        E: Display,
        F: AsyncFnMut(&ConsumerRecord) -> Result<(), E>,
    {
        let began = Instant::now();
        let mut pauses = self.policy.pauses();
        loop {
            let Err(error) = handler(record).await else {
                return Ok(());
            };
            let reason = error.to_string();
            let Some(pause) = pauses.next() else {
                return Err(reason);
            };
            let over = |limit: Duration| began.elapsed() + pause > limit;
            if self.policy.time().is_some_and(over) {
                return Err(reason);
            }
            tracing::debug!(
                "{}-{} offset {}: trying again after {reason}",
                record.topic,
                record.partition,
                record.offset
            );
            sleep(pause).await;
        }
    }

    async fn put_elsewhere(&self, record: &ConsumerRecord, reason: &str) -> Result<Handled> {
        let round = number(record, ROUND)
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0);
        let original = text(record, TOPIC).unwrap_or_else(|| record.topic.to_string());
        let delay = self.delays.get(round);
        let topic = match delay {
            Some(_) => retry_topic(&original, round + 1),
            None => format!("{original}.dlq"),
        };
        let mut moved = Record {
            topic: topic.into(),
            key: record.key.clone(),
            value: record.value.clone(),
            timestamp_ms: Some(record.timestamp_ms),
            ..Record::default()
        };
        let ours = [REASON, ROUND, DUE];
        let theirs = record
            .headers
            .iter()
            .filter(|h| !ours.contains(&h.key.as_str()));
        moved.headers = theirs.cloned().collect();
        let mut add = |key: &str, value: String| {
            moved.headers.push(Header {
                key: key.to_owned(),
                value: Some(Bytes::from(value)),
            });
        };
        add(REASON, reason.to_owned());
        if text(record, TOPIC).is_none() {
            add(TOPIC, original);
            add(PARTITION, record.partition.to_string());
            add(OFFSET, record.offset.to_string());
        }
        if let Some(delay) = delay {
            add(ROUND, (round + 1).to_string());
            add(DUE, (now_ms() + delay.as_millis() as i64).to_string());
        }
        let sent: std::result::Result<_, Error> = self.producer.send(moved).await;
        sent?.await?;
        Ok(match delay {
            Some(_) => Handled::Later,
            None => Handled::PutAside,
        })
    }
}

fn retry_topic(topic: &str, round: usize) -> String {
    format!("{topic}.retry.{round}")
}

/// Waits until then, or for ever.
async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn text(record: &ConsumerRecord, key: &str) -> Option<String> {
    let header = record
        .headers
        .iter()
        .rev()
        .find(|header| header.key == key)?;
    String::from_utf8(header.value.as_deref()?.to_vec()).ok()
}

fn number(record: &ConsumerRecord, key: &str) -> Option<i64> {
    text(record, key)?.parse().ok()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

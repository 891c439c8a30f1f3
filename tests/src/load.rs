//! An idempotent producer that writes on through faults, and the history of what it was told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use krafka::producer::{Acks, DeliveryHandle, Producer};
use krafka::{Kafka, Record};
use tidelog_jepsen::{History, Kind};
use tokio::task::JoinSet;

use crate::wait;

/// Records a partition has in flight; more than one batch, so that retries could reorder them.
const IN_FLIGHT: usize = 32;

/// A producer gives up a record only after this: longer than any fault of a test.
const DELIVERY_LIMIT: Duration = Duration::from_secs(120);

/// One acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub partition: i32,
    pub at: Instant,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    history: History,
    acks: Vec<Ack>,
    errors: Vec<String>,
}

/// What a load was told when it ended.
pub struct Written {
    /// Sends as acknowledged; one process a partition.
    pub history: History,
    pub acks: Vec<Ack>,
}

/// A running load: one writer a partition, all through one producer.
pub struct Load {
    shared: Arc<Shared>,
    writers: JoinSet<Result<()>>,
}

/// The name of a partition in histories.
#[must_use]
pub fn key_of(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

/// A client of the cluster that looks for new leaders quickly.
///
/// # Errors
/// When no broker can be reached.
pub async fn connect(bootstrap: &str) -> Result<Kafka> {
    let builder = Kafka::builder(bootstrap.to_owned())
        .client_id("tidelog-tests")
        .request_timeout(Duration::from_secs(5))
        .connect_timeout(Duration::from_secs(2));
    builder.connect().await.context("connect")
}

/// An idempotent producer with every acknowledgement that there is.
///
/// # Errors
/// When the client refuses its settings.
pub async fn producer(kafka: &Kafka) -> Result<Producer> {
    let builder = kafka
        .producer()
        .acks(Acks::All)
        .idempotent(true)
        .linger(Duration::from_millis(1))
        .batch_size(2 << 10)
        .retry_backoff(Duration::from_millis(20))
        .delivery_timeout(DELIVERY_LIMIT);
    builder.build().await.context("build a producer")
}

impl Load {
    /// Begins to write to partitions `[0, partitions)` of a topic that exists.
    ///
    /// # Errors
    /// When no broker can be reached.
    pub async fn start(bootstrap: &str, topic: &str, partitions: i32) -> Result<Self> {
        Self::start_at(bootstrap, topic, partitions, 0).await
    }

    /// As [`Load::start`], with values that begin at `first`: for a second load on a topic.
    ///
    /// # Errors
    /// When no broker can be reached.
    pub async fn start_at(
        bootstrap: &str,
        topic: &str,
        partitions: i32,
        first: u64,
    ) -> Result<Self> {
        let kafka = connect(bootstrap).await?;
        let producer = Arc::new(producer(&kafka).await?);
        let shared = Arc::new(Shared::default());
        let mut writers = JoinSet::new();
        for partition in 0..partitions {
            let (shared, producer) = (Arc::clone(&shared), Arc::clone(&producer));
            writers.spawn(write(shared, producer, topic.to_owned(), partition, first));
        }
        Ok(Self { shared, writers })
    }

    /// Acknowledged records so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for `count` more acknowledgements than there are now.
    ///
    /// # Errors
    /// When they do not come within `limit`.
    pub async fn progress(&self, count: u64, limit: Duration) -> Result<()> {
        let wanted = self.acknowledged() + count;
        let what = format!("{count} more acknowledged records");
        wait::until(&what, limit, async || {
            Ok((self.acknowledged() >= wanted).then_some(()))
        })
        .await
    }

    /// The first acknowledgement of a partition after a moment, if it has come.
    #[must_use]
    pub fn first_ack_after(&self, partition: i32, after: Instant) -> Option<Instant> {
        let told = self
            .shared
            .told
            .lock()
            .expect("no writer panics while it holds this");
        told.acks
            .iter()
            .find(|ack| ack.partition == partition && ack.at > after)
            .map(|ack| ack.at)
    }

    /// Ends the load once everything in flight is answered.
    ///
    /// # Errors
    /// When a record was not acknowledged: this producer is to see no error from any fault.
    pub async fn finish(mut self) -> Result<Written> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended??;
        }
        let mut told = self
            .shared
            .told
            .lock()
            .expect("no writer panics while it holds this");
        let told = std::mem::take(&mut *told);
        if !told.errors.is_empty() {
            bail!(
                "{} records failed, first: {}",
                told.errors.len(),
                told.errors[0]
            );
        }
        Ok(Written {
            history: told.history,
            acks: told.acks,
        })
    }
}

async fn write(
    shared: Arc<Shared>,
    producer: Arc<Producer>,
    topic: String,
    partition: i32,
    first: u64,
) -> Result<()> {
    let key = key_of(&topic, partition);
    let mut in_flight: VecDeque<(u64, DeliveryHandle)> = VecDeque::new();
    let mut next = first;
    loop {
        let stop = shared.stop.load(Ordering::Relaxed);
        if !stop {
            let record = Record::new(topic.as_str(), next.to_string()).partition(partition);
            in_flight.push_back((next, producer.enqueue(record).await?));
            next += 1;
        }
        if !stop && in_flight.len() < IN_FLIGHT {
            continue;
        }
        let Some((value, handle)) = in_flight.pop_front() else {
            return Ok(());
        };
        let answer = handle.await;
        let at = Instant::now();
        let mut told = shared
            .told
            .lock()
            .expect("no writer panics while it holds this");
        match answer {
            Ok(metadata) if metadata.is_persisted() => {
                let offset = metadata.is_success().then_some(metadata.offset);
                told.history
                    .send_ok(partition.cast_unsigned(), &key, value, offset);
                told.acks.push(Ack { partition, at });
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            other => {
                told.history
                    .send_ended(partition.cast_unsigned(), Kind::Info, &key, value);
                told.errors.push(format!("{key} value {value}: {other:?}"));
                if told.errors.len() > 100 {
                    bail!("{key}: too many errors, last {other:?}");
                }
            }
        }
    }
}

//! Clients that append: with acknowledgements alone, or in transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tidelog_client::{Error, Producer, ProducerConfig, Record};

use super::random::Random;
use super::recorder::{Recorder, Timed};
use super::{Run, key_of};
use crate::history::{Kind, Op, ProcessId};

/// Values are unique over all clients of a run.
static NEXT_VALUE: AtomicU64 = AtomicU64::new(1);

fn next_value() -> u64 {
    NEXT_VALUE.fetch_add(1, Ordering::Relaxed)
}

/// One appending client.
pub struct Writer {
    pub run: Arc<Run>,
    pub recorder: Arc<Recorder>,
    pub stop: Arc<AtomicBool>,
    pub process: ProcessId,
    pub topic: String,
}

impl Writer {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn record(&self, partition: i32, value: u64, padding: usize) -> Record {
        let mut text = value.to_string();
        text.extend(std::iter::once(' ').cycle().take(padding));
        Record::new(self.topic.as_str(), text).with_partition(partition)
    }

    fn timed(&self, f: &'static str, began_ms: u64, kind: Kind, records: usize) -> Timed {
        Timed {
            process: self.process,
            f,
            kind,
            partition: None,
            began_ms,
            ended_ms: 0,
            records,
        }
    }

    /// A producer that is made anew until a broker answers.
    async fn producer(&self, config: ProducerConfig) -> Option<Producer> {
        while self.goes_on() {
            match Producer::new(self.run.client(), config.clone()).await {
                Ok(producer) => return Some(producer),
                Err(error) => self.recorder.error(&error),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        None
    }

    /// Appends to one partition, a few values at a time, until told to stop.
    pub async fn append(self, partition: i32) {
        let config = ProducerConfig::default()
            .with_linger(Duration::from_millis(1))
            .with_batch_bytes(if self.run.large_batches {
                512 << 10
            } else {
                2 << 10
            })
            .with_delivery_timeout(Duration::from_secs(120));
        let Some(producer) = self.producer(config).await else {
            return;
        };
        let mut random = Random::new(u64::from(self.process));
        while self.goes_on() {
            let count = random.between(1, 12) as usize;
            let padding = if self.run.large_batches { 60_000 } else { 200 };
            self.append_once(&producer, partition, count, padding).await;
            tokio::time::sleep(Duration::from_millis(random.between(1, 25))).await;
        }
        let _ = tokio::time::timeout(Duration::from_secs(10), producer.close()).await;
    }

    async fn append_once(&self, producer: &Producer, partition: i32, count: usize, padding: usize) {
        let began_ms = self.recorder.now_ms();
        let key = key_of(&self.topic, partition);
        let values: Vec<u64> = (0..count).map(|_| next_value()).collect();
        let mut waiting = Vec::new();
        for value in &values {
            waiting.push(producer.send(self.record(partition, *value, padding)).await);
        }
        let mut worst = Kind::Ok;
        for (value, sent) in values.into_iter().zip(waiting) {
            let outcome = match sent {
                Ok(delivery) => delivery.await,
                Err(error) => Err(error),
            };
            let (kind, offsets) = match outcome {
                Ok(position) => (Kind::Ok, vec![position.offset]),
                Err(error) => {
                    self.recorder.error(&error);
                    worst = Kind::Info;
                    (Kind::Info, Vec::new())
                }
            };
            let op = Op::Send {
                key: key.clone(),
                values: vec![value],
                offsets,
            };
            self.recorder.event(self.process, kind, op);
        }
        let mut timed = self.timed("send", began_ms, worst, count);
        timed.partition = Some(partition);
        self.recorder.timed(timed);
    }

    /// Appends to several partitions in transactions, of which some are aborted.
    pub async fn transact(self) {
        let config = ProducerConfig::default()
            .with_linger(Duration::from_millis(1))
            .with_delivery_timeout(Duration::from_secs(60))
            .with_transaction_timeout(Duration::from_secs(15))
            .with_transactional_id(format!("jepsen-{}", self.process));
        let mut random = Random::new(u64::from(self.process));
        let mut known: Option<Producer> = None;
        while self.goes_on() {
            // Now and then another producer takes the id over.
            if random.between(0, 40) == 0 {
                known = None;
            }
            let producer = match known.take() {
                Some(producer) => producer,
                None => match self.producer(config.clone()).await {
                    Some(producer) => producer,
                    None => return,
                },
            };
            if self.transact_once(&producer, &mut random).await {
                known = Some(producer);
            }
            tokio::time::sleep(Duration::from_millis(random.between(1, 40))).await;
        }
    }

    /// One transaction; false when the producer is of no more use.
    async fn transact_once(&self, producer: &Producer, random: &mut Random) -> bool {
        let began_ms = self.recorder.now_ms();
        let transaction = match producer.begin().await {
            Ok(transaction) => transaction,
            Err(error) => {
                self.recorder.error(&error);
                return false;
            }
        };
        let (mut keys, mut values, mut deliveries) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..random.between(1, 7) {
            let (partition, value) = (self.run.partition(random), next_value());
            keys.push(key_of(&self.topic, partition));
            values.push(value);
            // What fails is told by the commit.
            deliveries.push(transaction.send(self.record(partition, value, 50)).await);
        }
        if random.between(0, 3) == 0 {
            let _ = offsets_of(&deliveries).await;
        }
        let aborts = random.between(0, 4) == 0;
        let txn = |offsets| Op::Txn {
            keys: keys.clone(),
            values: values.clone(),
            offsets,
        };
        let ended = if aborts {
            transaction.abort().await
        } else {
            self.recorder
                .event(self.process, Kind::Invoke, txn(Vec::new()));
            transaction.commit().await
        };
        let (kind, offsets) = match &ended {
            Ok(()) if aborts => (Kind::Fail, Vec::new()),
            Ok(()) => (Kind::Ok, offsets_of(&deliveries).await),
            // The commit was never asked for: it was aborted, or will be when its time is over.
            Err(_) if aborts => (Kind::Fail, Vec::new()),
            Err(Error::TransactionFailed { .. }) => (Kind::Fail, Vec::new()),
            Err(_) => (Kind::Info, Vec::new()),
        };
        if let Err(error) = &ended {
            self.recorder.error(error);
        }
        self.recorder.event(self.process, kind, txn(offsets));
        self.recorder
            .timed(self.timed("txn", began_ms, kind, values.len()));
        !matches!(ended, Err(Error::Fenced { .. }))
    }
}

async fn offsets_of(
    deliveries: &[tidelog_client::Result<tidelog_client::Delivery>],
) -> Vec<Option<i64>> {
    let mut offsets = Vec::new();
    for delivery in deliveries {
        offsets.push(match delivery {
            // A clone, as a delivery may be waited for once only.
            Ok(delivery) => delivery
                .clone()
                .await
                .ok()
                .and_then(|position| position.offset),
            Err(_) => None,
        });
    }
    offsets
}

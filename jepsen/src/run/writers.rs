//! Clients that append: with acknowledgements alone, or in transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidelog_client::{
    Consumer, ConsumerConfig, Error, Isolation, Producer, ProducerConfig, Record, StartPosition,
};

use super::clients::Client;
use super::random::Random;
use super::readers::number;
use super::recorder::Timed;
use super::{APPENDED, key_of};
use crate::history::{Key, Kind, Op, Value};

/// Values are unique over all clients of a run.
static NEXT_VALUE: AtomicU64 = AtomicU64::new(1);

pub(super) fn next_value() -> u64 {
    NEXT_VALUE.fetch_add(1, Ordering::Relaxed)
}

/// One appending client.
pub struct Writer(pub Client);

impl Writer {
    fn record(&self, partition: i32, value: u64, padding: usize) -> Record {
        let mut text = value.to_string();
        text.extend(std::iter::once(' ').cycle().take(padding));
        Record::new(self.0.topic.as_str(), text).with_partition(partition)
    }

    /// Appends to one partition, a few values at a time, until told to stop.
    pub async fn append(self, partition: i32) {
        let config = ProducerConfig::default()
            .with_linger(Duration::from_millis(1))
            .with_batch_bytes(if self.0.run.large_batches {
                512 << 10
            } else {
                2 << 10
            })
            .with_delivery_timeout(Duration::from_secs(120));
        let Some(producer) = self.0.producer(config).await else {
            return;
        };
        let mut random = Random::new(u64::from(self.0.process));
        while self.0.goes_on() {
            let count = random.between(1, 12) as usize;
            let padding = if self.0.run.large_batches {
                60_000
            } else {
                200
            };
            self.append_once(&producer, partition, count, padding).await;
            tokio::time::sleep(Duration::from_millis(random.between(1, 25))).await;
        }
        let _ = tokio::time::timeout(Duration::from_secs(10), producer.close()).await;
    }

    async fn append_once(&self, producer: &Producer, partition: i32, count: usize, padding: usize) {
        let began_ms = self.0.recorder.now_ms();
        let key = key_of(&self.0.topic, partition);
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
                    self.0.recorder.error(&error);
                    worst = Kind::Info;
                    (Kind::Info, Vec::new())
                }
            };
            let op = Op::Send {
                key: key.clone(),
                values: vec![value],
                offsets,
            };
            self.0.event(kind, op);
        }
        self.0.recorder.timed(Timed {
            process: self.0.process,
            f: "send",
            kind: worst,
            // Recovery is measured where somebody appends all the time.
            partition: (self.0.topic == APPENDED).then_some(partition),
            began_ms,
            ended_ms: 0,
            records: count,
        });
    }

    /// Appends to a few of many partitions at a time: to those whose number leaves `part` when
    /// divided by `parts`.
    pub async fn scatter(self, part: i32, parts: i32) {
        let config = ProducerConfig::default()
            .with_linger(Duration::from_millis(1))
            .with_delivery_timeout(Duration::from_secs(120));
        let Some(producer) = self.0.producer(config).await else {
            return;
        };
        let mut random = Random::new(u64::from(self.0.process));
        let rounds = (self.0.partitions - part + parts - 1) / parts;
        while self.0.goes_on() {
            let mut appends = Vec::new();
            let mut chosen = BTreeSet::new();
            for _ in 0..10 {
                chosen.insert(random.between(0, rounds as u64) as i32 * parts + part);
            }
            for partition in chosen {
                appends.push(self.append_once(&producer, partition, 2, 20));
            }
            futures_util::future::join_all(appends).await;
            tokio::time::sleep(Duration::from_millis(random.between(5, 40))).await;
        }
        let _ = tokio::time::timeout(Duration::from_secs(10), producer.close()).await;
    }

    /// Appends to several partitions in transactions, of which some are aborted.
    pub async fn transact(self) {
        let config = ProducerConfig::default()
            .with_linger(Duration::from_millis(1))
            .with_delivery_timeout(Duration::from_secs(60))
            .with_transaction_timeout(Duration::from_secs(15))
            .with_transactional_id(format!("jepsen-{}", self.0.process));
        let mut random = Random::new(u64::from(self.0.process));
        let mut known: Option<Producer> = None;
        let mut consumer: Option<Consumer> = None;
        while self.0.goes_on() {
            // Now and then another producer takes the id over.
            if random.between(0, 40) == 0 {
                known = None;
            }
            let producer = match known.take() {
                Some(producer) => producer,
                None => match self.0.producer(config.clone()).await {
                    Some(producer) => producer,
                    None => return,
                },
            };
            if consumer.is_none() {
                consumer = self.follow_all().await;
            }
            let transacted = self.transact_once(&producer, consumer.as_mut(), &mut random);
            if transacted.await {
                known = Some(producer);
            }
            tokio::time::sleep(Duration::from_millis(random.between(1, 40))).await;
        }
    }

    /// Reads committed values of all partitions, from their ends on.
    async fn follow_all(&self) -> Option<Consumer> {
        let config = ConsumerConfig::default().with_isolation(Isolation::ReadCommitted);
        let places = (0..self.0.partitions).map(|p| (&*self.0.topic, p, StartPosition::Latest));
        let made = async {
            let mut consumer = Consumer::new(self.0.config(), config).await?;
            consumer.assign(places).await?;
            let keys = (0..self.0.partitions).map(|p| key_of(&self.0.topic, p));
            let keys = keys.collect();
            self.0.event(Kind::Ok, Op::Assign { keys });
            Ok::<Consumer, tidelog_client::Error>(consumer)
        };
        let made = made.await.inspect_err(|error| self.0.recorder.error(error));
        made.ok()
    }

    /// What a transaction reads before it writes: it waits no longer than a few milliseconds.
    async fn poll_within(&self, consumer: &mut Consumer) -> BTreeMap<Key, Vec<(i64, Value)>> {
        let mut reads: BTreeMap<Key, Vec<(i64, Value)>> = BTreeMap::new();
        let wait = Duration::from_millis(5);
        while let Ok(Ok(fetched)) = tokio::time::timeout(wait, consumer.next()).await {
            let records = fetched.records.iter().filter_map(|record| {
                let value = number(record.value.as_deref()?).ok()?;
                Some((record.offset, value))
            });
            let records: Vec<(i64, Value)> = records.collect();
            if !records.is_empty() {
                let key = key_of(&fetched.topic, fetched.partition);
                let polled = BTreeMap::from([(key.clone(), records.clone())]);
                self.0.event(Kind::Ok, Op::Poll { records: polled });
                reads.entry(key).or_default().extend(records);
            }
            if fetched.at_end() {
                break;
            }
        }
        reads
    }

    /// One transaction; false when the producer is of no more use.
    async fn transact_once(
        &self,
        producer: &Producer,
        consumer: Option<&mut Consumer>,
        random: &mut Random,
    ) -> bool {
        let began_ms = self.0.recorder.now_ms();
        let transaction = match producer.begin().await {
            Ok(transaction) => transaction,
            Err(error) => {
                self.0.recorder.error(&error);
                return false;
            }
        };
        let reads = match consumer {
            Some(consumer) => self.poll_within(consumer).await,
            None => BTreeMap::new(),
        };
        let (mut keys, mut values, mut deliveries) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..random.between(1, 7) {
            let (partition, value) = (
                random.between(0, self.0.partitions as u64) as i32,
                next_value(),
            );
            keys.push(key_of(&self.0.topic, partition));
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
            reads: reads.clone(),
        };
        let ended = if aborts {
            transaction.abort().await
        } else {
            self.0.event(Kind::Invoke, txn(Vec::new()));
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
            self.0.recorder.error(error);
        }
        self.0.event(kind, txn(offsets));
        self.0.timed("txn", began_ms, kind, values.len());
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

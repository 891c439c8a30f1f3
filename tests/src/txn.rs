//! A transactional producer by hand: it does only what it is told, and says what it was answered.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::RecordBatchDecoder;

use crate::batch::Batch;
use crate::cluster::Cluster;
use crate::read::topic_name;
use crate::wire::Wire;
use crate::{Broker, topics, wait};

const COORDINATOR_LIMIT: Duration = Duration::from_secs(30);
const TRANSACTION: i8 = 1;
const TRANSACTIONAL: i16 = 0x10;
/// The versions of clients that know transaction version 2, and of those before.
const PRODUCE: [i16; 2] = [12, 10];
const END: [i16; 2] = [5, 3];

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

fn transactional_id(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

/// The living broker that coordinates a transactional id, as the cluster says.
///
/// # Errors
/// When there is none in time.
pub async fn coordinator<'a>(cluster: &'a Cluster, id: &str) -> Result<&'a Broker> {
    let found = wait::until("a transaction coordinator", COORDINATOR_LIMIT, async || {
        for broker in cluster.brokers.iter().filter(|b| b.is_started()) {
            let Ok(mut wire) = Wire::connect(broker.kafka).await else {
                continue;
            };
            let find = FindCoordinatorRequest::default()
                .with_key_type(TRANSACTION)
                .with_coordinator_keys(vec![text(id)]);
            let Ok(found) = wire.call(&find, 4).await else {
                continue;
            };
            let found = found.coordinators.into_iter().next().context("an answer")?;
            let known = cluster.brokers.iter().find(|b| b.id == found.node_id.0);
            if let Some(named) = known.filter(|b| found.error_code == 0 && b.is_started()) {
                return Ok(Some(named.id));
            }
        }
        Ok(None)
    })
    .await?;
    Ok(cluster.broker(found))
}

/// Errors that pass while coordinators and leaders move or a transaction is ending.
pub(crate) fn is_passing(code: i16) -> bool {
    [
        ResponseError::NotCoordinator,
        ResponseError::CoordinatorLoadInProgress,
        ResponseError::CoordinatorNotAvailable,
        ResponseError::ConcurrentTransactions,
        ResponseError::NotLeaderOrFollower,
        ResponseError::NotEnoughReplicas,
        ResponseError::RequestTimedOut,
        ResponseError::UnknownTopicOrPartition,
    ]
    .iter()
    .any(|e| e.code() == code)
}

/// One transactional id, and the identity it got.
pub struct TxnProducer {
    pub id: String,
    pub producer_id: i64,
    pub epoch: i16,
    /// Behaves as clients of before transaction version 2.
    pub old: bool,
    /// Next sequence by topic and partition.
    sequences: std::collections::HashMap<(String, i32), i32>,
}

impl TxnProducer {
    /// Gets an identity, waiting for whoever had one before to be fenced.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn init(cluster: &Cluster, id: &str, timeout_ms: i32, old: bool) -> Result<Self> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional_id(id)))
            .with_transaction_timeout_ms(timeout_ms);
        let answer = wait::until("an identity", COORDINATOR_LIMIT, async || {
            let Ok(mut wire) = Wire::connect(coordinator(cluster, id).await?.kafka).await else {
                return Ok(None);
            };
            let Ok(answer) = wire.call(&request, 4).await else {
                return Ok(None);
            };
            match answer.error_code {
                0 => Ok(Some(answer)),
                code if is_passing(code) => Ok(None),
                code => bail!("InitProducerId: error {code}"),
            }
        })
        .await?;
        Ok(Self {
            id: id.to_owned(),
            producer_id: answer.producer_id.0,
            epoch: answer.producer_epoch,
            old,
            sequences: Default::default(),
        })
    }

    pub(crate) fn transactional_id(&self) -> TransactionalId {
        transactional_id(&self.id)
    }

    /// The Produce request of a batch of this transaction; the sequence goes on with each call.
    pub fn request(&mut self, topic: &str, partition: i32, values: &[&str]) -> ProduceRequest {
        let values: Vec<&[u8]> = values.iter().map(|v| v.as_bytes()).collect();
        let batch = self.number(topic, partition, Batch::of(&values));
        self.request_of(topic, partition, batch)
    }

    /// Makes it a batch of this transaction; the sequence goes on.
    fn number(&mut self, topic: &str, partition: i32, batch: Batch) -> Bytes {
        let next = self
            .sequences
            .entry((topic.to_owned(), partition))
            .or_default();
        let mut batch = batch.by(self.producer_id, self.epoch, *next);
        *next += batch.count;
        batch.attributes = TRANSACTIONAL;
        batch.encode()
    }

    /// The Produce request of any batch.
    #[must_use]
    pub fn request_of(&self, topic: &str, partition: i32, batch: Bytes) -> ProduceRequest {
        let data = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(batch));
        let topic = TopicProduceData::default()
            .with_name(topic_name(topic))
            .with_partition_data(vec![data]);
        ProduceRequest::default()
            .with_transactional_id(Some(transactional_id(&self.id)))
            .with_acks(-1)
            .with_timeout_ms(5_000)
            .with_topic_data(vec![topic])
    }

    /// The version of its Produce requests.
    #[must_use]
    pub fn produce_version(&self) -> i16 {
        PRODUCE[usize::from(self.old)]
    }

    /// Writes to a partition, until it is taken or refused for good; old clients add it first. Error
    /// code and base offset.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn produce(
        &mut self,
        cluster: &Cluster,
        topic: &str,
        partition: i32,
        values: &[&str],
    ) -> Result<(i16, i64)> {
        let values: Vec<&[u8]> = values.iter().map(|v| v.as_bytes()).collect();
        let batch = Batch::of(&values);
        self.produce_batch(cluster, topic, partition, batch).await
    }

    /// [`TxnProducer::produce`] of any batch of records.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn produce_batch(
        &mut self,
        cluster: &Cluster,
        topic: &str,
        partition: i32,
        batch: Batch,
    ) -> Result<(i16, i64)> {
        if self.old {
            let code = self.add(cluster, topic, partition).await?;
            if code != 0 {
                return Ok((code, -1));
            }
        }
        let batch = self.number(topic, partition, batch);
        let request = self.request_of(topic, partition, batch);
        let version = self.produce_version();
        wait::until("a produce answer", COORDINATOR_LIMIT, async || {
            let leader = topics::leader_of(cluster, topic, partition).await?;
            let Ok(mut wire) = Wire::connect(cluster.broker(leader).kafka).await else {
                return Ok(None);
            };
            let Ok(answer) = wire.call(&request, version).await else {
                return Ok(None);
            };
            let answer = &answer.responses[0].partition_responses[0];
            let passing = is_passing(answer.error_code);
            Ok((!passing).then_some((answer.error_code, answer.base_offset)))
        })
        .await
    }

    /// AddPartitionsToTxn as old clients send it; the error code.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn add(&self, cluster: &Cluster, topic: &str, partition: i32) -> Result<i16> {
        let topics = AddPartitionsToTxnTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(transactional_id(&self.id))
            .with_v3_and_below_producer_id(ProducerId(self.producer_id))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![topics]);
        let answer = self.ask(cluster, &request, 3, |a| {
            a.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
        });
        let answer = answer.await?;
        let topic = &answer.results_by_topic_v3_and_below[0];
        Ok(topic.results_by_partition[0].partition_error_code)
    }

    /// The EndTxn request.
    #[must_use]
    pub fn end_request(&self, commit: bool) -> EndTxnRequest {
        EndTxnRequest::default()
            .with_transactional_id(transactional_id(&self.id))
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_committed(commit)
    }

    /// The version of its EndTxn requests.
    #[must_use]
    pub fn end_version(&self) -> i16 {
        END[usize::from(self.old)]
    }

    /// Commits or aborts, sending again until it is decided; the error code. Takes over the new epoch.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn end(&mut self, cluster: &Cluster, commit: bool) -> Result<i16> {
        let request = self.end_request(commit);
        let version = self.end_version();
        let answer = self
            .ask(cluster, &request, version, |a| a.error_code)
            .await?;
        if answer.error_code == 0 && !self.old {
            self.producer_id = answer.producer_id.0;
            self.epoch = answer.producer_epoch;
            self.sequences.clear();
        }
        Ok(answer.error_code)
    }

    /// Asks the coordinator until it answers with something that lasts.
    pub(crate) async fn ask<R>(
        &self,
        cluster: &Cluster,
        request: &R,
        version: i16,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response>
    where
        R: kafka_protocol::protocol::Request,
    {
        wait::until("the coordinator's answer", COORDINATOR_LIMIT, async || {
            let Ok(mut wire) = Wire::connect(coordinator(cluster, &self.id).await?.kafka).await
            else {
                return Ok(None);
            };
            let Ok(answer) = wire.call(request, version).await else {
                return Ok(None);
            };
            Ok((!is_passing(code(&answer))).then_some(answer))
        })
        .await
    }
}

/// What a `read_committed` reader is given of a partition from its beginning, and up to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub values: Vec<String>,
    pub last_stable_offset: i64,
    pub high_watermark: i64,
}

/// Reads a partition from one broker's replica as a `read_committed` consumer does: skips what the
/// answer lists as aborted.
///
/// # Errors
/// When the broker does not serve the partition.
pub async fn read_committed(broker: &Broker, topic: &str, partition: i32) -> Result<Committed> {
    let mut wire = Wire::connect(broker.kafka).await?;
    let mut read = Committed {
        values: Vec::new(),
        last_stable_offset: 0,
        high_watermark: 0,
    };
    let mut next = 0;
    loop {
        let request = fetch_request(topic, partition, next);
        let mut answer = wire.call(&request, 12).await?;
        let mut topic = answer.responses.pop().context("a topic")?;
        let data = topic.partitions.pop().context("a partition")?;
        if data.error_code != 0 {
            bail!("fetch at {next}: error {}", data.error_code);
        }
        read.last_stable_offset = data.last_stable_offset;
        read.high_watermark = data.high_watermark;
        if next >= data.last_stable_offset {
            return Ok(read);
        }
        let aborted = data.aborted_transactions.unwrap_or_default();
        let mut aborted: Vec<(i64, i64)> = aborted
            .into_iter()
            .map(|a| (a.first_offset, a.producer_id.0))
            .collect();
        aborted.sort_unstable();
        let bytes = data.records.unwrap_or_default();
        let before = next;
        take_records(bytes, &mut next, aborted, &mut read.values)?;
        if next == before {
            bail!("nothing at {next} below {}", data.last_stable_offset);
        }
    }
}

fn fetch_request(topic: &str, partition: i32, offset: i64) -> FetchRequest {
    let asked = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(4 << 20);
    let topic = FetchTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![asked]);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(1)
        .with_max_bytes(16 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

/// Adds the values of all committed records; `next` becomes the offset after the last batch, which may have
/// no records any more where the log is compacted.
fn take_records(
    mut bytes: Bytes,
    next: &mut i64,
    aborted: Vec<(i64, i64)>,
    values: &mut Vec<String>,
) -> Result<()> {
    let mut hidden = std::collections::HashSet::new();
    let mut aborted = aborted.into_iter().peekable();
    while !bytes.is_empty() {
        let field = |at: usize| -> Result<i32> {
            let field = bytes.get(at..at + 4).context("a cut header")?;
            Ok(i32::from_be_bytes(field.try_into()?))
        };
        let base = i64::from_be_bytes(bytes[..8].try_into()?);
        let (size, last) = (12 + field(8)? as usize, base + i64::from(field(23)?));
        let is_empty = field(57)? == 0;
        let mut batch = bytes.split_to(size.min(bytes.len()));
        let sets = if is_empty {
            Vec::new()
        } else {
            RecordBatchDecoder::decode_all(&mut batch)?
        };
        for record in sets.into_iter().flat_map(|set| set.records) {
            while let Some((_, producer)) = aborted.next_if(|(first, _)| *first <= record.offset) {
                hidden.insert(producer);
            }
            if record.control {
                hidden.remove(&record.producer_id);
            } else if record.offset >= *next
                && !(record.transactional && hidden.contains(&record.producer_id))
            {
                let value = record.value.context("a value")?;
                values.push(String::from_utf8(value.to_vec())?);
            }
        }
        *next = (*next).max(last + 1);
    }
    Ok(())
}

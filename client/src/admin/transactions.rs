//! Transactions: which there are, what they have written to, and their end by force.

use super::{Admin, text};
use crate::cluster::Lane;
use crate::error::{Error, Result};
use crate::group::coordinator::{Coordinator, Kind};
use crate::topic_partition::TopicPartition;
use kafka_protocol::messages::write_txn_markers_request::{
    WritableTxnMarker, WritableTxnMarkerTopic,
};
use kafka_protocol::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, InitProducerIdRequest,
    InitProducerIdResponse, ListTransactionsRequest, ProducerId, TopicName, TransactionalId,
    WriteTxnMarkersRequest,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// Which transactions to list: all that every filter lets through. The default lets all through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TransactionFilters {
    /// Kafka's names of states, such as `Ongoing`; any when empty.
    pub states: Vec<String>,
    /// Producer ids; any when empty.
    pub producer_ids: Vec<i64>,
    /// Only what has been open for longer. Asks for Kafka 3.8 or later.
    pub longer_than: Option<Duration>,
    /// A regular expression (RE2) for the whole id. Asks for Kafka 4.1 or later.
    pub pattern: Option<String>,
}

impl TransactionFilters {
    fn request(&self) -> ListTransactionsRequest {
        let ids = self.producer_ids.iter().map(|&id| ProducerId(id));
        let longer_than = self.longer_than.map(|t| t.as_millis().try_into());
        ListTransactionsRequest::default()
            .with_state_filters(self.states.iter().map(|state| text(state)).collect())
            .with_producer_id_filters(ids.collect())
            .with_duration_filter(longer_than.map_or(-1, |ms| ms.unwrap_or(i64::MAX)))
            .with_transactional_id_pattern(self.pattern.as_deref().map(text))
    }
}

/// A transactional id as its coordinator lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionListing {
    /// The transactional id.
    pub transactional_id: String,
    /// The producer that has it.
    pub producer_id: i64,
    /// Kafka's name of its state, such as `Ongoing` or `CompleteCommit`.
    pub state: String,
}

/// The current or last transaction of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionDescription {
    /// The transactional id.
    pub transactional_id: String,
    /// Kafka's name of its state.
    pub state: String,
    /// The producer that has it.
    pub producer_id: i64,
    /// How often the id was taken over, or a transaction ended.
    pub producer_epoch: i16,
    /// After so many milliseconds the coordinator aborts it.
    pub timeout_ms: i32,
    /// When it began, in milliseconds since 1970; None when none is open.
    pub started_ms: Option<i64>,
    /// What it has written to so far.
    pub partitions: Vec<TopicPartition>,
}

impl Admin {
    /// The transactional ids of the cluster that `filters` let through, by name.
    ///
    /// # Errors
    /// When a broker cannot be asked, does not know a filter, or a state or pattern is none.
    pub async fn list_transactions(
        &self,
        filters: &TransactionFilters,
    ) -> Result<Vec<TransactionListing>> {
        let mut listings = BTreeMap::new();
        let request = filters.request();
        self.cluster.refresh().await?;
        let brokers: Vec<i32> = self.cluster.metadata().brokers.keys().copied().collect();
        for broker in brokers {
            let mut retry = self.cluster.retry("list the transactions");
            let response = loop {
                let attempt = async {
                    let connection = self.cluster.broker(broker, Lane::Main).await?;
                    let deadline = retry.deadline();
                    let response = self.cluster.send(&connection, &request, deadline).await?;
                    Error::check("list the transactions", response.error_code, None)?;
                    match response.unknown_state_filters.first() {
                        Some(state) => Err(Error::Config {
                            setting: "states",
                            reason: format!("{state} is no state of a transaction"),
                        }),
                        None => Ok(response),
                    }
                };
                match attempt.await {
                    Ok(response) => break response,
                    Err(error) => retry.pause(error).await?,
                }
                self.look_again().await;
            };
            for state in response.transaction_states {
                let listing = TransactionListing {
                    transactional_id: state.transactional_id.0.to_string(),
                    producer_id: state.producer_id.0,
                    state: state.transaction_state.to_string(),
                };
                listings.insert(listing.transactional_id.clone(), listing);
            }
        }
        Ok(listings.into_values().collect())
    }

    /// The current or last transaction of an id.
    ///
    /// # Errors
    /// When there is no such id, or its coordinator cannot be asked.
    pub async fn describe_transaction(&self, id: &str) -> Result<TransactionDescription> {
        let coordinator = Coordinator::new(self.cluster.clone(), Kind::Transaction, id);
        let what = || format!("describe transactional id {id:?}");
        let build = |_: i16| {
            let id = TransactionalId(coordinator.key());
            DescribeTransactionsRequest::default().with_transactional_ids(vec![id])
        };
        let check = |response: &DescribeTransactionsResponse| {
            let mut states = response.transaction_states.iter();
            states.try_for_each(|state| Error::check(what(), state.error_code, None))
        };
        let described = coordinator.call("describe the transaction", i16::MAX, build, check);
        let mut states = described.await?.transaction_states.into_iter();
        let state = states.next().unwrap_or_default();
        let topics = state.topics.iter();
        let partitions = topics.flat_map(|topic| {
            let name: &str = &topic.topic.0;
            let places = topic.partitions.iter();
            places.map(move |&p| TopicPartition::new(name, p))
        });
        Ok(TransactionDescription {
            partitions: partitions.collect(),
            transactional_id: id.to_owned(),
            state: state.transaction_state.to_string(),
            producer_id: state.producer_id.0,
            producer_epoch: state.producer_epoch,
            timeout_ms: state.transaction_timeout_ms,
            started_ms: Some(state.transaction_start_time_ms).filter(|&at| at >= 0),
        })
    }

    /// Aborts what the producer of a transactional id has open, waits until that is done, and fences
    /// the producer: whatever it sends from now on is refused.
    ///
    /// # Errors
    /// When there is no such id, or its coordinator cannot be asked.
    pub async fn fence_producer(&self, id: &str) -> Result<()> {
        // An id that nobody has would be made.
        let known = self.describe_transaction(id).await?;
        let coordinator = Coordinator::new(self.cluster.clone(), Kind::Transaction, id);
        let build = |_: i16| {
            InitProducerIdRequest::default()
                .with_transactional_id(Some(TransactionalId(coordinator.key())))
                .with_transaction_timeout_ms(known.timeout_ms)
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1)
        };
        let check = |response: &InitProducerIdResponse| {
            let what = format!("fence the producer of transactional id {id:?}");
            Error::check(what, response.error_code, None)
        };
        let fenced = coordinator.call("fence the producer", i16::MAX, build, check);
        fenced.await.map(drop)
    }

    /// Ends, in one partition, a transaction that its coordinator does not know (any more) and that
    /// holds the last stable offset there: the one that begins at `start`, as
    /// [`Admin::describe_producers`] tells. Of a transaction that is alive this would lose records of
    /// that partition: see [`Admin::fence_producer`] for those. Returns the producer id.
    ///
    /// # Errors
    /// When no transaction begins there, or the partition's leader cannot be asked.
    pub async fn abort_hanging(&self, partition: &TopicPartition, start: i64) -> Result<i64> {
        let producers = self.describe_producers(partition).await?;
        let mut open = producers
            .into_iter()
            .filter(|p| p.transaction_start == Some(start));
        let producer = open.next().ok_or_else(|| Error::Config {
            setting: "start",
            reason: format!("no open transaction of {partition} begins at offset {start}"),
        })?;
        let topic = WritableTxnMarkerTopic::default()
            .with_name(TopicName(text(&partition.topic)))
            .with_partition_indexes(vec![partition.partition]);
        let marker = WritableTxnMarker::default()
            .with_producer_id(ProducerId(producer.producer_id))
            .with_producer_epoch(producer.producer_epoch.try_into().unwrap_or(i16::MAX))
            .with_coordinator_epoch(producer.coordinator_epoch.unwrap_or(0))
            .with_transaction_result(false)
            .with_topics(vec![topic]);
        let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
        let mut retry = self.cluster.retry("abort the transaction");
        loop {
            let attempt = async {
                self.cluster.topic(&partition.topic, false).await?;
                let (_, _, leader) = self.cluster.leader(&partition.topic, partition.partition)?;
                let connection = self.cluster.broker(leader, Lane::Main).await?;
                let sent = self.cluster.send(&connection, &request, retry.deadline());
                let markers = sent.await?.markers.into_iter();
                let topics = markers.flat_map(|marker| marker.topics);
                for answer in topics.flat_map(|topic| topic.partitions) {
                    let what = format!("abort a transaction in {partition}");
                    Error::check(what, answer.error_code, None)?;
                }
                Ok(())
            };
            match attempt.await {
                Ok(()) => return Ok(producer.producer_id),
                Err(error) => retry.pause(error).await?,
            }
            self.look_again().await;
        }
    }
}

//! Transactions: which there are, and what they have written to.

use super::Admin;
use crate::cluster::Lane;
use crate::error::{Error, Result};
use crate::group::coordinator::{Coordinator, Kind};
use crate::topic_partition::TopicPartition;
use kafka_protocol::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ListTransactionsRequest,
    TransactionalId,
};
use std::collections::BTreeMap;

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
    /// Every transactional id of the cluster, by name.
    ///
    /// # Errors
    /// When a broker cannot be asked.
    pub async fn list_transactions(&self) -> Result<Vec<TransactionListing>> {
        let mut listings = BTreeMap::new();
        self.cluster.refresh().await?;
        let brokers: Vec<i32> = self.cluster.metadata().brokers.keys().copied().collect();
        for broker in brokers {
            let mut retry = self.cluster.retry("list the transactions");
            let response = loop {
                let attempt = async {
                    let connection = self.cluster.broker(broker, Lane::Main).await?;
                    let request = ListTransactionsRequest::default()
                        .with_duration_filter(-1)
                        .with_transactional_id_pattern(None);
                    let deadline = retry.deadline();
                    let response = self.cluster.send(&connection, &request, deadline).await?;
                    Error::check("list the transactions", response.error_code, None)?;
                    Ok(response)
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
}

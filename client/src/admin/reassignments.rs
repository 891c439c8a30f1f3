//! Partitions that move to other brokers (KIP-455).

use super::{Admin, text};
use crate::error::{Error, Result};
use crate::topic_partition::TopicPartition;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
    ListPartitionReassignmentsRequest, TopicName,
};
use std::collections::BTreeMap;

/// A partition that is moving.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reassignment {
    /// The partition.
    pub partition: TopicPartition,
    /// The brokers it is on now and those it moves to, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those of `replicas` that still copy it.
    pub adding: Vec<i32>,
    /// Those of `replicas` that drop it once the others have it.
    pub removing: Vec<i32>,
}

impl Reassignment {
    /// The brokers it was on before, by id: which of them was preferred is not told.
    pub fn from(&self) -> Vec<i32> {
        let mut from = self.without(&self.adding);
        from.sort_unstable();
        from
    }

    /// The brokers it will be on, the preferred leader first.
    pub fn to(&self) -> Vec<i32> {
        self.without(&self.removing)
    }

    fn without(&self, some: &[i32]) -> Vec<i32> {
        let left = self.replicas.iter().filter(|id| !some.contains(id));
        left.copied().collect()
    }
}

fn by_topic<T>(places: impl Iterator<Item = (TopicPartition, T)>) -> BTreeMap<String, Vec<T>> {
    let mut topics: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for (place, asked) in places {
        topics
            .entry(place.topic.to_string())
            .or_default()
            .push(asked);
    }
    topics
}

impl Admin {
    /// Begins moves of partitions to the brokers given for each, the preferred leader first; another
    /// number of brokers than before is allowed. `None` cancels the move that is under way. The answer
    /// comes when the moves are noted, not when they are done: [`Admin::list_reassignments`] tells that.
    ///
    /// # Errors
    /// The outer one when no broker could be asked. For each partition what stood against it, such as
    /// [`ErrorCode::INVALID_REPLICA_ASSIGNMENT`](crate::ErrorCode) for a broker that is not there, or
    /// [`ErrorCode::NO_REASSIGNMENT_IN_PROGRESS`](crate::ErrorCode) when there is nothing to cancel.
    pub async fn alter_reassignments(
        &self,
        targets: &BTreeMap<TopicPartition, Option<Vec<i32>>>,
    ) -> Result<BTreeMap<TopicPartition, Result<()>>> {
        let asked = targets.iter().map(|(place, target)| {
            let brokers = target.as_ref();
            let brokers = brokers.map(|ids| ids.iter().copied().map(BrokerId).collect());
            let partition = ReassignablePartition::default()
                .with_partition_index(place.partition)
                .with_replicas(brokers);
            (place.clone(), partition)
        });
        let topics = by_topic(asked).into_iter().map(|(name, partitions)| {
            ReassignableTopic::default()
                .with_name(TopicName(text(&name)))
                .with_partitions(partitions)
        });
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(self.broker_timeout_ms())
            .with_topics(topics.collect());
        let what = "alter the reassignments";
        self.ask_controller(what, &request, |_, response| {
            Error::check(what, response.error_code, response.error_message.as_deref())?;
            Ok(outcomes(response))
        })
        .await
    }

    /// The moves under way, in order: of these partitions, or all (`None`). Empty when all are done.
    ///
    /// # Errors
    /// When no broker could be asked.
    pub async fn list_reassignments(
        &self,
        of: Option<&[TopicPartition]>,
    ) -> Result<Vec<Reassignment>> {
        let topics = of.map(|places| {
            let asked = places.iter().map(|place| (place.clone(), place.partition));
            let topics = by_topic(asked).into_iter().map(|(name, partitions)| {
                ListPartitionReassignmentsTopics::default()
                    .with_name(TopicName(text(&name)))
                    .with_partition_indexes(partitions)
            });
            topics.collect()
        });
        let request = ListPartitionReassignmentsRequest::default()
            .with_timeout_ms(self.broker_timeout_ms())
            .with_topics(topics);
        let what = "list the reassignments";
        let asked = self.ask_controller(what, &request, |_, response| {
            Error::check(what, response.error_code, response.error_message.as_deref())?;
            Ok(response)
        });
        let response = asked.await?;
        let ids = |brokers: Vec<BrokerId>| brokers.into_iter().map(|id| id.0).collect();
        let moving = response.topics.into_iter().flat_map(|topic| {
            let name = topic.name.0;
            topic
                .partitions
                .into_iter()
                .map(move |partition| Reassignment {
                    partition: TopicPartition::new(&*name, partition.partition_index),
                    replicas: ids(partition.replicas),
                    adding: ids(partition.adding_replicas),
                    removing: ids(partition.removing_replicas),
                })
        });
        let mut moving: Vec<_> = moving.collect();
        moving.sort_by(|a, b| a.partition.cmp(&b.partition));
        Ok(moving)
    }
}

fn outcomes(response: AlterPartitionReassignmentsResponse) -> BTreeMap<TopicPartition, Result<()>> {
    let outcomes = response.responses.into_iter().flat_map(|topic| {
        let name = topic.name.0;
        topic.partitions.into_iter().map(move |partition| {
            let place = TopicPartition::new(&*name, partition.partition_index);
            let what = format!("move {place}");
            let message = partition.error_message.as_deref();
            let outcome = Error::check(what, partition.error_code, message);
            (place, outcome)
        })
    });
    outcomes.collect()
}

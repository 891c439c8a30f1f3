//! What the brokers hold of partitions: deleting records, producers that write, bytes on disk.

use super::{Admin, text};
use crate::cluster::Lane;
use crate::error::{Error, Result};
use crate::topic_partition::TopicPartition;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::{
    DeleteRecordsRequest, DescribeLogDirsRequest, DescribeProducersRequest, TopicName,
};
use std::collections::{BTreeMap, HashMap};

/// A producer that a partition remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionProducer {
    /// Its id.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i32,
    /// The sequence of its last record; None when none is known.
    pub last_sequence: Option<i32>,
    /// When it last wrote, in milliseconds since 1970; None when that is not known.
    pub last_timestamp_ms: Option<i64>,
    /// The epoch of the coordinator that ended its last transaction here; None when there was none.
    pub coordinator_epoch: Option<i32>,
    /// Where its open transaction begins in the partition; None when none is open there.
    pub transaction_start: Option<i64>,
}

/// One replica on one broker's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaOnDisk {
    /// The broker.
    pub broker: i32,
    /// The broker's folder.
    pub folder: String,
    /// The partition.
    pub partition: TopicPartition,
    /// Bytes it takes.
    pub bytes: i64,
    /// Records by which it is behind the partition's end.
    pub lag_records: i64,
}

impl Admin {
    /// Deletes the records before an offset; `None` deletes all that are there. Returns where each
    /// partition then begins.
    ///
    /// # Errors
    /// [`ErrorCode::OFFSET_OUT_OF_RANGE`](crate::ErrorCode) for an offset after the end,
    /// [`ErrorCode::POLICY_VIOLATION`](crate::ErrorCode) when the topic's `cleanup.policy` does not
    /// delete. Some partitions may be done then; doing it again does no harm.
    pub async fn delete_records(
        &self,
        before: &BTreeMap<TopicPartition, Option<i64>>,
    ) -> Result<BTreeMap<TopicPartition, i64>> {
        let mut done = BTreeMap::new();
        let mut retry = self.cluster.retry("delete records");
        while done.len() < before.len() {
            let attempt = self.delete_some(before, &mut done, retry.deadline()).await;
            if let Err(error) = attempt {
                retry.pause(error).await?;
                self.look_again().await;
            }
        }
        Ok(done)
    }

    /// One attempt at those that are not done.
    async fn delete_some(
        &self,
        before: &BTreeMap<TopicPartition, Option<i64>>,
        done: &mut BTreeMap<TopicPartition, i64>,
        deadline: tokio::time::Instant,
    ) -> Result<()> {
        let mut by_leader: HashMap<i32, BTreeMap<&str, Vec<DeleteRecordsPartition>>> =
            HashMap::new();
        for (place, offset) in before
            .iter()
            .filter(|(place, _)| !done.contains_key(*place))
        {
            self.cluster.topic(&place.topic, false).await?;
            let (_, _, leader) = self.cluster.leader(&place.topic, place.partition)?;
            let asked = DeleteRecordsPartition::default()
                .with_partition_index(place.partition)
                .with_offset(offset.unwrap_or(-1));
            let of_leader = by_leader.entry(leader).or_default();
            of_leader.entry(&*place.topic).or_default().push(asked);
        }
        for (leader, topics) in by_leader {
            let topics = topics.into_iter().map(|(name, partitions)| {
                DeleteRecordsTopic::default()
                    .with_name(TopicName(text(name)))
                    .with_partitions(partitions)
            });
            let request = DeleteRecordsRequest::default()
                .with_topics(topics.collect())
                .with_timeout_ms(self.broker_timeout_ms());
            let connection = self.cluster.broker(leader, Lane::Main).await?;
            let response = self.cluster.send(&connection, &request, deadline).await?;
            for topic in response.topics {
                for partition in topic.partitions {
                    let name: &str = &topic.name.0;
                    let place = TopicPartition::new(name, partition.partition_index);
                    Error::check(
                        format!("delete records of {place}"),
                        partition.error_code,
                        None,
                    )?;
                    done.insert(place, partition.low_watermark);
                }
            }
        }
        Ok(())
    }

    /// The producers that a partition's leader remembers, by id.
    ///
    /// # Errors
    /// When there is no such partition, or its leader cannot be asked.
    pub async fn describe_producers(
        &self,
        partition: &TopicPartition,
    ) -> Result<Vec<PartitionProducer>> {
        let mut retry = self.cluster.retry("describe the producers");
        let response = loop {
            let attempt = async {
                self.cluster.topic(&partition.topic, false).await?;
                let (_, _, leader) = self.cluster.leader(&partition.topic, partition.partition)?;
                let connection = self.cluster.broker(leader, Lane::Main).await?;
                let topic = TopicRequest::default()
                    .with_name(TopicName(text(&partition.topic)))
                    .with_partition_indexes(vec![partition.partition]);
                let request = DescribeProducersRequest::default().with_topics(vec![topic]);
                let sent = self.cluster.send(&connection, &request, retry.deadline());
                let response = sent.await?;
                for answer in response.topics.iter().flat_map(|t| &t.partitions) {
                    let what = format!("describe the producers of {partition}");
                    Error::check(what, answer.error_code, answer.error_message.as_deref())?;
                }
                Ok(response)
            };
            match attempt.await {
                Ok(response) => break response,
                Err(error) => retry.pause(error).await?,
            }
            self.look_again().await;
        };
        let answers = response.topics.into_iter().flat_map(|t| t.partitions);
        let producers = answers.flat_map(|answer| answer.active_producers);
        let mut producers: Vec<PartitionProducer> = producers
            .map(|p| PartitionProducer {
                producer_id: p.producer_id.0,
                producer_epoch: p.producer_epoch,
                last_sequence: Some(p.last_sequence).filter(|&n| n >= 0),
                last_timestamp_ms: Some(p.last_timestamp).filter(|&n| n >= 0),
                coordinator_epoch: Some(p.coordinator_epoch).filter(|&n| n >= 0),
                transaction_start: Some(p.current_txn_start_offset).filter(|&n| n >= 0),
            })
            .collect();
        producers.sort_by_key(|producer| producer.producer_id);
        Ok(producers)
    }

    /// Every replica on the disk of one broker, by partition.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn describe_log_dirs(&self, broker: i32) -> Result<Vec<ReplicaOnDisk>> {
        let mut retry = self.cluster.retry("describe the log folders");
        let response = loop {
            let attempt = async {
                let connection = self.cluster.broker(broker, Lane::Main).await?;
                let request = DescribeLogDirsRequest::default().with_topics(None);
                let sent = self.cluster.send(&connection, &request, retry.deadline());
                let response = sent.await?;
                for folder in &response.results {
                    let what = format!("describe the log folders of broker {broker}");
                    Error::check(what, folder.error_code, None)?;
                }
                Ok(response)
            };
            match attempt.await {
                Ok(response) => break response,
                Err(error) => retry.pause(error).await?,
            }
            self.look_again().await;
        };
        let mut replicas = Vec::new();
        for folder in response.results {
            for topic in folder.topics {
                let name: &str = &topic.name.0;
                replicas.extend(topic.partitions.iter().map(|replica| ReplicaOnDisk {
                    broker,
                    folder: folder.log_dir.to_string(),
                    partition: TopicPartition::new(name, replica.partition_index),
                    bytes: replica.partition_size,
                    lag_records: replica.offset_lag,
                }));
            }
        }
        replicas.sort_by(|a, b| a.partition.cmp(&b.partition));
        Ok(replicas)
    }
}

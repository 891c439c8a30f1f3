//! Offsets that are committed as part of a transaction.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use crate::cluster::Cluster;
use crate::read::topic_name;
use crate::txn::{TxnProducer, is_passing};
use crate::wire::Wire;
use crate::{group, wait};

const LIMIT: Duration = Duration::from_secs(30);
/// The version of clients that know transaction version 2, and that of those before.
const COMMIT: [i16; 2] = [5, 3];
const ADD: i16 = 3;
/// The first version that can ask for stable offsets.
const FETCH: i16 = 7;

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}

impl TxnProducer {
    /// Makes an offset of a group part of the transaction, until that is done or refused for good; the error
    /// code. Old clients add the group first.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn commit_offset(
        &self,
        cluster: &Cluster,
        group: &str,
        (topic, partition): (&str, i32),
        offset: i64,
    ) -> Result<i16> {
        if self.old {
            let add = AddOffsetsToTxnRequest::default()
                .with_transactional_id(self.transactional_id())
                .with_producer_id(ProducerId(self.producer_id))
                .with_producer_epoch(self.epoch)
                .with_group_id(group_id(group));
            let added = self.ask(cluster, &add, ADD, |a| a.error_code).await?;
            if added.error_code != 0 {
                return Ok(added.error_code);
            }
        }
        let place = TxnOffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset);
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![place]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_group_id(group_id(group))
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_topics(vec![topic]);
        let version = COMMIT[usize::from(self.old)];
        wait::until("an answer to the offset", LIMIT, async || {
            let coordinator = group::coordinator(cluster, group).await?.kafka;
            let Ok(mut wire) = Wire::connect(coordinator).await else {
                return Ok(None);
            };
            let Ok(answer) = wire.call(&request, version).await else {
                return Ok(None);
            };
            let code = answer.topics[0].partitions[0].error_code;
            Ok((!is_passing(code)).then_some(code))
        })
        .await
    }
}

/// The offset a group has committed, 0 when there is none, once no open transaction may change it.
///
/// # Errors
/// When nobody tells it in time.
pub async fn stable_offset(
    cluster: &Cluster,
    group: &str,
    (topic, partition): (&str, i32),
) -> Result<i64> {
    let topic = OffsetFetchRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partition_indexes(vec![partition]);
    let request = OffsetFetchRequest::default()
        .with_group_id(group_id(group))
        .with_topics(Some(vec![topic]))
        .with_require_stable(true);
    wait::until("a stable offset", LIMIT, async || {
        let coordinator = group::coordinator(cluster, group).await?.kafka;
        let mut wire = Wire::connect(coordinator).await?;
        let answer = wire.call(&request, FETCH).await?;
        let topic = answer.topics.first().context("a topic")?;
        let told = topic.partitions.first().context("a partition")?;
        let code = match answer.error_code {
            0 => told.error_code,
            code => code,
        };
        if code == ResponseError::UnstableOffsetCommit.code() || is_passing(code) {
            return Ok(None);
        }
        if code != 0 {
            bail!("OffsetFetch: error {code}");
        }
        Ok(Some(told.committed_offset.max(0)))
    })
    .await
}

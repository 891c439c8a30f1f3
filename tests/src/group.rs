//! Consumer groups by hand: who coordinates, and a member that does only what it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use crate::cluster::Cluster;
use crate::read::topic_name;
use crate::wire::Wire;
use crate::{Broker, wait};

const COORDINATOR_LIMIT: Duration = Duration::from_secs(30);
/// Versions that are simple to fill in.
const JOIN_VERSION: i16 = 5;
const FETCH_VERSION: i16 = 8;

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

/// The living broker that coordinates a group and serves it.
///
/// # Errors
/// When there is none in time.
pub async fn coordinator<'a>(cluster: &'a Cluster, group: &str) -> Result<&'a Broker> {
    let what = format!("a coordinator of {group}");
    let id = wait::until(&what, COORDINATOR_LIMIT, async || {
        for broker in cluster.brokers.iter().filter(|b| b.is_started()) {
            // It may have been struck a moment ago: the others know as well.
            let Ok(mut wire) = Wire::connect(broker.kafka).await else {
                continue;
            };
            let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]);
            let Ok(found) = wire.call(&find, 4).await else {
                continue;
            };
            let found = found.coordinators.into_iter().next().context("an answer")?;
            let known = cluster.brokers.iter().find(|b| b.id == found.node_id.0);
            let Some(named) = known.filter(|b| found.error_code == 0 && b.is_started()) else {
                continue;
            };
            let Ok(mut wire) = Wire::connect(named.kafka).await else {
                continue;
            };
            if offsets(&mut wire, group).await.is_ok() {
                return Ok(Some(named.id));
            }
        }
        Ok(None)
    })
    .await?;
    Ok(cluster.broker(id))
}

/// The group's committed offsets, as the broker at the other end knows them.
///
/// # Errors
/// When it does not coordinate the group, with Kafka's error in the text.
pub async fn offsets(wire: &mut Wire, group: &str) -> Result<BTreeMap<(String, i32), i64>> {
    let asked = OffsetFetchRequestGroup::default()
        .with_group_id(group_id(group))
        .with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![asked]);
    let answer = wire.call(&request, FETCH_VERSION).await?;
    let group = answer.groups.into_iter().next().context("the group")?;
    if let Some(error) = ResponseError::try_from_code(group.error_code) {
        bail!("OffsetFetch: {error:?}");
    }
    let topics = group.topics.into_iter();
    Ok(topics
        .flat_map(|t| {
            let name = t.name.to_string();
            let partitions = t.partitions.into_iter();
            partitions.map(move |p| ((name.clone(), p.partition_index), p.committed_offset))
        })
        .collect())
}

/// Who commits: the generation and the member, or nobody.
#[derive(Clone, Debug)]
pub struct Committer {
    pub generation: i32,
    pub member: String,
}

impl Committer {
    /// One that is no member of the group.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            generation: -1,
            member: String::new(),
        }
    }
}

/// Commits one offset; what the broker says.
///
/// # Errors
/// When the connection fails.
pub async fn commit(
    wire: &mut Wire,
    group: &str,
    by: &Committer,
    topic: &str,
    offset: i64,
) -> Result<Option<ResponseError>> {
    commit_all(wire, group, by, topic, &[offset]).await
}

/// Commits the offsets of partitions 0, 1, ... in one request; what the broker says of the first.
///
/// # Errors
/// When the connection fails.
pub async fn commit_all(
    wire: &mut Wire,
    group: &str,
    by: &Committer,
    topic: &str,
    offsets: &[i64],
) -> Result<Option<ResponseError>> {
    let partitions = offsets.iter().zip(0..).map(|(offset, index)| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(text("committed with a note of some length")))
    });
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(partitions.collect());
    let request = OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(by.generation)
        .with_member_id(text(by.member.clone()))
        .with_topics(vec![topic]);
    let answer = wire.call(&request, 8).await?;
    let topic = answer.topics.first().context("a topic in the answer")?;
    let partition = topic.partitions.first().context("a partition")?;
    Ok(ResponseError::try_from_code(partition.error_code))
}

/// Joins as the group's only member and syncs; with a given id as the member that has it.
///
/// # Errors
/// When the group refuses, or has more members.
pub async fn join_alone(wire: &mut Wire, group: &str, member: &str) -> Result<Committer> {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("by-hand"))
        .with_metadata(Bytes::from_static(b"anything"));
    let mut request = JoinGroupRequest::default()
        .with_group_id(group_id(group))
        .with_session_timeout_ms(60_000)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(text(member))
        .with_protocol_type(text("tests"))
        .with_protocols(vec![protocol]);
    let mut joined = wire.call(&request, JOIN_VERSION).await?;
    if joined.error_code == ResponseError::MemberIdRequired.code() {
        request.member_id = joined.member_id;
        joined = wire.call(&request, JOIN_VERSION).await?;
    }
    ensure!(joined.error_code == 0, "JoinGroup: {}", joined.error_code);
    ensure!(joined.members.len() == 1, "not alone: {joined:?}");
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(joined.member_id.clone())
        .with_assignment(Bytes::from_static(b"all of it"));
    let sync = SyncGroupRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_assignments(vec![assignment]);
    let synced = wire.call(&sync, 3).await?;
    ensure!(synced.error_code == 0, "SyncGroup: {}", synced.error_code);
    Ok(Committer {
        generation: joined.generation_id,
        member: joined.member_id.to_string(),
    })
}

/// A heartbeat; what the broker says.
///
/// # Errors
/// When the connection fails.
pub async fn heartbeat(
    wire: &mut Wire,
    group: &str,
    by: &Committer,
) -> Result<Option<ResponseError>> {
    let request = HeartbeatRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id(by.generation)
        .with_member_id(text(by.member.clone()));
    let answer = wire.call(&request, 3).await?;
    Ok(ResponseError::try_from_code(answer.error_code))
}

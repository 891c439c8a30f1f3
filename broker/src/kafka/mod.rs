//! The Kafka listener, one file per API.
//!
//! [`listener`] accepts, [`connection`] reads requests in order and writes answers in the same
//! order, [`dispatch`] knows which handler serves which API and version. A new API is one file with a
//! `handle` function and one line in the table of `dispatch`.

pub mod connection;
pub mod dispatch;
pub mod limits;
pub mod listener;
pub mod recompress;
pub mod reply;
pub mod versions;

mod add_offsets_to_txn;
mod add_partitions_to_txn;
mod alter_configs;
mod alter_partition_reassignments;
mod api_versions;
mod blocking;
mod consumer_group_describe;
mod consumer_group_heartbeat;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod describe_transactions;
mod elect_leaders;
mod end_txn;
mod fetch;
pub mod fetch_encode;
pub mod fetch_session;
mod find_coordinator;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod list_transactions;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
pub mod produce_verify;
pub mod shape;
pub mod shape_table;
mod sync_group;
mod transactional;
mod txn_offset_commit;
mod unregister_broker;
mod update_features;
mod write_txn_markers;

use crate::broker::Broker;
use crate::metadata::{MetadataImage, Topic};
use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;
use std::net::SocketAddr;
use std::sync::Arc;
use tidelog_replication::{Partition, Role};
use uuid::Uuid;

/// What a handler knows about its request.
#[derive(Clone)]
pub struct RequestContext {
    pub broker: Arc<Broker>,
    pub client_id: Option<StrBytes>,
    pub peer: SocketAddr,
}

/// Text of a response.
fn text(s: impl Into<String>) -> StrBytes {
    StrBytes::from_string(s.into())
}

/// Text of a request that is kept longer than the request.
fn owned(s: Option<&StrBytes>) -> Option<String> {
    s.map(ToString::to_string)
}

/// A client's partition of a topic, found here.
struct Found {
    partition: Arc<Partition>,
    epoch: i32,
    leads: bool,
}

/// The topic a request names, by id where the version has ids.
fn find_topic(image: &MetadataImage, name: &str, id: Uuid) -> Result<Arc<Topic>, ResponseError> {
    if id.is_nil() {
        image
            .topic(name)
            .cloned()
            .ok_or(ResponseError::UnknownTopicOrPartition)
    } else {
        image
            .topic_by_id(id)
            .cloned()
            .ok_or(ResponseError::UnknownTopicId)
    }
}

/// This broker's replica of a partition, whatever it is.
fn find_replica(
    broker: &Broker,
    topic: &Topic,
    index: i32,
) -> Result<Arc<Partition>, ResponseError> {
    let partition = usize::try_from(index)
        .ok()
        .and_then(|i| topic.partitions.get(i))
        .ok_or(ResponseError::UnknownTopicOrPartition)?;
    broker
        .node
        .partition(partition.group)
        .ok_or(ResponseError::NotLeaderOrFollower)
}

/// This broker's replica of a partition, ready to serve; `expected_epoch` is the client's idea of the leader epoch,
/// −1 when it has none (KIP-320).
fn find_partition(
    broker: &Broker,
    topic: &Topic,
    index: i32,
    expected_epoch: i32,
) -> Result<Found, ResponseError> {
    let partition = find_replica(broker, topic, index)?;
    let (leads, epoch) = match partition.role() {
        Role::Leader { epoch, ready } => {
            if !ready {
                return Err(ResponseError::NotLeaderOrFollower);
            }
            (true, epoch)
        }
        Role::Follower { epoch, .. } => (false, epoch),
    };
    if expected_epoch >= 0 && expected_epoch < epoch {
        return Err(ResponseError::FencedLeaderEpoch);
    }
    if expected_epoch > epoch {
        return Err(ResponseError::UnknownLeaderEpoch);
    }
    Ok(Found {
        partition,
        epoch,
        leads,
    })
}

/// As [`find_partition`], but only on the leader.
fn find_led(
    broker: &Broker,
    topic: &Topic,
    index: i32,
    expected_epoch: i32,
) -> Result<Found, ResponseError> {
    let found = find_partition(broker, topic, index, expected_epoch)?;
    if found.leads {
        Ok(found)
    } else {
        Err(ResponseError::NotLeaderOrFollower)
    }
}

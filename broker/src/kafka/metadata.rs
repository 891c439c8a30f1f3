//! Metadata (versions 0 to 13): brokers, topics, leaders; creates topics on demand.

use super::{RequestContext, text};
use crate::broker::Broker;
use crate::coordinator::topic::{self, is_internal};
use crate::metadata::changes::{NewTopic, check_topic_name, create_topic};
use crate::metadata::{MetadataImage, PartitionMeta, Topic};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_protocol::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, TopicName};
use std::time::Duration;

/// How long an on-demand creation waits for leaders; the client asks again anyway.
const CREATE_WAIT: Duration = Duration::from_secs(3);
/// "Not asked for", as authorized operations are reported without authorization.
const NO_OPERATIONS: i32 = i32::MIN;

pub async fn handle(
    context: &RequestContext,
    request: MetadataRequest,
    version: i16,
) -> MetadataResponse {
    let broker = &context.broker;
    let asked = match request.topics {
        // Version 0 has no null: an empty list means all.
        Some(topics) if !(version == 0 && topics.is_empty()) => Some(topics),
        _ => None,
    };
    if let Some(asked) = &asked
        && (version < 4 || request.allow_auto_topic_creation)
    {
        create_missing(broker, asked).await;
    }
    let image = broker.metadata.load_full();
    let topics = match &asked {
        None => image.topics.values().map(|t| describe(broker, t)).collect(),
        Some(asked) => asked.iter().map(|a| answer(broker, &image, a)).collect(),
    };
    let alive = broker.node.alive_brokers();
    MetadataResponse::default()
        .with_brokers(
            image
                .brokers
                .values()
                .filter(|b| alive.contains(&b.id))
                .map(|b| {
                    MetadataResponseBroker::default()
                        .with_node_id(BrokerId(b.id.0))
                        .with_host(text(b.host.clone()))
                        .with_port(i32::from(b.port))
                        .with_rack(b.rack.clone().map(text))
                })
                .collect(),
        )
        .with_cluster_id(Some(text(image.cluster_id.clone())))
        .with_controller_id(controller(broker))
        .with_topics(topics)
        .with_cluster_authorized_operations(NO_OPERATIONS)
}

/// Leader of the metadata group, −1 while there is none.
pub fn controller(broker: &Broker) -> BrokerId {
    BrokerId(broker.node.metadata_leader().map_or(-1, |b| b.0))
}

async fn create_missing(broker: &Broker, asked: &[MetadataRequestTopic]) {
    if !broker.config.flag("auto.create.topics.enable") {
        return;
    }
    for name in asked.iter().filter_map(name_asked) {
        if broker.metadata.load().topic(name).is_some() || check_topic_name(name).is_err() {
            continue;
        }
        let new = NewTopic {
            name: name.to_string(),
            ..NewTopic::default()
        };
        let created = if is_internal(name) {
            topic::ensure(broker, name).await
        } else {
            create_topic(broker, &new, CREATE_WAIT).await
        };
        // Whatever the reason, the answer below says that the topic is not there.
        if let Err(refused) = created {
            tracing::info!(topic = %**name, "not created on demand: {}", refused.message);
        }
    }
}

/// The name a topic is asked for by. As in Kafka the id counts where there is one: Java's client asks by
/// id with an empty name.
fn name_asked(asked: &MetadataRequestTopic) -> Option<&TopicName> {
    asked.name.as_ref().filter(|_| asked.topic_id.is_nil())
}

fn answer(
    broker: &Broker,
    image: &MetadataImage,
    asked: &MetadataRequestTopic,
) -> MetadataResponseTopic {
    let unknown = |error: ResponseError| {
        MetadataResponseTopic::default()
            .with_error_code(error.code())
            .with_name(name_asked(asked).cloned())
            .with_topic_id(asked.topic_id)
            .with_topic_authorized_operations(NO_OPERATIONS)
    };
    match name_asked(asked) {
        Some(name) => match image.topic(name) {
            Some(topic) => describe(broker, topic),
            None if check_topic_name(name).is_err() => {
                unknown(ResponseError::InvalidTopicException)
            }
            None => unknown(ResponseError::UnknownTopicOrPartition),
        },
        None => match image.topic_by_id(asked.topic_id) {
            Some(topic) => describe(broker, topic),
            None => unknown(ResponseError::UnknownTopicId),
        },
    }
}

fn describe(broker: &Broker, topic: &Topic) -> MetadataResponseTopic {
    let partitions = topic
        .partitions
        .iter()
        .enumerate()
        .map(|(index, partition)| {
            let state = PartitionState::of(broker, partition);
            MetadataResponsePartition::default()
                .with_error_code(state.error_code)
                .with_partition_index(index as i32)
                .with_leader_id(state.leader)
                .with_leader_epoch(state.epoch)
                .with_replica_nodes(state.replicas)
                .with_isr_nodes(state.in_sync)
                .with_offline_replicas(state.offline)
        })
        .collect();
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(topic.name.clone()))))
        .with_topic_id(topic.id)
        .with_is_internal(is_internal(&topic.name))
        .with_partitions(partitions)
        .with_topic_authorized_operations(NO_OPERATIONS)
}

/// A partition as clients are told of it.
pub struct PartitionState {
    pub error_code: i16,
    pub leader: BrokerId,
    pub epoch: i32,
    pub replicas: Vec<BrokerId>,
    pub in_sync: Vec<BrokerId>,
    pub offline: Vec<BrokerId>,
}

impl PartitionState {
    pub fn of(broker: &Broker, partition: &PartitionMeta) -> PartitionState {
        let alive = broker.node.alive_brokers();
        let ids = |brokers: &[tidelog_replication::BrokerId]| -> Vec<BrokerId> {
            brokers.iter().map(|b| BrokerId(b.0)).collect()
        };
        let (living, offline): (Vec<_>, Vec<_>) = partition
            .replicas
            .iter()
            .copied()
            .partition(|b| alive.contains(b));
        let in_sync = match broker.node.partition(partition.group) {
            Some(local) => local.in_sync_replicas(),
            None => {
                let adding = partition.adding();
                living.into_iter().filter(|b| !adding.contains(b)).collect()
            }
        };
        let leader = broker.node.leader_of(partition.group);
        PartitionState {
            error_code: match leader {
                Some(_) => 0,
                None => ResponseError::LeaderNotAvailable.code(),
            },
            leader: BrokerId(leader.map_or(-1, |l| l.leader.0)),
            epoch: leader.map_or(-1, |l| l.epoch),
            replicas: ids(&partition.replicas),
            in_sync: ids(&in_sync),
            offline: ids(&offline),
        }
    }
}

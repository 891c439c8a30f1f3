//! DescribeQuorum (versions 0 to 2): the metadata group, under the name of Kafka's metadata topic.
//!
//! Log indexes stand for offsets. Any broker answers, as it asks the leader; Kafka's brokers hand the
//! request on to the controller.

use super::{RequestContext, text};
use crate::config::host_port;
use crate::metadata::MetadataImage;
use crate::quorum::{self, QuorumRecord, ReplicaRecord};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{
    BrokerId, DescribeQuorumRequest, DescribeQuorumResponse, TopicName,
};
use uuid::Uuid;

const METADATA_TOPIC: &str = "__cluster_metadata";
/// The name of the listener for other brokers, where Kafka names its controllers'.
const LISTENER: &str = "PEER";
/// First version with directory ids and the addresses of the voters (KIP-853).
const FIRST_WITH_NODES: i16 = 2;
/// Kafka's word for an offset or time that is not known.
const UNKNOWN: i64 = -1;

pub async fn handle(
    context: &RequestContext,
    request: DescribeQuorumRequest,
    version: i16,
) -> DescribeQuorumResponse {
    if !asks_for_metadata(&request) {
        return refuse(&request, ResponseError::UnknownTopicOrPartition);
    }
    let quorum = match quorum::describe(&context.broker).await {
        Ok(quorum) => quorum,
        Err(error) => return refuse(&request, error),
    };
    let image = context.broker.metadata.load();
    let partition = PartitionData::default()
        .with_leader_id(BrokerId(quorum.leader))
        .with_leader_epoch(quorum.epoch)
        .with_high_watermark(quorum.high_watermark as i64)
        .with_current_voters(states(&image, &quorum.voters, version))
        .with_observers(states(&image, &quorum.observers, version));
    let topic = TopicData::default()
        .with_topic_name(TopicName(text(METADATA_TOPIC)))
        .with_partitions(vec![partition]);
    let response = DescribeQuorumResponse::default().with_topics(vec![topic]);
    if version < FIRST_WITH_NODES {
        return response;
    }
    response.with_nodes(nodes(&image, &quorum))
}

/// Kafka answers for its one metadata partition only (`KafkaRaftClient.hasValidTopicPartition`).
fn asks_for_metadata(request: &DescribeQuorumRequest) -> bool {
    matches!(&request.topics[..], [topic] if topic.topic_name.as_str() == METADATA_TOPIC
        && matches!(&topic.partitions[..], [partition] if partition.partition_index == 0))
}

fn refuse(request: &DescribeQuorumRequest, error: ResponseError) -> DescribeQuorumResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            PartitionData::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.code())
        });
        TopicData::default()
            .with_topic_name(topic.topic_name.clone())
            .with_partitions(partitions.collect())
    });
    DescribeQuorumResponse::default().with_topics(topics.collect())
}

fn states(image: &MetadataImage, replicas: &[ReplicaRecord], version: i16) -> Vec<ReplicaState> {
    let state = |replica: &ReplicaRecord| {
        let state = ReplicaState::default()
            .with_replica_id(BrokerId(replica.broker))
            .with_log_end_offset(replica.log_end.map_or(UNKNOWN, |end| end as i64))
            .with_last_fetch_timestamp(replica.heard_ms.unwrap_or(UNKNOWN))
            .with_last_caught_up_timestamp(replica.caught_up_ms.unwrap_or(UNKNOWN));
        if version < FIRST_WITH_NODES {
            return state;
        }
        let known = image
            .brokers
            .get(&tidelog_replication::BrokerId(replica.broker));
        state.with_replica_directory_id(known.map_or(Uuid::nil(), |b| b.incarnation))
    };
    replicas.iter().map(state).collect()
}

fn nodes(image: &MetadataImage, quorum: &QuorumRecord) -> Vec<Node> {
    let voters = quorum.voters.iter();
    let known = voters.filter_map(|v| image.brokers.get(&tidelog_replication::BrokerId(v.broker)));
    let node = |broker: &crate::metadata::image::BrokerMeta| {
        let (host, port) = host_port(&broker.peer_address)?;
        let listener = Listener::default()
            .with_name(text(LISTENER))
            .with_host(text(host))
            .with_port(port);
        let node = Node::default().with_node_id(BrokerId(broker.id.0));
        Some(node.with_listeners(vec![listener]))
    };
    known.filter_map(node).collect()
}

//! FindCoordinator (versions 0 to 6): which broker leads the partition a key belongs to. The first
//! request creates the internal topic.

use super::{RequestContext, text};
use crate::broker::Broker;
use crate::coordinator::topic::{self, CONSUMER_OFFSETS, TRANSACTION_STATE, partition_for};
use crate::metadata::BrokerMeta;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// First version with several keys.
const BATCHED: i16 = 4;

pub async fn handle(
    context: &RequestContext,
    request: FindCoordinatorRequest,
    version: i16,
) -> FindCoordinatorResponse {
    let broker = &context.broker;
    if version < BATCHED {
        return match find(broker, request.key_type, &request.key).await {
            Ok(meta) => FindCoordinatorResponse::default()
                .with_error_message(Some(text("NONE")))
                .with_node_id(BrokerId(meta.id.0))
                .with_host(text(meta.host))
                .with_port(i32::from(meta.port)),
            Err(error) => FindCoordinatorResponse::default()
                .with_error_code(error.code())
                .with_error_message(Some(text(error.to_string())))
                .with_node_id(BrokerId(-1))
                .with_port(-1),
        };
    }
    let mut coordinators = Vec::with_capacity(request.coordinator_keys.len());
    for key in request.coordinator_keys {
        let found = find(broker, request.key_type, &key).await;
        let answer = Coordinator::default().with_key(key);
        coordinators.push(match found {
            Ok(meta) => answer
                .with_node_id(BrokerId(meta.id.0))
                .with_host(text(meta.host))
                .with_port(i32::from(meta.port)),
            Err(error) => answer
                .with_error_code(error.code())
                .with_error_message(Some(text(error.to_string())))
                .with_node_id(BrokerId(-1))
                .with_port(-1),
        });
    }
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}

async fn find(broker: &Broker, key_type: i8, key: &str) -> Result<BrokerMeta, ResponseError> {
    let name = match key_type {
        GROUP => CONSUMER_OFFSETS,
        TRANSACTION => TRANSACTION_STATE,
        _ => return Err(ResponseError::InvalidRequest),
    };
    let topic = topic::ensure(broker, name).await.map_err(|refused| {
        tracing::info!(topic = name, "not created: {}", refused.message);
        ResponseError::CoordinatorNotAvailable
    })?;
    let partition = &topic.partitions[partition_for(key, topic.partitions.len())];
    let leader = broker.node.leader_of(partition.group);
    let image = broker.metadata.load();
    leader
        .and_then(|l| image.brokers.get(&l.leader).cloned())
        .ok_or(ResponseError::CoordinatorNotAvailable)
}

//! DescribeCluster (versions 0 to 2).

use super::{RequestContext, metadata::controller, text};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};

/// Endpoint type "brokers" (KIP-919); controllers have no listener of their own.
const BROKERS: i8 = 1;

pub async fn handle(
    context: &RequestContext,
    request: DescribeClusterRequest,
    version: i16,
) -> DescribeClusterResponse {
    let broker = &context.broker;
    let response = DescribeClusterResponse::default()
        .with_endpoint_type(BROKERS)
        .with_cluster_authorized_operations(i32::MIN);
    if version >= 1 && request.endpoint_type != BROKERS {
        return response
            .with_error_code(ResponseError::MismatchedEndpointType.code())
            .with_error_message(Some(text("this listener serves brokers")));
    }
    let image = broker.metadata.load();
    let alive = broker.node.alive_brokers();
    response
        .with_cluster_id(text(image.cluster_id.clone()))
        .with_controller_id(controller(broker))
        .with_brokers(
            image
                .brokers
                .values()
                .filter(|b| alive.contains(&b.id) || request.include_fenced_brokers)
                .map(|b| {
                    DescribeClusterBroker::default()
                        .with_broker_id(BrokerId(b.id.0))
                        .with_host(text(b.host.clone()))
                        .with_port(i32::from(b.port))
                        .with_rack(b.rack.clone().map(text))
                        .with_is_fenced(version >= 2 && !alive.contains(&b.id))
                })
                .collect(),
        )
}

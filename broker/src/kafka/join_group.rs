//! JoinGroup (versions 0 to 9): parked until the group's members have come together.

use super::{RequestContext, owned, text};
use crate::coordinator::group::{Answer, JoinRequest, Request};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use uuid::Uuid;

/// First version in which the protocol's name may be null.
const NULLABLE_PROTOCOL: i16 = 7;

pub async fn handle(
    context: &RequestContext,
    request: JoinGroupRequest,
    version: i16,
) -> JoinGroupResponse {
    let mut response = match join(context, &request, version).await {
        Ok(response) => response,
        Err(error) => JoinGroupResponse::default()
            .with_error_code(error.code())
            .with_generation_id(-1)
            .with_protocol_name(None)
            .with_member_id(request.member_id.clone()),
    };
    if version < NULLABLE_PROTOCOL && response.protocol_name.is_none() {
        response.protocol_name = Some(text(""));
    }
    response
}

async fn join(
    context: &RequestContext,
    request: &JoinGroupRequest,
    version: i16,
) -> Result<JoinGroupResponse, ResponseError> {
    let broker = &context.broker;
    if request.group_id.is_empty() {
        return Err(ResponseError::InvalidGroupId);
    }
    let allowed = broker.config.int("group.min.session.timeout.ms")
        ..=broker.config.int("group.max.session.timeout.ms");
    if !allowed.contains(&i64::from(request.session_timeout_ms)) {
        return Err(ResponseError::InvalidSessionTimeout);
    }
    let client_id = context.client_id.as_deref().unwrap_or_default();
    // As Kafka makes them.
    let prefix = request.group_instance_id.as_deref().unwrap_or(client_id);
    let asked = JoinRequest {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        new_member_id: format!("{prefix}-{}", Uuid::new_v4()),
        instance_id: owned(request.group_instance_id.as_ref()),
        client_id: client_id.to_owned(),
        // As Java shows addresses.
        client_host: format!("/{}", context.peer.ip()),
        version,
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: if version >= 1 {
            request.rebalance_timeout_ms
        } else {
            request.session_timeout_ms
        },
        protocol_type: request.protocol_type.to_string(),
        // What is stored must not keep the whole request in memory.
        protocols: request
            .protocols
            .iter()
            .map(|p| (p.name.to_string(), p.metadata.to_vec().into()))
            .collect(),
    };
    let answer = broker
        .groups
        .call(broker, &request.group_id, Request::Join(asked))
        .await;
    match answer {
        Ok(Answer::Join(response)) => Ok(response),
        Ok(_) => Err(ResponseError::UnknownServerError),
        Err(unavailable) => Err(unavailable.error()),
    }
}

//! ConsumerGroupHeartbeat (versions 0 and 1): a member of a group of the next protocol (KIP-848).

use super::{RequestContext, text};
use crate::coordinator::group::consumer::heartbeat::Heartbeat;
use crate::coordinator::group::{Answer, Request};
use crate::metadata::features::GROUP_VERSION;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use uuid::Uuid;

pub async fn handle(
    context: &RequestContext,
    request: ConsumerGroupHeartbeatRequest,
    version: i16,
) -> ConsumerGroupHeartbeatResponse {
    if context.broker.metadata.load().feature_level(GROUP_VERSION) == 0 {
        return ConsumerGroupHeartbeatResponse::default()
            .with_error_code(ResponseError::UnsupportedVersion.code())
            .with_error_message(Some(text("The feature group.version is at level 0.")));
    }
    let group = request.group_id.clone();
    if group.is_empty() {
        return ConsumerGroupHeartbeatResponse::default()
            .with_error_code(ResponseError::InvalidRequest.code())
            .with_error_message(Some(text("GroupId can't be empty.")));
    }
    let heartbeat = Heartbeat {
        request,
        version,
        new_member_id: Uuid::new_v4().to_string(),
        client_id: context.client_id.as_deref().unwrap_or_default().to_owned(),
        // As Java shows addresses.
        client_host: format!("/{}", context.peer.ip()),
    };
    let broker = &context.broker;
    let asked = Request::Beat(Box::new(heartbeat));
    let error = match broker.groups.call(broker, &group, asked).await {
        Ok(Answer::Beat(response)) => return response,
        Ok(_) => ResponseError::UnknownServerError,
        Err(unavailable) => unavailable.error(),
    };
    ConsumerGroupHeartbeatResponse::default().with_error_code(error.code())
}

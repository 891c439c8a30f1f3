//! SyncGroup (versions 0 to 5): a member fetches its assignment, the leader hands all of them in.

use super::{RequestContext, owned};
use crate::coordinator::group::{Answer, Request, SyncRequest};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

pub async fn handle(
    context: &RequestContext,
    request: SyncGroupRequest,
    _version: i16,
) -> SyncGroupResponse {
    let refuse = |error: ResponseError| SyncGroupResponse::default().with_error_code(error.code());
    if request.group_id.is_empty() {
        return refuse(ResponseError::InvalidGroupId);
    }
    let asked = SyncRequest {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        instance_id: owned(request.group_instance_id.as_ref()),
        generation: request.generation_id,
        protocol_type: owned(request.protocol_type.as_ref()),
        protocol: owned(request.protocol_name.as_ref()),
        assignments: request
            .assignments
            .iter()
            .map(|a| (a.member_id.to_string(), a.assignment.to_vec().into()))
            .collect(),
    };
    let broker = &context.broker;
    let answer = broker
        .groups
        .call(broker, &request.group_id, Request::Sync(asked))
        .await;
    match answer {
        Ok(Answer::Sync(response)) => response,
        Ok(_) => refuse(ResponseError::UnknownServerError),
        Err(unavailable) => refuse(unavailable.error()),
    }
}

//! Heartbeat (versions 0 to 4).

use super::{RequestContext, owned};
use crate::coordinator::Unavailable;
use crate::coordinator::group::{Answer, Request};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

pub async fn handle(
    context: &RequestContext,
    request: HeartbeatRequest,
    _version: i16,
) -> HeartbeatResponse {
    if request.group_id.is_empty() {
        let error = ResponseError::InvalidGroupId;
        return HeartbeatResponse::default().with_error_code(error.code());
    }
    let asked = Request::Heartbeat {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        instance_id: owned(request.group_instance_id.as_ref()),
        generation: request.generation_id,
    };
    let broker = &context.broker;
    let result = match broker.groups.call(broker, &request.group_id, asked).await {
        Ok(Answer::Done(result)) => result,
        Ok(_) => Err(ResponseError::UnknownServerError),
        // As in Kafka: after loading, members have a whole session left anyway.
        Err(Unavailable::Loading) => Ok(()),
        Err(unavailable) => Err(unavailable.error()),
    };
    let code = result.err().map_or(0, |e| e.code());
    HeartbeatResponse::default().with_error_code(code)
}

//! LeaveGroup (versions 0 to 5): of one member, from version 3 on of several.

use super::{RequestContext, owned};
use crate::coordinator::group::{Answer, Leaving, Request};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

/// First version with several members.
const BATCHED: i16 = 3;

pub async fn handle(
    context: &RequestContext,
    request: LeaveGroupRequest,
    version: i16,
) -> LeaveGroupResponse {
    let members = if version >= BATCHED {
        request.members
    } else {
        vec![MemberIdentity::default().with_member_id(request.member_id)]
    };
    let results = match leave(context, &request.group_id, &members).await {
        Ok(results) => results,
        Err(error) => return LeaveGroupResponse::default().with_error_code(error.code()),
    };
    let code = |result: &Result<(), ResponseError>| result.err().map_or(0, |e| e.code());
    if version < BATCHED {
        let code = results.first().map_or(0, code);
        return LeaveGroupResponse::default().with_error_code(code);
    }
    let each = members.into_iter().zip(&results).map(|(member, result)| {
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
            .with_error_code(code(result))
    });
    LeaveGroupResponse::default().with_members(each.collect())
}

async fn leave(
    context: &RequestContext,
    group: &str,
    members: &[MemberIdentity],
) -> Result<Vec<Result<(), ResponseError>>, ResponseError> {
    if group.is_empty() {
        return Err(ResponseError::InvalidGroupId);
    }
    let asked = Request::Leave {
        group: group.to_owned(),
        members: members
            .iter()
            .map(|m| Leaving {
                member_id: m.member_id.to_string(),
                instance_id: owned(m.group_instance_id.as_ref()),
            })
            .collect(),
    };
    let broker = &context.broker;
    match broker.groups.call(broker, group, asked).await {
        Ok(Answer::Left(results)) => Ok(results),
        Ok(_) => Err(ResponseError::UnknownServerError),
        Err(unavailable) => Err(unavailable.error()),
    }
}

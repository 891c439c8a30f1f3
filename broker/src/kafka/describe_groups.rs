//! DescribeGroups (versions 0 to 6).

use super::{RequestContext, text};
use crate::coordinator::group::{Answer, Request};
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};

/// First version that says that a group is not there, rather than that it is dead.
const NOT_FOUND: i16 = 6;
/// "Not asked for", as authorized operations are reported without authorization.
const NO_OPERATIONS: i32 = i32::MIN;

pub async fn handle(
    context: &RequestContext,
    request: DescribeGroupsRequest,
    version: i16,
) -> DescribeGroupsResponse {
    let each = request.groups.iter().map(|id| describe(context, id));
    let mut groups = join_all(each).await;
    for group in &mut groups {
        group.authorized_operations = NO_OPERATIONS;
        if version >= NOT_FOUND && group.error_code == 0 && &*group.group_state == "Dead" {
            group.error_code = ResponseError::GroupIdNotFound.code();
            let message = format!("Group {} not found.", group.group_id.0);
            group.error_message = Some(text(message));
        }
    }
    DescribeGroupsResponse::default().with_groups(groups)
}

async fn describe(context: &RequestContext, id: &GroupId) -> DescribedGroup {
    let broker = &context.broker;
    let asked = Request::Describe(vec![id.to_string()]);
    let error = match broker.groups.call(broker, id, asked).await {
        Ok(Answer::Described(mut described)) if described.len() == 1 => {
            return described.remove(0);
        }
        Ok(_) => ResponseError::UnknownServerError,
        Err(unavailable) => unavailable.error(),
    };
    DescribedGroup::default()
        .with_group_id(id.clone())
        .with_error_code(error.code())
}

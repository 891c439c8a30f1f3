//! DeleteGroups (versions 0 to 2): groups without members, with their offsets.

use super::RequestContext;
use crate::coordinator::group::{Answer, Request};
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse, GroupId};

pub async fn handle(
    context: &RequestContext,
    request: DeleteGroupsRequest,
    _version: i16,
) -> DeleteGroupsResponse {
    let each = request.groups_names.iter().map(|id| delete(context, id));
    let results = join_all(each).await;
    let results = request
        .groups_names
        .iter()
        .zip(results)
        .map(|(id, result)| {
            DeletableGroupResult::default()
                .with_group_id(id.clone())
                .with_error_code(result.err().map_or(0, |e| e.code()))
        });
    DeleteGroupsResponse::default().with_results(results.collect())
}

async fn delete(context: &RequestContext, id: &GroupId) -> Result<(), ResponseError> {
    let broker = &context.broker;
    let asked = Request::DeleteGroups(vec![id.to_string()]);
    match broker.groups.call(broker, id, asked).await {
        Ok(Answer::Left(results)) => results.first().copied().unwrap_or(Ok(())),
        Ok(_) => Err(ResponseError::UnknownServerError),
        Err(unavailable) => Err(unavailable.error()),
    }
}

//! ListGroups (versions 0 to 5): the groups this broker coordinates.

use super::{RequestContext, text};
use crate::coordinator::Unavailable;
use crate::coordinator::group::{Answer, Request};
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;

pub async fn handle(
    context: &RequestContext,
    request: ListGroupsRequest,
    _version: i16,
) -> ListGroupsResponse {
    let (partitions, loading) = context.broker.groups.led();
    if loading {
        let error = ResponseError::CoordinatorLoadInProgress;
        return ListGroupsResponse::default().with_error_code(error.code());
    }
    let lower =
        |all: &[StrBytes]| -> Vec<String> { all.iter().map(|s| s.trim().to_lowercase()).collect() };
    let asked = Request::List {
        states: lower(&request.states_filter),
        types: lower(&request.types_filter),
    };
    let groups = &context.broker.groups;
    let each = partitions
        .into_iter()
        .map(|partition| groups.call_partition(partition, asked.clone()));
    let mut listed = Vec::new();
    for answer in join_all(each).await {
        match answer {
            Ok(Answer::Listed(more)) => listed.extend(more),
            // Lost in the meantime: its new coordinator lists them.
            Err(Unavailable::NotCoordinator) => {}
            Err(Unavailable::Loading) => {
                let error = ResponseError::CoordinatorLoadInProgress;
                return ListGroupsResponse::default().with_error_code(error.code());
            }
            Ok(_) => {
                let error = ResponseError::UnknownServerError;
                return ListGroupsResponse::default().with_error_code(error.code());
            }
        }
    }
    let groups = listed.into_iter().map(|group| {
        ListedGroup::default()
            .with_group_id(GroupId(text(group.id)))
            .with_protocol_type(text(group.protocol_type))
            .with_group_state(text(group.state))
            .with_group_type(text(group.kind))
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}

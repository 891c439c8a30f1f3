//! ConsumerGroupDescribe (versions 0 and 1): groups of the next protocol (KIP-848).

use super::{RequestContext, text};
use crate::coordinator::group::{Answer, Request};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, GroupId,
};

pub async fn handle(
    context: &RequestContext,
    request: ConsumerGroupDescribeRequest,
    _version: i16,
) -> ConsumerGroupDescribeResponse {
    let mut groups = Vec::with_capacity(request.group_ids.len());
    for id in &request.group_ids {
        groups.push(describe(context, id).await);
    }
    ConsumerGroupDescribeResponse::default().with_groups(groups)
}

async fn describe(context: &RequestContext, id: &GroupId) -> DescribedGroup {
    let failed = |error: ResponseError, message: &str| {
        DescribedGroup::default()
            .with_group_id(id.clone())
            .with_error_code(error.code())
            .with_error_message(Some(text(message)))
    };
    if id.is_empty() {
        return failed(ResponseError::InvalidGroupId, "The group id is empty.");
    }
    let broker = &context.broker;
    let asked = Request::DescribeNext(vec![id.to_string()]);
    let error = match broker.groups.call(broker, id, asked).await {
        Ok(Answer::DescribedNext(mut described)) if !described.is_empty() => {
            return described.swap_remove(0);
        }
        Ok(_) => ResponseError::UnknownServerError,
        Err(unavailable) => unavailable.error(),
    };
    failed(error, "The group's coordinator does not answer.")
}

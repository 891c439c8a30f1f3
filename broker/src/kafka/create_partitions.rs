//! CreatePartitions (versions 0 to 3).

use super::{RequestContext, text};
use crate::coordinator::topic::is_internal;
use crate::metadata::changes::{Refused, create_partitions};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use std::time::Duration;
use tidelog_replication::BrokerId;

pub async fn handle(
    context: &RequestContext,
    request: CreatePartitionsRequest,
    _version: i16,
) -> CreatePartitionsResponse {
    let limit = Duration::from_millis(request.timeout_ms.clamp(0, 60_000) as u64);
    let mut results = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let assignments = asked.assignments.map(|all| {
            all.iter()
                .map(|a| a.broker_ids.iter().map(|b| BrokerId(b.0)).collect())
                .collect()
        });
        let result = if is_internal(&asked.name) {
            Err(Refused::new(
                ResponseError::InvalidTopicException,
                "The number of partitions decides which coordinator a key belongs to.",
            ))
        } else {
            create_partitions(
                &context.broker,
                &asked.name,
                asked.count,
                assignments,
                request.validate_only,
                limit,
            )
            .await
        };
        let answer = CreatePartitionsTopicResult::default().with_name(asked.name);
        results.push(match result {
            Ok(()) => answer.with_error_message(None),
            Err(refused) => answer
                .with_error_code(refused.error.code())
                .with_error_message(Some(text(refused.message))),
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}

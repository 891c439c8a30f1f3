//! DeleteRecords (versions 0 to 2): moves the log start on all replicas.

use super::{RequestContext, find_led, find_topic};
use crate::coordinator::topic::is_internal;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use std::time::Duration;
use tidelog_replication::ProposeError;

/// Stands for the high watermark.
const HIGH_WATERMARK: i64 = -1;

pub async fn handle(
    context: &RequestContext,
    request: DeleteRecordsRequest,
    _version: i16,
) -> DeleteRecordsResponse {
    let limit = Duration::from_millis(request.timeout_ms.clamp(1, 60_000) as u64);
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for partition in &asked.partitions {
            let result = delete(
                context,
                &asked.name,
                partition.partition_index,
                partition.offset,
                limit,
            )
            .await;
            let answer = DeleteRecordsPartitionResult::default()
                .with_partition_index(partition.partition_index);
            partitions.push(match result {
                Ok(low_watermark) => answer.with_low_watermark(low_watermark),
                Err(error) => answer.with_low_watermark(-1).with_error_code(error.code()),
            });
        }
        topics.push(
            DeleteRecordsTopicResult::default()
                .with_name(asked.name)
                .with_partitions(partitions),
        );
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn delete(
    context: &RequestContext,
    topic: &str,
    index: i32,
    offset: i64,
    limit: Duration,
) -> Result<i64, ResponseError> {
    if is_internal(topic) {
        return Err(ResponseError::InvalidTopicException);
    }
    let partition = {
        let image = context.broker.metadata.load();
        let topic = find_topic(&image, topic, uuid::Uuid::nil())?;
        find_led(&context.broker, &topic, index, -1)?.partition
    };
    let log = partition.log();
    let offset = if offset == HIGH_WATERMARK {
        log.log_end_offset()
    } else {
        offset
    };
    if offset < 0 || offset > log.log_end_offset() {
        return Err(ResponseError::OffsetOutOfRange);
    }
    match tokio::time::timeout(limit, partition.propose_log_start(offset)).await {
        Ok(Ok(moved)) => Ok(moved.log_start_offset),
        Ok(Err(ProposeError::Timeout)) | Err(_) => Err(ResponseError::RequestTimedOut),
        Ok(Err(_)) => Err(ResponseError::NotLeaderOrFollower),
    }
}

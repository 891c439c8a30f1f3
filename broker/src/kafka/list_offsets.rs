//! ListOffsets (versions 1 to 10): offsets by time, and the special timestamps.

use super::{RequestContext, find_led, find_topic};
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use std::sync::Arc;
use tidelog_replication::host::Host;
use tidelog_storage::log::PartitionLog;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;
/// Special timestamps and the version each came with.
const SPECIAL: [(i64, i16); 6] = [
    (LATEST, 1),
    (EARLIEST, 1),
    (MAX_TIMESTAMP, 7),
    (EARLIEST_LOCAL, 8),
    (LATEST_TIERED, 9),
    (EARLIEST_PENDING_UPLOAD, 11),
];
const FIRST_WITH_LEADER_EPOCH: i16 = 4;
const READ_COMMITTED: i8 = 1;

pub async fn handle(
    context: &RequestContext,
    request: ListOffsetsRequest,
    version: i16,
) -> ListOffsetsResponse {
    // All at once: a leader at rest has to ask its followers, and one that is cut off waits for them.
    let topics = request.topics.into_iter().map(async |asked| {
        let found = asked.partitions.iter().map(async |partition| {
            let (name, isolation) = (&asked.name, request.isolation_level);
            let found = find(context, name, partition, isolation, version).await;
            let mut answer = found.unwrap_or_else(|error| {
                ListOffsetsPartitionResponse::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(error.code())
                    .with_timestamp(-1)
                    .with_offset(-1)
                    .with_leader_epoch(-1)
            });
            if version < FIRST_WITH_LEADER_EPOCH {
                answer.leader_epoch = -1;
            }
            answer
        });
        let partitions = join_all(found).await;
        ListOffsetsTopicResponse::default()
            .with_name(asked.name)
            .with_partitions(partitions)
    });
    ListOffsetsResponse::default().with_topics(join_all(topics).await)
}

async fn find(
    context: &RequestContext,
    name: &str,
    asked: &ListOffsetsPartition,
    isolation_level: i8,
    version: i16,
) -> Result<ListOffsetsPartitionResponse, ResponseError> {
    let known = asked.timestamp >= 0
        || SPECIAL
            .iter()
            .any(|(special, since)| *special == asked.timestamp && version >= *since);
    if !known {
        return Err(ResponseError::UnsupportedVersion);
    }
    let found = {
        let image = context.broker.metadata.load();
        let topic = find_topic(&image, name, uuid::Uuid::nil())?;
        find_led(
            &context.broker,
            &topic,
            asked.partition_index,
            asked.current_leader_epoch,
        )?
    };
    // Another broker may lead by now, and have acknowledged records that are not here.
    let needs_end = asked.timestamp >= 0 || [LATEST, MAX_TIMESTAMP].contains(&asked.timestamp);
    if needs_end && !found.partition.confirm_leader(found.epoch).await {
        return Err(ResponseError::NotLeaderOrFollower);
    }
    let log = found.partition.log().clone();
    let epoch_of = |log: &PartitionLog, offset| log.epoch_at(offset).unwrap_or(found.epoch);
    let (timestamp, offset, epoch) = match asked.timestamp {
        LATEST => {
            let end = readable_end(&log, isolation_level);
            (-1, end, found.epoch)
        }
        EARLIEST | EARLIEST_LOCAL => {
            let start = log.log_start_offset();
            (-1, start, epoch_of(&log, start))
        }
        // There is no tiered storage: nothing lies there, and nothing waits for it.
        LATEST_TIERED | EARLIEST_PENDING_UPLOAD => (-1, -1, -1),
        at => {
            let end = readable_end(&log, isolation_level);
            let at = (at != MAX_TIMESTAMP).then_some(at);
            by_time(context.broker.node.host(), log, at)
                .await?
                .filter(|(_, offset, _)| *offset < end)
                .unwrap_or((-1, -1, -1))
        }
    };
    Ok(ListOffsetsPartitionResponse::default()
        .with_partition_index(asked.partition_index)
        .with_timestamp(timestamp)
        .with_offset(offset)
        .with_leader_epoch(epoch))
}

/// End of what a consumer of that isolation may see.
fn readable_end(log: &PartitionLog, isolation_level: i8) -> i64 {
    if isolation_level == READ_COMMITTED {
        log.last_stable_offset()
    } else {
        log.log_end_offset()
    }
}

/// Looks inside batches, which may have to come from the disk.
async fn by_time(
    host: &Host,
    log: Arc<PartitionLog>,
    timestamp: Option<i64>,
) -> Result<Option<(i64, i64, i32)>, ResponseError> {
    let looked = host.disk_work(move || match timestamp {
        Some(timestamp) => log.offset_for_timestamp(timestamp),
        None => log.offset_of_max_timestamp(),
    });
    match looked.await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => {
            tracing::error!("offset by time: {error}");
            Err(ResponseError::KafkaStorageError)
        }
        Err(_) => Err(ResponseError::KafkaStorageError),
    }
}

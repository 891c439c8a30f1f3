//! OffsetForLeaderEpoch (KIP-320): where an epoch ended, so that a client notices truncation.

use super::{RequestContext, find_led, find_topic};
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderEpochRequest;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};

pub async fn handle(
    context: &RequestContext,
    request: OffsetForLeaderEpochRequest,
    _version: i16,
) -> OffsetForLeaderEpochResponse {
    let image = context.broker.metadata.load();
    let topics = request
        .topics
        .into_iter()
        .map(|asked| {
            let partitions = asked
                .partitions
                .iter()
                .map(|p| {
                    let end = EpochEndOffset::default()
                        .with_partition(p.partition)
                        .with_leader_epoch(-1)
                        .with_end_offset(-1);
                    let found = find_topic(&image, &asked.topic, uuid::Uuid::nil()).and_then(|t| {
                        find_led(&context.broker, &t, p.partition, p.current_leader_epoch)
                    });
                    match found {
                        Ok(found) => {
                            let log = found.partition.log();
                            match log.epoch_end_offset(p.leader_epoch, found.epoch) {
                                Some((epoch, offset)) => {
                                    end.with_leader_epoch(epoch).with_end_offset(offset)
                                }
                                None => end,
                            }
                        }
                        Err(error) => end.with_error_code(error.code()),
                    }
                })
                .collect();
            OffsetForLeaderTopicResult::default()
                .with_topic(asked.topic)
                .with_partitions(partitions)
        })
        .collect();
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

//! WriteTxnMarkers (version 1): ends a transaction in partitions led here. Brokers of this cluster use
//! their own channel; this is for tools that end a hanging transaction (KIP-664).

use super::{RequestContext, find_led, find_topic};
use crate::coordinator::topic::is_internal;
use crate::coordinator::transaction::markers::{self, TxnMarker};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::write_txn_markers_request::WritableTxnMarker;
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

pub async fn handle(
    context: &RequestContext,
    request: WriteTxnMarkersRequest,
    _version: i16,
) -> WriteTxnMarkersResponse {
    let mut results = Vec::with_capacity(request.markers.len());
    for marker in request.markers {
        results.push(write(context, marker).await);
    }
    WriteTxnMarkersResponse::default().with_markers(results)
}

async fn write(context: &RequestContext, asked: WritableTxnMarker) -> WritableTxnMarkerResult {
    let marker = TxnMarker {
        producer_id: asked.producer_id.0,
        producer_epoch: asked.producer_epoch,
        coordinator_epoch: asked.coordinator_epoch,
        commit: asked.transaction_result,
        bumped: false,
    };
    let mut topics = Vec::with_capacity(asked.topics.len());
    for topic in asked.topics {
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for index in topic.partition_indexes {
            let outcome = write_one(context, marker, &topic.name, index).await;
            partitions.push(
                WritableTxnMarkerPartitionResult::default()
                    .with_partition_index(index)
                    .with_error_code(outcome.err().map_or(0, |e| e.code())),
            );
        }
        topics.push(
            WritableTxnMarkerTopicResult::default()
                .with_name(topic.name)
                .with_partitions(partitions),
        );
    }
    WritableTxnMarkerResult::default()
        .with_producer_id(asked.producer_id)
        .with_topics(topics)
}

async fn write_one(
    context: &RequestContext,
    marker: TxnMarker,
    topic: &str,
    index: i32,
) -> Result<(), ResponseError> {
    let broker = &context.broker;
    if !is_internal(topic) {
        let image = broker.metadata.load();
        let found = find_topic(&image, topic, uuid::Uuid::nil())?;
        find_led(broker, &found, index, -1)?;
    }
    let outcomes = markers::write(broker, marker, vec![(topic.to_owned(), index)]).await;
    outcomes.into_iter().collect()
}

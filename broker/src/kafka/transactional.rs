//! What the transactional APIs share.

use crate::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;

/// Clients of before KIP-588 do not know PRODUCER_FENCED.
pub fn fenced(error: ResponseError, known: bool) -> ResponseError {
    if error == ResponseError::ProducerFenced && !known {
        ResponseError::InvalidProducerEpoch
    } else {
        error
    }
}

/// Every partition of a request, in order.
pub fn partitions(topics: &[AddPartitionsToTxnTopic]) -> Vec<(TopicName, i32)> {
    let each = topics.iter().flat_map(|t| {
        let name = &t.name;
        t.partitions.iter().map(move |p| (name.clone(), *p))
    });
    each.collect()
}

/// Whether there is such a partition.
pub fn exists(image: &MetadataImage, topic: &str, partition: i32) -> bool {
    let count = image.topic(topic).map_or(0, |t| t.partitions.len());
    usize::try_from(partition).is_ok_and(|p| p < count)
}

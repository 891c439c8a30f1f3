//! Produce requests to one chosen broker, answered as they are: no retry hides an error.

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use crate::read::topic_name;
use crate::wire::Wire;

/// The last version that names topics by name.
pub const PRODUCE_VERSION: i16 = 12;

/// What one produce request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    pub error_code: i16,
    pub base_offset: i64,
}

/// One batch of records without keys, from a producer without an id.
///
/// # Errors
/// When there is no value.
pub fn batch(values: impl IntoIterator<Item = Bytes>) -> Result<Bytes> {
    let records: Vec<Record> = (0_i32..)
        .zip(values)
        .map(|(n, value)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset: i64::from(n),
            // The encoder begins a new batch where this is not in step with the offset.
            sequence: NO_SEQUENCE + n,
            timestamp: 1_700_000_000_000,
            key: None,
            value: Some(value),
            headers: Default::default(),
        })
        .collect();
    let options = RecordEncodeOptions {
        version: 2,
        compression: Compression::None,
    };
    let mut encoded = BytesMut::new();
    RecordBatchEncoder::encode(&mut encoded, &records, &options)?;
    Ok(encoded.freeze())
}

/// A request with one batch for one partition, acknowledged by a majority.
#[must_use]
pub fn request(topic: &str, partition: i32, batch: Bytes) -> ProduceRequest {
    request_to(topic, &[partition], &batch)
}

/// The same batch for each of these partitions.
fn request_to(topic: &str, partitions: &[i32], batch: &Bytes) -> ProduceRequest {
    let of = |partition: &i32| {
        PartitionProduceData::default()
            .with_index(*partition)
            .with_records(Some(batch.clone()))
    };
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![
            TopicProduceData::default()
                .with_name(topic_name(topic))
                .with_partition_data(partitions.iter().map(of).collect()),
        ])
}

/// Sends one batch to one broker and waits for what it says, which takes it a second at most.
///
/// # Errors
/// When the connection fails or the answer speaks of no partition.
pub async fn produce(
    wire: &mut Wire,
    topic: &str,
    partition: i32,
    batch: Bytes,
) -> Result<Produced> {
    let told = produce_to(wire, topic, &[partition], &batch).await?;
    let (_, told) = told.first().context("a partition in the answer")?;
    Ok(*told)
}

/// As [`produce`], the same batch to several partitions in one request.
///
/// # Errors
/// When the connection fails or the answer speaks of no topic.
pub async fn produce_to(
    wire: &mut Wire,
    topic: &str,
    partitions: &[i32],
    batch: &Bytes,
) -> Result<Vec<(i32, Produced)>> {
    let request = request_to(topic, partitions, batch).with_timeout_ms(1_000);
    let answer = wire.call(&request, PRODUCE_VERSION).await?;
    let topic = answer.responses.first().context("a topic in the answer")?;
    let of_partitions = topic.partition_responses.iter().map(|p| {
        let told = Produced {
            error_code: p.error_code,
            base_offset: p.base_offset,
        };
        (p.index, told)
    });
    Ok(of_partitions.collect())
}

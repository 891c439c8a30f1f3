//! Reads a partition whole: through a client, or from the replica of one chosen broker.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::RecordBatchDecoder;
use krafka::consumer::AutoOffsetReset;
use tidelog_jepsen::History;

use crate::cluster::Cluster;
use crate::load::{connect, key_of};
use crate::wait;
use crate::wire::Wire;

/// The last version that names topics by name.
const FETCH_VERSION: i16 = 12;

const OFFSET_OUT_OF_RANGE: i16 = 1;
/// A follower's answer: the leader may be further.
const OFFSET_NOT_AVAILABLE: i16 = 78;

/// Everything must be there by then.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// A topic name as the protocol crate wants it.
#[must_use]
pub fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// One plain fetch from one broker, whether it leads the partition or not.
///
/// # Errors
/// When the connection fails or the answer is another partition's.
pub async fn fetch(
    wire: &mut Wire,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<PartitionData> {
    let asked = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(4 << 20);
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(16 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![
            FetchTopic::default()
                .with_topic(topic_name(topic))
                .with_partitions(vec![asked]),
        ]);
    let mut answer = wire.call(&request, FETCH_VERSION).await?;
    if answer.error_code != 0 {
        bail!("fetch was answered error {}", answer.error_code);
    }
    let mut topic = answer.responses.pop().context("a topic in the answer")?;
    topic.partitions.pop().context("a partition in the answer")
}

/// The high watermark of a partition as one broker has it.
///
/// # Errors
/// When it does not answer, or has no such partition yet.
pub async fn end_offset(broker: SocketAddr, topic: &str, partition: i32) -> Result<i64> {
    let mut wire = Wire::connect(broker).await?;
    // Past every end: only the answer's head is of interest.
    let data = fetch(&mut wire, topic, partition, i64::MAX).await?;
    ensure!(
        matches!(data.error_code, OFFSET_OUT_OF_RANGE | OFFSET_NOT_AVAILABLE),
        "error {}",
        data.error_code
    );
    Ok(data.high_watermark)
}

/// The number a value begins with; what follows a space is padding.
fn number(value: &[u8]) -> Result<u64> {
    let digits = value.split(|byte| *byte == b' ').next();
    Ok(std::str::from_utf8(digits.unwrap_or_default())?.parse()?)
}

/// As [`read_replica`], but ends at the first thing that is wrong.
///
/// # Errors
/// When a fetch fails or what it brings does not decode.
pub async fn read_replica_once(
    broker: SocketAddr,
    topic: &str,
    partition: i32,
    end: i64,
) -> Result<Vec<(i64, u64)>> {
    let mut wire = Wire::connect(broker).await?;
    let mut records = Vec::new();
    let mut next = 0;
    while next < end {
        next = read_some(&mut wire, topic, partition, next, &mut records)
            .await?
            .context("records below the end")?;
    }
    Ok(records)
}

/// Reads what one fetch brings; the next offset, or `None` when it brings nothing.
async fn read_some(
    wire: &mut Wire,
    topic: &str,
    partition: i32,
    from: i64,
    records: &mut Vec<(i64, u64)>,
) -> Result<Option<i64>> {
    let data = fetch(wire, topic, partition, from).await?;
    if data.error_code != 0 {
        bail!("error {} at offset {from}", data.error_code);
    }
    let Some(mut bytes) = data.records.filter(|bytes| !bytes.is_empty()) else {
        return Ok(None);
    };
    let mut next = from;
    for set in RecordBatchDecoder::decode_all(&mut bytes)? {
        for record in set.records.into_iter().filter(|r| r.offset >= from) {
            let value = record.value.context("a value")?;
            records.push((record.offset, number(&value)?));
            next = record.offset + 1;
        }
    }
    Ok(Some(next))
}

/// Every record of one partition below `end`, as the broker at that address stores it, with its value
/// as a number.
///
/// # Errors
/// When they are not all there within a minute.
pub async fn read_replica(
    broker: SocketAddr,
    topic: &str,
    partition: i32,
    end: i64,
) -> Result<Vec<(i64, u64)>> {
    let mut records = Vec::new();
    let mut next = 0;
    let mut wire = None;
    let what = format!("offset {end} of {topic}-{partition} on {broker}");
    wait::until(&what, READ_LIMIT, async || {
        while next < end {
            let connection = match &mut wire {
                Some(connection) => connection,
                none => none.insert(Wire::connect(broker).await?),
            };
            let more = read_some(connection, topic, partition, next, &mut records).await?;
            let Some(more) = more else {
                return Ok(None);
            };
            next = more;
        }
        Ok(Some(()))
    })
    .await?;
    Ok(records)
}

/// Adds to a history what every broker holds of a topic, each read by itself up to the end offset
/// that a client sees, and what the client reads.
///
/// # Errors
/// When a broker does not serve everything within a minute.
pub async fn read_everywhere(
    cluster: &Cluster,
    topic: &str,
    partitions: i32,
    history: &mut History,
) -> Result<()> {
    let seen = read_by_client(&cluster.bootstrap(), topic, partitions).await?;
    for (partition, records) in (0..).zip(seen) {
        let key = key_of(topic, partition);
        let end = records.last().map_or(0, |(offset, _)| offset + 1);
        history.assign(1_000, &[&key]);
        history.poll_ok(1_000, &key, records);
        for broker in &cluster.brokers {
            let reader = 1_000 + broker.id.cast_unsigned();
            history.assign(reader, &[&key]);
            history.poll_ok(
                reader,
                &key,
                read_replica(broker.kafka, topic, partition, end).await?,
            );
        }
    }
    Ok(())
}

/// Every record of partitions `[0, partitions)` below the end offsets at the time of the call.
///
/// # Errors
/// When they are not all read within a minute.
pub async fn read_by_client(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
) -> Result<Vec<Vec<(i64, u64)>>> {
    let kafka = connect(bootstrap).await?;
    let consumer = kafka
        .consumer_without_group()
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .enable_auto_commit(false)
        .build()
        .await?;
    let mut ends = Vec::new();
    for partition in 0..partitions {
        // This client asks once, also where the leader it knows has just handed over.
        let watermarks = wait::until("the end of a partition", READ_LIMIT, async || {
            Ok(Some(consumer.fetch_watermarks(topic, partition).await?))
        });
        ends.push(watermarks.await?.1);
    }
    consumer.assign(topic, (0..partitions).collect()).await?;
    let mut seen: Vec<Vec<(i64, u64)>> = vec![Vec::new(); ends.len()];
    wait::until("every record read by the client", READ_LIMIT, async || {
        for record in consumer.poll(Duration::from_millis(200)).await? {
            let value = record.value.context("a value")?;
            let read = &mut seen[usize::try_from(record.partition)?];
            read.push((record.offset, number(&value)?));
        }
        let next = |read: &Vec<(i64, u64)>| read.last().map_or(0, |(offset, _)| offset + 1);
        Ok(seen
            .iter()
            .zip(&ends)
            .all(|(read, end)| next(read) >= *end)
            .then_some(()))
    })
    .await?;
    consumer.close().await?;
    Ok(seen)
}

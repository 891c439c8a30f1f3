//! What each broker has stored, asked of it alone, byte by byte.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, FetchResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use kafka_protocol::records::RecordBatchDecoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// The last version that names topics by name.
const FETCH_VERSION: i16 = 12;
const FETCH_KEY: i16 = 1;

/// A replica must have caught up by then.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// Where the last offset delta lies in a record batch, and how long its header is.
const LAST_OFFSET_DELTA: usize = 23;
const HEADER_LEN: usize = 61;

type KeyValue = (Option<Bytes>, Option<Bytes>);

/// What one broker has stored of a partition.
pub struct Stored {
    pub bytes: Vec<u8>,
}

impl Stored {
    /// Key and value at each offset.
    fn records(&self) -> Result<BTreeMap<i64, KeyValue>> {
        let mut bytes = Bytes::copy_from_slice(&self.bytes);
        let mut records = BTreeMap::new();
        while !bytes.is_empty() {
            for record in RecordBatchDecoder::decode(&mut bytes)?.records {
                records.insert(record.offset, (record.key, record.value));
            }
        }
        Ok(records)
    }

    /// Whether another copy has something else at an offset that both have; what cannot be read does.
    #[must_use]
    pub fn contradicts(&self, other: &Stored) -> bool {
        let (Ok(ours), Ok(theirs)) = (self.records(), other.records()) else {
            return true;
        };
        let mut common = ours
            .iter()
            .filter_map(|(offset, record)| Some((record, theirs.get(offset)?)));
        common.any(|(ours, theirs)| ours != theirs)
    }
}

/// The batches of one partition below `end`, as the broker at `address` stores them.
///
/// # Errors
/// When they are not all there within a minute.
pub async fn read(address: &str, topic: &str, partition: i32, end: i64) -> Result<Stored> {
    let deadline = Instant::now() + READ_LIMIT;
    let mut stored = Vec::new();
    let mut next = 0;
    let mut last = anyhow::anyhow!("nothing came");
    while next < end {
        if Instant::now() > deadline {
            let place = format!("{topic}-{partition} on {address} stops at {next}, below {end}");
            return Err(last.context(place));
        }
        let answer = fetch(address, topic, partition, next);
        let batches = match timeout(Duration::from_secs(5), answer).await {
            Ok(Ok(batches)) if !batches.is_empty() => batches,
            Ok(Ok(_)) => {
                sleep(Duration::from_millis(100)).await;
                continue;
            }
            Ok(Err(error)) => {
                last = error;
                sleep(Duration::from_millis(100)).await;
                continue;
            }
            Err(_) => {
                last = anyhow::anyhow!("no answer within 5 s");
                continue;
            }
        };
        next = take_batches(&batches, next, &mut stored)?;
    }
    Ok(Stored { bytes: stored })
}

/// Copies whole batches; the offset after them.
fn take_batches(mut bytes: &[u8], mut next: i64, stored: &mut Vec<u8>) -> Result<i64> {
    while bytes.len() >= HEADER_LEN {
        let mut header = bytes;
        let base = header.get_i64();
        let length = 12 + usize::try_from(header.get_i32())?;
        if bytes.len() < length {
            break;
        }
        let delta = (&bytes[LAST_OFFSET_DELTA..]).get_i32();
        let after = base + i64::from(delta) + 1;
        // Compaction leaves gaps; going back is none.
        if after <= next {
            bail!("a batch at offset {base} where {next} was asked for");
        }
        next = after;
        stored.extend_from_slice(&bytes[..length]);
        bytes = &bytes[length..];
    }
    Ok(next)
}

async fn fetch(address: &str, topic: &str, partition: i32, offset: i64) -> Result<Bytes> {
    let asked = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(4 << 20);
    let topic = TopicName(StrBytes::from_string(topic.to_owned()));
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(100)
        .with_min_bytes(1)
        .with_max_bytes(16 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![
            FetchTopic::default()
                .with_topic(topic)
                .with_partitions(vec![asked]),
        ]);
    let header = RequestHeader::default()
        .with_request_api_key(FETCH_KEY)
        .with_request_api_version(FETCH_VERSION)
        .with_correlation_id(1);
    let mut body = BytesMut::new();
    header.encode(&mut body, FetchRequest::header_version(FETCH_VERSION))?;
    request.encode(&mut body, FETCH_VERSION)?;
    let mut frame = BytesMut::new();
    frame.put_i32(i32::try_from(body.len())?);
    frame.put_slice(&body);
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&frame).await?;
    let mut answer = vec![0; usize::try_from(stream.read_i32().await?)?];
    stream.read_exact(&mut answer).await?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, FetchResponse::header_version(FETCH_VERSION))?;
    let mut response = FetchResponse::decode(&mut answer, FETCH_VERSION)?;
    let mut topic = response.responses.pop().context("a topic in the answer")?;
    let data = topic
        .partitions
        .pop()
        .context("a partition in the answer")?;
    if data.error_code != 0 {
        bail!("error {} at offset {offset}", data.error_code);
    }
    Ok(data.records.unwrap_or_default())
}

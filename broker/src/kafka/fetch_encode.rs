//! Encodes a fetch answer as small buffers and slices of the log, so that records are not copied.

use super::dispatch::Head;
use super::reply::{Reply, finish, start};
use crate::metadata::BrokerMeta;
use bytes::{BufMut, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use tidelog_storage::log::Slice;
use uuid::Uuid;

/// First version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 12;

#[derive(Debug, Default)]
pub struct FetchAnswer {
    pub error_code: i16,
    pub session_id: i32,
    pub topics: Vec<TopicAnswer>,
    /// Where the leaders named in `current_leader` are (version 16).
    pub endpoints: Vec<BrokerMeta>,
}

#[derive(Debug, Default)]
pub struct TopicAnswer {
    pub name: TopicName,
    pub id: Uuid,
    pub partitions: Vec<PartitionAnswer>,
}

#[derive(Debug, Clone)]
pub struct PartitionAnswer {
    pub index: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// −1: this broker.
    pub preferred_read_replica: i32,
    /// `(epoch, end offset)` at which the client's log and this one part.
    pub diverging: Option<(i32, i64)>,
    /// `(leader, epoch)`
    pub current_leader: Option<(i32, i32)>,
    /// `(producer id, first offset)`; only for `read_committed`.
    pub aborted: Option<Vec<(i64, i64)>>,
    pub records: Vec<Slice>,
}

impl Default for PartitionAnswer {
    fn default() -> Self {
        PartitionAnswer {
            index: 0,
            error_code: 0,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            preferred_read_replica: -1,
            diverging: None,
            current_leader: None,
            aborted: None,
            records: Vec::new(),
        }
    }
}

impl PartitionAnswer {
    pub fn failed(index: i32, error: ResponseError) -> Self {
        PartitionAnswer {
            index,
            error_code: error.code(),
            ..PartitionAnswer::default()
        }
    }
}

/// Pieces written so far and the buffer the next fields go to.
struct Out {
    flexible: bool,
    first: Option<BytesMut>,
    pieces: Vec<Slice>,
    buffer: BytesMut,
}

impl Out {
    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    /// Length of an array, or of bytes when `bytes`; `None` is null.
    fn length(&mut self, length: Option<usize>) {
        if self.flexible {
            self.varint(length.map_or(0, |l| l as u32 + 1));
        } else {
            self.buffer.put_i32(length.map_or(-1, |l| l as i32));
        }
    }

    fn string(&mut self, text: &str) {
        if self.flexible {
            self.varint(text.len() as u32 + 1);
        } else {
            self.buffer.put_i16(text.len() as i16);
        }
        self.buffer.put_slice(text.as_bytes());
    }

    fn no_tags(&mut self) {
        if self.flexible {
            self.buffer.put_u8(0);
        }
    }

    /// A piece that stays where it is; what is in the buffer goes before it.
    fn foreign(&mut self, piece: Slice) {
        let filled = self.buffer.split();
        match &self.first {
            Some(_) => self.pieces.push(filled.freeze().into()),
            None => self.first = Some(filled),
        }
        self.pieces.push(piece);
    }

    fn finish(mut self) -> Reply {
        match self.first {
            Some(first) => {
                if !self.buffer.is_empty() {
                    self.pieces.push(self.buffer.freeze().into());
                }
                finish(first, self.pieces)
            }
            None => finish(self.buffer, self.pieces),
        }
    }
}

/// The answer in the request's version.
pub fn encode(head: Head, answer: FetchAnswer) -> anyhow::Result<Reply> {
    let version = head.version;
    let mut out = Out {
        flexible: version >= FLEXIBLE,
        first: None,
        pieces: Vec::new(),
        buffer: start(head.api, version, head.correlation_id)?,
    };
    out.buffer.put_i32(0);
    if version >= 7 {
        out.buffer.put_i16(answer.error_code);
        out.buffer.put_i32(answer.session_id);
    }
    out.length(Some(answer.topics.len()));
    for topic in answer.topics {
        if version >= 13 {
            out.buffer.put_slice(topic.id.as_bytes());
        } else {
            out.string(&topic.name);
        }
        out.length(Some(topic.partitions.len()));
        for partition in topic.partitions {
            encode_partition(&mut out, version, partition);
        }
        out.no_tags();
    }
    if version >= 16 && !answer.endpoints.is_empty() {
        encode_endpoints(&mut out, &answer.endpoints);
    } else {
        out.no_tags();
    }
    Ok(out.finish())
}

fn encode_partition(out: &mut Out, version: i16, partition: PartitionAnswer) {
    out.buffer.put_i32(partition.index);
    out.buffer.put_i16(partition.error_code);
    out.buffer.put_i64(partition.high_watermark);
    out.buffer.put_i64(partition.last_stable_offset);
    if version >= 5 {
        out.buffer.put_i64(partition.log_start_offset);
    }
    out.length(partition.aborted.as_ref().map(Vec::len));
    for (producer_id, first_offset) in partition.aborted.unwrap_or_default() {
        out.buffer.put_i64(producer_id);
        out.buffer.put_i64(first_offset);
        out.no_tags();
    }
    if version >= 11 {
        out.buffer.put_i32(partition.preferred_read_replica);
    }
    let bytes = partition.records.iter().map(|slice| slice.len()).sum();
    out.length(Some(bytes));
    for slice in partition.records {
        out.foreign(slice);
    }
    if !out.flexible {
        return;
    }
    let tags = usize::from(partition.diverging.is_some())
        + usize::from(partition.current_leader.is_some());
    out.varint(tags as u32);
    if let Some((epoch, end)) = partition.diverging {
        out.buffer.put_slice(&[0, 4 + 8 + 1]);
        out.buffer.put_i32(epoch);
        out.buffer.put_i64(end);
        out.buffer.put_u8(0);
    }
    if let Some((leader, epoch)) = partition.current_leader {
        out.buffer.put_slice(&[1, 4 + 4 + 1]);
        out.buffer.put_i32(leader);
        out.buffer.put_i32(epoch);
        out.buffer.put_u8(0);
    }
}

/// Tagged field 0 of the whole answer.
fn encode_endpoints(out: &mut Out, endpoints: &[BrokerMeta]) {
    let mut inner = Out {
        flexible: true,
        first: None,
        pieces: Vec::new(),
        buffer: BytesMut::new(),
    };
    inner.length(Some(endpoints.len()));
    for broker in endpoints {
        inner.buffer.put_i32(broker.id.0);
        inner.string(&broker.host);
        inner.buffer.put_i32(i32::from(broker.port));
        match &broker.rack {
            Some(rack) => inner.string(rack),
            None => inner.varint(0),
        }
        inner.no_tags();
    }
    out.buffer.put_slice(&[1, 0]);
    out.varint(inner.buffer.len() as u32);
    out.buffer.put_slice(&inner.buffer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Buf, Bytes};
    use kafka_protocol::messages::{ApiKey, FetchResponse, ResponseHeader};
    use kafka_protocol::protocol::Decodable;
    use tidelog_replication::BrokerId;

    fn answer() -> FetchAnswer {
        let partition = |index: i32, records: Vec<Slice>| PartitionAnswer {
            index,
            high_watermark: 70,
            last_stable_offset: 69,
            log_start_offset: 3,
            records,
            ..PartitionAnswer::default()
        };
        let mut diverged = partition(2, Vec::new());
        diverged.aborted = Some(vec![(1000, 17), (1001, 18)]);
        diverged.diverging = Some((4, 17));
        diverged.current_leader = Some((2, 9));
        diverged.error_code = 74;
        FetchAnswer {
            topics: vec![TopicAnswer {
                name: TopicName("topic".into()),
                id: Uuid::from_u128(7),
                partitions: vec![
                    partition(
                        0,
                        vec![
                            Bytes::from_static(b"abc").into(),
                            Bytes::from_static(b"defg").into(),
                        ],
                    ),
                    partition(1, vec![Bytes::from(vec![7; 300]).into()]),
                    diverged,
                ],
            }],
            endpoints: vec![BrokerMeta {
                id: BrokerId(2),
                host: "host".to_owned(),
                port: 9093,
                rack: None,
                peer_address: String::new(),
                incarnation: Uuid::nil(),
            }],
            ..FetchAnswer::default()
        }
    }

    #[test]
    fn every_version_is_read_back_by_another_decoder() {
        for version in 4..=18 {
            let head = Head {
                api: ApiKey::Fetch,
                version,
                correlation_id: 42,
            };
            let reply = encode(head, answer()).expect("encodes");
            let mut bytes = Bytes::from(reply.pieces.concat());
            assert_eq!(bytes.get_u32() as usize, bytes.len());
            let header_version = ApiKey::Fetch.response_header_version(version);
            let header = ResponseHeader::decode(&mut bytes, header_version).expect("header");
            assert_eq!(header.correlation_id, 42);
            let response = FetchResponse::decode(&mut bytes, version).expect("body");
            assert!(bytes.is_empty(), "v{version}: {} bytes left", bytes.len());
            let topic = &response.responses[0];
            let records: Vec<_> = topic.partitions.iter().map(|p| p.records.clone()).collect();
            assert_eq!(records[0].as_deref(), Some(&b"abcdefg"[..]));
            assert_eq!(records[1].as_ref().map(Bytes::len), Some(300));
            assert_eq!(topic.partitions[2].error_code, 74);
            assert_eq!(topic.partitions[0].high_watermark, 70);
            assert_eq!(topic.partitions[0].aborted_transactions, None);
            let aborted = topic.partitions[2].aborted_transactions.as_ref();
            let aborted: Vec<_> = aborted
                .into_iter()
                .flatten()
                .map(|a| (a.producer_id.0, a.first_offset))
                .collect();
            assert_eq!(aborted, [(1000, 17), (1001, 18)]);
            if version >= 12 {
                assert_eq!(topic.partitions[2].diverging_epoch.end_offset, 17);
                assert_eq!(topic.partitions[2].current_leader.leader_epoch, 9);
            }
            if version >= 13 {
                assert_eq!(topic.topic_id, Uuid::from_u128(7));
            }
            if version >= 16 {
                assert_eq!(response.node_endpoints[0].port, 9093);
            }
        }
    }
}

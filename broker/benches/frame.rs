//! A request's frame decoded as a connection does it: header, version, counts, body.
//!
//! `cargo bench -p tidelog-broker --bench frame`

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, FetchRequest, ProduceRequest, RequestHeader, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};
use std::hint::black_box;
use std::time::Duration;
use tidelog_broker::kafka::dispatch::decode_frame;

const PRODUCE_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 12;
const BATCH_BYTES: usize = 16 << 10;

fn frame<M: Encodable>(api: ApiKey, version: i16, message: &M) -> Bytes {
    let mut bytes = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("bench")));
    let header_version = api.request_header_version(version);
    header.encode(&mut bytes, header_version).expect("a header");
    message.encode(&mut bytes, version).expect("a request");
    bytes.freeze()
}

fn topic() -> TopicName {
    TopicName(StrBytes::from_static_str("topic"))
}

fn produce(partitions: i32) -> Bytes {
    let records = Bytes::from(vec![7; BATCH_BYTES]);
    let partition = |index| {
        PartitionProduceData::default()
            .with_index(index)
            .with_records(Some(records.clone()))
    };
    let data = TopicProduceData::default()
        .with_name(topic())
        .with_partition_data((0..partitions).map(partition).collect());
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![data]);
    frame(ApiKey::Produce, PRODUCE_VERSION, &request)
}

fn fetch(partitions: i32) -> Bytes {
    let partition = |index| {
        FetchPartition::default()
            .with_partition(index)
            .with_fetch_offset(1_000_000)
            .with_partition_max_bytes(1 << 20)
    };
    let asked = FetchTopic::default()
        .with_topic(topic())
        .with_partitions((0..partitions).map(partition).collect());
    let request = FetchRequest::default().with_topics(vec![asked]);
    frame(ApiKey::Fetch, FETCH_VERSION, &request)
}

fn decode(criterion: &mut Criterion) {
    for (name, make) in [
        ("produce", produce as fn(i32) -> Bytes),
        ("fetch", fetch as fn(i32) -> Bytes),
    ] {
        let mut group = criterion.benchmark_group(format!("decode {name}"));
        for partitions in [1, 1000] {
            let frame = make(partitions);
            let id = BenchmarkId::from_parameter(format!("{partitions} partitions"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| black_box(decode_frame(frame.clone())).expect("a valid frame"));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = decode
}
criterion_main!(benches);

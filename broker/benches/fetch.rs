//! A fetch answered from the log: batches of several partitions read and put together as one response.
//!
//! `cargo bench -p tidelog-broker --bench fetch`: writes to the disk of the target folder.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kafka_protocol::messages::{ApiKey, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::hint::black_box;
use std::time::Duration;
use tidelog_broker::kafka::dispatch::Head;
use tidelog_broker::kafka::fetch_encode::{FetchAnswer, PartitionAnswer, TopicAnswer, encode};
use tidelog_broker::kafka::reply::Reply;
use tidelog_storage::batch::BatchBuilder;
use tidelog_storage::log::{AppendBatch, BatchOrigin, LogConfig, PartitionLog};

const HEAD: Head = Head {
    api: ApiKey::Fetch,
    version: 12,
    correlation_id: 1,
};
const BATCHES: usize = 16;
const BATCH_RECORDS: usize = 16;
const MAX_PARTITION_BYTES: usize = 1 << 20;

fn filled(log: &PartitionLog) {
    let mut builder = BatchBuilder::new(0, -1, 1_700_000_000_000, None);
    for _ in 0..BATCH_RECORDS {
        builder.push(b"", Some(&[7; 1000]));
    }
    let batch = AppendBatch {
        bytes: builder.finish(),
        leader_epoch: 1,
        origin: BatchOrigin::Client,
    };
    log.append(&vec![batch; BATCHES]).expect("applied");
}

fn answer(logs: &[PartitionLog]) -> Reply {
    let partitions = logs.iter().enumerate().map(|(index, log)| {
        let end = log.log_end_offset();
        let read = log
            .read(0, end, MAX_PARTITION_BYTES, true)
            .expect("batches");
        PartitionAnswer {
            index: index as i32,
            high_watermark: end,
            last_stable_offset: end,
            log_start_offset: 0,
            records: read.slices,
            ..PartitionAnswer::default()
        }
    });
    let topic = TopicAnswer {
        name: TopicName(StrBytes::from_static_str("topic")),
        partitions: partitions.collect(),
        ..TopicAnswer::default()
    };
    let answer = FetchAnswer {
        topics: vec![topic],
        ..FetchAnswer::default()
    };
    encode(HEAD, answer).expect("a response")
}

fn assemble(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut group = criterion.benchmark_group("fetch assembly");
    for count in [1, 6, 100] {
        let open = |partition: i32| {
            let folder = dir.path().join(format!("{count}-{partition}"));
            let config = LogConfig::default();
            let log = PartitionLog::open(&folder, "topic", [1; 16], partition, config, None);
            let log = log.expect("a log");
            filled(&log);
            log
        };
        let logs: Vec<PartitionLog> = (0..count).map(open).collect();
        let id = BenchmarkId::from_parameter(format!("{count} partitions of 256 KB"));
        group.bench_function(id, |bencher| bencher.iter(|| black_box(answer(&logs))));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = assemble
}
criterion_main!(benches);

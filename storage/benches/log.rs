//! One partition's log: committed batches applied, an offset found through the sparse index, a read.
//!
//! `cargo bench -p tidelog-storage --bench log`: writes to the disk of the target folder.

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use tempfile::TempDir;
use tidelog_storage::batch::BatchBuilder;
use tidelog_storage::log::{AppendBatch, BatchOrigin, LogConfig, PartitionLog};

const TIMESTAMP_MS: i64 = 1_700_000_000_000;
const RECORD_BYTES: usize = 1000;

fn new_log() -> (TempDir, PartitionLog) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let log = PartitionLog::open(dir.path(), "bench", [1; 16], 0, LogConfig::default(), None);
    (dir, log.expect("a log"))
}

fn batch(records: usize) -> AppendBatch {
    let mut builder = BatchBuilder::new(0, -1, TIMESTAMP_MS, None);
    let value = [7; RECORD_BYTES];
    for _ in 0..records {
        builder.push(b"", Some(&value));
    }
    let bytes: Bytes = builder.finish();
    AppendBatch {
        bytes,
        leader_epoch: 1,
        origin: BatchOrigin::Client,
    }
}

/// What `StateMachine::apply` gives at a time.
fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for (batches, records) in [(1, 1), (64, 1), (64, 16)] {
        let run = vec![batch(records); batches];
        let bytes: usize = run.iter().map(|batch| batch.bytes.len()).sum();
        group.throughput(Throughput::Bytes(bytes as u64));
        let id = BenchmarkId::from_parameter(format!("{batches} batches of {records} KB"));
        group.bench_function(id, |bencher| {
            bencher.iter_batched_ref(
                || {
                    let (dir, log) = new_log();
                    // The segment's file is made with the first write.
                    log.append(&run).expect("applied");
                    (dir, log)
                },
                |(_, log)| log.append(&run).expect("applied"),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn filled() -> (TempDir, PartitionLog) {
    let (dir, log) = new_log();
    let run = vec![batch(4); 64];
    for _ in 0..256 {
        log.append(&run).expect("applied");
    }
    (dir, log)
}

/// A reader that comes with any offset: the index, the scan from there, and one batch.
fn lookup(criterion: &mut Criterion) {
    let (_dir, log) = filled();
    let end = log.log_end_offset();
    let mut offset = 0;
    criterion.bench_function("index lookup", |bencher| {
        bencher.iter(|| {
            // A prime step visits all parts of the log.
            offset = (offset + 10_007) % end;
            black_box(log.read(offset, end, 0, true).expect("a batch"))
        });
    });
}

fn read(criterion: &mut Criterion) {
    let (_dir, log) = filled();
    let end = log.log_end_offset();
    let mut group = criterion.benchmark_group("read");
    let max_bytes = 1 << 20;
    let mut offset = 0;
    group.throughput(Throughput::Bytes(max_bytes as u64));
    group.bench_function("1 MiB", |bencher| {
        bencher.iter(|| {
            let read = log.read(offset, end, max_bytes, true).expect("batches");
            offset = read.next_offset % end;
            black_box(read)
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = apply, lookup, read
}
criterion_main!(benches);

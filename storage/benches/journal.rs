//! Entries made durable by the journal, one sync at a time: alone, and as many as wait for a sync under load.
//!
//! `cargo bench -p tidelog-storage --bench journal`: writes to the disk of the target folder.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tidelog_storage::ids::GroupId;
use tidelog_storage::journal::{Checkpointer, EntryRecord, Journal, JournalConfig, Record};

const GROUPS: u64 = 6;

/// Nothing is kept: full files are recycled at once.
struct Forgetful;

impl Checkpointer for Forgetful {
    fn bytes_apart(&self) -> u64 {
        0
    }

    fn checkpoint(&self, _: &Journal) -> bool {
        true
    }
}

fn append(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let config = JournalConfig {
        dir: dir.path().to_owned(),
        ..JournalConfig::default()
    };
    let (journal, _) = Journal::open(config).expect("a journal");
    journal.start_checkpoints(Arc::new(Forgetful));
    let mut group = criterion.benchmark_group("journal append");
    let mut index = 0;
    for (entries, body_bytes) in [(1, 200), (1, 64 << 10), (64, 16 << 10)] {
        let body = Bytes::from(vec![7; body_bytes]);
        group.throughput(Throughput::Bytes((entries * body_bytes) as u64));
        let id = BenchmarkId::from_parameter(format!("{entries} x {body_bytes} B"));
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                for number in 0..entries as u64 {
                    index += 1;
                    let entry = EntryRecord {
                        index,
                        term: 1,
                        kind: 1,
                        body: body.clone(),
                    };
                    let group = GroupId(number % GROUPS);
                    journal.submit(vec![Record::Entry { group, entry }], None);
                }
                black_box(journal.sync_barrier())
            });
        });
    }
    group.finish();
    journal.close();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = append
}
criterion_main!(benches);

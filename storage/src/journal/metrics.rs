//! Counters of the journal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the sync latency buckets, in microseconds; one more bucket holds the rest.
pub const SYNC_BUCKETS_US: [u64; 9] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000];

/// A reading of the counters.
#[derive(Debug, Clone, Default)]
pub struct JournalMetrics {
    pub syncs: u64,
    pub records: u64,
    /// Bytes written, padding included.
    pub bytes: u64,
    /// Syncs by latency: not more than each of [`JournalMetrics::bucket_bounds_us`], then the rest.
    pub sync_buckets: [u64; SYNC_BUCKETS_US.len() + 1],
    /// Sum of all sync latencies.
    pub sync_total_us: u64,
    pub queued_bytes: u64,
    pub files: u64,
}

impl JournalMetrics {
    /// Upper bounds of the latency buckets.
    pub fn bucket_bounds_us() -> &'static [u64] {
        &SYNC_BUCKETS_US
    }
}

#[derive(Default)]
pub struct Counters {
    syncs: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    sync_total_us: AtomicU64,
    buckets: [AtomicU64; SYNC_BUCKETS_US.len() + 1],
}

impl Counters {
    pub fn synced(&self, records: u64, bytes: u64, took: Duration) {
        let us = took.as_micros() as u64;
        let bucket = SYNC_BUCKETS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sync_total_us.fetch_add(us, Ordering::Relaxed);
    }

    pub fn read(&self) -> JournalMetrics {
        let mut metrics = JournalMetrics {
            syncs: self.syncs.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            sync_total_us: self.sync_total_us.load(Ordering::Relaxed),
            ..JournalMetrics::default()
        };
        for (out, bucket) in metrics.sync_buckets.iter_mut().zip(&self.buckets) {
            *out = bucket.load(Ordering::Relaxed);
        }
        metrics
    }
}

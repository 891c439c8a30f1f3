//! Counters and histograms of a broker, in Prometheus' text format.

use crate::broker::Broker;
use kafka_protocol::messages::ApiKey;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidelog_storage::journal::JournalMetrics;

/// Upper bounds of request latency buckets, in seconds.
const LATENCIES: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Api {
    api: String,
}

/// All metrics that are counted as things happen; the others are read when asked for.
pub struct Metrics {
    registry: Registry,
    requests: Family<Api, Counter>,
    latency: Family<Api, Histogram>,
    bytes_in: Counter,
    bytes_out: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("tidelog");
        let requests = Family::<Api, Counter>::default();
        let latency = Family::<Api, Histogram>::new_with_constructor(|| Histogram::new(LATENCIES));
        let (bytes_in, bytes_out) = (Counter::default(), Counter::default());
        registry.register("requests", "Requests answered", requests.clone());
        registry.register(
            "request_latency_seconds",
            "Time from a request's last byte to its answer's",
            latency.clone(),
        );
        registry.register("request_bytes_in", "Bytes of requests", bytes_in.clone());
        registry.register("request_bytes_out", "Bytes of answers", bytes_out.clone());
        Metrics {
            registry,
            requests,
            latency,
            bytes_in,
            bytes_out,
        }
    }

    /// Counts one answered request.
    pub fn request(&self, api: ApiKey, took: Duration, bytes_in: usize, bytes_out: usize) {
        let api = Api {
            api: format!("{api:?}"),
        };
        self.requests.get_or_create(&api).inc();
        self.latency.get_or_create(&api).observe(took.as_secs_f64());
        self.bytes_in.inc_by(bytes_in as u64);
        self.bytes_out.inc_by(bytes_out as u64);
    }

    /// The text `/metrics` answers with.
    pub fn render(&self, broker: &Broker) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            return String::new();
        }
        // The registry ends its text; gauges read now go before that.
        let end = "# EOF\n";
        text.truncate(text.len() - if text.ends_with(end) { end.len() } else { 0 });
        let node = broker.node.metrics();
        let cleaner = &broker.cleaner;
        let (total, free) = broker.disk_space();
        for (name, help, value) in [
            (
                "connections",
                "Client connections",
                broker.limits.connections() as u64,
            ),
            ("groups", "Raft groups with a replica here", node.groups),
            ("groups_led", "Raft groups led from here", node.groups_led),
            (
                "under_replicated_partitions",
                "Led groups with a replica on a dead broker",
                node.under_replicated,
            ),
            (
                "rebuilding_replicas",
                "Replicas being rebuilt from their peers",
                node.rebuilding,
            ),
            (
                "raft_log_bytes",
                "Raft log entries held in memory",
                node.log_bytes,
            ),
            ("disk_total_bytes", "Size of the data disk", total),
            ("disk_free_bytes", "Space left on the data disk", free),
            (
                "disk_reserve_bytes",
                "Space below which producers are refused (disk.reserve.bytes)",
                broker.config.int("disk.reserve.bytes").unsigned_abs(),
            ),
            (
                "cleaner_dirty_permille_max",
                "Largest share of a compacted replica's bytes that wait for compaction, in thousandths",
                cleaner.dirty_permille_max.load(Ordering::Relaxed),
            ),
            (
                "cleaner_last_run_timestamp_ms",
                "When a compaction last ended, in milliseconds since 1970",
                cleaner.last_run_ms.load(Ordering::Relaxed).unsigned_abs(),
            ),
            ("journal_files", "Journal files in use", node.journal.files),
            (
                "journal_queued_bytes",
                "Bytes waiting for a journal sync",
                node.journal.queued_bytes,
            ),
        ] {
            let _ = writeln!(
                text,
                "# HELP tidelog_{name} {help}.\n# TYPE tidelog_{name} gauge\ntidelog_{name} {value}"
            );
        }
        for (name, help, value) in [
            (
                "cleaner_runs",
                "Compactions of a replica",
                cleaner.runs.load(Ordering::Relaxed),
            ),
            (
                "cleaner_bytes_read",
                "Bytes read by compaction",
                cleaner.bytes_read.load(Ordering::Relaxed),
            ),
            (
                "cleaner_bytes_written",
                "Bytes written by compaction",
                cleaner.bytes_written.load(Ordering::Relaxed),
            ),
            (
                "cleaner_records_removed",
                "Records that compaction has removed",
                cleaner.records_removed.load(Ordering::Relaxed),
            ),
            ("leader_changes", "Leaderships gained", node.leader_changes),
            (
                "peer_bytes_in",
                "Bytes from other brokers",
                node.peer_bytes_in,
            ),
            (
                "peer_bytes_out",
                "Bytes to other brokers",
                node.peer_bytes_out,
            ),
            (
                "journal_bytes",
                "Bytes written to the journal",
                node.journal.bytes,
            ),
            (
                "journal_records",
                "Records written to the journal",
                node.journal.records,
            ),
        ] {
            let _ = writeln!(
                text,
                "# HELP tidelog_{name} {help}.\n# TYPE tidelog_{name} counter\ntidelog_{name}_total {value}"
            );
        }
        journal_latency(&mut text, &node.journal);
        text.push_str(end);
        text
    }
}

fn journal_latency(text: &mut String, journal: &JournalMetrics) {
    let name = "tidelog_journal_sync_seconds";
    let _ = writeln!(
        text,
        "# HELP {name} Time of a journal sync.\n# TYPE {name} histogram"
    );
    let mut below = 0;
    for (bound_us, count) in JournalMetrics::bucket_bounds_us()
        .iter()
        .zip(&journal.sync_buckets)
    {
        below += count;
        let bound = *bound_us as f64 / 1e6;
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(
        text,
        "{name}_bucket{{le=\"+Inf\"}} {}\n{name}_sum {}\n{name}_count {}",
        journal.syncs,
        journal.sync_total_us as f64 / 1e6,
        journal.syncs
    );
}

//! Measures compaction: updates of 100 bytes over a number of keys, written as a producer's batches of
//! 16 KiB would be, then compacted in one go.
//!
//! `cargo run --release -p tidelog-storage --example compaction -- DIR GIGABYTES [KEYS] [MEMORY_MIB]`

use bytes::Bytes;
use std::path::Path;
use std::time::Instant;
use tidelog_storage::batch::BatchBuilder;
use tidelog_storage::log::{
    AppendBatch, BatchOrigin, CompactionRun, LogConfig, Pace, PartitionLog,
};

const RECORD_BYTES: usize = 100;
const KEY_BYTES: usize = 8;
/// Length, attributes, deltas, lengths of key and value, and the count of headers.
const RECORD_HEAD_BYTES: usize = 9;
const BATCH_RECORDS: u64 = 16 * 1024 / RECORD_BYTES as u64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize, default: f64| -> Result<f64, std::num::ParseFloatError> {
        args.get(at).map_or(Ok(default), |text| text.parse())
    };
    let parent = args.get(1).map_or(".", String::as_str);
    let (gigabytes, keys) = (number(2, 1.0)?, number(3, 1e6)? as u64);
    let memory_bytes = (number(4, 128.0)? as usize) << 20;
    let dir = Path::new(parent).join("compaction-bench");
    let config = LogConfig {
        compact: true,
        ..LogConfig::default()
    };
    let log = PartitionLog::open(&dir, "bench", [1; 16], 0, config, None)?;
    let records = (gigabytes * 1e9) as u64 / RECORD_BYTES as u64;
    fill(&log, records, keys)?;
    log.close_segment_of(log.log_end_offset() - 1);
    let closed_before = log.active_base_offset();
    let _ = log.begin_flush()?.finish()?;
    let before = log.size_bytes();
    println!("{records} records over {keys} keys, {before} bytes");

    let (began, cpu, memory) = (Instant::now(), cpu_seconds(), anonymous_kib());
    let report = log.compact(&CompactionRun {
        now_ms: 1_700_000_000_000,
        closed_before,
        memory_bytes,
        pace: &Pace::new(0),
        go_on: &|| true,
    })?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{report:?}");
    println!(
        "{seconds:.1} s, {:.1} CPU-s, {} rounds: {:.0} MB/s and {:.0} records/s of what was there, \
         {:.0} MB/s read; {} bytes left, {} records; {:.0} MiB at most beyond {:.0} before",
        cpu_seconds() - cpu,
        report.rounds,
        before as f64 / 1e6 / seconds,
        records as f64 / seconds,
        report.bytes_read as f64 / 1e6 / seconds,
        log.size_bytes(),
        report.records_left,
        (peak_kib() - memory) / 1024.0,
        memory / 1024.0,
    );
    log.delete()?;
    Ok(())
}

fn fill(log: &PartitionLog, records: u64, keys: u64) -> Result<(), Box<dyn std::error::Error>> {
    let value = [7_u8; RECORD_BYTES - KEY_BYTES - RECORD_HEAD_BYTES];
    let mut state = 1_u64;
    let mut written = 0;
    while written < records {
        let mut run = Vec::new();
        for _ in 0..64 {
            let mut builder = BatchBuilder::new(0, -1, 1_700_000_000_000, None);
            for _ in 0..BATCH_RECORDS.min(records - written) {
                // Marsaglia's xorshift.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                builder.push(&(state % keys).to_be_bytes(), Some(&value));
                written += 1;
            }
            let bytes: Bytes = builder.finish();
            run.push(AppendBatch {
                bytes,
                leader_epoch: 1,
                origin: BatchOrigin::Client,
            });
            if written == records {
                break;
            }
        }
        log.append(&run)?;
    }
    Ok(())
}

fn status_kib(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0.0)
}

fn anonymous_kib() -> f64 {
    status_kib("RssAnon:")
}

/// Highest resident size of the whole run; filling holds less than compaction.
fn peak_kib() -> f64 {
    status_kib("VmHWM:") - status_kib("RssFile:")
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(12) + ticks(13)) / 100.0
}

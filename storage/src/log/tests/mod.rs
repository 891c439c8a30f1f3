//! Tests of the partition log.

mod append;
mod catch_up;
mod compaction;
mod compaction_transactions;
mod crash;
mod disk_full;
mod flush;
mod inspect;
mod lookup;
mod mend;
mod producers;
mod read;
mod readable;
mod retention;
mod transactions;

use super::{
    AppendBatch, AppendOutcome, BatchOrigin, FlushTicket, LogConfig, PartitionLog, Stretch,
};
use crate::batch::samples::Sample;
use crate::batch::{BatchHeader, batch_crc};
use crate::error::StorageError;
use crate::ids::{LeaderEpoch, Offset};
use crate::test_disk::scratch;
use bytes::Bytes;
use std::path::Path;
use tempfile::TempDir;

/// Segments of a few batches, an index entry for almost every batch.
fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 2_000,
        index_interval_bytes: 100,
        ..LogConfig::default()
    }
}

fn open_with(
    dir: &Path,
    config: LogConfig,
    checkpoint: Option<&[u8]>,
) -> Result<PartitionLog, StorageError> {
    PartitionLog::open(dir, "topic", [7; 16], 3, config, checkpoint)
}

fn open(dir: &Path, checkpoint: Option<&[u8]>) -> PartitionLog {
    open_with(dir, small(), checkpoint).expect("the log opens")
}

/// Makes everything durable; the bytes are what the journal would keep.
fn flush(log: &PartitionLog) -> Vec<u8> {
    log.begin_flush()
        .and_then(super::FlushTicket::finish)
        .expect("flushed")
}

fn append_all(log: &PartitionLog, batches: &[(Bytes, LeaderEpoch)]) -> Vec<AppendOutcome> {
    let batches: Vec<AppendBatch> = batches
        .iter()
        .map(|(bytes, leader_epoch)| AppendBatch {
            bytes: bytes.clone(),
            leader_epoch: *leader_epoch,
            origin: BatchOrigin::Client,
        })
        .collect();
    log.append(&batches).expect("appended")
}

fn append(log: &PartitionLog, sample: &Sample, epoch: LeaderEpoch) -> AppendOutcome {
    append_all(log, &[(sample.build(), epoch)])[0]
}

fn appended(base_offset: Offset, last_offset: Offset) -> AppendOutcome {
    AppendOutcome::Appended {
        base_offset,
        last_offset,
    }
}

/// The bytes of all batches from `from` to the end.
fn bytes_from(log: &PartitionLog, from: Offset) -> Vec<u8> {
    let mut out = Vec::new();
    let mut next = from;
    while next < log.log_end_offset() {
        let read = log
            .read(next, Offset::MAX, 1_500, true)
            .expect("a read within the log");
        assert!(read.next_offset > next, "stuck at {next}");
        assert_eq!(
            read.bytes,
            read.slices.iter().map(|slice| slice.len()).sum::<usize>()
        );
        read.slices.iter().for_each(|s| out.extend_from_slice(s));
        next = read.next_offset;
    }
    out
}

/// Headers of the batches in `bytes`; checks that each is whole.
fn headers(bytes: &[u8]) -> Vec<BatchHeader> {
    let mut rest = bytes;
    let mut headers = Vec::new();
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).expect("a header");
        let (batch, tail) = rest.split_at(header.size_in_bytes());
        assert_eq!(batch_crc(batch), header.crc);
        headers.push(header);
        rest = tail;
    }
    headers
}

/// What two replicas must agree on.
fn state_of(log: &PartitionLog) -> impl PartialEq + std::fmt::Debug + use<> {
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    (
        bytes_from(log, start),
        start,
        end,
        log.producers(),
        log.manifest(),
    )
}

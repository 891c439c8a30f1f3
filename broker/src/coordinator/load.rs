//! Builds a shard from its partition's log.

use super::{Malformed, Marker, Reader, Record, Shard};
use tidelog_storage::batch::{BatchHeader, for_each_record};
use tidelog_storage::error::StorageError;
use tidelog_storage::log::PartitionLog;

const READ_BYTES: usize = 1 << 20;

/// How loading ended.
#[derive(Debug)]
pub enum Loaded {
    /// All records below this offset are replayed.
    To(i64),
    /// `wanted` said no.
    Abandoned,
    /// The log cannot be read at this offset.
    Unreadable(i64, StorageError),
}

/// Replays the committed log from its start to its present end, as long as `wanted`. Blocks on cold
/// reads.
pub fn replay<S: Shard>(shard: &mut S, log: &PartitionLog, wanted: impl Fn() -> bool) -> Loaded {
    let end = log.log_end_offset();
    let mut next = log.log_start_offset();
    while next < end {
        if !wanted() {
            return Loaded::Abandoned;
        }
        let read = match log.read(next, end, READ_BYTES, true) {
            Ok(read) => read,
            Err(error) => return Loaded::Unreadable(next, error),
        };
        if read.next_offset <= next {
            // Nothing is left of what was there.
            break;
        }
        for slice in &read.slices {
            let mut rest = &slice[..];
            while let Ok(header) = BatchHeader::parse(rest) {
                let Some((batch, tail)) = rest.split_at_checked(header.size_in_bytes()) else {
                    break;
                };
                replay_batch(shard, &header, batch);
                rest = tail;
            }
        }
        next = read.next_offset;
    }
    Loaded::To(end)
}

fn replay_batch<S: Shard>(shard: &mut S, header: &BatchHeader, batch: &[u8]) {
    let transaction = header
        .is_transactional()
        .then_some((header.producer_id, header.producer_epoch));
    let walked = for_each_record(batch, |view| {
        let outcome = if header.is_control() {
            read_marker(header, view.key, view.value).map(|marker| {
                if let Some(marker) = marker {
                    shard.replay_marker(&marker);
                }
            })
        } else {
            shard.replay(&Record {
                offset: view.offset,
                timestamp_ms: view.timestamp,
                key: view.key.unwrap_or_default(),
                value: view.value,
                transaction,
            })
        };
        if let Err(error) = outcome {
            tracing::error!(offset = view.offset, "coordinator record skipped: {error}");
        }
        true
    });
    if let Err(error) = walked {
        tracing::error!(
            offset = header.base_offset,
            "coordinator batch skipped: {error}"
        );
    }
}

/// `None` for control records that are no end of a transaction.
fn read_marker(
    header: &BatchHeader,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Result<Option<Marker>, Malformed> {
    let mut key = Reader::new(key.unwrap_or_default());
    let (_version, kind) = (key.i16()?, key.i16()?);
    let commit = match kind {
        0 => false,
        1 => true,
        _ => return Ok(None),
    };
    let mut value = Reader::new(value.unwrap_or_default());
    let (_version, coordinator_epoch) = (value.i16()?, value.i32()?);
    Ok(Some(Marker {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        coordinator_epoch,
        commit,
    }))
}

//! `compression.type` of a topic: stores every batch in the topic's codec, whichever the producer used.

use super::blocking::blocking;
use bytes::Bytes;
use tidelog_storage::batch::{BatchError, BatchHeader, rebuild};
use tidelog_storage::compression::Compression;

/// Batches up to this size are compressed where they come in; that takes some 100 µs at most.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// `records` in `codec`; the same bytes when there is nothing to do. Batches are proposed in the order
/// they came, so this cannot be left to another task: a large one takes the worker's other tasks off
/// it first.
///
/// # Errors
/// [`BatchError`] when the batch cannot be decompressed.
pub fn to_codec(
    records: Bytes,
    header: &BatchHeader,
    codec: Option<Compression>,
) -> Result<Bytes, BatchError> {
    let Some(codec) = codec else {
        return Ok(records);
    };
    if header.compression()? == codec {
        return Ok(records);
    }
    let work = || rebuild::recompressed(&records, codec).map(Bytes::from);
    if records.len() > INLINE_BYTES_MAX {
        blocking(work)
    } else {
        work()
    }
}

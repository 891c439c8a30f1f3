//! Is every segment of an earlier run as long as it was?
//!
//! One that lost its end would be read as if nothing had been there. One whose last batches are damaged, but there, is
//! opened: they are refused when they are read, and mended from another replica ([`super::mend`]).

use super::segment::Segment;
use crate::batch::{BatchHeader, batch_crc};
use crate::error::StorageError;
use crate::ids::Offset;
use std::sync::Arc;

/// Each segment must end where the next one begins, the last one at `end`.
///
/// # Errors
/// [`StorageError::Corrupt`] when one is shorter than it was; I/O errors.
pub fn check(segments: &[Arc<Segment>], end: Offset) -> Result<(), StorageError> {
    let next = segments.iter().skip(1).map(|s| s.base_offset).chain([end]);
    for (segment, next) in segments.iter().zip(next) {
        check_one(segment, next)?;
        // Nobody reads yet: the first call forgets the use, the second one unmaps.
        segment.release_idle_mapping();
        segment.release_idle_mapping();
        segment.close_file();
    }
    Ok(())
}

fn check_one(segment: &Segment, next: Offset) -> Result<(), StorageError> {
    let mut position = 0;
    let mut ends_at = segment.base_offset;
    for batch in segment.tail() {
        match batch {
            Ok((at, header, _)) => {
                position = at + header.size_in_bytes() as u64;
                ends_at = header.last_offset() + 1;
            }
            Err(error @ StorageError::Corrupt { .. })
                if position == 0 && segment.has_wrong_index() =>
            {
                segment.make_index_again(&error)?;
                return check_one(segment, next);
            }
            Err(error @ StorageError::Corrupt { .. }) => {
                // Without a batch before it, it is the first one that the index knows, or the first of all.
                let from = position.max(segment.index.read().last_position());
                if !is_whole(segment, from, next)? {
                    return Err(error);
                }
                tracing::warn!(
                    "damaged records, to be replaced by another replica's when they are read: {error}"
                );
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    if ends_at != next {
        return Err(StorageError::corrupt(
            segment.path(),
            format!("ends before offset {ends_at} instead of {next}"),
        ));
    }
    Ok(())
}

/// Whether a segment whose batch at `position` is damaged still ends with the batch before offset `next`.
fn is_whole(segment: &Segment, position: u64, next: Offset) -> Result<bool, StorageError> {
    let end = segment.bytes();
    let view = segment.view(position, end)?;
    let bytes = view.slice(position, end);
    if BatchHeader::parse(&bytes).is_ok_and(|header| header.size_in_bytes() == bytes.len()) {
        return Ok(true);
    }
    // The checksum covers neither length nor offset.
    if stored_crc(&bytes).is_some_and(|crc| batch_crc(&bytes) == crc) {
        return Ok(true);
    }
    Ok((1..bytes.len()).any(|at| ends_well(&bytes[at..], segment.base_offset, next)))
}

fn stored_crc(batch: &[u8]) -> Option<u32> {
    let crc = batch.get(17..21)?;
    (batch.len() >= crate::batch::HEADER_BYTES)
        .then(|| u32::from_be_bytes([crc[0], crc[1], crc[2], crc[3]]))
}

/// Whether `bytes` are batches, the last of which ends before `next`.
fn ends_well(mut bytes: &[u8], mut from: Offset, next: Offset) -> bool {
    while let Ok(header) = BatchHeader::parse(bytes) {
        let size = header.size_in_bytes();
        let fits = size <= bytes.len() && header.base_offset >= from && header.last_offset() < next;
        if !fits || batch_crc(&bytes[..size]) != header.crc {
            return false;
        }
        from = header.last_offset() + 1;
        bytes = &bytes[size..];
        if bytes.is_empty() {
            return from == next;
        }
    }
    false
}

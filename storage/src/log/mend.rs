//! Gives damaged stretches of a segment their bytes back, copied from another replica.
//!
//! As long as neither replica has compacted them, the same records are the same bytes on both, so that a
//! stretch between two indexed batches can be replaced in place: its length and offsets are known from
//! the index. Otherwise the segment is written anew ([`PartitionLog::splice`]).

use super::PartitionLog;
use crate::batch::{BatchHeader, batch_crc};
use crate::error::StorageError;
use crate::ids::Offset;

/// The bytes from one indexed batch up to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    pub(super) segment_base: Offset,
    pub(super) position: u64,
    /// How many bytes replace it.
    pub bytes: usize,
    /// An offset of its first batch.
    pub from: Offset,
    /// Offsets from here on lie behind it.
    pub until: Offset,
    /// Compaction may have taken batches out of it.
    pub sparse: bool,
}

impl PartitionLog {
    /// The stretch that holds `offset`.
    pub fn stretch_of(&self, offset: Offset) -> Option<Stretch> {
        let segments = self.segments.read();
        let at = segments
            .partition_point(|s| s.base_offset <= offset)
            .checked_sub(1)?;
        let segment = &segments[at];
        let end = segment.bytes();
        let until = segments
            .get(at + 1)
            .map_or(self.log_end_offset(), |next| next.base_offset);
        let relative = u32::try_from(offset - segment.base_offset).ok()?;
        let (first, next) = segment.index.read().entries_around(relative);
        let absolute = |relative: u32| segment.base_offset + i64::from(relative);
        let position = first.map_or(0, |e| u64::from(e.position));
        Some(Stretch {
            segment_base: segment.base_offset,
            position,
            bytes: (next.map_or(end, |e| u64::from(e.position)) - position) as usize,
            from: first.map_or(segment.base_offset, |e| absolute(e.relative)),
            until: next.map_or(until, |e| absolute(e.relative)),
            sparse: segment.is_sparse(),
        })
    }

    /// Writes `batches`, which another replica has where this one has `stretch`.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when they are not what belongs there; I/O errors.
    pub fn mend(&self, stretch: &Stretch, batches: &[u8]) -> Result<(), StorageError> {
        let wrong = |reason: String| StorageError::corrupt(&self.dir, reason);
        if batches.len() != stretch.bytes {
            return Err(wrong(format!(
                "{} bytes for a stretch of {}",
                batches.len(),
                stretch.bytes
            )));
        }
        let mut rest = batches;
        let mut next = None;
        while !rest.is_empty() {
            let header = BatchHeader::parse(rest)?;
            let size = header.size_in_bytes();
            let follows = next.map_or(
                header.base_offset <= stretch.from && stretch.from <= header.last_offset(),
                |next| header.base_offset == next,
            );
            if size > rest.len() || !follows || batch_crc(&rest[..size]) != header.crc {
                return Err(wrong(format!(
                    "the copy for offset {} is damaged itself",
                    header.base_offset
                )));
            }
            next = Some(header.last_offset() + 1);
            rest = &rest[size..];
        }
        if next.is_none_or(|next| next > stretch.until) {
            return Err(wrong("the copy goes too far".to_owned()));
        }
        let segment = {
            let segments = self.segments.read();
            segments
                .iter()
                .find(|s| s.base_offset == stretch.segment_base)
                .cloned()
        };
        match segment {
            Some(segment) => segment.overwrite(stretch.position, batches),
            // Deleted meanwhile: nobody misses it.
            None => Ok(()),
        }
    }
}

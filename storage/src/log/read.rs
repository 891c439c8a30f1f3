//! Reads committed batches without copying them.

use super::PartitionLog;
use super::segment::Segment;
use super::slice::Slice;
use crate::batch::batch_crc;
use crate::error::StorageError;
use crate::ids::Offset;
use std::sync::Arc;

/// Whole batches of one read.
#[derive(Debug, Clone, Default)]
pub struct LogRead {
    /// Slices of the mapped segments, in order.
    pub slices: Vec<Slice>,
    /// Sum of the slices' lengths.
    pub bytes: usize,
    /// Every batch below this offset, from `from` on, is in the slices.
    pub next_offset: Offset,
    /// Compaction may have taken batches out: offsets that are missing do not exist any more.
    pub sparse: bool,
}

impl PartitionLog {
    /// Reads whole batches from the one that holds `from` on, as long as they lie below `upper` and
    /// within `max_bytes`; with `min_one_batch` at least one, however large. The first batch may
    /// begin before `from`, as in Kafka.
    ///
    /// # Errors
    /// [`StorageError::OffsetOutOfRange`] unless `start ≤ from ≤ end`.
    pub fn read(
        &self,
        from: Offset,
        upper: Offset,
        max_bytes: usize,
        min_one_batch: bool,
    ) -> Result<LogRead, StorageError> {
        self.check_open()?;
        let (start, end) = (self.log_start_offset(), self.log_end_offset());
        if from < start || from > end {
            return Err(StorageError::OffsetOutOfRange {
                offset: from,
                start,
                end,
            });
        }
        let mut read = LogRead {
            next_offset: from,
            ..LogRead::default()
        };
        let upper = upper.min(end);
        if from >= upper {
            return Ok(read);
        }
        for segment in self.segments_from(from) {
            let left = max_bytes.saturating_sub(read.bytes);
            let first_free = min_one_batch && read.bytes == 0;
            match read_segment(&segment, upper, left, first_free, &mut read) {
                Ok(true) => {}
                Ok(false) => break,
                // What comes before the damage is still served; the next read meets it.
                Err(_) if read.bytes > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    /// The segment that holds `offset` and those after it.
    pub(super) fn segments_from(&self, offset: Offset) -> Vec<Arc<Segment>> {
        let segments = self.segments.read();
        let after = segments.partition_point(|s| s.base_offset <= offset);
        let first = after.saturating_sub(1);
        // A fetch seldom spans more than two segments.
        segments[first..].iter().take(4).cloned().collect()
    }

    /// Bytes between `from` and the end of the log, roughly: how far behind a reader is.
    pub fn bytes_behind(&self, from: Offset) -> u64 {
        let segments = self.segments.read();
        let after = segments.partition_point(|s| s.base_offset <= from);
        let Some(first) = after.checked_sub(1) else {
            return segments.iter().map(|s| s.bytes()).sum();
        };
        let later: u64 = segments[first + 1..].iter().map(|s| s.bytes()).sum();
        let segment = &segments[first];
        let relative = (from - segment.base_offset).max(0) as u64;
        let position = segment.index.read().position_before(relative);
        later + segment.bytes().saturating_sub(position)
    }
}

/// Adds a segment's batches to `read`; true when the next segment may follow.
fn read_segment(
    segment: &Segment,
    upper: Offset,
    max_bytes: usize,
    mut first_free: bool,
    read: &mut LogRead,
) -> Result<bool, StorageError> {
    if segment.bytes() == 0 {
        return Ok(true);
    }
    read.sparse |= segment.is_sparse();
    let Some(position) = segment.position_of(read.next_offset)? else {
        return Ok(true);
    };
    let end = segment.bytes();
    let mut to = position;
    let mut more = true;
    // One view a read: what lies behind it is the next read's.
    let mut view = None;
    while to < end {
        let (header, header_view) = match segment.header_at(to) {
            Ok(found) => found,
            Err(_) if to > position => {
                more = false;
                break;
            }
            Err(error) => return Err(error),
        };
        let size = header.size_in_bytes();
        let within = (to - position) as usize + size <= max_bytes;
        if header.base_offset >= upper && segment.follows(&header, read.next_offset) {
            // What compaction has taken out below `upper` counts as read.
            read.next_offset = read.next_offset.max(upper);
        }
        if header.base_offset >= upper || !(within || first_free) {
            more = false;
            break;
        }
        let batch_end = to + size as u64;
        match &view {
            None if batch_end <= header_view.end() => view = Some(header_view),
            None => view = Some(segment.view(to, batch_end)?),
            Some(view) if batch_end > view.end() => {
                more = false;
                break;
            }
            Some(_) => {}
        }
        // Damaged records are nobody's records: what comes before them is still served.
        let batch = view.as_ref().map(|v| v.slice(to, batch_end));
        let intact = batch.is_some_and(|b| batch_crc(&b) == header.crc);
        let holds_first = to == position
            && header.base_offset <= read.next_offset
            && read.next_offset <= header.last_offset();
        let in_place = holds_first || segment.follows(&header, read.next_offset);
        if !intact || !in_place {
            if to > position {
                more = false;
                break;
            }
            return Err(segment.damaged(to, "its checksum or offset is wrong"));
        }
        first_free = false;
        to = batch_end;
        read.next_offset = header.last_offset() + 1;
    }
    if let Some(view) = view {
        let slice = view.slice_in_file(position, to);
        read.bytes += slice.len();
        read.slices.push(slice);
    }
    Ok(more)
}

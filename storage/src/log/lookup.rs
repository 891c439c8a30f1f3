//! Finds offsets by time (ListOffsets).

use super::PartitionLog;
use super::segment::Segment;
use crate::batch::{batch_crc, for_each_record};
use crate::error::StorageError;
use crate::ids::{LeaderEpoch, Offset};
use std::sync::Arc;

/// `(timestamp, offset, leader epoch)` of a record.
pub type TimestampedOffset = (i64, Offset, LeaderEpoch);

impl PartitionLog {
    /// The first record, at or after the log start, whose timestamp is at least `timestamp`.
    pub fn offset_for_timestamp(
        &self,
        timestamp: i64,
    ) -> Result<Option<TimestampedOffset>, StorageError> {
        self.check_open()?;
        let start = self.log_start_offset();
        let segments: Vec<Arc<Segment>> = self.segments.read().clone();
        for segment in segments {
            if segment.max_timestamp() < timestamp || segment.bytes() == 0 {
                continue;
            }
            let from = {
                let relative = segment.index.read().offset_before_timestamp(timestamp);
                start.max(segment.base_offset + i64::from(relative))
            };
            let found = scan(
                &segment,
                from,
                |batch_max| batch_max >= timestamp,
                |ts, offset| ts >= timestamp && offset >= start,
            )?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The first record that carries the largest timestamp of the log.
    pub fn offset_of_max_timestamp(&self) -> Result<Option<TimestampedOffset>, StorageError> {
        self.check_open()?;
        let start = self.log_start_offset();
        let segments: Vec<Arc<Segment>> = self.segments.read().clone();
        let mut max = None;
        for segment in segments.iter().filter(|s| s.bytes() > 0) {
            let here = if segment.base_offset < start {
                max_timestamp_from(segment, start)?
            } else {
                Some(segment.max_timestamp())
            };
            max = max.max(here);
        }
        match max {
            Some(max) => self.offset_for_timestamp(max),
            None => Ok(None),
        }
    }
}

/// The largest timestamp at or after `start`, which lies within `segment`.
fn max_timestamp_from(segment: &Segment, start: Offset) -> Result<Option<i64>, StorageError> {
    let mut max = None;
    let look = scan(
        segment,
        start,
        |_| true,
        |timestamp, offset| {
            if offset >= start {
                max = max.max(Some(timestamp));
            }
            false
        },
    );
    look.map(|_| max)
}

/// First record from `from` on that `matches(timestamp, offset)`, in batches whose largest timestamp
/// is `interesting`.
fn scan(
    segment: &Segment,
    from: Offset,
    interesting: impl Fn(i64) -> bool,
    mut matches: impl FnMut(i64, Offset) -> bool,
) -> Result<Option<TimestampedOffset>, StorageError> {
    let Some(mut position) = segment.position_of(from)? else {
        return Ok(None);
    };
    while position < segment.bytes() {
        let (header, _) = segment.header_at(position)?;
        let end = position + header.size_in_bytes() as u64;
        if interesting(header.max_timestamp) {
            let mut found = None;
            let batch = segment.view(position, end)?.slice(position, end);
            let mut look = |timestamp, offset| {
                if matches(timestamp, offset) {
                    found = Some((timestamp, offset, header.leader_epoch));
                }
                found.is_none()
            };
            if let Err(error) = for_each_record(&batch, |r| look(r.timestamp, r.offset)) {
                if batch_crc(&batch) != header.crc {
                    return Err(error.into());
                }
                // The producer sent it so. Where the header's word is all there is, take it.
                let first = from.min(header.last_offset()).max(header.base_offset);
                look(header.max_timestamp, first);
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        position = end;
    }
    Ok(None)
}

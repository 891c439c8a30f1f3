//! Writes a closed segment anew with some of its batches replaced by another replica's. Both hold the
//! same records for the same offsets, but either may have compacted away what the other still has, so
//! that nothing can be replaced in place.

use super::Closed;
use super::rewrite::{CleanedSegment, SPLICED};
use crate::batch::{BatchHeader, HEADER_BYTES, batch_crc, rebuild};
use crate::error::StorageError;
use crate::ids::{LeaderEpoch, Offset};
use crate::log::segment::Segment;
use crate::log::{PartitionLog, Stretch};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes copied at once.
const COPY_BYTES: u64 = 4 << 20;

/// Batches another replica has, and what it says of them.
#[derive(Debug, Clone, Copy)]
pub struct ForeignBatches<'a> {
    /// All it has in the stretch or segment that they replace; there may be more of them.
    pub bytes: &'a [u8],
    /// The other log's [`PartitionLog::gone_below`].
    pub gone_below: Offset,
}

/// A segment that another replica's batches are written to.
pub struct Refresh {
    new: CleanedSegment,
    old: Closed,
    epoch: LeaderEpoch,
}

impl Refresh {
    /// Adds batches, in order; those that do not belong to the segment are left out.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when they are damaged; I/O errors.
    pub fn add(&mut self, batches: &[u8]) -> Result<(), StorageError> {
        let (segment, end) = &self.old;
        add_foreign(segment, *end, batches, &mut self.new, &mut self.epoch)
    }
}

impl PartitionLog {
    /// Ends the segment being written if it holds `offset`: only closed ones can be written anew.
    pub fn close_segment_of(&self, offset: Offset) {
        let Ok(_there) = self.presence.hold() else {
            return;
        };
        let _writer = self.writer.lock();
        let active = self.segments.read().last().cloned();
        if active.is_some_and(|s| s.base_offset <= offset && s.is_on_disk()) {
            self.roll(0);
        }
    }

    /// Closed segments that end at or below `closed_before`: where they begin and end.
    pub fn closed_segments(&self, closed_before: Offset) -> Vec<Range<Offset>> {
        let segments = self.segments.read();
        let pairs = segments.windows(2);
        pairs
            .map(|pair| pair[0].base_offset..pair[1].base_offset)
            .take_while(|range| range.end <= closed_before)
            .collect()
    }

    /// Replaces the damaged `stretch` of a segment that ends at or below `closed_before` (see
    /// [`PartitionLog::active_base_offset`]).
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when the batches are damaged themselves, or may lack what deletes
    /// records that this log has; I/O errors.
    pub fn splice(
        &self,
        stretch: &Stretch,
        closed_before: Offset,
        foreign: ForeignBatches<'_>,
    ) -> Result<(), StorageError> {
        if foreign.gone_below > stretch.from && self.gone_below() < foreign.gone_below {
            return Err(StorageError::corrupt(
                &self.dir,
                "the other replica has dropped tombstones that this one has not seen",
            ));
        }
        let kept = stretch.position..stretch.position + stretch.bytes as u64;
        self.rewrite(stretch.segment_base, closed_before, kept, foreign)
    }

    /// Begins to write the closed segment that begins at `base` anew from another replica's batches;
    /// `None` when it is gone.
    ///
    /// # Errors
    /// I/O errors.
    pub fn refresh(
        &self,
        base: Offset,
        closed_before: Offset,
    ) -> Result<Option<Refresh>, StorageError> {
        let Some(old) = self.closed_segment(base, closed_before) else {
            return Ok(None);
        };
        let interval = self.config.read().index_interval_bytes;
        Ok(Some(Refresh {
            new: CleanedSegment::create(&self.dir, base, SPLICED, interval)?,
            old,
            epoch: 0,
        }))
    }

    /// Puts a segment that has been refreshed in its place.
    ///
    /// # Errors
    /// I/O errors; [`StorageError::Corrupt`] when it has been replaced meanwhile: once more, then.
    pub fn finish_refresh(&self, mut refresh: Refresh) -> Result<(), StorageError> {
        let (segment, end) = refresh.old.clone();
        let path = refresh.new.path().to_owned();
        let done = fill_up(&mut refresh.new, end, refresh.epoch)
            .and_then(|()| refresh.new.finish(end, std::slice::from_ref(&refresh.old)))
            .and_then(|new| self.swap(new, &path, &[(segment, end)], 0));
        if matches!(done, Ok(true)) {
            return Ok(());
        }
        let _ = std::fs::remove_file(&path);
        done.and_then(|_| {
            Err(StorageError::corrupt(
                &path,
                "its segment has changed meanwhile",
            ))
        })
    }

    /// Notes that tombstones and markers below `gone_below` may be missing here.
    pub(in crate::log) fn note_gone(&self, gone_below: Offset) -> Result<(), StorageError> {
        self.note_compaction(|state| state.gone_below = state.gone_below.max(gone_below))
    }

    fn rewrite(
        &self,
        base: Offset,
        closed_before: Offset,
        replaced: Range<u64>,
        foreign: ForeignBatches<'_>,
    ) -> Result<(), StorageError> {
        let _there = self.presence.hold()?;
        let Some((segment, end)) = self.closed_segment(base, closed_before) else {
            // Gone meanwhile: nobody misses it.
            return Ok(());
        };
        let replaced = replaced.start.min(segment.bytes())..replaced.end.min(segment.bytes());
        let interval = self.config.read().index_interval_bytes;
        let mut new = CleanedSegment::create(&self.dir, base, SPLICED, interval)?;
        let path = new.path().to_owned();
        let written = write(&segment, end, &replaced, foreign.bytes, &mut new);
        let swapped = written
            .and_then(|()| new.finish(end, &[(segment.clone(), end)]))
            .and_then(|new| self.swap(new, &path, &[(segment, end)], 0));
        if !matches!(swapped, Ok(true)) {
            let _ = std::fs::remove_file(&path);
        }
        swapped.map(|_| ())
    }

    fn closed_segment(&self, base: Offset, before: Offset) -> Option<Closed> {
        let segments = self.segments.read();
        let at = segments.iter().position(|s| s.base_offset == base)?;
        let end = segments.get(at + 1)?.base_offset;
        (end <= before).then(|| (segments[at].clone(), end))
    }
}

fn write(
    segment: &Segment,
    end: Offset,
    replaced: &Range<u64>,
    foreign: &[u8],
    new: &mut CleanedSegment,
) -> Result<(), StorageError> {
    copy_own(segment, 0..replaced.start, new)?;
    let until = match segment.bytes() {
        bytes if replaced.end >= bytes => end,
        _ => segment.header_at(replaced.end)?.0.base_offset,
    };
    let mut epoch = 0;
    add_foreign(segment, until, foreign, new, &mut epoch)?;
    copy_own(segment, replaced.end..segment.bytes(), new)?;
    fill_up(new, end, epoch)
}

/// Writes those of another replica's batches that lie between what is written and `until`. Its batches
/// that only stand for offsets may cross these bounds.
fn add_foreign(
    segment: &Segment,
    until: Offset,
    foreign: &[u8],
    new: &mut CleanedSegment,
    epoch: &mut LeaderEpoch,
) -> Result<(), StorageError> {
    let mut rest = foreign;
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest)?;
        let size = header.size_in_bytes();
        if size > rest.len() || batch_crc(&rest[..size]) != header.crc {
            let reason = format!(
                "the copy for offset {} is damaged itself",
                header.base_offset
            );
            return Err(StorageError::corrupt(segment.path(), reason));
        }
        let within = header.base_offset >= new.next_offset && header.last_offset() < until;
        if within && !header.is_filler() {
            new.write(&header, &rest[..size])?;
            *epoch = header.leader_epoch;
        }
        rest = &rest[size..];
    }
    Ok(())
}

/// Lets the segment end at `end`, whatever it ended with before.
fn fill_up(new: &mut CleanedSegment, end: Offset, epoch: LeaderEpoch) -> Result<(), StorageError> {
    if new.next_offset < end {
        let filler = rebuild::filler(new.next_offset, end - 1, epoch);
        new.write(&BatchHeader::parse(&filler)?, &filler)?;
    }
    Ok(())
}

/// Copies whole batches of the segment itself.
fn copy_own(
    segment: &Segment,
    range: Range<u64>,
    new: &mut CleanedSegment,
) -> Result<(), StorageError> {
    let file = segment.file()?;
    let mut at = range.start;
    while at < range.end {
        let mut bytes = vec![0; COPY_BYTES.min(range.end - at) as usize];
        let read = |bytes: &mut [u8]| {
            file.read_exact_at(bytes, at)
                .map_err(|e| StorageError::io(segment.path(), e))
        };
        read(&mut bytes)?;
        let mut whole = whole_batches(segment, at, &bytes, new)?;
        if whole == 0 {
            // A batch larger than the buffer.
            bytes.resize(
                batch_bytes(segment, at, &bytes)?.min((range.end - at) as usize),
                0,
            );
            read(&mut bytes)?;
            whole = whole_batches(segment, at, &bytes, new)?;
        }
        if whole == 0 {
            return Err(segment.damaged(at, "it is cut"));
        }
        at += whole as u64;
    }
    Ok(())
}

fn batch_bytes(segment: &Segment, at: u64, bytes: &[u8]) -> Result<usize, StorageError> {
    BatchHeader::parse(bytes)
        .map(|header| header.size_in_bytes())
        .map_err(|e| segment.damaged(at, &e.to_string()))
}

/// Writes the whole batches at the beginning of `bytes`; how many bytes they are.
fn whole_batches(
    segment: &Segment,
    at: u64,
    bytes: &[u8],
    new: &mut CleanedSegment,
) -> Result<usize, StorageError> {
    let mut done = 0;
    while bytes.len() - done >= HEADER_BYTES {
        let rest = &bytes[done..];
        let position = at + done as u64;
        let size = batch_bytes(segment, position, rest)?;
        let Some(batch) = rest.get(..size) else { break };
        let header = BatchHeader::parse(batch)?;
        if batch_crc(batch) != header.crc || header.base_offset < new.next_offset {
            return Err(segment.damaged(position, "its checksum or offset is wrong"));
        }
        new.write(&header, batch)?;
        done += size;
    }
    Ok(done)
}

//! Writes a group of segments anew, as one.

use super::crash_point;
use super::filter::{Filter, Left};
use super::reader::BatchReader;
use super::{Closed, CompactionReport, CompactionRun};
use crate::batch::BatchHeader;
use crate::error::StorageError;
use crate::ids::Offset;
use crate::log::config::LogConfig;
use crate::log::segment::{Segment, file_name, remove_files};
use crate::log::txn_index::TxnIndex;
use crate::log::{PartitionLog, files};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Suffix of a segment being written by compaction.
pub const CLEANED: &str = "cleaned";
/// Suffix of a segment being written from another replica's batches.
pub const SPLICED: &str = "spliced";
/// Suffix of the index of aborted transactions that goes with a segment about to be put in place.
pub const TXN_SWAP: &str = "txnswap";
const WRITE_BYTES: usize = 1 << 20;

/// A segment that is to take the place of others; its file is removed unless that happens.
pub struct CleanedSegment {
    segment: Segment,
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    /// Offset after the last batch.
    pub next_offset: Offset,
    /// Offsets of the markers among the batches.
    markers: HashSet<Offset>,
    index_interval: u32,
}

impl CleanedSegment {
    pub fn create(
        dir: &Path,
        base_offset: Offset,
        suffix: &str,
        interval: u32,
    ) -> Result<Self, StorageError> {
        let path = dir.join(file_name(base_offset, suffix));
        let file = File::create(&path).map_err(|e| StorageError::io(&path, e))?;
        Ok(CleanedSegment {
            segment: Segment::create(dir, base_offset, 0),
            path,
            file: BufWriter::with_capacity(WRITE_BYTES, file),
            bytes: 0,
            next_offset: base_offset,
            markers: HashSet::new(),
            index_interval: interval,
        })
    }

    /// Adds a whole batch.
    pub fn write(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<(), StorageError> {
        self.file
            .write_all(batch)
            .map_err(|e| StorageError::io(&self.path, e))?;
        crash_point::passed();
        self.segment
            .index_batch(header, self.bytes, self.index_interval);
        self.bytes += batch.len() as u64;
        self.next_offset = header.last_offset() + 1;
        if header.is_control() && header.record_count > 0 {
            self.markers.insert(header.last_offset());
        }
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file durable under its temporary name. The segment takes the place of `old` ones: it
    /// has their aborted transactions as far as the markers are left, and is as old as they are, which
    /// retention goes by where records have no timestamps.
    pub fn finish(mut self, end: Offset, old: &[Closed]) -> Result<Segment, StorageError> {
        let written_ms = old.iter().map(|(s, _)| s.created_ms).max().unwrap_or(0);
        let finish = |file: &mut BufWriter<File>| -> std::io::Result<()> {
            file.flush()?;
            let written = Duration::from_millis(written_ms.max(0).unsigned_abs());
            file.get_ref().set_modified(UNIX_EPOCH + written)?;
            file.get_ref().sync_all()
        };
        finish(&mut self.file).map_err(|e| StorageError::io(&self.path, e))?;
        let (mut any, mut aborted) = (false, Vec::new());
        for (segment, _) in old {
            let entries = segment.txn_index.read().entries()?;
            any |= !entries.is_empty();
            let left = entries
                .iter()
                .filter(|e| self.markers.contains(&e.last_offset));
            aborted.extend(left.copied());
        }
        remove_files(self.segment.path(), &[TXN_SWAP])
            .map_err(|e| StorageError::io(&self.path, e))?;
        if any {
            let path = self.segment.path().with_extension("txnindex");
            let (index, bytes) = TxnIndex::of_closed(path, aborted);
            files::replace(&self.segment.path().with_extension(TXN_SWAP), &bytes)?;
            *self.segment.txn_index.get_mut() = index;
        }
        self.segment.adopt(self.bytes, end, written_ms);
        Ok(self.segment)
    }
}

impl PartitionLog {
    /// Compacts the first of `segments` and as many more as then fit into one segment together; how
    /// many, or `None` when it was given up.
    pub(super) fn compact_group(
        &self,
        config: &LogConfig,
        segments: &[Closed],
        filter: &mut Filter<'_>,
        run: &CompactionRun<'_>,
        report: &mut CompactionReport,
    ) -> Result<Option<usize>, StorageError> {
        let base = segments[0].0.base_offset;
        let mut cleaned =
            CleanedSegment::create(&self.dir, base, CLEANED, config.index_interval_bytes)?;
        let path = cleaned.path.clone();
        let mut group = Group {
            segments,
            taken: 0,
            changed: false,
            bytes_max: config.segment_bytes,
        };
        let filtered = group.filter(&mut cleaned, filter, run, report);
        let group = &group;
        let taken = &segments[..group.taken];
        let replaced = match filtered {
            Ok(true) if group.changed || group.taken > 1 => {
                report.bytes_written += cleaned.bytes();
                let end = cleaned.next_offset;
                let new = cleaned.finish(end, taken);
                new.and_then(|new| self.swap(new, &path, taken, filter.gone_below))
            }
            Ok(whole) => {
                let _ = std::fs::remove_file(&path);
                return Ok(whole.then_some(group.taken));
            }
            Err(error) => Err(error),
        };
        match replaced {
            Ok(true) => {
                report.segments_before += group.taken;
                report.segments_after += 1;
                Ok(Some(group.taken))
            }
            other => {
                let _ = std::fs::remove_file(&path);
                other.map(|_| None)
            }
        }
    }
}

/// Neighbouring segments that become one.
struct Group<'a> {
    /// From the first of the group on; those it does not take are the next groups'.
    segments: &'a [Closed],
    taken: usize,
    /// Something is not as it was.
    changed: bool,
    bytes_max: u64,
}

impl Group<'_> {
    /// Filters segments into `cleaned` until no further one is sure to fit; false when given up.
    fn filter(
        &mut self,
        cleaned: &mut CleanedSegment,
        filter: &mut Filter<'_>,
        run: &CompactionRun<'_>,
        report: &mut CompactionReport,
    ) -> Result<bool, StorageError> {
        while let Some((segment, end)) = self.segments.get(self.taken) {
            let mut joined = false;
            let mut reader = BatchReader::new(segment)?;
            while (run.go_on)() {
                let at = reader.next_offset();
                let (header, batch) = match reader.next_batch() {
                    Ok(Some(next)) => next,
                    Ok(None) => break,
                    Err(error) => {
                        report.damaged_at = Some(at);
                        tracing::warn!("compaction stops: {error}");
                        return Ok(false);
                    }
                };
                report.bytes_read += batch.len() as u64;
                let written_before = cleaned.bytes();
                let ends_segment = header.last_offset() + 1 == *end;
                joined = ends_segment && self.next_fits(cleaned.bytes() + batch.len() as u64);
                match filter.apply(&header, batch, ends_segment && !joined)? {
                    Left::Same => cleaned.write(&header, batch)?,
                    Left::Changed(bytes) => {
                        self.changed = true;
                        cleaned.write(&BatchHeader::parse(&bytes)?, &bytes)?;
                    }
                    Left::Nothing => self.changed = true,
                }
                let written = (cleaned.bytes() - written_before) as usize;
                run.pace.spend(batch.len() + written, run.go_on);
            }
            segment.close_file();
            if !(run.go_on)() {
                return Ok(false);
            }
            self.taken += 1;
            if !joined && cleaned.next_offset != *end {
                let next = cleaned.next_offset;
                let reason = format!("ends before offset {next} instead of {end}");
                return Err(StorageError::corrupt(segment.path(), reason));
            }
            if !joined {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// Whether the segment after the present one finds room behind `bytes`, whatever is left of it.
    fn next_fits(&self, bytes: u64) -> bool {
        let base = self.segments[0].0.base_offset;
        self.segments
            .get(self.taken + 1)
            .is_some_and(|(next, end)| {
                bytes + next.bytes() <= self.bytes_max && end - base <= i64::from(i32::MAX)
            })
    }
}

//! Sparse offset and time index of one segment, in Kafka's file formats.
//!
//! `.index`: relative offset of a batch's last record and the batch's position, 4 bytes each.
//! `.timeindex`: timestamp, 8 bytes, and relative offset, 4 bytes. Big-endian. The entries of the
//! segment being written live in memory and go to disk with the segment's sync, once there are many; those
//! of closed segments are dropped from memory and read back when needed.

use super::segment::file_name;
use crate::error::StorageError;
use crate::ids::Offset;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(super) const OFFSET_ENTRY_BYTES: usize = 8;
pub(super) const TIME_ENTRY_BYTES: usize = 12;

/// Bytes of a segment being written that may have no entries on disk: who opens it reads their headers, in half a
/// millisecond. To make, write and sync two files takes as long, and thousands of small partitions would do it.
const UNWRITTEN_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetEntry {
    /// Offset of the batch's last record, relative to the segment's base offset.
    pub relative: u32,
    /// Where the batch begins.
    pub position: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeEntry {
    pub timestamp: i64,
    /// Last record of the batch that holds `timestamp`.
    pub relative: u32,
}

pub struct SegmentIndex {
    offset_path: PathBuf,
    time_path: PathBuf,
    offsets: Vec<OffsetEntry>,
    times: Vec<TimeEntry>,
    /// The largest timestamp so far, indexed or not.
    latest: Option<TimeEntry>,
    bytes_since_entry: u64,
    persisted_offsets: usize,
    persisted_times: usize,
    /// The segment is closed: its files are there, whether or not they have entries.
    sealed: bool,
    /// The files may hold what is not synced.
    unsynced: bool,
}

impl SegmentIndex {
    pub fn empty(dir: &Path, base_offset: Offset) -> SegmentIndex {
        let path = |kind| dir.join(file_name(base_offset, kind));
        SegmentIndex::at(path("index"), path("timeindex"))
    }

    fn at(offset_path: PathBuf, time_path: PathBuf) -> SegmentIndex {
        SegmentIndex {
            offset_path,
            time_path,
            offsets: Vec::new(),
            times: Vec::new(),
            latest: None,
            bytes_since_entry: 0,
            persisted_offsets: 0,
            persisted_times: 0,
            sealed: false,
            unsynced: false,
        }
    }

    /// Reads the files back and cuts entries past `bytes` of the segment, which a crash may have
    /// left. `None` when they cannot be those of a segment of that length; `closed` ones are
    /// complete.
    pub fn load(
        dir: &Path,
        base_offset: Offset,
        bytes: u64,
        closed: bool,
    ) -> Result<Option<SegmentIndex>, StorageError> {
        let mut index = SegmentIndex::empty(dir, base_offset);
        let offsets = read_file(&index.offset_path)?;
        let times = read_file(&index.time_path)?;
        if !index.take_offsets(&offsets, bytes, closed) || !index.take_times(&times, closed) {
            return Ok(None);
        }
        index.latest = index.times.last().copied();
        index.sealed = closed;
        // The process may have ended before it synced them.
        index.unsynced = !closed;
        index.persisted_offsets = index.offsets.len();
        index.persisted_times = index.times.len();
        let kept = index.persisted_offsets * OFFSET_ENTRY_BYTES;
        cut(&index.offset_path, offsets.len(), kept)?;
        let kept = index.persisted_times * TIME_ENTRY_BYTES;
        cut(&index.time_path, times.len(), kept)?;
        Ok(Some(index))
    }

    fn take_offsets(&mut self, file: &[u8], bytes: u64, closed: bool) -> bool {
        let entries = file.chunks_exact(OFFSET_ENTRY_BYTES);
        let whole = entries.remainder().is_empty();
        for entry in entries {
            let entry = OffsetEntry {
                relative: be_u32(&entry[..4]),
                position: be_u32(&entry[4..]),
            };
            let past_the_end = u64::from(entry.position) >= bytes;
            if past_the_end && !closed {
                return true;
            }
            // The first batch has no entry: zeros are what a loss of power leaves of a file that had begun.
            let follows = self.offsets.last().map_or(entry.position > 0, |l| {
                l.relative < entry.relative && l.position < entry.position
            });
            if !follows || past_the_end {
                return false;
            }
            self.offsets.push(entry);
        }
        // A closed segment without entries is short: reading it again costs nothing.
        whole && !(closed && self.offsets.is_empty())
    }

    fn take_times(&mut self, file: &[u8], closed: bool) -> bool {
        let last = self.offsets.last().map_or(0, |l| l.relative);
        let entries = file.chunks_exact(TIME_ENTRY_BYTES);
        let whole = entries.remainder().is_empty();
        for entry in entries {
            let mut timestamp = [0; 8];
            timestamp.copy_from_slice(&entry[..8]);
            let entry = TimeEntry {
                timestamp: i64::from_be_bytes(timestamp),
                relative: be_u32(&entry[8..]),
            };
            // The entry that closes a segment lies behind the last one of the offset index.
            if entry.relative > last && !closed {
                return true;
            }
            let zeros = entry.timestamp == 0 && entry.relative == 0;
            let follows = self.times.last().map_or(!zeros, |l| {
                l.timestamp < entry.timestamp && l.relative <= entry.relative
            });
            if !follows {
                return false;
            }
            self.times.push(entry);
        }
        whole && (self.offsets.is_empty() || !self.times.is_empty())
    }

    /// Takes note of a batch; adds entries when `interval` bytes have passed since the last ones.
    pub fn add(&mut self, offset: OffsetEntry, time: Option<TimeEntry>, bytes: u64, interval: u32) {
        if let Some(time) = time {
            self.latest = Some(time);
        }
        if self.bytes_since_entry > u64::from(interval) {
            self.offsets.push(offset);
            self.push_latest();
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += bytes;
    }

    fn push_latest(&mut self) {
        if let Some(latest) = self.latest
            && self
                .times
                .last()
                .is_none_or(|l| l.timestamp < latest.timestamp)
        {
            self.times.push(latest);
        }
    }

    pub fn seal(&mut self) {
        self.push_latest();
        self.sealed = true;
        self.offsets.shrink_to_fit();
        self.times.shrink_to_fit();
    }

    /// The same without entries, to be filled again.
    pub fn emptied(&self) -> SegmentIndex {
        SegmentIndex::at(self.offset_path.clone(), self.time_path.clone())
    }

    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    pub fn last_timestamp(&self) -> i64 {
        self.latest.map_or(-1, |l| l.timestamp)
    }

    /// Position of the last indexed batch.
    pub fn last_position(&self) -> u64 {
        self.offsets.last().map_or(0, |l| u64::from(l.position))
    }

    pub fn last_entry(&self) -> Option<OffsetEntry> {
        self.offsets.last().copied()
    }

    /// Position to scan from to find `relative`: its batch begins there or later.
    pub fn position_before(&self, relative: u64) -> u64 {
        let after = self
            .offsets
            .partition_point(|e| u64::from(e.relative) <= relative);
        after
            .checked_sub(1)
            .map_or(0, |i| u64::from(self.offsets[i].position))
    }

    /// An indexed batch that ends at or before `relative`, and one that begins after it.
    pub fn entries_around(&self, relative: u32) -> (Option<OffsetEntry>, Option<OffsetEntry>) {
        let after = self.offsets.partition_point(|e| e.relative <= relative);
        let first = after.checked_sub(1).map(|i| self.offsets[i]);
        // The next one may hold `relative` itself: entries tell where a batch ends.
        (first, self.offsets.get(after + 1).copied())
    }

    /// Relative offset below which no timestamp is as late as `timestamp`.
    pub fn offset_before_timestamp(&self, timestamp: i64) -> u32 {
        let after = self.times.partition_point(|e| e.timestamp < timestamp);
        after.checked_sub(1).map_or(0, |i| self.times[i].relative)
    }

    /// Whether the files should be made durable with the segment.
    pub fn is_due(&self) -> bool {
        let written = self.persisted_offsets.checked_sub(1);
        let written = written.map_or(0, |last| u64::from(self.offsets[last].position));
        let unsynced = self.unsynced && self.persisted_offsets > 0;
        self.sealed || unsynced || self.last_position() - written >= UNWRITTEN_MAX
    }

    /// Writes entries not yet in the files, and syncs the files if asked to. Costs nothing when there
    /// are none.
    pub fn persist(&mut self, sync: bool) -> Result<(), StorageError> {
        let mut bytes = Vec::new();
        for entry in &self.offsets[self.persisted_offsets..] {
            bytes.extend_from_slice(&entry.relative.to_be_bytes());
            bytes.extend_from_slice(&entry.position.to_be_bytes());
        }
        let at = self.persisted_offsets * OFFSET_ENTRY_BYTES;
        if self.must_write(&self.offset_path, &bytes, at, sync) {
            append(&self.offset_path, &bytes, at, sync)?;
        }
        self.persisted_offsets = self.offsets.len();
        bytes.clear();
        for entry in &self.times[self.persisted_times..] {
            bytes.extend_from_slice(&entry.timestamp.to_be_bytes());
            bytes.extend_from_slice(&entry.relative.to_be_bytes());
        }
        let at = self.persisted_times * TIME_ENTRY_BYTES;
        if self.must_write(&self.time_path, &bytes, at, sync) {
            append(&self.time_path, &bytes, at, sync)?;
        }
        self.persisted_times = self.times.len();
        self.unsynced = !sync;
        Ok(())
    }

    /// Whether a file has to be touched: there is something new, something to sync, or what is there
    /// belongs to an index that was thrown away.
    fn must_write(&self, path: &Path, bytes: &[u8], at: usize, sync: bool) -> bool {
        let first = at == 0 && (self.sealed || path.exists());
        let kept = at > 0 && sync && self.unsynced;
        !bytes.is_empty() || first || kept
    }
}

impl SegmentIndex {
    /// Writes the files of a closed segment: after a crash each is whole or not there at all.
    pub fn write_whole(&mut self) -> Result<(), StorageError> {
        let mut bytes = Vec::with_capacity(self.offsets.len() * OFFSET_ENTRY_BYTES);
        for entry in &self.offsets {
            bytes.extend_from_slice(&entry.relative.to_be_bytes());
            bytes.extend_from_slice(&entry.position.to_be_bytes());
        }
        super::files::replace(&self.offset_path, &bytes)?;
        super::compaction::crash_point::passed();
        bytes.clear();
        for entry in &self.times {
            bytes.extend_from_slice(&entry.timestamp.to_be_bytes());
            bytes.extend_from_slice(&entry.relative.to_be_bytes());
        }
        super::files::replace(&self.time_path, &bytes)?;
        self.persisted_offsets = self.offsets.len();
        self.persisted_times = self.times.len();
        Ok(())
    }
}

pub(super) fn be_u32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, StorageError> {
    match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|e| StorageError::io(path, e)),
    }
}

fn cut(path: &Path, bytes: usize, kept: usize) -> Result<(), StorageError> {
    if bytes == kept {
        return Ok(());
    }
    let cut = || -> std::io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(kept as u64)
    };
    cut().map_err(|e| StorageError::io(path, e))
}

/// Writes at `at`; at 0 the file is made anew.
fn append(path: &Path, bytes: &[u8], at: usize, sync: bool) -> Result<(), StorageError> {
    let write = || -> std::io::Result<()> {
        let file = if at == 0 {
            std::fs::File::create(path)?
        } else {
            OpenOptions::new().write(true).open(path)?
        };
        file.write_all_at(bytes, at as u64)?;
        if sync { file.sync_data() } else { Ok(()) }
    };
    write().map_err(|e| StorageError::io(path, e))
}

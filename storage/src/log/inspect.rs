//! Looks at the files of a partition's folder without opening the log: for people and tools, beside a
//! broker or after it has stopped. Reads only, in bounded memory, and goes on behind damage.

use super::index::{OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES, be_u32, read_file};
pub use super::txn_index::AbortedTransaction;
use super::txn_index::ENTRY_BYTES as TXN_ENTRY_BYTES;
use crate::batch::{BatchHeader, HEADER_BYTES, batch_crc, for_each_record};
use crate::error::StorageError;
use crate::ids::Offset;
use bytes::Bytes;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes read at once while a readable batch is searched for.
const SEARCH_BYTES: usize = 1 << 20;

/// One batch of a segment.
#[derive(Debug, Clone)]
pub struct SegmentBatch {
    /// Where in the file it begins.
    pub position: u64,
    pub header: BatchHeader,
    /// The whole batch.
    pub bytes: Bytes,
}

/// What stands at a place of a segment.
#[derive(Debug, Clone)]
pub enum SegmentPart {
    /// A batch whose checksum and records agree.
    Batch(SegmentBatch),
    /// Bytes `[from, to)` are no batch; at `to` one begins again, or the file ends.
    Unreadable { from: u64, to: u64, reason: String },
    /// Bytes from here to the end of the file are zero: reserved, not written yet.
    Reserved { from: u64, to: u64 },
}

/// The segments of a partition's folder, in order of their base offset.
///
/// # Errors
/// [`StorageError::Io`] when the folder cannot be read.
pub fn segments(dir: &Path) -> Result<Vec<(Offset, PathBuf)>, StorageError> {
    let mut segments = super::files::named_by_offset(dir, "log")?;
    segments.sort_unstable();
    Ok(segments)
}

/// Offsets may be missing between batches of segments that begin below this: compaction has been there.
/// From the segment being written on, and in topics never compacted, there are none missing.
///
/// # Errors
/// [`StorageError::Io`]; [`StorageError::Corrupt`] when compaction's notes are unreadable.
pub fn gaps_below(dir: &Path) -> Result<Offset, StorageError> {
    Ok(super::compaction::CompactionState::read(dir)?.gaps_below)
}

/// Reads one segment's parts one after another.
pub struct SegmentReader {
    file: File,
    path: PathBuf,
    length: u64,
    position: u64,
    base_offset: Offset,
    /// Where the next batch begins at the earliest.
    next_offset: Offset,
}

impl SegmentReader {
    /// # Errors
    /// [`StorageError::Io`]; [`StorageError::Corrupt`] when the name is no offset.
    pub fn open(path: &Path) -> Result<SegmentReader, StorageError> {
        let base_offset = base_of(path)?;
        let file = File::open(path).map_err(|e| StorageError::io(path, e))?;
        let length = file
            .metadata()
            .map_err(|e| StorageError::io(path, e))?
            .len();
        Ok(SegmentReader {
            file,
            path: path.to_owned(),
            length,
            position: 0,
            base_offset,
            next_offset: base_offset,
        })
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.length
    }

    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn next_part(&mut self) -> Result<Option<SegmentPart>, StorageError> {
        let from = self.position;
        if from >= self.length {
            return Ok(None);
        }
        let reason = match self.batch_at(from)? {
            Ok(batch) => {
                self.position = from + batch.bytes.len() as u64;
                self.next_offset = batch.header.last_offset() + 1;
                return Ok(Some(SegmentPart::Batch(batch)));
            }
            Err(reason) => reason,
        };
        let found = self.search(from + 1)?;
        let to = found.unwrap_or(self.length);
        self.position = to;
        if found.is_none() && self.is_zero(from)? {
            return Ok(Some(SegmentPart::Reserved { from, to }));
        }
        Ok(Some(SegmentPart::Unreadable { from, to, reason }))
    }

    fn read(&self, position: u64, bytes: usize) -> Result<Vec<u8>, StorageError> {
        let left = usize::try_from(self.length - position).unwrap_or(usize::MAX);
        let mut buffer = vec![0; bytes.min(left)];
        let read = self.file.read_exact_at(&mut buffer, position);
        read.map_err(|e| StorageError::io(&self.path, e))?;
        Ok(buffer)
    }

    /// The batch at a place, or why there is none.
    fn batch_at(&self, position: u64) -> Result<Result<SegmentBatch, String>, StorageError> {
        let header = match BatchHeader::parse(&self.read(position, HEADER_BYTES)?) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if let Err(reason) = self.plausible(&header, position) {
            return Ok(Err(reason));
        }
        let bytes = self.read(position, header.size_in_bytes())?;
        if let Err(reason) = check(&header, &bytes) {
            return Ok(Err(reason));
        }
        Ok(Ok(SegmentBatch {
            position,
            header,
            bytes: bytes.into(),
        }))
    }

    fn plausible(&self, header: &BatchHeader, position: u64) -> Result<(), String> {
        let left = self.length - position;
        if header.size_in_bytes() as u64 > left {
            return Err(format!(
                "the batch says {} bytes, the file has {left} more",
                header.size_in_bytes()
            ));
        }
        if header.base_offset < self.next_offset || header.base_offset > i64::MAX / 2 {
            return Err(format!(
                "the batch begins with offset {}, {} was due",
                header.base_offset, self.next_offset
            ));
        }
        if header.last_offset().saturating_sub(self.base_offset) > i64::from(i32::MAX) {
            return Err(format!(
                "the batch begins with offset {}, too far from the segment's first",
                header.base_offset
            ));
        }
        if header.last_offset_delta < 0 || header.record_count < 0 {
            return Err("the batch counts less than nothing".to_owned());
        }
        Ok(())
    }

    /// The first place from `from` on where a whole batch begins.
    fn search(&self, from: u64) -> Result<Option<u64>, StorageError> {
        let mut at = from;
        while at < self.length {
            let window = self.read(at, SEARCH_BYTES + HEADER_BYTES)?;
            for start in 0..window.len().saturating_sub(HEADER_BYTES).min(SEARCH_BYTES) {
                // The magic byte rules out nearly every place before anything else is looked at.
                if window[start + 16] != 2 {
                    continue;
                }
                let place = at + start as u64;
                let header = BatchHeader::parse(&window[start..]);
                let plausible = header.is_ok_and(|h| self.plausible(&h, place).is_ok());
                if plausible && self.batch_at(place)?.is_ok() {
                    return Ok(Some(place));
                }
            }
            at += SEARCH_BYTES as u64;
        }
        Ok(None)
    }

    fn is_zero(&self, from: u64) -> Result<bool, StorageError> {
        let mut at = from;
        while at < self.length {
            let window = self.read(at, SEARCH_BYTES)?;
            if window.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            at += window.len() as u64;
        }
        Ok(true)
    }
}

/// Whether checksum, records and counts agree.
fn check(header: &BatchHeader, bytes: &[u8]) -> Result<(), String> {
    let crc = batch_crc(bytes);
    if crc != header.crc {
        return Err(format!(
            "CRC-32C is {crc:08x}, the batch says {:08x}",
            header.crc
        ));
    }
    if header.record_count == 0 {
        return Ok(());
    }
    let mut last = header.base_offset - 1;
    let mut misplaced = None;
    let walked = for_each_record(bytes, |record| {
        if record.offset <= last || record.offset > header.last_offset() {
            misplaced = Some(record.offset);
        }
        last = record.offset;
        misplaced.is_none()
    });
    walked.map_err(|error| error.to_string())?;
    match misplaced {
        Some(offset) => Err(format!("a record has offset {offset}, out of order")),
        None => Ok(()),
    }
}

/// An entry of an offset index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedOffset {
    /// Last offset of the batch.
    pub offset: Offset,
    /// Where it begins.
    pub position: u64,
}

/// An entry of a time index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedTime {
    pub timestamp_ms: i64,
    /// Last offset of the batch that holds it.
    pub offset: Offset,
}

/// The entries of a segment's `.index` file; a file that is not there has none.
///
/// # Errors
/// [`StorageError::Io`]; [`StorageError::Corrupt`] when entries are cut or do not grow.
pub fn offset_index(path: &Path) -> Result<Vec<IndexedOffset>, StorageError> {
    let base = base_of(path)?;
    let entry = |entry: &[u8]| IndexedOffset {
        offset: base + i64::from(be_u32(&entry[..4])),
        position: u64::from(be_u32(&entry[4..])),
    };
    let grows =
        |a: &IndexedOffset, b: &IndexedOffset| a.offset < b.offset && a.position < b.position;
    entries(path, OFFSET_ENTRY_BYTES, entry, grows)
}

/// The entries of a segment's `.timeindex` file; a file that is not there has none.
///
/// # Errors
/// As [`offset_index`].
pub fn time_index(path: &Path) -> Result<Vec<IndexedTime>, StorageError> {
    let base = base_of(path)?;
    let entry = |entry: &[u8]| {
        let mut timestamp = [0; 8];
        timestamp.copy_from_slice(&entry[..8]);
        IndexedTime {
            timestamp_ms: i64::from_be_bytes(timestamp),
            offset: base + i64::from(be_u32(&entry[8..])),
        }
    };
    let grows =
        |a: &IndexedTime, b: &IndexedTime| a.timestamp_ms < b.timestamp_ms && a.offset <= b.offset;
    entries(path, TIME_ENTRY_BYTES, entry, grows)
}

/// The aborted transactions of a segment's `.txnindex` file; a file that is not there has none.
///
/// # Errors
/// [`StorageError::Io`]; [`StorageError::Corrupt`] when entries are cut, damaged, or their markers are not in
/// order.
pub fn aborted_transactions(path: &Path) -> Result<Vec<AbortedTransaction>, StorageError> {
    let base = base_of(path)?;
    let grows = |a: &Option<AbortedTransaction>, b: &Option<AbortedTransaction>| {
        a.zip(*b)
            .is_some_and(|(a, b)| a.last_offset < b.last_offset)
    };
    let entries = entries(path, TXN_ENTRY_BYTES, AbortedTransaction::parse, grows)?;
    let whole: Option<Vec<_>> = entries.into_iter().collect();
    // All the others come after the first.
    let whole = whole.filter(|all| all.first().is_none_or(|first| first.last_offset >= base));
    whole.ok_or_else(|| StorageError::corrupt(path, "entry 0 is damaged"))
}

fn base_of(path: &Path) -> Result<Offset, StorageError> {
    let base = path
        .file_stem()
        .and_then(|stem| stem.to_str()?.parse().ok());
    base.ok_or_else(|| StorageError::corrupt(path, "the file's name is no offset"))
}

fn entries<T>(
    path: &Path,
    entry_bytes: usize,
    entry: impl Fn(&[u8]) -> T,
    grows: impl Fn(&T, &T) -> bool,
) -> Result<Vec<T>, StorageError> {
    let file = read_file(path)?;
    let chunks = file.chunks_exact(entry_bytes);
    let left = chunks.remainder().len();
    let entries: Vec<T> = chunks.map(entry).collect();
    if let Some(n) = entries
        .windows(2)
        .position(|pair| !grows(&pair[0], &pair[1]))
    {
        let reason = format!("entry {} is not greater than the one before it", n + 1);
        return Err(StorageError::corrupt(path, reason));
    }
    if left > 0 {
        return Err(StorageError::corrupt(
            path,
            format!("{left} bytes too many"),
        ));
    }
    Ok(entries)
}

//! One segment: a `.log` file of whole batches and its two sparse indexes.
//!
//! Written with `pwrite`, read through mapped windows of the file. The length readers may touch is
//! published after the bytes are written, so no page past the end of the file is ever touched. A
//! window is small, so that a broker's memory does not grow with what its consumers read.

use super::index::{OffsetEntry, SegmentIndex, TimeEntry};
use super::slice::Slice;
use super::txn_index::TxnIndex;
use super::write::{Caching, write_all};
use crate::batch::{BatchHeader, HEADER_BYTES, batch_crc};
use crate::error::StorageError;
use crate::ids::Offset;
use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use parking_lot::{Mutex, RwLock};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a window; windows begin at multiples of half of it, so that any read of up to half a
/// window lies within one.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// Windows begin at multiples of the page size, whatever it is on this machine.
const PAGE_BYTES: u64 = 64 * 1024;

/// Bytes between the entries of an index that is made again: the default of `index.interval.bytes`.
const INTERVAL_OF_REMADE: u32 = 4096;
/// Most slices one `pwritev` takes (Linux's `IOV_MAX`).
const IOV_MAX: usize = 1024;

/// Name of a segment's file.
pub fn file_name(base_offset: Offset, suffix: &str) -> String {
    format!("{base_offset:020}.{suffix}")
}

#[derive(Clone)]
struct Mapping(Arc<Mmap>);

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Mapped bytes of a segment.
#[derive(Clone)]
pub struct View {
    /// Where in the file the view begins.
    base: u64,
    bytes: Bytes,
    file: Arc<File>,
}

impl View {
    /// Position in the file at which the view ends.
    pub fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// The same, with where they are in the file.
    pub fn slice_in_file(&self, from: u64, to: u64) -> Slice {
        Slice::in_file(self.slice(from, to), self.file.clone(), from)
    }

    fn covers(&self, from: u64, to: u64) -> bool {
        from >= self.base && to <= self.end()
    }

    /// Bytes `[from, to)` of the file, which lie within the view.
    pub fn slice(&self, from: u64, to: u64) -> Bytes {
        self.bytes
            .slice((from - self.base) as usize..(to - self.base) as usize)
    }
}

#[derive(Default)]
struct OpenFile {
    handle: Option<Arc<File>>,
    /// The path leads to this file no more: the handle is all there is.
    pinned: bool,
}

pub struct Segment {
    pub base_offset: Offset,
    path: PathBuf,
    /// Bytes a mapping covers; the file never becomes larger.
    capacity: u64,
    published: AtomicU64,
    file: Mutex<OpenFile>,
    /// Where the segment ends when compaction may have left gaps between its batches, else −1.
    sparse_end: AtomicI64,
    /// The window used last.
    mapping: RwLock<Option<View>>,
    /// The window was used since the last look.
    mapping_used: AtomicBool,
    pub index: RwLock<SegmentIndex>,
    /// Aborted transactions whose markers are here.
    pub txn_index: RwLock<TxnIndex>,
    max_timestamp: AtomicI64,
    /// Bytes or index entries were written since the last sync.
    dirty: AtomicBool,
    /// Held while a sync is under way.
    syncing: Mutex<()>,
    /// When it was made, or after a restart, when it was last written.
    pub created_ms: i64,
}

impl Segment {
    /// A segment to be written; its file is made at the first write.
    pub fn create(dir: &Path, base_offset: Offset, capacity: u64) -> Segment {
        Segment {
            base_offset,
            path: dir.join(file_name(base_offset, "log")),
            capacity,
            published: AtomicU64::new(0),
            file: Mutex::default(),
            sparse_end: AtomicI64::new(-1),
            mapping: RwLock::new(None),
            mapping_used: AtomicBool::new(false),
            index: RwLock::new(SegmentIndex::empty(dir, base_offset)),
            txn_index: RwLock::new(TxnIndex::empty(dir, base_offset)),
            max_timestamp: AtomicI64::new(-1),
            dirty: AtomicBool::new(false),
            syncing: Mutex::new(()),
            created_ms: now_ms(),
        }
    }

    /// A segment of an earlier run, `bytes` long; what lies behind is cut. `closed` means that it is
    /// written no more and its indexes are complete; those of the last segment are brought up to its
    /// length. Indexes that cannot be right are built anew, up to the first damaged header if there is one.
    /// Offsets may be missing below `sparse_end`.
    pub fn open(
        dir: &Path,
        base_offset: Offset,
        bytes: u64,
        capacity: u64,
        interval: u32,
        closed: bool,
        sparse_end: Option<Offset>,
    ) -> Result<Segment, StorageError> {
        let path = dir.join(file_name(base_offset, "log"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| StorageError::io(&path, e))?;
        let metadata = file.metadata().map_err(|e| StorageError::io(&path, e))?;
        let length = metadata.len();
        let created_ms = metadata.modified().map_or_else(|_| now_ms(), ms_of);
        if length < bytes {
            return Err(StorageError::corrupt(
                &path,
                format!("{length} bytes, but {bytes} were synced"),
            ));
        }
        // Nothing is mapped yet: this is the one place where a segment is made shorter.
        if length > bytes {
            file.set_len(bytes)
                .map_err(|e| StorageError::io(&path, e))?;
        }
        let loaded = SegmentIndex::load(dir, base_offset, bytes, closed)?;
        let intact = loaded.is_some();
        let index = loaded.unwrap_or_else(|| SegmentIndex::empty(dir, base_offset));
        let segment = Segment {
            base_offset,
            path,
            capacity: capacity.max(bytes),
            published: AtomicU64::new(bytes),
            file: Mutex::default(),
            sparse_end: AtomicI64::new(sparse_end.unwrap_or(-1)),
            mapping: RwLock::new(None),
            mapping_used: AtomicBool::new(false),
            max_timestamp: AtomicI64::new(index.last_timestamp()),
            index: RwLock::new(index),
            // Read back once the segment's last offset is known.
            txn_index: RwLock::new(TxnIndex::empty(dir, base_offset)),
            dirty: AtomicBool::new(false),
            syncing: Mutex::new(()),
            created_ms,
        };
        if !closed || !intact {
            segment.reindex(interval)?;
        }
        if closed && !intact {
            segment.seal();
        } else if !intact {
            // The files that were thrown away must not be there the next time.
            segment.index.write().persist(false)?;
        }
        Ok(segment)
    }

    pub fn bytes(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp.load(Ordering::Acquire)
    }

    /// For retention; records without a timestamp are as old as the segment, as in Kafka.
    pub fn retention_timestamp(&self) -> i64 {
        match self.max_timestamp() {
            timestamp if timestamp < 0 => self.created_ms,
            timestamp => timestamp,
        }
    }

    /// Whether something written is not known to be durable. True also while another thread syncs.
    pub fn needs_sync(&self) -> bool {
        self.dirty.load(Ordering::Acquire) || self.syncing.try_lock().is_none()
    }

    /// Whether the file exists.
    pub fn is_on_disk(&self) -> bool {
        self.bytes() > 0
    }

    pub fn file(&self) -> Result<Arc<File>, StorageError> {
        self.open_file(&mut self.file.lock())
    }

    fn open_file(&self, file: &mut OpenFile) -> Result<Arc<File>, StorageError> {
        if let Some(handle) = &file.handle {
            return Ok(handle.clone());
        }
        if !self.is_on_disk() {
            // Of a segment that began here before a crash; this one's may be written much later.
            remove_files(&self.path, &["index", "timeindex"])
                .map_err(|e| StorageError::io(&self.path, e))?;
        }
        // Only a segment that nothing was written to has no file yet.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(!self.is_on_disk())
            .truncate(false)
            .open(&self.path)
            .map_err(|e| StorageError::io(&self.path, e))?;
        let opened = Arc::new(opened);
        file.handle = Some(opened.clone());
        Ok(opened)
    }

    /// Holds on to the file, which is about to lose its name: readers that still have this segment
    /// must not find another file, or none, under its path.
    pub fn pin(&self) -> Result<(), StorageError> {
        self.txn_index.write().hold()?;
        let mut file = self.file.lock();
        self.open_file(&mut file)?;
        file.pinned = true;
        Ok(())
    }

    /// Whether offsets may be missing between two batches.
    pub fn is_sparse(&self) -> bool {
        self.sparse_end.load(Ordering::Acquire) >= 0
    }

    /// Lets offsets be missing below `end`, where the next segment begins.
    pub fn set_sparse(&self, end: Offset) {
        self.sparse_end.store(end, Ordering::Release);
    }

    /// Whether the batch of `header` may be the one after an offset before `next`. Base offsets are not
    /// covered by a checksum, so that they have to fit between their neighbours.
    pub fn follows(&self, header: &BatchHeader, next: Offset) -> bool {
        let sparse_end = self.sparse_end.load(Ordering::Acquire);
        header.base_offset == next
            || (header.base_offset > next && header.last_offset() < sparse_end)
    }

    /// Writes `slices` at the end without publishing them. On an error nothing is visible, and the
    /// next write goes over what was written.
    pub fn write(&self, slices: &[IoSlice<'_>], caching: Caching) -> Result<(), StorageError> {
        let file = self.file()?;
        let mut at = self.bytes();
        for chunk in slices.chunks(IOV_MAX) {
            match write_all(&file, chunk, at, caching) {
                Ok(written) => at += written,
                Err(error) => {
                    // What was half written must not be taken for records once the segment is
                    // closed. Nothing past the published end has ever been read.
                    let _ = file.set_len(self.bytes());
                    return Err(StorageError::io(&self.path, error));
                }
            }
        }
        Ok(())
    }

    /// Replaces published bytes that are damaged by what they were, and syncs. A reader that had the
    /// damaged bytes has not passed their checksum.
    pub fn overwrite(&self, position: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let file = self.file()?;
        write_all(&file, &[IoSlice::new(bytes)], position, Caching::Keep)
            .and_then(|_| file.sync_data())
            .map_err(|e| StorageError::io(&self.path, e))
    }

    /// The error of a batch at `position` that is not what was written.
    pub fn damaged(&self, position: u64, reason: &str) -> StorageError {
        StorageError::corrupt(&self.path, format!("batch at byte {position}: {reason}"))
    }

    /// Makes the batch of `header`, written at the present end, readable.
    pub fn publish(&self, header: &BatchHeader, interval: u32) {
        let position = self.bytes();
        let size = header.size_in_bytes() as u64;
        self.index_batch(header, position, interval);
        self.dirty.store(true, Ordering::Release);
        self.published.store(position + size, Ordering::Release);
    }

    /// Takes over `bytes` that lie in a file which will be this segment's, indexed batch by batch.
    pub fn adopt(&mut self, bytes: u64, end: Offset, created_ms: i64) {
        self.index.get_mut().seal();
        self.published = AtomicU64::new(bytes);
        self.capacity = bytes;
        self.created_ms = created_ms;
        self.set_sparse(end);
    }

    /// Notes the batch of `header` at `position`. One without records has no timestamp to be found.
    pub fn index_batch(&self, header: &BatchHeader, position: u64, interval: u32) {
        let timestamp = if header.record_count == 0 {
            -1
        } else {
            header.max_timestamp
        };
        let max = self.max_timestamp().max(timestamp);
        let newer = timestamp > self.max_timestamp();
        self.max_timestamp.store(max, Ordering::Release);
        self.index.write().add(
            OffsetEntry {
                relative: (header.last_offset() - self.base_offset) as u32,
                position: position as u32,
            },
            newer.then_some(TimeEntry {
                timestamp,
                relative: (header.last_offset() - self.base_offset) as u32,
            }),
            header.size_in_bytes() as u64,
            interval,
        );
    }

    fn reindex(&self, interval: u32) -> Result<(), StorageError> {
        for batch in self.tail() {
            match batch {
                Ok((position, header, indexed)) if !indexed => {
                    self.index_batch(&header, position, interval);
                }
                Ok(_) => {}
                Err(StorageError::Corrupt { .. }) => {
                    // Nobody knows what is behind it; it must not be taken for older than it is.
                    self.max_timestamp
                        .fetch_max(self.created_ms, Ordering::AcqRel);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Position and header of the batches from the last indexed one on, which is told to be, up to the end or to
    /// one that is damaged.
    pub fn tail(&self) -> impl Iterator<Item = Result<(u64, BatchHeader, bool), StorageError>> {
        let last = self.index.read().last_entry();
        let mut position = last.map_or(0, |entry| u64::from(entry.position));
        let mut indexed = last.map(|entry| self.base_offset + i64::from(entry.relative));
        let mut next = self.base_offset;
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || position >= self.bytes() {
                return None;
            }
            let header = match self.whole_batch_at(position) {
                Ok(header) => header,
                Err(error) => {
                    failed = true;
                    return Some(Err(error));
                }
            };
            let was_indexed = indexed.is_some();
            let in_place = match indexed.take() {
                Some(last) => header.last_offset() == last,
                None => self.follows(&header, next),
            };
            if !in_place {
                failed = true;
                return Some(Err(self.damaged(position, "its offset is wrong")));
            }
            let batch = (position, header, was_indexed);
            next = header.last_offset() + 1;
            position += header.size_in_bytes() as u64;
            Some(Ok(batch))
        })
    }

    /// A view that covers `[from, to)`, which readers may touch up to `bytes()`.
    pub fn view(&self, from: u64, to: u64) -> Result<View, StorageError> {
        self.mapping_used.store(true, Ordering::Relaxed);
        if let Some(view) = &*self.mapping.read()
            && view.covers(from, to)
        {
            return Ok(view.clone());
        }
        let mut base = from - from % (WINDOW_BYTES / 2);
        let mut end = (base + WINDOW_BYTES).min(self.capacity);
        if end < to {
            base = from - from % PAGE_BYTES;
            end = to;
        }
        let file = self.file()?;
        // SAFETY: the mapping is read-only and every reader stays below `published`, which lies
        // within the file: segments are cut only in `open`, before they are mapped. Published bytes
        // are never written again, so the slices handed out do not change.
        let map = unsafe {
            MmapOptions::new()
                .offset(base)
                .len((end - base) as usize)
                .map(&*file)
                .map_err(|e| StorageError::io(&self.path, e))?
        };
        let view = View {
            base,
            bytes: Bytes::from_owner(Mapping(Arc::new(map))),
            file,
        };
        *self.mapping.write() = Some(view.clone());
        Ok(view)
    }

    /// Drops the mapping when nobody used it since the last call.
    pub fn release_idle_mapping(&self) {
        if !self.mapping_used.swap(false, Ordering::Relaxed) && self.mapping.read().is_some() {
            *self.mapping.write() = None;
        }
    }

    /// Closes the file of a segment that is written no more and synced.
    pub fn close_file(&self) {
        let mut file = self.file.lock();
        if !file.pinned && !self.needs_sync() {
            file.handle = None;
        }
    }

    /// The header of the batch at `position`, and a view that covers at least the header.
    pub fn header_at(&self, position: u64) -> Result<(BatchHeader, View), StorageError> {
        let end = self.bytes();
        let header_end = position + HEADER_BYTES as u64;
        if header_end > end {
            return Err(StorageError::corrupt(&self.path, "position past the end"));
        }
        let view = self.view(position, header_end)?;
        let header = BatchHeader::parse(&view.slice(position, header_end))
            .map_err(|e| StorageError::corrupt(&self.path, format!("at byte {position}: {e}")))?;
        if position + header.size_in_bytes() as u64 > end {
            return Err(StorageError::corrupt(
                &self.path,
                format!("the batch at byte {position} is cut"),
            ));
        }
        Ok((header, view))
    }

    /// The header of a batch whose checksum is right.
    fn whole_batch_at(&self, position: u64) -> Result<BatchHeader, StorageError> {
        let (header, _) = self.header_at(position)?;
        let end = position + header.size_in_bytes() as u64;
        let batch = self.view(position, end)?.slice(position, end);
        if batch_crc(&batch) == header.crc {
            Ok(header)
        } else {
            Err(self.damaged(position, "its checksum is wrong"))
        }
    }

    /// Position of the batch that contains `offset`, or after compaction of the first one behind it.
    /// Otherwise batches follow each other without gaps; one that says otherwise is damaged, as base
    /// offsets are not covered by a checksum. So are those of the index: one that leads astray is made again.
    pub fn position_of(&self, offset: Offset) -> Result<Option<u64>, StorageError> {
        let relative = u32::try_from((offset - self.base_offset).max(0)).unwrap_or(u32::MAX);
        let (entry, _) = self.index.read().entries_around(relative);
        let found = self.position_from(entry, offset);
        let (Err(error), Some(_)) = (&found, entry) else {
            return found;
        };
        let Ok(position) = self.position_from(None, offset) else {
            return found;
        };
        self.make_index_again(error)?;
        Ok(position)
    }

    /// Looks from an indexed batch on, or from the first one.
    fn position_from(
        &self,
        entry: Option<OffsetEntry>,
        offset: Offset,
    ) -> Result<Option<u64>, StorageError> {
        let mut position = entry.map_or(0, |e| u64::from(e.position));
        let mut last = entry.map(|e| self.base_offset + i64::from(e.relative));
        let mut next = self.base_offset;
        let end = self.bytes();
        while position < end {
            let (header, _) = self.header_at(position)?;
            let in_place = match last.take() {
                Some(last) => header.last_offset() == last,
                None => self.follows(&header, next),
            };
            if !in_place {
                return Err(self.damaged(position, "its offset is wrong"));
            }
            if header.last_offset() >= offset {
                return Ok(Some(position));
            }
            next = header.last_offset() + 1;
            position += header.size_in_bytes() as u64;
        }
        Ok(None)
    }

    /// Whether all batches up to where the last entry of the index leads are as they were, and it is wrong.
    pub fn has_wrong_index(&self) -> bool {
        let Some(entry) = self.index.read().last_entry() else {
            return false;
        };
        let (mut position, mut next) = (0, self.base_offset);
        while position < u64::from(entry.position) {
            match self.whole_batch_at(position) {
                Ok(header) if self.follows(&header, next) => {
                    next = header.last_offset() + 1;
                    position += header.size_in_bytes() as u64;
                }
                _ => return false,
            }
        }
        let there = self.whole_batch_at(position);
        let misses = position > u64::from(entry.position);
        let last = self.base_offset + i64::from(entry.relative);
        misses || there.is_ok_and(|h| self.follows(&h, next) && h.last_offset() != last)
    }

    /// Makes the index, which leads to a batch that is not there, again from the batches, up to one that is damaged.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make_index_again(&self, error: &StorageError) -> Result<(), StorageError> {
        tracing::warn!("the index is made again: {error}");
        let mut index = self.index.write();
        let sealed = index.is_sealed();
        let mut made = index.emptied();
        let mut position = 0;
        let mut latest = -1;
        while position < self.bytes() {
            let Ok(header) = self.whole_batch_at(position) else {
                break;
            };
            let offset = OffsetEntry {
                relative: (header.last_offset() - self.base_offset) as u32,
                position: position as u32,
            };
            let newer = header.record_count > 0 && header.max_timestamp > latest;
            latest = latest.max(header.max_timestamp);
            let time = newer.then_some(TimeEntry {
                timestamp: header.max_timestamp,
                relative: offset.relative,
            });
            let bytes = header.size_in_bytes() as u64;
            made.add(offset, time, bytes, INTERVAL_OF_REMADE);
            position += bytes;
        }
        if sealed {
            made.seal();
        }
        self.dirty.store(true, Ordering::Release);
        *index = made;
        index.persist(false)
    }

    /// Makes everything published before the call durable, indexes included.
    pub fn sync(&self) -> Result<(), StorageError> {
        let _syncing = self.syncing.lock();
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let sync = || {
            let file = self.file()?;
            file.sync_data()
                .map_err(|e| StorageError::io(&self.path, e))?;
            {
                let mut index = self.index.write();
                if index.is_due() {
                    index.persist(true)?;
                }
            }
            self.txn_index.write().persist()
        };
        sync().inspect_err(|_| self.dirty.store(true, Ordering::Release))
    }

    /// Ends writing: the last timestamp goes into the time index, as in Kafka, and the index files
    /// are there for whoever looks at the closed segment. They are synced with the segment.
    pub fn seal(&self) {
        self.txn_index.write().close();
        let mut index = self.index.write();
        index.seal();
        self.dirty.store(true, Ordering::Release);
        if let Err(error) = index.persist(false) {
            tracing::debug!("index of a closed segment, tried again with its sync: {error}");
        }
    }

    /// Removes the files. Readers that still have the segment keep its bytes.
    pub fn remove(&self) -> io::Result<()> {
        if self.is_on_disk() {
            // Gone already: nobody can want to read it.
            let _ = self.pin();
        }
        remove_files(
            &self.path,
            &["log", "index", "timeindex", "txnindex", "snapshot", "tmp"],
        )
    }
}

/// Removes those of a segment's files that are there; `path` is that of its log file.
pub fn remove_files(path: &Path, suffixes: &[&str]) -> io::Result<()> {
    for suffix in suffixes {
        match std::fs::remove_file(path.with_extension(suffix)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

pub fn now_ms() -> i64 {
    ms_of(SystemTime::now())
}

fn ms_of(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

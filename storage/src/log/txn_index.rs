//! Aborted transactions whose marker lies in one segment, in the format of Kafka's `.txnindex`.
//!
//! An entry has 34 bytes, big-endian: version 0, producer id, first offset of the transaction in this
//! partition, offset of its marker, and the last stable offset once the marker was there. Entries are
//! in the order of the markers. Those of the segment being written live in memory and go to disk with
//! the segment's sync; those of closed segments are read back when needed.

use super::segment::file_name;
use crate::error::StorageError;
use crate::ids::{Offset, ProducerId};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const ENTRY_BYTES: usize = 34;

/// One aborted transaction in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// Of the marker.
    pub last_offset: Offset,
    /// Nothing at or above it was decided when the marker was written, so a reader that stays below
    /// it needs no later entries.
    pub last_stable_offset: Offset,
}

impl AbortedTransaction {
    fn bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[2..10].copy_from_slice(&self.producer_id.to_be_bytes());
        out[10..18].copy_from_slice(&self.first_offset.to_be_bytes());
        out[18..26].copy_from_slice(&self.last_offset.to_be_bytes());
        out[26..34].copy_from_slice(&self.last_stable_offset.to_be_bytes());
        out
    }

    pub(super) fn parse(entry: &[u8]) -> Option<AbortedTransaction> {
        let field = |at: usize| Some(i64::from_be_bytes(entry.get(at..at + 8)?.try_into().ok()?));
        let parsed = AbortedTransaction {
            producer_id: field(2)?,
            first_offset: field(10)?,
            last_offset: field(18)?,
            last_stable_offset: field(26)?,
        };
        let sound = entry[..2] == [0, 0] && parsed.first_offset <= parsed.last_offset;
        sound.then_some(parsed)
    }
}

/// The index of one segment.
pub struct TxnIndex {
    path: PathBuf,
    /// `None` when they are on disk only.
    entries: Option<Arc<Vec<AbortedTransaction>>>,
    count: usize,
    persisted: usize,
    closed: bool,
}

impl TxnIndex {
    pub fn empty(dir: &Path, base_offset: Offset) -> TxnIndex {
        TxnIndex {
            path: dir.join(file_name(base_offset, "txnindex")),
            entries: Some(Arc::default()),
            count: 0,
            persisted: 0,
            closed: false,
        }
    }

    /// Reads the file back. `end` bounds the markers of the segment; later ones, which a crash may
    /// have left behind a segment being written, are cut. `None` when the file cannot be right.
    pub fn load(
        dir: &Path,
        base_offset: Offset,
        end: Offset,
        closed: bool,
    ) -> Result<Option<TxnIndex>, StorageError> {
        let mut index = TxnIndex::empty(dir, base_offset);
        let bytes = match std::fs::read(&index.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                index.closed = closed;
                return Ok(Some(index));
            }
            other => other.map_err(|e| StorageError::io(&index.path, e))?,
        };
        let mut entries: Vec<AbortedTransaction> = Vec::new();
        let chunks = bytes.chunks_exact(ENTRY_BYTES);
        let whole = chunks.remainder().is_empty();
        for chunk in chunks {
            let entry = AbortedTransaction::parse(chunk);
            let after = entries.last().map_or(base_offset - 1, |e| e.last_offset);
            match entry {
                // What follows was written for batches that were cut.
                Some(entry) if entry.last_offset >= end && !closed => break,
                Some(entry) if entry.last_offset > after && entry.last_offset < end => {
                    entries.push(entry);
                }
                // The tail of a file that was being written.
                _ if !closed => break,
                _ => return Ok(None),
            }
        }
        if closed && !whole {
            return Ok(None);
        }
        index.count = entries.len();
        index.persisted = entries.len();
        index.closed = closed;
        index.entries = (!closed || entries.is_empty()).then(|| Arc::new(entries));
        let kept = index.persisted * ENTRY_BYTES;
        if kept != bytes.len() {
            OpenOptions::new()
                .write(true)
                .open(&index.path)
                .and_then(|f| f.set_len(kept as u64))
                .map_err(|e| StorageError::io(&index.path, e))?;
        }
        Ok(Some(index))
    }

    /// The index of a closed segment that is to get the file `path`, whose bytes are given too.
    pub fn of_closed(path: PathBuf, entries: Vec<AbortedTransaction>) -> (TxnIndex, Vec<u8>) {
        let bytes = entries.iter().flat_map(AbortedTransaction::bytes).collect();
        let index = TxnIndex {
            path,
            count: entries.len(),
            persisted: entries.len(),
            closed: true,
            entries: entries.is_empty().then(Arc::default),
        };
        (index, bytes)
    }

    /// Takes `entries` instead of what was there.
    pub fn replace(&mut self, entries: Vec<AbortedTransaction>) {
        self.count = entries.len();
        self.persisted = 0;
        self.entries = Some(Arc::new(entries));
    }

    pub fn push(&mut self, entry: AbortedTransaction) {
        self.count += 1;
        // Entries of a segment being written are always in memory.
        Arc::make_mut(self.entries.get_or_insert_default()).push(entry);
    }

    /// All entries, read back from the file when they are not in memory.
    pub fn entries(&self) -> Result<Arc<Vec<AbortedTransaction>>, StorageError> {
        if let Some(entries) = &self.entries {
            return Ok(entries.clone());
        }
        let bytes = std::fs::read(&self.path).map_err(|e| StorageError::io(&self.path, e))?;
        let entries: Option<Vec<_>> = bytes
            .chunks_exact(ENTRY_BYTES)
            .map(AbortedTransaction::parse)
            .collect();
        match entries {
            Some(entries) if entries.len() == self.count => Ok(Arc::new(entries)),
            _ => Err(StorageError::corrupt(
                &self.path,
                "aborted transactions are missing or damaged",
            )),
        }
    }

    /// Keeps the entries in memory: the file is about to go or to be another one.
    pub fn hold(&mut self) -> Result<(), StorageError> {
        let entries = self.entries()?;
        self.entries = Some(entries);
        Ok(())
    }

    /// No more entries come; memory is given up once they are on disk.
    pub fn close(&mut self) {
        self.closed = true;
        self.forget_persisted();
    }

    fn forget_persisted(&mut self) {
        if self.closed && self.persisted == self.count && self.count > 0 {
            self.entries = None;
        }
    }

    /// Writes entries not yet in the file and syncs it. A segment without entries has no file.
    pub fn persist(&mut self) -> Result<(), StorageError> {
        let Some(entries) = &self.entries else {
            return Ok(());
        };
        if self.persisted < entries.len() {
            let fresh = &entries[self.persisted..];
            let bytes: Vec<u8> = fresh.iter().flat_map(AbortedTransaction::bytes).collect();
            let at = self.persisted * ENTRY_BYTES;
            let write = || -> std::io::Result<()> {
                let file = if at == 0 {
                    File::create(&self.path)?
                } else {
                    OpenOptions::new().write(true).open(&self.path)?
                };
                file.write_all_at(&bytes, at as u64)?;
                file.sync_data()
            };
            write().map_err(|e| StorageError::io(&self.path, e))?;
            self.persisted = entries.len();
        }
        self.forget_persisted();
        Ok(())
    }
}

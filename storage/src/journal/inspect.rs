//! Looks at the journal's files without changing them: for people and tools, beside a broker or after
//! it has stopped.

use super::Record;
use super::format::{BATCH_HEADER, BLOCK, FileHead, RecordReader, Unreadable, blocks};
use super::recovery::{self, JournalDamage, Recovered, valid_batch};
use crate::error::StorageError;
use std::path::{Path, PathBuf};

/// One batch of a journal file: what one sync made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalBatch {
    /// Where in the file it begins.
    pub position: u64,
    /// Its number; they go up by one, and by a million at a start.
    pub number: u64,
    /// Bytes of its records.
    pub payload_bytes: u64,
    pub records: Vec<Record>,
}

/// One journal file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFile {
    pub path: PathBuf,
    pub sequence: u64,
    pub file_bytes: u64,
    /// Bytes up to the end of its last readable batch.
    pub used_bytes: u64,
    pub batches: Vec<JournalBatch>,
}

/// What a start would find.
#[derive(Debug)]
pub struct JournalState {
    pub recovered: Recovered,
    /// Batches at the end that were not finished, hence not acknowledged: a start cuts them.
    pub unfinished: Vec<JournalDamage>,
    pub files: usize,
}

/// The journal files of a folder, oldest first.
///
/// # Errors
/// [`StorageError::Io`].
pub fn files(dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let files = recovery::list(dir)?;
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Reads the whole journal as a start does, and changes nothing.
///
/// # Errors
/// [`StorageError::Io`]; damage is no error but part of the answer.
pub fn state(dir: &Path) -> Result<JournalState, StorageError> {
    let (recovered, position, unfinished) = recovery::replay(dir)?;
    Ok(JournalState {
        recovered,
        unfinished,
        files: position.files.len(),
    })
}

/// Reads one file up to the first place that is no batch of its own. Takes about twice
/// the file's size in memory.
///
/// # Errors
/// [`StorageError::Io`]; [`StorageError::Newer`] when another version wrote it; [`StorageError::Corrupt`] when the file has no readable head or a valid
/// batch holds a record that makes no sense.
pub fn read_file(path: &Path) -> Result<JournalFile, StorageError> {
    let bytes = std::fs::read(path).map_err(|e| StorageError::io(path, e))?;
    if let Some(version) = FileHead::other_version(&bytes) {
        return Err(StorageError::newer(
            path,
            format!("journal version {version}"),
        ));
    }
    let head = FileHead::parse(&bytes)
        .ok_or_else(|| StorageError::corrupt(path, "no head of a journal file"))?;
    let mut batches = Vec::new();
    let (mut at, mut last) = (BLOCK, 0);
    while let Some((batch, payload)) = valid_batch(&bytes, at, Some(head.key), last) {
        let mut reader = RecordReader::new(payload);
        let mut records = Vec::new();
        while !reader.is_empty() {
            let record = reader
                .next_record()
                .map_err(|unreadable| match unreadable {
                    Unreadable::Unknown(kind) => {
                        StorageError::newer(path, format!("record kind {kind}"))
                    }
                    Unreadable::Malformed => {
                        StorageError::corrupt(path, format!("a record in the batch at byte {at}"))
                    }
                })?;
            records.push(record);
        }
        batches.push(JournalBatch {
            position: at as u64,
            number: batch.batch,
            payload_bytes: batch.payload_bytes,
            records,
        });
        last = batch.batch;
        at += blocks(BATCH_HEADER + payload.len());
    }
    Ok(JournalFile {
        path: path.to_owned(),
        sequence: head.sequence,
        file_bytes: bytes.len() as u64,
        used_bytes: at as u64,
        batches,
    })
}

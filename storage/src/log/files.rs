//! Small files of a partition folder.

use crate::error::StorageError;
use crate::ids::Offset;
use parking_lot::Mutex;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Replaces a file as a whole: after a crash it holds the old or the new bytes.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| StorageError::io(path, e))
}

/// Writes Kafka's `partition.metadata`, for people and their tools. Nothing here reads it: so it is not synced, which
/// would cost more than all else about a new partition, and what is not right is written again.
pub fn write_partition_metadata(dir: &Path, topic_id: [u8; 16]) -> Result<(), StorageError> {
    let path = dir.join("partition.metadata");
    let text = format!("version: 0\ntopic_id: {}", kafka_uuid(topic_id));
    if std::fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    std::fs::write(&path, text).map_err(|e| StorageError::io(&path, e))
}

/// Kafka prints ids as URL-safe base64 without padding.
fn kafka_uuid(id: [u8; 16]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(22);
    for chunk in id.chunks(3) {
        let mut word = 0_u32;
        for i in 0..3 {
            word = word << 8 | u32::from(chunk.get(i).copied().unwrap_or(0));
        }
        for i in 0..=chunk.len() {
            let index = word >> (18 - 6 * i) & 63;
            out.push(char::from(ALPHABET[index as usize]));
        }
    }
    out
}

const LOG_START: &str = "start";

/// Notes durably that the log starts at `offset`, before segments below it are removed: the journal's
/// checkpoint may still speak of them. An empty file with the offset as its name, because this must
/// also work on a full disk, where removing segments is what makes room.
pub fn mark_log_start(dir: &Path, offset: Offset) -> Result<(), StorageError> {
    let path = dir.join(super::segment::file_name(offset, LOG_START));
    File::create(&path).map_err(|e| StorageError::io(&path, e))?;
    sync_dir(dir)?;
    for (older, path) in log_start_marks(dir)? {
        if older < offset {
            std::fs::remove_file(&path).map_err(|e| StorageError::io(&path, e))?;
        }
    }
    Ok(())
}

/// Notes that the log starts at `offset` after all, below what is noted so far.
pub fn lower_log_start(dir: &Path, offset: Offset) -> Result<(), StorageError> {
    mark_log_start(dir, offset)?;
    for (later, path) in log_start_marks(dir)? {
        if later > offset {
            std::fs::remove_file(&path).map_err(|e| StorageError::io(&path, e))?;
        }
    }
    sync_dir(dir)
}

/// The offset last noted by [`mark_log_start`].
pub fn marked_log_start(dir: &Path) -> Result<Option<Offset>, StorageError> {
    Ok(log_start_marks(dir)?.into_iter().map(|m| m.0).max())
}

/// Forgets what an earlier log in the same folder has noted.
pub fn clear_log_start(dir: &Path) -> Result<(), StorageError> {
    for (_, path) in log_start_marks(dir)? {
        std::fs::remove_file(&path).map_err(|e| StorageError::io(&path, e))?;
    }
    Ok(())
}

fn log_start_marks(dir: &Path) -> Result<Vec<(Offset, PathBuf)>, StorageError> {
    named_by_offset(dir, LOG_START)
}

/// Files of a folder whose name is an offset and whose extension is `suffix`, in any order.
pub fn named_by_offset(dir: &Path, suffix: &str) -> Result<Vec<(Offset, PathBuf)>, StorageError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| StorageError::io(dir, e))? {
        let path = entry.map_err(|e| StorageError::io(dir, e))?.path();
        let stem = path.file_stem().and_then(|s| s.to_str());
        if path.extension().is_some_and(|e| e == suffix)
            && let Some(offset) = stem.and_then(|s| s.parse().ok())
        {
            found.push((offset, path));
        }
    }
    Ok(found)
}

/// Makes new and removed names of a folder durable.
pub fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| StorageError::io(dir, e))
}

/// Whether names of a folder have changed since it was last synced.
pub struct DirSync {
    dir: PathBuf,
    needed: AtomicBool,
    syncing: Mutex<()>,
}

impl DirSync {
    pub fn needed(dir: &Path) -> DirSync {
        DirSync {
            dir: dir.to_owned(),
            needed: AtomicBool::new(true),
            syncing: Mutex::new(()),
        }
    }

    pub fn need(&self) {
        self.needed.store(true, Ordering::Release);
    }

    /// Makes all changes of before the call durable, also when another thread is about it.
    pub fn sync(&self) -> Result<(), StorageError> {
        let _syncing = self.syncing.lock();
        if !self.needed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        sync_dir(&self.dir).inspect_err(|_| self.need())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_torn_partition_metadata_is_written_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("partition.metadata");
        std::fs::write(&path, "version: 0").expect("half of it");
        super::write_partition_metadata(dir.path(), [7; 16]).expect("written");
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text, "version: 0\ntopic_id: BwcHBwcHBwcHBwcHBwcHBw");
    }

    #[test]
    fn ids_look_as_kafka_prints_them() {
        let id: Vec<u8> = (0..16).collect();
        let id: [u8; 16] = id.try_into().expect("16 bytes");
        assert_eq!(super::kafka_uuid(id), "AAECAwQFBgcICQoLDA0ODw");
    }
}

//! What compaction has to remember: one small file in the partition's folder.

use crate::error::StorageError;
use crate::ids::Offset;
use crate::log::files;
use prost::Message;
use std::path::Path;

const NAME: &str = "compaction";
const VERSION: u32 = 1;
const CRC_BYTES: usize = 4;

/// How far the log is compacted.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct CompactionState {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// Segments that begin below this offset may have gaps between their batches.
    #[prost(int64, tag = "2")]
    pub gaps_below: Offset,
    /// Below this offset the log has been compacted: no key is twice in it.
    #[prost(int64, tag = "3")]
    pub clean_until: Offset,
    /// When the first of the tombstones and markers that are left may go.
    #[prost(int64, optional, tag = "4")]
    pub horizon_ms: Option<i64>,
    /// Tombstones and markers below this offset may be gone, so that a log that has older records
    /// from elsewhere must not be continued from this one: it would not learn that they are deleted.
    #[prost(int64, tag = "5")]
    pub gone_below: Offset,
}

impl CompactionState {
    /// # Errors
    /// [`StorageError::Corrupt`]: without it, gaps that are right cannot be told from damage.
    pub fn read(dir: &Path) -> Result<CompactionState, StorageError> {
        let path = dir.join(NAME);
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(CompactionState::default());
            }
            other => other.map_err(|e| StorageError::io(&path, e))?,
        };
        let corrupt = |reason: &str| StorageError::corrupt(&path, reason);
        let (crc, message) = bytes
            .split_first_chunk::<CRC_BYTES>()
            .ok_or_else(|| corrupt("cut"))?;
        if u32::from_be_bytes(*crc) != crc32fast::hash(message) {
            return Err(corrupt("its checksum is wrong"));
        }
        let state = CompactionState::decode(message).map_err(|e| corrupt(&e.to_string()))?;
        if state.version == 0 {
            return Err(corrupt("it has no version"));
        }
        if state.version != VERSION {
            let what = format!("compaction version {}", state.version);
            return Err(StorageError::newer(&path, what));
        }
        Ok(state)
    }

    /// Durable when it returns.
    pub fn write(&self, dir: &Path) -> Result<(), StorageError> {
        let message = CompactionState {
            version: VERSION,
            ..*self
        }
        .encode_to_vec();
        let mut bytes = crc32fast::hash(&message).to_be_bytes().to_vec();
        bytes.extend_from_slice(&message);
        files::replace(&dir.join(NAME), &bytes)?;
        files::sync_dir(dir)
    }

    /// Forgets what an earlier log in the same folder has noted.
    pub fn clear(dir: &Path) -> Result<(), StorageError> {
        let path = dir.join(NAME);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StorageError::io(&path, e)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_written_and_damage_shows() {
        let dir = crate::test_disk::scratch();
        let read = || CompactionState::read(dir.path());
        assert_eq!(read().expect("nothing yet"), CompactionState::default());
        let state = CompactionState {
            gaps_below: 70,
            clean_until: 60,
            horizon_ms: Some(5),
            gone_below: 40,
            version: VERSION,
        };
        state.write(dir.path()).expect("written");
        assert_eq!(read().expect("read"), state);
        let path = dir.path().join(NAME);
        let bytes = std::fs::read(&path).expect("the file");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            std::fs::write(&path, damaged).expect("damaged");
            assert!(
                matches!(read(), Err(StorageError::Corrupt { .. })),
                "byte {at}"
            );
        }
        let newer = CompactionState {
            version: VERSION + 1,
            ..state
        };
        let message = newer.encode_to_vec();
        let mut bytes = crc32fast::hash(&message).to_be_bytes().to_vec();
        bytes.extend_from_slice(&message);
        std::fs::write(&path, bytes).expect("written");
        assert!(matches!(read(), Err(StorageError::Newer { .. })));
        CompactionState::clear(dir.path()).expect("cleared");
        assert_eq!(read().expect("nothing"), CompactionState::default());
    }
}

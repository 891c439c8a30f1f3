//! Small files of a partition folder.

use crate::error::StorageError;
use std::fs::File;
use std::io::Write;
use std::path::Path;

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

/// Writes Kafka's `partition.metadata`.
pub fn write_partition_metadata(dir: &Path, topic_id: [u8; 16]) -> Result<(), StorageError> {
    let path = dir.join("partition.metadata");
    if path.exists() {
        return Ok(());
    }
    let text = format!("version: 0\ntopic_id: {}", kafka_uuid(topic_id));
    replace(&path, text.as_bytes())
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

/// Makes new and removed names of a folder durable.
pub fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| StorageError::io(dir, e))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_look_as_kafka_prints_them() {
        let id: Vec<u8> = (0..16).collect();
        let id: [u8; 16] = id.try_into().expect("16 bytes");
        assert_eq!(super::kafka_uuid(id), "AAECAwQFBgcICQoLDA0ODw");
    }
}

//! The segment files of one partition, batch by batch, as they lie on a broker's disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;

use crate::broker::Broker;

/// Bytes of a batch before its length counts: base offset and the length itself.
const LENGTH_END: usize = 12;

/// The folder of a partition on a broker.
#[must_use]
pub fn partition_dir(broker: &Broker, topic: &str, partition: i32) -> PathBuf {
    let partitions = broker.data_dir.join("partitions");
    partitions.join(format!("{topic}-{partition}"))
}

/// The segments' `.log` files, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == "log") {
            files.push(path);
        }
    }
    // Names are base offsets with leading zeros.
    files.sort();
    Ok(files)
}

/// All batches of a partition, in order, one file in memory at a time.
pub struct Batches {
    files: std::vec::IntoIter<PathBuf>,
    rest: Bytes,
}

impl Batches {
    /// Begins at the oldest batch in `dir`.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            files: files(dir)?.into_iter(),
            rest: Bytes::new(),
        })
    }

    /// The next batch: base offset and all its bytes.
    ///
    /// # Errors
    /// When a file cannot be read or ends inside a batch.
    pub fn next_batch(&mut self) -> Result<Option<(i64, Bytes)>> {
        loop {
            let head = self.rest.get(..LENGTH_END).unwrap_or(&[0; LENGTH_END]);
            let (offset, length) = head.split_at(8);
            let length = i32::from_be_bytes(length.try_into()?);
            // Room that was granted and not written yet is zeros.
            if length > 0 {
                let size = LENGTH_END + usize::try_from(length)?;
                ensure!(size <= self.rest.len(), "a segment ends inside a batch");
                let offset = i64::from_be_bytes(offset.try_into()?);
                return Ok(Some((offset, self.rest.split_to(size))));
            }
            let Some(path) = self.files.next() else {
                return Ok(None);
            };
            self.rest = fs::read(&path)
                .with_context(|| path.display().to_string())?
                .into();
        }
    }
}

/// Compares what two brokers hold of a partition from its beginning on; returns the bytes that both
/// hold, which are the same on both.
///
/// # Errors
/// When a batch differs.
pub fn compare(one: &Broker, other: &Broker, topic: &str, partition: i32) -> Result<u64> {
    let mut ours = Batches::open(&partition_dir(one, topic, partition))?;
    let mut theirs = Batches::open(&partition_dir(other, topic, partition))?;
    let mut bytes = 0;
    while let (Some(a), Some(b)) = (ours.next_batch()?, theirs.next_batch()?) {
        if a != b {
            bail!(
                "{topic}-{partition} differs between brokers {} and {} at offsets {} and {}",
                one.id,
                other.id,
                a.0,
                b.0
            );
        }
        bytes += a.1.len() as u64;
    }
    Ok(bytes)
}

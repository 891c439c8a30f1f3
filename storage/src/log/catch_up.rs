//! Copies a log from another replica: first what it consists of, then the missing batches.

use super::checkpoint::LogState;
use super::transactions::OpenTransactions;
use super::{PartitionLog, Writer, files};
use crate::batch::{BatchHeader, batch_crc};
use crate::error::StorageError;
use crate::ids::Offset;
use prost::Message as _;
use std::sync::atomic::Ordering;

impl PartitionLog {
    /// Everything another replica needs besides the batches.
    pub fn manifest(&self) -> Vec<u8> {
        let writer = self.writer.lock();
        LogState::new(
            self.log_start_offset(),
            self.log_end_offset(),
            (0, 0),
            &writer.epochs,
            &writer.producers,
        )
        .encode_to_vec()
    }

    /// Prepares for the batches `manifest` speaks of. Returns the range `[first, end)` this replica
    /// lacks: what it has is committed and therefore a prefix, unless the other's log starts later,
    /// in which case this one starts anew there.
    ///
    /// Until [`PartitionLog::end_catch_up`] checkpoints stand for the log as it was before: batches of
    /// a copy that is not whole belong to no applied index, and would be applied once more.
    pub fn begin_catch_up(&self, manifest: &[u8]) -> Result<(Offset, Offset), StorageError> {
        self.check_open()?;
        let state = LogState::read(manifest, &self.dir)?;
        let mut writer = self.writer.lock();
        if writer.before_copy.is_none() {
            let active = self.segments.read().last().cloned();
            writer.before_copy = Some(self.state(&writer, active.as_deref()));
        }
        if self.log_end_offset() < state.start_offset {
            self.restart_at(&mut writer, state.start_offset)?;
        }
        Ok((self.log_end_offset(), state.end_offset))
    }

    /// Drops everything and goes on at `offset`.
    fn restart_at(&self, writer: &mut Writer, offset: Offset) -> Result<(), StorageError> {
        files::mark_log_start(&self.dir, offset)?;
        self.dir_sync.need();
        if let Some(before) = &mut writer.before_copy {
            before.forget_segments();
        }
        let old = std::mem::take(&mut *self.segments.write());
        for segment in old {
            segment
                .remove()
                .map_err(|e| StorageError::io(segment.path(), e))?;
        }
        writer.epochs.entries.clear();
        // Transactions that began before are told by the manifest at the end of the copy.
        writer.producers = Default::default();
        writer.open = Default::default();
        self.publish_open(&writer.open);
        self.end.store(offset, Ordering::Release);
        self.start.store(offset, Ordering::Release);
        Ok(())
    }

    /// Appends batches as another replica holds them. The first ones may be known already.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when a checksum does not match or offsets are missing;
    /// [`StorageError::DiskFull`]: the same call may be made again.
    pub fn append_copied(&self, bytes: &[u8]) -> Result<(), StorageError> {
        self.check_open()?;
        let mut rest = bytes;
        let mut batches = Vec::new();
        let mut next = self.log_end_offset();
        while !rest.is_empty() {
            let header = BatchHeader::parse(rest)?;
            let size = header.size_in_bytes();
            let Some((batch, tail)) = rest.split_at_checked(size) else {
                return Err(StorageError::corrupt(&self.dir, "a copied batch is cut"));
            };
            if batch_crc(batch) != header.crc {
                return Err(StorageError::corrupt(
                    &self.dir,
                    format!(
                        "the copied batch at offset {} fails its checksum",
                        header.base_offset
                    ),
                ));
            }
            rest = tail;
            if header.last_offset() < next {
                continue;
            }
            // A new log begins where its first batch does, also before the log start.
            let begins = batches.is_empty() && self.segments.read().is_empty();
            if header.base_offset != next && !begins {
                return Err(StorageError::corrupt(
                    &self.dir,
                    format!(
                        "a copied batch begins at {}, {next} is due",
                        header.base_offset
                    ),
                ));
            }
            next = header.last_offset() + 1;
            batches.push((header, batch));
        }
        if let Some((first, _)) = batches.first()
            && self.segments.read().is_empty()
        {
            self.end.store(first.base_offset, Ordering::Release);
        }
        self.append_placed(&batches)
    }

    /// Takes over producer and epoch state once all batches are there.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when the end differs from the manifest's.
    pub fn finish_catch_up(&self, manifest: &[u8]) -> Result<(), StorageError> {
        let state = LogState::read(manifest, &self.dir)?;
        {
            let mut writer = self.writer.lock();
            let end = self.log_end_offset();
            if end != state.end_offset {
                return Err(StorageError::corrupt(
                    &self.dir,
                    format!("copied up to {end} instead of {}", state.end_offset),
                ));
            }
            writer.producers = state.producers();
            writer.open = OpenTransactions::of(&writer.producers);
            self.publish_open(&writer.open);
            writer.epochs = state.epochs();
            writer.epochs_dirty = true;
        }
        self.set_log_start_offset(state.start_offset)
    }

    /// Checkpoints stand for the present log again: the copy's applied index is known now.
    pub fn end_catch_up(&self) {
        self.writer.lock().before_copy = None;
    }
}

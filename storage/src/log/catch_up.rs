//! Copies a log from another replica: first what it consists of, then the missing batches.

use super::checkpoint::LogState;
use super::transactions::OpenTransactions;
use super::{PartitionLog, Writer, files};
use crate::batch::{BatchHeader, batch_crc, rebuild};
use crate::error::StorageError;
use crate::ids::{LeaderEpoch, Offset};
use prost::Message as _;
use std::borrow::Cow;
use std::sync::atomic::Ordering;

impl PartitionLog {
    /// Everything another replica needs besides the batches.
    pub fn manifest(&self) -> Vec<u8> {
        let gone_below = self.gone_below();
        let writer = self.writer.lock();
        LogState {
            gone_below,
            ..LogState::new(
                self.log_start_offset(),
                self.log_end_offset(),
                (0, 0),
                &writer.epochs,
                &writer.producers,
            )
        }
        .encode_to_vec()
    }

    /// Compaction may have dropped tombstones and markers below this offset: a log that has older
    /// records from elsewhere would not learn from this one that they are deleted.
    pub fn gone_below(&self) -> Offset {
        self.compaction.lock().gone_below
    }

    /// Prepares for the batches `manifest` speaks of. Returns the range `[first, end)` this replica
    /// lacks: what it has is committed and therefore a prefix, unless the other's log starts later,
    /// in which case this one starts anew there. One that [`PartitionLog::needs_refresh`] has had it.
    ///
    /// Until [`PartitionLog::end_catch_up`] checkpoints stand for the log as it was before: batches of
    /// a copy that is not whole belong to no applied index, and would be applied once more.
    pub fn begin_catch_up(&self, manifest: &[u8]) -> Result<(Offset, Offset), StorageError> {
        let _there = self.presence.hold()?;
        let state = LogState::read(manifest, &self.dir)?;
        self.note_gone(state.gone_below)?;
        let _swap = self.swap_lock.lock();
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

    /// Whether the other log may have dropped tombstones and markers that this one has not seen, for
    /// records that it still has: its segments have to be compared first ([`PartitionLog::refresh`]).
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when the manifest cannot be read.
    pub fn needs_refresh(&self, manifest: &[u8]) -> Result<bool, StorageError> {
        let state = LogState::read(manifest, &self.dir)?;
        let (start, end) = (self.log_start_offset(), self.log_end_offset());
        Ok(start.max(state.start_offset) < end && end < state.gone_below)
    }

    /// Whether what is here should be in closed segments before a copy, so that it can be compared.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when the manifest cannot be read.
    pub fn may_need_refresh(&self, manifest: &[u8]) -> Result<bool, StorageError> {
        let state = LogState::read(manifest, &self.dir)?;
        let compacted = self.config.read().compact || state.gone_below > 0;
        Ok(compacted && self.log_start_offset() < self.log_end_offset())
    }

    /// Drops everything and goes on at `offset`.
    fn restart_at(&self, writer: &mut Writer, offset: Offset) -> Result<(), StorageError> {
        files::mark_log_start(&self.dir, offset)?;
        self.dir_sync.need();
        if let Some(before) = &mut writer.before_copy {
            before.forget_segments();
        }
        super::compaction::forget(&self.dir)?;
        let old = std::mem::take(&mut *self.segments.write());
        for segment in old {
            segment
                .remove()
                .map_err(|e| StorageError::io(segment.path(), e))?;
        }
        writer.epochs.entries.clear();
        // Transactions that began before are told by the manifest at the end of the copy.
        writer.producers.replace(Default::default());
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
        self.append_copy(bytes, None)
    }

    /// As [`PartitionLog::append_copied`], from a log that compaction has taken batches out of: these
    /// are all up to the offset `until`, and `gone_below` is that log's [`PartitionLog::gone_below`].
    /// Offsets that are missing get a batch without records, so that the log stays whole until it is
    /// compacted here, too.
    ///
    /// # Errors
    /// As above.
    pub fn append_copied_sparse(
        &self,
        bytes: &[u8],
        until: Offset,
        gone_below: Offset,
    ) -> Result<(), StorageError> {
        // Whoever copies from here will not find those tombstones either.
        {
            let _there = self.presence.hold()?;
            self.note_gone(gone_below)?;
        }
        self.append_copy(bytes, Some(until))
    }

    fn append_copy(&self, bytes: &[u8], sparse_until: Option<Offset>) -> Result<(), StorageError> {
        self.check_open()?;
        let mut rest = bytes;
        let mut batches: Vec<(BatchHeader, Cow<'_, [u8]>)> = Vec::new();
        let mut next = self.log_end_offset();
        let mut epoch = 0;
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
            // The source's own fillers may reach further than what is asked for.
            let filler = sparse_until.is_some() && header.is_filler();
            if header.last_offset() < next || filler {
                continue;
            }
            if sparse_until.is_some() && header.base_offset > next {
                fill(next, header.base_offset, header.leader_epoch, &mut batches)?;
                next = header.base_offset;
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
            epoch = header.leader_epoch;
            batches.push((header, Cow::Borrowed(batch)));
        }
        if let Some(until) = sparse_until.filter(|until| *until > next) {
            fill(next, until, epoch, &mut batches)?;
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
            writer.producers.replace(state.producers());
            writer.open = OpenTransactions::of(&writer.producers);
            self.publish_open(&writer.open);
            writer.epochs = state.epochs();
            writer.epochs_dirty.store(true, Ordering::Release);
        }
        self.set_log_start_offset(state.start_offset)
    }

    /// Checkpoints stand for the present log again: the copy's applied index is known now.
    pub fn end_catch_up(&self) {
        self.writer.lock().before_copy = None;
    }
}

/// Adds batches without records for the offsets `[from, until)`.
fn fill(
    from: Offset,
    until: Offset,
    epoch: LeaderEpoch,
    batches: &mut Vec<(BatchHeader, Cow<'_, [u8]>)>,
) -> Result<(), StorageError> {
    /// A batch's last offset is told relative to its first in 31 bits.
    const OFFSETS_MAX: i64 = 1 << 30;
    let mut next = from;
    while next < until {
        let end = until.min(next + OFFSETS_MAX);
        let filler = rebuild::filler(next, end - 1, epoch);
        batches.push((BatchHeader::parse(&filler)?, Cow::Owned(filler)));
        next = end;
    }
    Ok(())
}

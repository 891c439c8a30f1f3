//! Applies committed batches.

use super::producers::{BatchOrigin, ProducerCheck, ProducerRejection, ProducerState};
use super::segment::Segment;
use super::transactions::{TxnStep, follow};
use super::write::Caching;
use super::{PartitionLog, Writer};
use crate::batch::{BatchHeader, EndTxnMarker, HEADER_BYTES};
use crate::error::StorageError;
use crate::ids::{LeaderEpoch, Offset, ProducerId};
use bytes::Bytes;
use std::borrow::Cow;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A committed batch, as the producer sent it.
#[derive(Debug, Clone)]
pub struct AppendBatch {
    pub bytes: Bytes,
    /// Term of the Raft entry.
    pub leader_epoch: LeaderEpoch,
    pub origin: BatchOrigin,
}

/// What became of a batch; the same on every replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendOutcome {
    Appended {
        base_offset: Offset,
        last_offset: Offset,
    },
    /// The producer repeated a batch; these are the offsets it got the first time.
    Duplicate {
        base_offset: Offset,
        last_offset: Offset,
    },
    Rejected(ProducerRejection),
    /// A fenced batch came in another place or epoch than it was made for.
    Fenced,
}

/// A batch that will be written: its header with offset and epoch set, and the rest of its bytes.
struct Accepted<'a> {
    header: BatchHeader,
    patched: [u8; HEADER_BYTES],
    rest: &'a [u8],
    step: TxnStep,
}

impl PartitionLog {
    /// Applies batches in order: checks producers, assigns offsets, writes, makes them readable.
    /// Depends only on what was applied before and on the arguments. When the disk fills on the way
    /// there are outcomes of the first batches only: the others were not applied and may be given
    /// again.
    ///
    /// # Errors
    /// [`StorageError::DiskFull`]: nothing was applied, the same call may be made again. Others mean
    /// that this replica cannot go on.
    pub fn append(&self, batches: &[AppendBatch]) -> Result<Vec<AppendOutcome>, StorageError> {
        let _there = self.presence.hold()?;
        let mut writer = self.writer.lock();
        let mut undo = Vec::new();
        let mut outcomes = Vec::with_capacity(batches.len());
        let mut accepted = Vec::with_capacity(batches.len());
        // Which of `batches` each of `accepted` is.
        let mut positions = Vec::with_capacity(batches.len());
        let mut next_offset = self.log_end_offset();
        let headers = batches.iter().map(|b| {
            let header = BatchHeader::parse(&b.bytes)?;
            Ok((header, marker_of(&header, &b.bytes)?))
        });
        let headers = headers.collect::<Result<Vec<_>, StorageError>>()?;
        for (position, (batch, (header, marker))) in batches.iter().zip(headers).enumerate() {
            let misplaced = batch.origin == BatchOrigin::Fenced
                && (header.base_offset != next_offset || header.leader_epoch != batch.leader_epoch);
            let outcome = match writer.producers.check(&header, batch.origin, marker) {
                _ if misplaced => AppendOutcome::Fenced,
                ProducerCheck::Append => {
                    if header.is_idempotent() {
                        let before = writer.producers.get(header.producer_id).cloned();
                        undo.push((position, header.producer_id, before));
                    }
                    let mut placed = place(&header, &batch.bytes, next_offset, batch.leader_epoch);
                    placed.step = follow(&mut writer.producers, &placed.header, marker);
                    let base_offset = next_offset;
                    next_offset = placed.header.last_offset() + 1;
                    accepted.push(placed);
                    positions.push(position);
                    AppendOutcome::Appended {
                        base_offset,
                        last_offset: next_offset - 1,
                    }
                }
                ProducerCheck::Duplicate(first) => AppendOutcome::Duplicate {
                    base_offset: first.base_offset,
                    last_offset: first.last_offset,
                },
                ProducerCheck::MarkerRepeated(offset) => AppendOutcome::Duplicate {
                    base_offset: offset,
                    last_offset: offset,
                },
                ProducerCheck::Reject(rejection) => AppendOutcome::Rejected(rejection),
            };
            outcomes.push(outcome);
        }
        match self.write_accepted(&mut writer, &accepted) {
            Ok(()) => Ok(outcomes),
            // Part of the run went to an earlier segment and is visible: that much is applied.
            Err((written, error)) => {
                let applied = positions[written];
                take_back(&mut writer, undo, applied);
                outcomes.truncate(applied);
                match error {
                    StorageError::DiskFull { .. } if written > 0 => Ok(outcomes),
                    error => Err(error),
                }
            }
        }
    }

    /// Says whether consumers read this replica. What a follower writes need not stay in the page
    /// cache.
    pub fn set_read(&self, is_read: bool) {
        self.is_read.store(is_read, Ordering::Relaxed);
    }

    /// Whether the batch at `offset` was written while nobody read this replica: its pages may have
    /// to come from the disk.
    pub fn may_have_left_cache(&self, offset: Offset) -> bool {
        offset < self.dropped_below.load(Ordering::Relaxed)
    }

    /// Writes batches segment by segment; on an error, tells how many are already readable.
    fn write_accepted(
        &self,
        writer: &mut Writer,
        accepted: &[Accepted<'_>],
    ) -> Result<(), (usize, StorageError)> {
        let interval = self.config.read().index_interval_bytes;
        let caching = if self.is_read.load(Ordering::Relaxed) {
            Caching::Keep
        } else {
            Caching::Drop
        };
        let mut done = 0;
        while done < accepted.len() {
            let segment = self.segment_for(&accepted[done].header);
            let room = segment.capacity() - segment.bytes();
            let mut bytes = 0;
            let count = accepted[done..]
                .iter()
                .take_while(|a| {
                    bytes += a.header.size_in_bytes() as u64;
                    bytes <= room && fits_offsets(&segment, &a.header)
                })
                .count();
            let run = &accepted[done..done + count];
            let slices: Vec<IoSlice<'_>> = run
                .iter()
                .flat_map(|a| [IoSlice::new(&a.patched), IoSlice::new(a.rest)])
                .collect();
            segment.write(&slices, caching).map_err(|e| (done, e))?;
            if caching == Caching::Drop {
                let end = run.last().map_or(0, |a| a.header.last_offset() + 1);
                self.dropped_below.store(end, Ordering::Relaxed);
            }
            for batch in run {
                segment.publish(&batch.header, interval);
                let (epoch, base_offset) = (batch.header.leader_epoch, batch.header.base_offset);
                if writer.epochs.assign(epoch, base_offset) {
                    writer.epochs_dirty.store(true, Ordering::Release);
                }
                self.publish_batch(writer, &segment, &batch.header, batch.step);
            }
            done += count;
        }
        Ok(())
    }

    /// Moves the end of the log. A transaction that begins holds the last stable offset before the
    /// end moves past it; one that was aborted is in the index before the last stable offset moves.
    fn publish_batch(
        &self,
        writer: &mut Writer,
        segment: &Segment,
        header: &BatchHeader,
        step: TxnStep,
    ) {
        let end = header.last_offset() + 1;
        if step == TxnStep::Nothing {
            self.end.store(end, Ordering::Release);
            return;
        }
        if let Some(aborted) = writer.open.step(header, step) {
            segment.txn_index.write().push(aborted);
        }
        if step == TxnStep::Begins {
            self.publish_open(&writer.open);
            self.end.store(end, Ordering::Release);
        } else {
            self.end.store(end, Ordering::Release);
            self.publish_open(&writer.open);
        }
    }

    /// The segment `header` goes to; a new one when the present one is full.
    fn segment_for(&self, header: &BatchHeader) -> Arc<Segment> {
        let size = header.size_in_bytes() as u64;
        let segment_bytes = self.config.read().segment_bytes;
        let active = self.segments.read().last().cloned();
        match active {
            Some(active)
                if active.bytes() + size <= active.capacity().min(segment_bytes.max(size))
                    && fits_offsets(&active, header) =>
            {
                active
            }
            // An empty segment that is too small for the batch is replaced, not kept.
            Some(active) if active.bytes() == 0 => {
                self.segments.write().pop();
                self.roll(size)
            }
            _ => self.roll(size),
        }
    }

    /// Writes batches that already carry offsets and epochs, as another replica holds them; all that
    /// are written before an error are readable.
    pub(super) fn append_placed(
        &self,
        batches: &[(BatchHeader, Cow<'_, [u8]>)],
    ) -> Result<(), StorageError> {
        let _there = self.presence.hold()?;
        let mut writer = self.writer.lock();
        let mut undo = Vec::new();
        let mut accepted = Vec::with_capacity(batches.len());
        let markers = batches
            .iter()
            .map(|(header, bytes)| marker_of(header, bytes));
        let markers = markers.collect::<Result<Vec<_>, _>>()?;
        for (position, ((header, bytes), marker)) in batches.iter().zip(markers).enumerate() {
            let mut patched = [0; HEADER_BYTES];
            patched.copy_from_slice(&bytes[..HEADER_BYTES]);
            if header.is_idempotent() {
                let before = writer.producers.get(header.producer_id).cloned();
                undo.push((position, header.producer_id, before));
            }
            accepted.push(Accepted {
                header: *header,
                patched,
                rest: &bytes[HEADER_BYTES..],
                step: follow(&mut writer.producers, header, marker),
            });
        }
        self.write_accepted(&mut writer, &accepted)
            .map_err(|(written, error)| {
                take_back(&mut writer, undo, written);
                error
            })
    }
}

/// The batch with its base offset and leader epoch, which the checksum does not cover.
fn place<'a>(
    header: &BatchHeader,
    bytes: &'a Bytes,
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
) -> Accepted<'a> {
    let mut patched = [0; HEADER_BYTES];
    patched.copy_from_slice(&bytes[..HEADER_BYTES]);
    patched[0..8].copy_from_slice(&base_offset.to_be_bytes());
    patched[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
    Accepted {
        header: BatchHeader {
            base_offset,
            leader_epoch,
            ..*header
        },
        patched,
        rest: &bytes[HEADER_BYTES..],
        step: TxnStep::Nothing,
    }
}

/// What a control batch says; `None` for batches of records.
fn marker_of(header: &BatchHeader, bytes: &[u8]) -> Result<Option<EndTxnMarker>, StorageError> {
    if header.is_control() {
        Ok(EndTxnMarker::parse(bytes)?)
    } else {
        Ok(None)
    }
}

/// Index entries hold offsets relative to the segment's base in 31 bits, positions in 31 bits.
fn fits_offsets(segment: &Segment, header: &BatchHeader) -> bool {
    header.last_offset() - segment.base_offset <= i64::from(i32::MAX)
        && segment.bytes() <= i32::MAX as u64
}

/// Takes back what batches from position `from` on did to their producers.
fn take_back(
    writer: &mut Writer,
    undo: Vec<(usize, ProducerId, Option<ProducerState>)>,
    from: usize,
) {
    let undone = undo.into_iter().rev();
    for (_, id, state) in undone.take_while(|(position, ..)| *position >= from) {
        writer.producers.restore(id, state);
    }
}

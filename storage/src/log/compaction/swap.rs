//! Puts a segment that was written anew in the place of those it replaces. A crash at any point
//! leaves the old ones, or enough to finish with the new one at the next start:
//!
//! 1. `N.cleaned` or `N.spliced` is whole and durable; it becomes `N.swap`. From here on the new segment counts.
//! 2. The files of the old segments go, except `N.log`; `N.txnswap`, if there is one, becomes
//!    `N.txnindex`.
//! 3. `N.swap` becomes `N.log`, in whose place it is.
//! 4. The indexes of the new segment are written. Without them they are built anew at a start.
//!
//! Readers that still have an old segment keep its file by its handle.

use super::Closed;
use super::crash_point;
use super::rewrite::{CLEANED, SPLICED, TXN_SWAP};
use crate::batch::BatchHeader;
use crate::error::StorageError;
use crate::ids::Offset;
use crate::log::files::{named_by_offset, sync_dir};
use crate::log::segment::{Segment, file_name, remove_files};
use crate::log::{PartitionLog, list_segments};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Suffix of a segment that replaces those it overlaps.
const SWAP: &str = "swap";
const INDEXES: [&str; 3] = ["index", "timeindex", "txnindex"];
/// Indexes that can be built anew from the segment alone.
const REBUILT: [&str; 2] = ["index", "timeindex"];

impl PartitionLog {
    /// Replaces `old`, whose new form is durable under the name `written`; false when the log has changed so that
    /// they are no longer its closed segments. Tombstones and markers that are gone with that lie below
    /// `gone_below`.
    ///
    /// # Errors
    /// I/O errors. After one past the point of no return nothing more is compacted or removed until
    /// the next start, which finishes the work.
    pub(super) fn swap(
        &self,
        new: Segment,
        written: &Path,
        old: &[Closed],
        gone_below: Offset,
    ) -> Result<bool, StorageError> {
        let Some((_, end)) = old.last() else {
            return Ok(false);
        };
        // From now on gaps below here are right, whatever becomes of the rest.
        self.note_compaction(|state| {
            state.gaps_below = state.gaps_below.max(*end);
            state.gone_below = state.gone_below.max(gone_below);
        })?;
        let _swap = self.swap_lock.lock();
        {
            let mut writer = self.writer.lock();
            // While a copy is under way checkpoints stand for what was there before it: the segment
            // they know as being written must stay as it is, if anything is in it.
            let copying = writer
                .before_copy
                .as_ref()
                .is_some_and(|b| b.segment_bytes > 0);
            if writer.swapping || copying || self.place_of(old).is_none() {
                return Ok(false);
            }
            self.check_open()?;
            for (segment, _) in old {
                segment.pin()?;
            }
            writer.swapping = true;
        }
        let new = Arc::new(new);
        let renamed = self.commit_swap(&new, written, old);
        let mut writer = self.writer.lock();
        if renamed.is_ok()
            && let Some(place) = self.place_of(old)
        {
            let mut segments = self.segments.write();
            segments.splice(place..place + old.len(), [new.clone()]);
        }
        drop(writer);
        if renamed.is_ok()
            && let Err(error) = new.index.write().write_whole()
        {
            tracing::warn!("indexes of a compacted segment, built at the next start: {error}");
        }
        writer = self.writer.lock();
        match renamed {
            Ok(()) => {
                writer.swapping = false;
                self.dir_sync.need();
                self.remove_below_start()?;
                Ok(true)
            }
            Err(NotSwapped::Undone(error)) => {
                writer.swapping = false;
                Err(error)
            }
            Err(NotSwapped::Half(error)) => Err(error),
        }
    }

    /// Where `old` are in the list of segments, if they still are closed neighbours there.
    fn place_of(&self, old: &[Closed]) -> Option<usize> {
        let segments = self.segments.read();
        let (first, end) = (&old.first()?.0, old.last()?.1);
        let place = segments.iter().position(|s| Arc::ptr_eq(s, first))?;
        let here = segments.get(place..place + old.len())?;
        let same = here.iter().zip(old).all(|(s, (o, _))| Arc::ptr_eq(s, o));
        let next = segments.get(place + old.len())?;
        (same && next.base_offset == end).then_some(place)
    }

    fn commit_swap(&self, new: &Segment, written: &Path, old: &[Closed]) -> Result<(), NotSwapped> {
        let swap = new.path().with_extension(SWAP);
        // The name of the new file is durable before it counts.
        sync_dir(&self.dir).map_err(NotSwapped::Undone)?;
        crash_point::passed();
        std::fs::rename(written, &swap)
            .map_err(|e| NotSwapped::Undone(StorageError::io(written, e)))?;
        let bases = old.iter().skip(1).map(|(s, _)| s.base_offset);
        finish(&self.dir, new.base_offset, bases).map_err(NotSwapped::Half)
    }
}

enum NotSwapped {
    /// Nothing has happened.
    Undone(StorageError),
    /// What is on disk is not what is in memory.
    Half(StorageError),
}

/// Everything after the point of no return; may be done again.
fn finish(
    dir: &Path,
    base: Offset,
    replaced: impl Iterator<Item = Offset>,
) -> Result<(), StorageError> {
    sync_dir(dir)?;
    crash_point::passed();
    let log = dir.join(file_name(base, "log"));
    let swap = log.with_extension(SWAP);
    let io = |e: io::Error| StorageError::io(&log, e);
    remove_files(&log, &REBUILT).map_err(io)?;
    let aborted = log.with_extension(TXN_SWAP);
    match std::fs::rename(&aborted, log.with_extension("txnindex")) {
        // Done before a crash, or there are none.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        done => done.map_err(io)?,
    }
    crash_point::passed();
    for base in replaced {
        let path = dir.join(file_name(base, "log"));
        remove_files(&path, &["log"]).map_err(io)?;
        crash_point::passed();
        remove_files(&path, &INDEXES).map_err(io)?;
        crash_point::passed();
    }
    sync_dir(dir)?;
    std::fs::rename(&swap, &log).map_err(io)?;
    crash_point::passed();
    sync_dir(dir)
}

/// Finishes or forgets what a crash has interrupted; before any segment is opened.
///
/// # Errors
/// I/O errors; [`StorageError::Corrupt`] when a durable file is not whole.
pub fn recover(dir: &Path) -> Result<(), StorageError> {
    remove_all(dir, &[CLEANED, SPLICED])?;
    for (base, path) in named_by_offset(dir, SWAP)? {
        let end = end_of(&path)?;
        let replaced = list_segments(dir)?
            .into_iter()
            .filter(|b| base < *b && *b < end);
        finish(dir, base, replaced)?;
    }
    Ok(())
}

/// Removes the traces of compaction along with the segments they belong to.
///
/// # Errors
/// I/O errors.
pub fn forget(dir: &Path) -> Result<(), StorageError> {
    remove_all(dir, &[CLEANED, SPLICED, SWAP, TXN_SWAP])
}

fn remove_all(dir: &Path, suffixes: &[&str]) -> Result<(), StorageError> {
    for suffix in suffixes {
        for (_, path) in named_by_offset(dir, suffix)? {
            std::fs::remove_file(&path).map_err(|e| StorageError::io(&path, e))?;
        }
    }
    Ok(())
}

/// Offset after the last batch of a file of whole batches.
fn end_of(path: &Path) -> Result<Offset, StorageError> {
    let io = |e| StorageError::io(path, e);
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let (mut position, mut end) = (0, None);
    let mut header = [0; crate::batch::HEADER_BYTES];
    while position < length {
        file.read_exact_at(&mut header, position).map_err(io)?;
        let header = BatchHeader::parse(&header)?;
        position += header.size_in_bytes() as u64;
        end = Some(header.last_offset() + 1);
    }
    end.filter(|_| position == length)
        .ok_or_else(|| StorageError::corrupt(path, "it was durable and is not whole"))
}

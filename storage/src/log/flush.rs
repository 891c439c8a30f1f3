//! Makes the log durable up to a point.

use super::checkpoint::LogState;
use super::epochs::LeaderEpochs;
use super::files::DirSync;
use super::presence::Presence;
use super::segment::Segment;
use super::{PartitionLog, Writer};
use crate::error::StorageError;
use prost::Message as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A point in the log that [`FlushTicket::finish`] makes durable. Taking it is quick, so that it can
/// be done under the lock that orders applies; finishing it waits for the disk.
#[must_use]
pub struct FlushTicket {
    state: LogState,
    segments: Vec<Arc<Segment>>,
    active: Option<Arc<Segment>>,
    /// Set when they have changed since they were last written, with the mark that says so.
    epochs: Option<(LeaderEpochs, Arc<AtomicBool>)>,
    dir: PathBuf,
    presence: Arc<Presence>,
    dir_sync: Arc<DirSync>,
}

impl PartitionLog {
    /// Notes the present end of the log and what has to be synced for it.
    ///
    /// # Errors
    /// [`StorageError::Closed`] when the log is deleted.
    pub fn begin_flush(&self) -> Result<FlushTicket, StorageError> {
        self.check_open()?;
        let writer = self.writer.lock();
        let segments = self.segments.read();
        let active = segments.last().cloned();
        // Half a copy has no applied index: a checkpoint stands for what was there before it.
        let state = writer
            .before_copy
            .clone()
            .unwrap_or_else(|| self.state(&writer, active.as_deref()));
        Ok(FlushTicket {
            state,
            segments: segments
                .iter()
                .filter(|s| s.needs_sync())
                .cloned()
                .collect(),
            active,
            epochs: writer
                .epochs_dirty
                .swap(false, Ordering::AcqRel)
                .then(|| (writer.epochs.clone(), writer.epochs_dirty.clone())),
            dir: self.dir.clone(),
            presence: self.presence.clone(),
            dir_sync: self.dir_sync.clone(),
        })
    }
}

impl PartitionLog {
    /// The log as it is now, `active` being its last segment.
    pub(super) fn state(&self, writer: &Writer, active: Option<&Segment>) -> LogState {
        let end = self.log_end_offset();
        LogState::new(
            self.log_start_offset(),
            end,
            active.map_or((end, 0), |s| (s.base_offset, s.bytes())),
            &writer.epochs,
            &writer.producers,
        )
    }
}

impl FlushTicket {
    /// Syncs, and returns the state to journal: opening the log with it gives exactly this point.
    ///
    /// # Errors
    /// [`StorageError::Closed`] when the log has been deleted meanwhile; I/O errors.
    pub fn finish(self) -> Result<Vec<u8>, StorageError> {
        let finished = self.sync();
        if finished.is_err()
            && let Some((_, dirty)) = &self.epochs
        {
            dirty.store(true, Ordering::Release);
        }
        finished?;
        Ok(self.state.encode_to_vec())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let _there = self.presence.hold()?;
        for segment in &self.segments {
            segment.sync()?;
            let written = self
                .active
                .as_ref()
                .is_some_and(|a| Arc::ptr_eq(a, segment));
            if !written {
                segment.close_file();
            }
        }
        if let Some((epochs, _)) = &self.epochs {
            epochs.write(&self.dir)?;
        }
        self.dir_sync.sync()
    }
}

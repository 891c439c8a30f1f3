//! The log of one partition: committed record batches in Kafka's file formats.
//!
//! The log is the state machine of the partition's Raft group, so it holds committed batches only and
//! nothing in it is ever taken back. [`PartitionLog`] is the whole; `segment` and `index` are its
//! files, `append` writes, `read` reads up to one of the `readable` ends, `producers` recognises repeated batches, `transactions` knows
//! which transactions are open and `txn_index` which were aborted, `epochs` knows the leader epochs,
//! `flush` makes it durable, `catch_up` copies it from another replica, `mend` replaces what the disk
//! has damaged, `compaction` gives up records that later ones replace.

mod append;
mod catch_up;
mod checkpoint;
mod compaction;
mod config;
mod ends;
mod epochs;
mod files;
mod flush;
mod index;
pub mod inspect;
mod lookup;
mod mend;
mod presence;
mod producers;
mod read;
mod readable;
mod segment;
mod slice;
mod transactions;
mod txn_index;
mod write;

pub use append::{AppendBatch, AppendOutcome};
pub use compaction::{
    CompactionNeed, CompactionReport, CompactionRun, ForeignBatches, Pace, Refresh,
};
pub use config::LogConfig;
pub use flush::FlushTicket;
pub use mend::Stretch;
pub use producers::{BatchOrigin, ProducedBatch, ProducerExpiry, ProducerRejection};
pub use read::LogRead;
pub use readable::ReadableEnds;
pub use slice::Slice;
pub use transactions::TxnStanding;
pub use txn_index::AbortedTransaction;

use crate::error::StorageError;
use crate::ids::{LeaderEpoch, Offset, ProducerId};
use checkpoint::LogState;
use compaction::CompactionState;
use epochs::LeaderEpochs;
use files::DirSync;
use parking_lot::{Mutex, RwLock};
use presence::Presence;
use producers::Producers;
use segment::Segment;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use transactions::{NONE_OPEN, OpenTransactions};
use txn_index::TxnIndex;

/// Mutable state of the one writer.
struct Writer {
    producers: Producers,
    /// The transactions open in `producers`, of what is published.
    open: OpenTransactions,
    epochs: LeaderEpochs,
    /// They are not what `leader-epoch-checkpoint` says.
    epochs_dirty: Arc<AtomicBool>,
    /// The log as it was before the copy under way: what a checkpoint taken meanwhile stands for.
    before_copy: Option<LogState>,
    /// Compaction is replacing segments: files are not to be removed meanwhile.
    swapping: bool,
}

/// One partition's log. One writer at a time, any number of readers.
pub struct PartitionLog {
    dir: PathBuf,
    config: RwLock<LogConfig>,
    writer: Mutex<Writer>,
    dir_sync: Arc<DirSync>,
    /// By base offset; the last one is being written.
    segments: RwLock<Vec<Arc<Segment>>>,
    start: AtomicI64,
    end: AtomicI64,
    /// First offset of the earliest open transaction, or [`NONE_OPEN`].
    first_open: AtomicI64,
    presence: Arc<Presence>,
    /// Consumers read this replica: what is written stays in the page cache.
    is_read: AtomicBool,
    /// Offset below which what was written may have left the page cache.
    dropped_below: AtomicI64,
    /// How far compaction has come.
    compaction: Mutex<CompactionState>,
    /// Held by a compaction from its beginning to its end.
    compacting: Mutex<()>,
    /// Held, outside of `writer`, while segments are replaced or all of them go.
    swap_lock: Mutex<()>,
}

/// A producer as admin tools show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerInfo {
    pub producer_id: ProducerId,
    pub epoch: i16,
    /// −1 when nothing was written in this epoch.
    pub last_sequence: i32,
    pub last_timestamp: i64,
    /// Of the last marker.
    pub coordinator_epoch: Option<i32>,
    /// Where the open transaction began.
    pub txn_first_offset: Option<Offset>,
}

/// A segment as tools show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    pub base_offset: Offset,
    pub bytes: u64,
    pub path: PathBuf,
}

impl PartitionLog {
    /// Opens the log in `dir`. `checkpoint` is what [`FlushTicket::finish`] gave last: everything
    /// past it is cut, as nothing past it is known to be whole. Without one the log starts empty.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when synced bytes are missing; I/O errors.
    pub fn open(
        dir: &Path,
        _topic: &str,
        topic_id: [u8; 16],
        _partition: i32,
        config: LogConfig,
        checkpoint: Option<&[u8]>,
    ) -> Result<PartitionLog, StorageError> {
        std::fs::create_dir_all(dir).map_err(|e| StorageError::io(dir, e))?;
        files::write_partition_metadata(dir, topic_id)?;
        let mut state = checkpoint
            .map(|bytes| LogState::read(bytes, dir))
            .transpose()?;
        let (segments, compaction) = match &mut state {
            Some(state) => {
                compaction::recover(dir)?;
                take_over_log_start(dir, state)?;
                let compaction = CompactionState::read(dir)?;
                (open_segments(dir, &config, state, &compaction)?, compaction)
            }
            None => {
                compaction::forget(dir)?;
                CompactionState::clear(dir)?;
                remove_segments(dir, |_| true)?;
                files::clear_log_start(dir)?;
                Default::default()
            }
        };
        let (start, end) = state
            .as_ref()
            .map_or((0, 0), |s| (s.start_offset, s.end_offset));
        let mut epochs = state.as_ref().map(LogState::epochs).unwrap_or_default();
        // The start may have moved since the checkpoint.
        epochs.trim_front(start);
        let producers = state.as_ref().map(LogState::producers).unwrap_or_default();
        let open = OpenTransactions::of(&producers);
        let log = PartitionLog {
            dir: dir.to_owned(),
            first_open: AtomicI64::new(open.first_offset().unwrap_or(NONE_OPEN)),
            writer: Mutex::new(Writer {
                producers,
                open,
                epochs,
                epochs_dirty: Arc::default(),
                before_copy: None,
                swapping: false,
            }),
            dir_sync: Arc::new(DirSync::needed(dir)),
            segments: RwLock::new(segments),
            start: AtomicI64::new(start),
            end: AtomicI64::new(end),
            config: RwLock::new(config),
            presence: Arc::new(Presence::new(dir)),
            is_read: AtomicBool::new(true),
            dropped_below: AtomicI64::new(0),
            compaction: Mutex::new(compaction),
            compacting: Mutex::new(()),
            swap_lock: Mutex::new(()),
        };
        Ok(log)
    }

    pub fn log_start_offset(&self) -> Offset {
        self.start.load(Ordering::Acquire)
    }

    /// The high watermark: the log holds committed batches only.
    pub fn log_end_offset(&self) -> Offset {
        self.end.load(Ordering::Acquire)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn update_config(&self, config: LogConfig) {
        *self.config.write() = config;
    }

    pub fn size_bytes(&self) -> u64 {
        self.segments.read().iter().map(|s| s.bytes()).sum()
    }

    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.segments
            .read()
            .iter()
            .map(|s| SegmentInfo {
                base_offset: s.base_offset,
                bytes: s.bytes(),
                path: s.path().to_owned(),
            })
            .collect()
    }

    pub fn producers(&self) -> Vec<ProducerInfo> {
        let writer = self.writer.lock();
        writer
            .producers
            .sorted()
            .into_iter()
            .map(|(producer_id, state)| ProducerInfo {
                producer_id,
                epoch: state.epoch,
                last_sequence: state.batches.last().map_or(-1, |b| b.last_sequence),
                last_timestamp: state.last_timestamp,
                coordinator_epoch: state.coordinator_epoch,
                txn_first_offset: state.txn_first_offset,
            })
            .collect()
    }

    /// Producers remembered.
    pub fn producer_count(&self) -> usize {
        self.writer.lock().producers.len()
    }

    /// Whether the leader should propose `expiry` now.
    pub fn wants_expiry(&self, expiry: &ProducerExpiry) -> bool {
        self.writer.lock().producers.wants_expiry(expiry)
    }

    /// Before the first append, and on all replicas alike: a producer that has never written here begins at
    /// sequence 0. Otherwise it may begin anywhere.
    pub fn require_first_sequences(&self) {
        self.writer.lock().producers.require_first_sequences();
    }

    /// Forgets producers, as a leader has decided.
    pub fn expire_producers(&self, expiry: &ProducerExpiry) {
        self.writer.lock().producers.expire(expiry);
    }

    /// Moves the log start forward; segments wholly below it are removed, at the end of the log also
    /// the one being written. Going back or past the end is ignored: the start never goes back. What
    /// was removed stays removed after a crash, and an older checkpoint can still be opened.
    pub fn set_log_start_offset(&self, offset: Offset) -> Result<(), StorageError> {
        let _there = self.presence.hold()?;
        let mut writer = self.writer.lock();
        if offset <= self.log_start_offset() || offset > self.log_end_offset() {
            return Ok(());
        }
        let active_bytes = self.segments.read().last().map_or(0, |s| s.bytes());
        if offset == self.log_end_offset() && active_bytes > 0 {
            self.roll(0);
        }
        if !writer.swapping && self.count_below(offset) > 0 {
            // Before anything changes: this may fail.
            files::mark_log_start(&self.dir, offset)?;
        }
        self.start.store(offset, Ordering::Release);
        writer.epochs.trim_front(offset);
        writer.epochs_dirty.store(true, Ordering::Release);
        if writer.swapping {
            // Compaction is renaming files; it removes what has to go when it is done.
            return Ok(());
        }
        self.remove_below_start()
    }

    /// Segments wholly below `offset`. A segment ends where the next one begins; the last one stays.
    fn count_below(&self, offset: Offset) -> usize {
        let segments = self.segments.read();
        let pairs = segments.windows(2);
        pairs
            .take_while(|pair| pair[1].base_offset <= offset)
            .count()
    }

    /// Removes segments wholly below the log start; under the writer's lock.
    fn remove_below_start(&self) -> Result<(), StorageError> {
        let start = self.log_start_offset();
        let count = self.count_below(start);
        if count == 0 {
            return Ok(());
        }
        files::mark_log_start(&self.dir, start)?;
        self.dir_sync.need();
        let removed: Vec<Arc<Segment>> = self.segments.write().drain(..count).collect();
        for segment in removed {
            segment
                .remove()
                .map_err(|e| StorageError::io(segment.path(), e))?;
        }
        Ok(())
    }

    /// Where the log would start if retention were applied now: only whole segments are given up, as
    /// in Kafka also the one being written if nothing else is left. Negative limits mean none.
    pub fn retention_candidate(
        &self,
        now_ms: i64,
        retention_ms: i64,
        retention_bytes: i64,
    ) -> Option<Offset> {
        let segments = self.segments.read();
        let mut excess = match u64::try_from(retention_bytes) {
            Ok(limit) => segments
                .iter()
                .map(|s| s.bytes())
                .sum::<u64>()
                .saturating_sub(limit),
            Err(_) => 0,
        };
        let mut start = None;
        let ends = segments.iter().skip(1).map(|s| s.base_offset);
        for (segment, end) in segments.iter().zip(ends.chain([self.log_end_offset()])) {
            let age_ms = now_ms.saturating_sub(segment.retention_timestamp());
            let too_old = retention_ms >= 0 && age_ms > retention_ms;
            let too_much = excess >= segment.bytes() && excess > 0;
            if !segment.is_on_disk() || !(too_old || too_much) {
                break;
            }
            excess = excess.saturating_sub(segment.bytes());
            start = Some(end);
        }
        // Consumers of committed records have not seen what comes later.
        start
            .map(|s| s.min(self.last_stable_offset()))
            .filter(|s| *s > self.log_start_offset())
    }

    /// Starts a new segment when the present one is older than `segment.ms`, less its share of
    /// `segment.jitter.ms`; of a compacted log also before a record stays uncompacted for too long.
    pub fn maybe_roll(&self, now_ms: i64) {
        let Ok(_there) = self.presence.hold() else {
            return;
        };
        let _writer = self.writer.lock();
        let config = self.config.read().clone();
        let old = self.segments.read().last().is_some_and(|s| {
            s.is_on_disk() && now_ms.saturating_sub(s.created_ms) > segment_age_max(&config, s)
        });
        if old {
            self.roll(0);
        }
    }

    /// Drops mappings that nobody has used since the last call, so that an idle partition costs no
    /// address space and no resident pages.
    pub fn release_idle_mappings(&self) {
        for segment in self.segments.read().iter() {
            segment.release_idle_mapping();
        }
    }

    /// Removes the log's folder. Reads under way keep their bytes.
    pub fn delete(&self) -> Result<(), StorageError> {
        // A compaction under way sees that soon.
        self.presence.end();
        let _writer = self.writer.lock();
        self.segments.write().clear();
        match std::fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StorageError::io(&self.dir, e))
            }
            _ => Ok(()),
        }
    }

    fn check_open(&self) -> Result<(), StorageError> {
        self.presence.check()
    }

    /// Ends the segment being written and starts the next one at the end offset.
    fn roll(&self, batch_bytes: u64) -> Arc<Segment> {
        let capacity = self.config.read().segment_bytes.max(batch_bytes);
        let base = self.log_end_offset();
        let mut segments = self.segments.write();
        if let Some(last) = segments.last() {
            last.seal();
        }
        let next = Arc::new(Segment::create(&self.dir, base, capacity));
        segments.push(next.clone());
        self.dir_sync.need();
        next
    }

    /// Epoch of the record at `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.writer.lock().epochs.at(offset)
    }

    /// KIP-320: the largest epoch not above `asked`, and its end offset.
    pub fn epoch_end_offset(
        &self,
        asked: LeaderEpoch,
        current: LeaderEpoch,
    ) -> Option<(LeaderEpoch, Offset)> {
        let writer = self.writer.lock();
        writer
            .epochs
            .end_offset(asked, current, self.log_end_offset())
    }
}

/// Milliseconds after which a segment ends. The jitter keeps partitions that were made together from
/// ending their segments together for ever.
fn segment_age_max(config: &LogConfig, segment: &Segment) -> i64 {
    let mut age_ms = config.segment_ms;
    if config.compact && config.max_compaction_lag_ms > 0 {
        age_ms = age_ms.min(config.max_compaction_lag_ms);
    }
    let jitter_max = config.segment_jitter_ms.clamp(0, age_ms.max(0));
    if jitter_max == 0 {
        return age_ms;
    }
    let name = segment.path().as_os_str().as_encoded_bytes();
    let jitter = i64::from(crc32fast::hash(name)) % jitter_max;
    age_ms - jitter
}

/// Base offsets of the segments in `dir`.
fn list_segments(dir: &Path) -> Result<Vec<Offset>, StorageError> {
    let files = files::named_by_offset(dir, "log")?;
    let mut bases: Vec<Offset> = files.into_iter().map(|f| f.0).collect();
    bases.sort_unstable();
    Ok(bases)
}

fn remove_segments(dir: &Path, which: impl Fn(Offset) -> bool) -> Result<(), StorageError> {
    for base in list_segments(dir)?.into_iter().filter(|b| which(*b)) {
        Segment::create(dir, base, 0)
            .remove()
            .map_err(|e| StorageError::io(dir, e))?;
    }
    Ok(())
}

/// Lets `state` begin where the log was last known to begin. All it speaks of may be gone since: the
/// log is then empty at its end, and replay goes on from there.
fn take_over_log_start(dir: &Path, state: &mut LogState) -> Result<(), StorageError> {
    let Some(marked) = files::marked_log_start(dir)? else {
        return Ok(());
    };
    state.start_offset = state.start_offset.max(marked.min(state.end_offset));
    let active = dir.join(segment::file_name(state.segment_base, "log"));
    if marked >= state.end_offset && state.segment_bytes > 0 && !active.exists() {
        remove_segments(dir, |_| true)?;
        state.segment_bytes = 0;
    }
    if marked > state.end_offset {
        // A copy that was to begin there was interrupted. What is appended from here on lies below
        // the mark, and must not be taken for removed at the next start.
        files::lower_log_start(dir, state.end_offset)?;
    }
    Ok(())
}

fn open_segments(
    dir: &Path,
    config: &LogConfig,
    state: &LogState,
    compaction: &CompactionState,
) -> Result<Vec<Arc<Segment>>, StorageError> {
    remove_segments(dir, |base| {
        base > state.segment_base || (base == state.segment_base && state.segment_bytes == 0)
    })?;
    let bases = list_segments(dir)?;
    let mut segments = Vec::with_capacity(bases.len() + 1);
    let mut damaged = Vec::new();
    for (i, base) in bases.iter().copied().enumerate() {
        // Wholly below the log start: its removal had begun.
        if bases
            .get(i + 1)
            .is_some_and(|next| *next <= state.start_offset)
        {
            remove_segments(dir, |b| b == base)?;
            continue;
        }
        let active = base == state.segment_base;
        let bytes = if active {
            state.segment_bytes
        } else {
            let path = dir.join(segment::file_name(base, "log"));
            std::fs::metadata(&path)
                .map_err(|e| StorageError::io(&path, e))?
                .len()
        };
        let capacity = if active { config.segment_bytes } else { bytes };
        let end = bases.get(i + 1).copied().unwrap_or(state.end_offset);
        let sparse = base < compaction.gaps_below;
        let segment = Segment::open(
            dir,
            base,
            bytes,
            capacity,
            config.index_interval_bytes,
            !active,
            sparse.then_some(end),
        )?;
        match TxnIndex::load(dir, base, end, !active)? {
            Some(index) => *segment.txn_index.write() = index,
            None => damaged.push(segments.len()),
        }
        segments.push(Arc::new(segment));
    }
    if state.segment_bytes > 0
        && segments
            .last()
            .is_none_or(|s| s.base_offset != state.segment_base)
    {
        return Err(StorageError::corrupt(
            dir,
            format!(
                "the segment that begins at {} is missing",
                state.segment_base
            ),
        ));
    }
    for which in damaged {
        tracing::warn!(
            "{}: building an index of aborted transactions anew",
            dir.display()
        );
        transactions::rebuild_index(&segments, which)?;
    }
    ends::check(&segments, state.end_offset)?;
    let start_found = state.start_offset == state.end_offset
        || segments
            .first()
            .is_some_and(|s| s.base_offset <= state.start_offset);
    if !start_found {
        return Err(StorageError::corrupt(
            dir,
            format!(
                "no segment holds the log start offset {}",
                state.start_offset
            ),
        ));
    }
    // The one being written has its file with its first batch only. Without it, the next checkpoint would
    // take the closed one before it for the one being written.
    if state.segment_bytes == 0 && !segments.is_empty() {
        let next = Segment::create(dir, state.end_offset, config.segment_bytes);
        segments.push(Arc::new(next));
    }
    Ok(segments)
}

#[cfg(test)]
mod tests;

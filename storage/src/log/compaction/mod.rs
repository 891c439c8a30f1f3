//! Compaction: of each key, only the last record stays (`cleanup.policy=compact`).
//!
//! The rules are those of Kafka's `Cleaner`. Each replica compacts by itself: offsets and order stay,
//! so that replicas still agree about every record that any of them has. A round notes the last
//! offset of each key of the part not compacted yet ([`OffsetMap`], as much of it as the memory
//! holds), then writes every closed segment up to there anew without the records that a later one
//! replaces ([`filter`]), and puts the new segments in the place of the old ones ([`swap`]).
//!
//! A segment that is written anew ends with the same offset as before, if need be with a batch
//! without records, so that a lost end is still noticed. Between its batches offsets may be missing:
//! it is *sparse*.

pub mod crash_point;
mod filter;
mod offset_map;
mod pace;
mod reader;
mod rewrite;
mod splice;

mod state;
mod swap;
mod transactions;

pub use pace::Pace;
pub use splice::{ForeignBatches, Refresh};
pub use state::CompactionState;
pub use swap::{forget, recover};

use super::config::LogConfig;
use super::segment::Segment;
use super::{AbortedTransaction, PartitionLog};
use crate::error::StorageError;
use crate::ids::{Offset, ProducerId};
use filter::{Filter, LastOfProducer};
use offset_map::OffsetMap;
use reader::BatchReader;
use std::collections::HashMap;
use std::sync::Arc;
use transactions::Transactions;

/// What one call of [`PartitionLog::compact`] may use and has to heed.
pub struct CompactionRun<'a> {
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// Segments that end at or below this offset may be written anew. The journal's durable
    /// checkpoint must not speak of a later one as closed: see [`PartitionLog::active_base_offset`].
    pub closed_before: Offset,
    /// For the offsets of keys; at least one key always fits.
    pub memory_bytes: usize,
    pub pace: &'a Pace,
    /// Asked often; after a no, what is not finished is given up.
    pub go_on: &'a dyn Fn() -> bool,
}

/// What compaction has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Rounds; more than one when the keys did not fit into memory at once.
    pub rounds: u32,
    /// Bytes of the segments that were looked at, each time they were read.
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub records_read: u64,
    pub records_left: u64,
    /// Segments that were replaced, and those that took their place.
    pub segments_before: usize,
    pub segments_after: usize,
    /// An offset at which a segment is damaged, which ended the call.
    pub damaged_at: Option<Offset>,
}

/// Whether a log wants to be compacted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompactionNeed {
    /// Share of the bytes that could be compacted and are not.
    pub dirty_ratio: f64,
    /// By ratio, by `max.compaction.lag.ms`, or because tombstones may go.
    pub is_due: bool,
}

/// A closed segment and the offset it ends at.
type Closed = (Arc<Segment>, Offset);

/// What a round is about.
struct Plan {
    /// All segments that may be written anew, from the log's first on.
    segments: Vec<Closed>,
    /// The part whose keys are not known to be unique.
    from: Offset,
    until: Offset,
}

impl PartitionLog {
    /// Base offset of the segment being written. Once a checkpoint that was begun after this call is
    /// durable, segments that end at or below it may be compacted: until then a crash may bring back
    /// a checkpoint that knows the length of one of them.
    pub fn active_base_offset(&self) -> Offset {
        let writer = self.writer.lock();
        let active = self.segments.read().last().map_or(0, |s| s.base_offset);
        // Checkpoints stand for what was there before a copy.
        let before = writer.before_copy.as_ref().map(|b| b.segment_base);
        before.map_or(active, |before| active.min(before))
    }

    /// Whether `cleanup.policy` has `compact`.
    pub fn is_compacted(&self) -> bool {
        self.config.read().compact
    }

    /// Whether compaction is worth while; `None` when nothing can be compacted.
    pub fn compaction_need(&self, now_ms: i64) -> Option<CompactionNeed> {
        let config = self.config.read().clone();
        let state = *self.compaction.lock();
        let plan = self.plan(&config, &state, now_ms, Offset::MAX)?;
        let bytes = |dirty: bool| -> u64 {
            let all = plan.segments.iter();
            all.filter(|(_, end)| (*end > plan.from) == dirty)
                .map(|(s, _)| s.bytes())
                .sum()
        };
        let (clean, dirty) = (bytes(false), bytes(true));
        let dirty_ratio = dirty as f64 / ((clean + dirty) as f64).max(1.0);
        let by_ratio = dirty > 0 && dirty_ratio >= config.min_cleanable_dirty_ratio;
        let by_horizon = state.horizon_ms.is_some_and(|horizon| horizon <= now_ms);
        Some(CompactionNeed {
            dirty_ratio,
            is_due: by_ratio || by_horizon || plan.lags(&config, now_ms),
        })
    }

    /// Compacts what can be compacted now. Blocks on the disk for as long as that takes.
    ///
    /// # Errors
    /// [`StorageError::DiskFull`] and I/O errors: the log is as it was, or compacted in part.
    pub fn compact(&self, run: &CompactionRun<'_>) -> Result<CompactionReport, StorageError> {
        let mut report = CompactionReport::default();
        let Some(_alone) = self.compacting.try_lock() else {
            return Ok(report);
        };
        let go_on = || !self.presence.is_gone() && (run.go_on)();
        let _there = self.presence.hold()?;
        let run = &CompactionRun {
            go_on: &go_on,
            ..*run
        };
        loop {
            self.check_open()?;
            let config = self.config.read().clone();
            let state = *self.compaction.lock();
            let Some(plan) = self.plan(&config, &state, run.now_ms, run.closed_before) else {
                return Ok(report);
            };
            let nothing_new = plan.from >= plan.until;
            let expired = state
                .horizon_ms
                .is_some_and(|horizon| horizon <= run.now_ms);
            if nothing_new && !(expired && report.rounds == 0) || !(run.go_on)() {
                return Ok(report);
            }
            match self.round(&config, &plan, run, &mut report) {
                Ok(Some(last)) if last => return Ok(report),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(report),
                Err(error) => return Err(error),
            }
        }
    }

    /// One round; whether it was the last one that is needed, `None` when it was given up.
    fn round(
        &self,
        config: &LogConfig,
        plan: &Plan,
        run: &CompactionRun<'_>,
        report: &mut CompactionReport,
    ) -> Result<Option<bool>, StorageError> {
        let keys = (plan.until - plan.from) as u64;
        let mut map = OffsetMap::new(run.memory_bytes, keys);
        let first = plan.segments[0].0.base_offset;
        let aborted = self.aborted_transactions(first, plan.until)?;
        let Some(limit) = self.note_keys(plan, &aborted, run, &mut map, report)? else {
            return Ok(None);
        };
        let producers = self.last_of_producers();
        let state = *self.compaction.lock();
        let mut filter = Filter {
            map: &map,
            limit,
            now_ms: run.now_ms,
            delete_retention_ms: config.delete_retention_ms,
            producers: &producers,
            transactions: Transactions::new(aborted),
            horizon_ms: None,
            gone_below: state.gone_below,
            records_read: 0,
            records_left: 0,
        };
        let mut rest = plan.concerned(limit);
        while !rest.is_empty() {
            let Some(done) = self.compact_group(config, rest, &mut filter, run, report)? else {
                return Ok(None);
            };
            rest = &rest[done..];
        }
        report.rounds += 1;
        report.records_read += filter.records_read;
        report.records_left = filter.records_left;
        let horizon_ms = filter.horizon_ms;
        self.note_compaction(|state| {
            state.clean_until = limit;
            state.horizon_ms = horizon_ms;
        })?;
        Ok(Some(limit >= plan.until))
    }

    /// Changes what is remembered of compaction, durably.
    fn note_compaction(
        &self,
        change: impl FnOnce(&mut CompactionState),
    ) -> Result<(), StorageError> {
        let mut state = self.compaction.lock();
        let mut changed = *state;
        change(&mut changed);
        if changed != *state {
            changed.write(&self.dir)?;
            *state = changed;
        }
        Ok(())
    }

    /// What can be compacted: closed segments of stable records, old enough to be touched.
    fn plan(
        &self,
        config: &LogConfig,
        state: &CompactionState,
        now_ms: i64,
        closed_before: Offset,
    ) -> Option<Plan> {
        let stable = self.last_stable_offset().min(closed_before);
        let young = |segment: &Segment| {
            config.min_compaction_lag_ms > 0
                && segment.retention_timestamp()
                    > now_ms.saturating_sub(config.min_compaction_lag_ms)
        };
        let segments = self.segments.read();
        let closed: Vec<Closed> = segments
            .windows(2)
            .take_while(|pair| pair[1].base_offset <= stable && !young(&pair[0]))
            .map(|pair| (pair[0].clone(), pair[1].base_offset))
            .collect();
        let first = closed.first()?.0.base_offset;
        let until = closed.last()?.1;
        Some(Plan {
            from: state.clean_until.clamp(first, until),
            until,
            segments: closed,
        })
    }

    /// Fills the map from the part not compacted yet; returns the offset up to which it fitted.
    fn note_keys(
        &self,
        plan: &Plan,
        aborted: &[AbortedTransaction],
        run: &CompactionRun<'_>,
        map: &mut OffsetMap,
        report: &mut CompactionReport,
    ) -> Result<Option<Offset>, StorageError> {
        let clean = plan.segments.partition_point(|(_, end)| *end <= plan.from);
        let dirty = &plan.segments[clean..];
        let first = dirty.first().map_or(plan.until, |(s, _)| s.base_offset);
        // Those whose markers come before are over: later batches of the same producers count.
        let aborted = aborted.iter().filter(|a| a.last_offset >= first);
        let mut transactions = Transactions::new(aborted.copied().collect());
        for (segment, _) in dirty {
            let mut reader = BatchReader::new(segment)?;
            loop {
                let at = reader.next_offset();
                let (header, batch) = match reader.next_batch() {
                    Ok(Some(next)) => next,
                    Ok(None) => break,
                    Err(error) => {
                        report.damaged_at = Some(at);
                        tracing::warn!("compaction stops: {error}");
                        return Ok(None);
                    }
                };
                if !(run.go_on)() {
                    return Ok(None);
                }
                run.pace.spend(batch.len(), run.go_on);
                report.bytes_read += batch.len() as u64;
                let unwanted = transactions.may_go(&header, batch) || header.is_control();
                if unwanted || header.last_offset() < plan.from {
                    continue;
                }
                if let Some(full_at) = note_batch(map, plan.from, &header, batch) {
                    segment.close_file();
                    return Ok(Some(full_at));
                }
            }
            segment.close_file();
        }
        Ok(Some(plan.until))
    }

    /// Producers whose last batch must not be forgotten.
    fn last_of_producers(&self) -> HashMap<ProducerId, LastOfProducer> {
        let writer = self.writer.lock();
        let states = writer.producers.sorted().into_iter();
        states
            .map(|(id, state)| {
                let last = LastOfProducer {
                    epoch: state.epoch,
                    last_data_offset: state.batches.last().map(|b| b.last_offset),
                };
                (id, last)
            })
            .collect()
    }
}

/// Notes the keys of a batch from offset `from` on; returns the first offset that did not fit.
fn note_batch(
    map: &mut OffsetMap,
    from: Offset,
    header: &crate::batch::BatchHeader,
    batch: &[u8],
) -> Option<Offset> {
    use crate::batch::rebuild::{decompressed, record_slices};
    let mut full_at = None;
    // Records that cannot be looked at stay, and replace nothing.
    let records = decompressed(header, batch).ok()?;
    let walked = record_slices(header, &records, |_| ());
    walked.ok()?;
    let _ = record_slices(header, &records, |record| {
        let offset = header.base_offset.wrapping_add(record.offset_delta);
        if let Some(key) = record.key
            && offset >= from
            && full_at.is_none()
            && !map.put(key, offset)
        {
            full_at = Some(offset);
        }
    });
    full_at
}

impl Plan {
    /// The segments that hold records below `limit`.
    fn concerned(&self, limit: Offset) -> &[Closed] {
        let count = self
            .segments
            .partition_point(|(s, _)| s.base_offset < limit);
        &self.segments[..count]
    }

    /// Whether a record has stayed uncompacted for too long.
    fn lags(&self, config: &LogConfig, now_ms: i64) -> bool {
        if config.max_compaction_lag_ms == i64::MAX {
            return false;
        }
        let dirty = self.segments.iter().filter(|(_, end)| *end > self.from);
        dirty
            .filter_map(|(segment, _)| segment.header_at(0).ok())
            .any(|(header, _)| {
                let age_ms = now_ms.saturating_sub(header.max_timestamp);
                age_ms > config.max_compaction_lag_ms
            })
    }
}

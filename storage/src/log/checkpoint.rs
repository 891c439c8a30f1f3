//! The log's state as journaled at a checkpoint, and as handed to a replica that catches up.

use super::epochs::LeaderEpochs;
use super::producers::{ProducedBatch, ProducerState, Producers};
use crate::error::StorageError;
use crate::ids::Offset;
use prost::Message;
use std::path::Path;

const VERSION: u32 = 1;

/// Everything besides the batches.
#[derive(Clone, PartialEq, Message)]
pub struct LogState {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(int64, tag = "2")]
    pub start_offset: i64,
    #[prost(int64, tag = "3")]
    pub end_offset: i64,
    /// Base offset of the segment being written.
    #[prost(int64, tag = "4")]
    pub segment_base: i64,
    /// Its length.
    #[prost(uint64, tag = "5")]
    pub segment_bytes: u64,
    #[prost(message, repeated, tag = "6")]
    pub epochs: Vec<Epoch>,
    #[prost(message, repeated, tag = "7")]
    pub producers: Vec<Producer>,
    /// In a manifest: tombstones and markers below this offset may be gone from the batches.
    #[prost(int64, tag = "8")]
    pub gone_below: i64,
    /// See [`Producers::forgotten_below`].
    #[prost(int64, tag = "9")]
    pub producers_forgotten_below: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Epoch {
    #[prost(int32, tag = "1")]
    pub epoch: i32,
    #[prost(int64, tag = "2")]
    pub start_offset: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Producer {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(int32, tag = "2")]
    pub epoch: i32,
    #[prost(int64, tag = "3")]
    pub last_timestamp: i64,
    #[prost(message, repeated, tag = "4")]
    pub batches: Vec<Batch>,
    #[prost(int32, optional, tag = "5")]
    pub coordinator_epoch: Option<i32>,
    #[prost(int64, optional, tag = "6")]
    pub txn_first_offset: Option<i64>,
    #[prost(int64, optional, tag = "7")]
    pub last_marker: Option<i64>,
    #[prost(int64, optional, tag = "8")]
    pub idle_since_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Batch {
    #[prost(int32, tag = "1")]
    pub base_sequence: i32,
    #[prost(int32, tag = "2")]
    pub last_sequence: i32,
    #[prost(int64, tag = "3")]
    pub base_offset: i64,
    #[prost(int64, tag = "4")]
    pub last_offset: i64,
}

impl LogState {
    pub fn new(
        start_offset: Offset,
        end_offset: Offset,
        segment: (Offset, u64),
        epochs: &LeaderEpochs,
        producers: &Producers,
    ) -> LogState {
        LogState {
            version: VERSION,
            start_offset,
            end_offset,
            segment_base: segment.0,
            segment_bytes: segment.1,
            epochs: epochs
                .entries
                .iter()
                .map(|(epoch, start_offset)| Epoch {
                    epoch: *epoch,
                    start_offset: *start_offset,
                })
                .collect(),
            producers: producers
                .sorted()
                .into_iter()
                .map(|(id, state)| producer(id, state))
                .collect(),
            gone_below: 0,
            producers_forgotten_below: producers.forgotten_below(),
        }
    }

    pub fn read(bytes: &[u8], path: &Path) -> Result<LogState, StorageError> {
        let state = LogState::decode(bytes)
            .map_err(|e| StorageError::corrupt(path, format!("log state: {e}")))?;
        if state.version == 0 {
            return Err(StorageError::corrupt(path, "log state: it has no version"));
        }
        if state.version != VERSION {
            let what = format!("log state version {}", state.version);
            return Err(StorageError::newer(path, what));
        }
        Ok(state)
    }

    /// The segments are gone: an empty log that goes on at its end.
    pub fn forget_segments(&mut self) {
        self.start_offset = self.end_offset;
        self.segment_base = self.end_offset;
        self.segment_bytes = 0;
    }

    pub fn epochs(&self) -> LeaderEpochs {
        LeaderEpochs {
            entries: self
                .epochs
                .iter()
                .map(|e| (e.epoch, e.start_offset))
                .collect(),
        }
    }

    pub fn producers(&self) -> Producers {
        let mut producers = Producers::default();
        producers.restore_forgotten(self.producers_forgotten_below);
        for p in &self.producers {
            let state = ProducerState {
                epoch: p.epoch as i16,
                last_timestamp: p.last_timestamp,
                batches: p
                    .batches
                    .iter()
                    .map(|b| ProducedBatch {
                        base_sequence: b.base_sequence,
                        last_sequence: b.last_sequence,
                        base_offset: b.base_offset,
                        last_offset: b.last_offset,
                    })
                    .collect(),
                coordinator_epoch: p.coordinator_epoch,
                txn_first_offset: p.txn_first_offset,
                last_marker: p.last_marker,
                idle_since_ms: p.idle_since_ms,
            };
            producers.restore(p.id, Some(state));
        }
        producers
    }
}

fn producer(id: i64, state: &ProducerState) -> Producer {
    Producer {
        id,
        epoch: i32::from(state.epoch),
        last_timestamp: state.last_timestamp,
        batches: state
            .batches
            .iter()
            .map(|b| Batch {
                base_sequence: b.base_sequence,
                last_sequence: b.last_sequence,
                base_offset: b.base_offset,
                last_offset: b.last_offset,
            })
            .collect(),
        coordinator_epoch: state.coordinator_epoch,
        txn_first_offset: state.txn_first_offset,
        last_marker: state.last_marker,
        idle_since_ms: state.idle_since_ms,
    }
}

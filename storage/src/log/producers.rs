//! What each idempotent producer has written last (KIP-98): refuses gaps, recognises repetitions.

use crate::batch::{BatchHeader, sequence_add};
use crate::ids::{Offset, ProducerId};
use std::collections::{HashMap, VecDeque};

/// Batches remembered for each producer: as many as a client may have in flight.
const BATCHES_KEPT: usize = 5;

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProducerRejection {
    /// `OUT_OF_ORDER_SEQUENCE_NUMBER`
    OutOfOrderSequence { expected: i32, got: i32 },
    /// `INVALID_PRODUCER_EPOCH`
    StaleEpoch { current: i16, got: i16 },
    /// `DUPLICATE_SEQUENCE_NUMBER`: repeated, but too old for its offset to be known.
    DuplicateTooOld,
}

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducedBatch {
    pub base_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: Offset,
    pub last_offset: Offset,
}

/// One producer's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerState {
    pub epoch: i16,
    /// Oldest first.
    pub batches: VecDeque<ProducedBatch>,
    /// Largest batch timestamp of the last batch, for expiry.
    pub last_timestamp: i64,
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProducerCheck {
    Append,
    Duplicate(ProducedBatch),
    Reject(ProducerRejection),
}

/// All producers of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers {
    states: HashMap<ProducerId, ProducerState>,
}

impl Producers {
    /// Decides about a batch without changing anything. Rules as in Kafka's `ProducerAppendInfo`.
    pub fn check(&self, header: &BatchHeader) -> ProducerCheck {
        if !header.is_idempotent() {
            return ProducerCheck::Append;
        }
        // A producer nothing is known of, for instance as its batches are gone, may start anywhere.
        let Some(state) = self.states.get(&header.producer_id) else {
            return ProducerCheck::Append;
        };
        if header.producer_epoch < state.epoch {
            return ProducerCheck::Reject(ProducerRejection::StaleEpoch {
                current: state.epoch,
                got: header.producer_epoch,
            });
        }
        if header.producer_epoch > state.epoch {
            return if header.base_sequence == 0 {
                ProducerCheck::Append
            } else {
                ProducerCheck::Reject(ProducerRejection::OutOfOrderSequence {
                    expected: 0,
                    got: header.base_sequence,
                })
            };
        }
        state.check_sequence(header)
    }

    /// Remembers a batch that got `base_offset`.
    pub fn appended(&mut self, header: &BatchHeader, base_offset: Offset) {
        if !header.is_idempotent() {
            return;
        }
        let state = self
            .states
            .entry(header.producer_id)
            .or_insert_with(|| ProducerState {
                epoch: header.producer_epoch,
                batches: VecDeque::with_capacity(1),
                last_timestamp: header.max_timestamp,
            });
        if state.epoch != header.producer_epoch {
            state.epoch = header.producer_epoch;
            state.batches.clear();
        }
        if state.batches.len() == BATCHES_KEPT {
            state.batches.pop_front();
        }
        state.last_timestamp = header.max_timestamp;
        state.batches.push_back(ProducedBatch {
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset,
            last_offset: base_offset + i64::from(header.last_offset_delta),
        });
    }

    pub fn get(&self, id: ProducerId) -> Option<&ProducerState> {
        self.states.get(&id)
    }

    /// Puts a producer's state back; `None` forgets it.
    pub fn restore(&mut self, id: ProducerId, state: Option<ProducerState>) {
        match state {
            Some(state) => {
                self.states.insert(id, state);
            }
            None => {
                self.states.remove(&id);
            }
        }
    }

    /// Sorted, so that equal states have equal bytes.
    pub fn sorted(&self) -> Vec<(ProducerId, &ProducerState)> {
        let mut all: Vec<_> = self.states.iter().map(|(id, s)| (*id, s)).collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }
}

impl ProducerState {
    fn check_sequence(&self, header: &BatchHeader) -> ProducerCheck {
        let first = header.base_sequence;
        let last = header.last_sequence();
        if let Some(known) = self
            .batches
            .iter()
            .find(|b| b.base_sequence == first && b.last_sequence == last)
        {
            return ProducerCheck::Duplicate(*known);
        }
        let Some(newest) = self.batches.back() else {
            return ProducerCheck::Append;
        };
        let expected = sequence_add(newest.last_sequence, 1);
        if first == expected {
            return ProducerCheck::Append;
        }
        // Sequences wrap: "before" is decided by the shorter way round.
        let behind = expected.wrapping_sub(first);
        if behind > 0 && behind < i32::MAX / 2 && last < expected {
            return ProducerCheck::Reject(ProducerRejection::DuplicateTooOld);
        }
        ProducerCheck::Reject(ProducerRejection::OutOfOrderSequence {
            expected,
            got: first,
        })
    }
}

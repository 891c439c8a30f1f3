//! What each idempotent producer has written last (KIP-98): refuses gaps, recognises repetitions,
//! knows which transaction is open.
//!
//! Everything here is decided by what was applied, so that all replicas agree. That includes time: a
//! producer is forgotten by a replicated [`ProducerExpiry`], never by a replica's own clock.

use crate::batch::{BatchHeader, EndTxnMarker, sequence_add};
use crate::defect::Defect;
use crate::ids::{Offset, ProducerId};
use std::collections::HashMap;

/// Batches remembered for each producer: as many as a client may have in flight.
const BATCHES_KEPT: usize = 5;

/// Who wrote a batch and what was checked before it was proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchOrigin {
    /// A producer. A transactional batch may only go on with a transaction that is open here.
    #[default]
    Client,
    /// A producer whose transaction the coordinator knows to be under way in this partition
    /// (KIP-890): it may begin here. `last_marker` is the offset of the producer's last marker when
    /// the coordinator was asked: another one since then means that the transaction has ended.
    Verified { last_marker: Option<Offset> },
    /// A transaction coordinator's marker. With `bumped` (transaction version 2) it carries the epoch
    /// of the *next* transaction, so one that finds a transaction of its own epoch is a late
    /// repetition.
    Coordinator { bumped: bool },
    /// A coordinator of this broker, whose own state is in this partition, with markers too. It has
    /// checked everything; the batch is appended only if its header names exactly the offset and the
    /// leader epoch it would get.
    Fenced,
}

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProducerRejection {
    /// `OUT_OF_ORDER_SEQUENCE_NUMBER`
    OutOfOrderSequence { expected: i32, got: i32 },
    /// `INVALID_PRODUCER_EPOCH`
    StaleEpoch { current: i16, got: i16 },
    /// `INVALID_TXN_STATE`: outside of a transaction that the coordinator knows, or not transactional
    /// although one is open.
    InvalidTxnState,
    /// `TRANSACTION_COORDINATOR_FENCED`: a marker of a coordinator that has been replaced.
    CoordinatorFenced { current: i32, got: i32 },
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
    /// Of the epoch, oldest first. A plain vector that grows by one: most producers write little.
    pub batches: Vec<ProducedBatch>,
    /// Largest timestamp of the last batch, for tools.
    pub last_timestamp: i64,
    /// Of the last marker.
    pub coordinator_epoch: Option<i32>,
    /// Where the open transaction began in this partition.
    pub txn_first_offset: Option<Offset>,
    pub last_marker: Option<Offset>,
    /// When the first expiry after the last batch was proposed; `None` when there was none yet.
    pub idle_since_ms: Option<i64>,
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProducerCheck {
    Append,
    Duplicate(ProducedBatch),
    /// A marker that was written already.
    MarkerRepeated(Offset),
    Reject(ProducerRejection),
}

/// A leader's decision about who is forgotten; a command in the partition's Raft log. Producers with
/// an open transaction stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerExpiry {
    /// The leader's clock.
    pub now_ms: i64,
    /// `producer.id.expiration.ms`
    pub expiration_ms: i64,
    /// Producers kept at most; those idle for longest go first.
    pub keep_max: u64,
}

/// All producers of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers {
    states: HashMap<ProducerId, ProducerState>,
    /// Producers from this id on that are not in `states` have never written here; of those before it, some
    /// have been forgotten.
    forgotten_below: ProducerId,
    /// See [`Producers::require_first_sequences`].
    requires_first: bool,
}

impl Producers {
    /// A producer that has never written here begins at sequence 0, from now on. A client that pipelines
    /// may have the next batch on the way while its first one is refused, because the leader changes or too
    /// few replicas are in sync: written first, it would stand before a batch that comes again. Kafka takes
    /// any sequence from a producer it does not know (KIP-360), since it cannot tell it from one that it
    /// has forgotten.
    pub fn require_first_sequences(&mut self) {
        self.requires_first = true;
    }

    /// Decides about a batch without changing anything. Rules as in Kafka's `ProducerAppendInfo` and
    /// `UnifiedLog`; `marker` is what a control batch holds.
    pub fn check(
        &self,
        header: &BatchHeader,
        origin: BatchOrigin,
        marker: Option<EndTxnMarker>,
    ) -> ProducerCheck {
        if origin == BatchOrigin::Fenced {
            return ProducerCheck::Append;
        }
        let state = self.states.get(&header.producer_id);
        if header.is_control() {
            let (Some(marker), BatchOrigin::Coordinator { bumped }) = (marker, origin) else {
                return ProducerCheck::Reject(ProducerRejection::InvalidTxnState);
            };
            return state.map_or(ProducerCheck::Append, |s| {
                s.check_marker(header, marker, bumped)
            });
        }
        if !header.is_idempotent() {
            return ProducerCheck::Append;
        }
        match state {
            Some(state) => state.check_batch(header, origin),
            // In a transaction only if the coordinator knows of it.
            None if header.is_transactional()
                && origin != (BatchOrigin::Verified { last_marker: None }) =>
            {
                ProducerCheck::Reject(ProducerRejection::InvalidTxnState)
            }
            None if self.is_new(header.producer_id) && header.base_sequence != 0 => {
                ProducerCheck::Reject(ProducerRejection::OutOfOrderSequence {
                    expected: 0,
                    got: header.base_sequence,
                })
            }
            None => ProducerCheck::Append,
        }
    }

    /// Whether a producer that is not known has surely never written here.
    fn is_new(&self, id: ProducerId) -> bool {
        self.requires_first && id >= self.forgotten_below
    }

    /// One past the highest id that was forgotten.
    pub fn forgotten_below(&self) -> ProducerId {
        self.forgotten_below
    }

    /// Remembers a batch that got `base_offset`. `Some` when a transaction began with it.
    pub fn appended(&mut self, header: &BatchHeader, base_offset: Offset) -> Option<Offset> {
        if !header.is_idempotent() {
            return None;
        }
        let state = self.entry(header);
        // A coordinator's own batches have no sequence.
        if header.base_sequence >= 0 {
            state.remember(ProducedBatch {
                base_sequence: header.base_sequence,
                last_sequence: header.last_sequence(),
                base_offset,
                last_offset: base_offset + i64::from(header.last_offset_delta),
            });
        }
        if header.is_transactional() && state.txn_first_offset.is_none() {
            state.txn_first_offset = Some(base_offset);
            return Some(base_offset);
        }
        None
    }

    /// Remembers a marker that got `offset`; gives where the transaction began that it ended.
    pub fn marked(
        &mut self,
        header: &BatchHeader,
        marker: EndTxnMarker,
        offset: Offset,
    ) -> Option<Offset> {
        let state = self.entry(header);
        state.coordinator_epoch = Some(marker.coordinator_epoch);
        state.last_marker = Some(offset);
        state.txn_first_offset.take()
    }

    /// The producer of `header`, now writing in that epoch.
    fn entry(&mut self, header: &BatchHeader) -> &mut ProducerState {
        let state = self
            .states
            .entry(header.producer_id)
            .or_insert_with(|| ProducerState::new(header.producer_epoch));
        if state.epoch != header.producer_epoch {
            state.epoch = header.producer_epoch;
            state.batches = Vec::new();
        }
        state.last_timestamp = header.max_timestamp;
        state.idle_since_ms = None;
        state
    }

    pub fn get(&self, id: ProducerId) -> Option<&ProducerState> {
        self.states.get(&id)
    }

    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Takes over what a checkpoint says: the producers themselves follow by [`Producers::restore`].
    pub fn restore_forgotten(&mut self, below: ProducerId) {
        self.forgotten_below = below;
    }

    /// Replaces what is known by what another replica knows.
    pub fn replace(&mut self, other: Producers) {
        *self = Producers {
            requires_first: self.requires_first,
            ..other
        };
    }

    /// Puts a producer's state back; `None` takes it out.
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

    /// Whether an expiry proposed now would change anything that matters: somebody wrote since the
    /// last one, somebody has been idle for long enough, or there are too many.
    pub fn wants_expiry(&self, expiry: &ProducerExpiry) -> bool {
        self.states.len() as u64 > expiry.keep_max
            || self.states.values().any(|s| match s.idle_since_ms {
                None => true,
                Some(_) => s.is_expired(expiry),
            })
    }

    /// Applies a leader's decision.
    pub fn expire(&mut self, expiry: &ProducerExpiry) {
        for state in self.states.values_mut() {
            state.idle_since_ms.get_or_insert(expiry.now_ms);
        }
        let mut forgotten_below = self.forgotten_below;
        self.states.retain(|id, state| {
            let stays = !state.is_expired(expiry);
            if !stays {
                forgotten_below = forgotten_below.max(id.saturating_add(1));
            }
            stays
        });
        let keep_max = usize::try_from(expiry.keep_max).unwrap_or(usize::MAX);
        let excess = self.states.len().saturating_sub(keep_max);
        if excess > 0 {
            let mut idle: Vec<_> = self
                .states
                .iter()
                .filter(|(_, s)| s.txn_first_offset.is_none())
                .map(|(id, s)| (s.idle_since_ms, s.last_offset(), *id))
                .collect();
            idle.sort_unstable();
            for (_, _, id) in idle.into_iter().take(excess) {
                self.states.remove(&id);
                forgotten_below = forgotten_below.max(id.saturating_add(1));
            }
        }
        self.forgotten_below = forgotten_below;
        self.states.shrink_to_fit();
    }

    /// Sorted, so that equal states have equal bytes.
    pub fn sorted(&self) -> Vec<(ProducerId, &ProducerState)> {
        let mut all: Vec<_> = self.states.iter().map(|(id, s)| (*id, s)).collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }
}

impl ProducerState {
    fn new(epoch: i16) -> ProducerState {
        ProducerState {
            epoch,
            batches: Vec::new(),
            last_timestamp: -1,
            coordinator_epoch: None,
            txn_first_offset: None,
            last_marker: None,
            idle_since_ms: None,
        }
    }

    fn remember(&mut self, batch: ProducedBatch) {
        if self.batches.len() == BATCHES_KEPT {
            self.batches.remove(0);
        } else {
            self.batches.reserve_exact(1);
        }
        self.batches.push(batch);
    }

    fn last_offset(&self) -> Option<Offset> {
        self.last_marker
            .max(self.batches.last().map(|b| b.last_offset))
    }

    fn is_expired(&self, expiry: &ProducerExpiry) -> bool {
        self.txn_first_offset.is_none()
            && self
                .idle_since_ms
                .is_some_and(|since| expiry.now_ms.saturating_sub(since) >= expiry.expiration_ms)
    }

    fn check_marker(
        &self,
        header: &BatchHeader,
        marker: EndTxnMarker,
        bumped: bool,
    ) -> ProducerCheck {
        if let Some(current) = self.coordinator_epoch
            && marker.coordinator_epoch < current
        {
            return ProducerCheck::Reject(ProducerRejection::CoordinatorFenced {
                current,
                got: marker.coordinator_epoch,
            });
        }
        let stale = ProducerCheck::Reject(ProducerRejection::StaleEpoch {
            current: self.epoch,
            got: header.producer_epoch,
        });
        if header.producer_epoch < self.epoch {
            return stale;
        }
        if bumped && header.producer_epoch == self.epoch {
            return match (self.txn_first_offset, self.last_marker) {
                // The next transaction has begun: this one's marker was written long ago.
                (Some(_), _) => stale,
                (None, Some(offset)) if self.batches.is_empty() => {
                    ProducerCheck::MarkerRepeated(offset)
                }
                (None, _) => stale,
            };
        }
        ProducerCheck::Append
    }

    fn check_batch(&self, header: &BatchHeader, origin: BatchOrigin) -> ProducerCheck {
        if header.producer_epoch < self.epoch {
            return ProducerCheck::Reject(ProducerRejection::StaleEpoch {
                current: self.epoch,
                got: header.producer_epoch,
            });
        }
        let same_epoch = header.producer_epoch == self.epoch;
        // First of all: a repetition may come after its transaction has ended.
        if same_epoch && let Some(known) = self.repetition(header) {
            if Defect::NoDedupe.is_on() {
                return ProducerCheck::Append;
            }
            return ProducerCheck::Duplicate(known);
        }
        let in_order = match origin {
            BatchOrigin::Coordinator { .. } | BatchOrigin::Fenced => false,
            _ if !header.is_transactional() => self.txn_first_offset.is_none(),
            BatchOrigin::Client => same_epoch && self.txn_first_offset.is_some(),
            BatchOrigin::Verified { last_marker } => last_marker == self.last_marker,
        };
        if !in_order {
            return ProducerCheck::Reject(ProducerRejection::InvalidTxnState);
        }
        let newest = self.batches.last().filter(|_| same_epoch);
        self.check_sequence(header, newest)
    }

    fn repetition(&self, header: &BatchHeader) -> Option<ProducedBatch> {
        let last = header.last_sequence();
        self.batches
            .iter()
            .find(|b| b.base_sequence == header.base_sequence && b.last_sequence == last)
            .copied()
    }

    /// `newest` is the last batch of the header's epoch: without one the sequence begins at 0.
    fn check_sequence(
        &self,
        header: &BatchHeader,
        newest: Option<&ProducedBatch>,
    ) -> ProducerCheck {
        let first = header.base_sequence;
        let expected = newest.map_or(0, |n| sequence_add(n.last_sequence, 1));
        if first == expected {
            return ProducerCheck::Append;
        }
        // Also for what looks like a repetition of a batch from before the last ones: whether that was written
        // can no longer be told, and producers take DUPLICATE_SEQUENCE_NUMBER for success.
        ProducerCheck::Reject(ProducerRejection::OutOfOrderSequence {
            expected,
            got: first,
        })
    }
}

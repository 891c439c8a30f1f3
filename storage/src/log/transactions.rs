//! Transactions of a partition: which are open, and which were aborted (KIP-98).

use super::PartitionLog;
use super::producers::Producers;
use super::segment::Segment;
use super::txn_index::AbortedTransaction;
use crate::batch::{BatchHeader, EndTxnMarker};
use crate::error::StorageError;
use crate::ids::{Offset, ProducerId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// No transaction is open. Only inside of the log's atomic; elsewhere that is `None`.
pub(super) const NONE_OPEN: Offset = Offset::MAX;

/// Open transactions by the offset of their first batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenTransactions {
    by_first: BTreeMap<Offset, ProducerId>,
}

/// What a batch does to the transactions of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnStep {
    Nothing,
    /// The first batch of a transaction.
    Begins,
    /// A marker for a transaction that began at `first_offset`.
    Ends {
        first_offset: Offset,
        commit: bool,
    },
}

impl OpenTransactions {
    pub fn of(producers: &Producers) -> OpenTransactions {
        let open = producers
            .sorted()
            .into_iter()
            .filter_map(|(id, state)| Some((state.txn_first_offset?, id)));
        OpenTransactions {
            by_first: open.collect(),
        }
    }

    pub fn first_offset(&self) -> Option<Offset> {
        self.by_first.keys().next().copied()
    }

    /// Takes note of the batch of `header`, whose offset is set; `Some` when it aborts a transaction.
    pub fn step(&mut self, header: &BatchHeader, step: TxnStep) -> Option<AbortedTransaction> {
        match step {
            TxnStep::Nothing => None,
            TxnStep::Begins => {
                self.by_first.insert(header.base_offset, header.producer_id);
                None
            }
            TxnStep::Ends {
                first_offset,
                commit,
            } => {
                self.by_first.remove(&first_offset);
                let end = header.last_offset() + 1;
                (!commit).then(|| AbortedTransaction {
                    producer_id: header.producer_id,
                    first_offset,
                    last_offset: header.last_offset(),
                    last_stable_offset: self.first_offset().unwrap_or(end),
                })
            }
        }
    }
}

/// Follows a committed batch, whose offset is set, without checking it.
pub(super) fn follow(
    producers: &mut Producers,
    header: &BatchHeader,
    marker: Option<EndTxnMarker>,
) -> TxnStep {
    match marker {
        Some(marker) => match producers.marked(header, marker, header.base_offset) {
            Some(first_offset) => TxnStep::Ends {
                first_offset,
                commit: marker.commit,
            },
            None => TxnStep::Nothing,
        },
        None if header.is_control() => TxnStep::Nothing,
        None => match producers.appended(header, header.base_offset) {
            Some(_) => TxnStep::Begins,
            None => TxnStep::Nothing,
        },
    }
}

/// Where a producer's transaction in this partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnStanding {
    /// Its batches may be proposed as they come.
    Open,
    /// The coordinator has to be asked; `last_marker` goes with the proposal.
    Unverified { last_marker: Option<Offset> },
}

impl PartitionLog {
    /// Whether `producer_id` has a transaction open here in `epoch`.
    pub fn transaction_standing(&self, producer_id: ProducerId, epoch: i16) -> TxnStanding {
        let writer = self.writer.lock();
        match writer.producers.get(producer_id) {
            Some(state) if state.txn_first_offset.is_some() && state.epoch == epoch => {
                TxnStanding::Open
            }
            state => TxnStanding::Unverified {
                last_marker: state.and_then(|s| s.last_marker),
            },
        }
    }

    /// Transactions with batches in `[from, until)` that were aborted, as Kafka's fetch answer lists
    /// them. `until` is not above a last stable offset read before this call.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when an index is damaged; I/O errors.
    pub fn aborted_transactions(
        &self,
        from: Offset,
        until: Offset,
    ) -> Result<Vec<AbortedTransaction>, StorageError> {
        let mut found = Vec::new();
        let segments = {
            let segments = self.segments.read();
            let after = segments.partition_point(|s| s.base_offset <= from);
            segments[after.saturating_sub(1)..].to_vec()
        };
        for segment in segments {
            let entries = segment.txn_index.read().entries()?;
            let first = entries.partition_point(|e| e.last_offset < from);
            for entry in &entries[first..] {
                if entry.first_offset < until {
                    found.push(*entry);
                }
                if entry.last_stable_offset >= until {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// Publishes where the earliest open transaction begins.
    pub(super) fn publish_open(&self, open: &OpenTransactions) {
        let first = open.first_offset().unwrap_or(NONE_OPEN);
        self.first_open.store(first, Ordering::Release);
    }
}

/// Builds the index of `segments[which]` from the batches themselves, for one that is damaged.
pub(super) fn rebuild_index(segments: &[Arc<Segment>], which: usize) -> Result<(), StorageError> {
    let mut producers = Producers::default();
    let mut open = OpenTransactions::default();
    for (i, segment) in segments[..=which].iter().enumerate() {
        let mut entries = Vec::new();
        let mut position = 0;
        while position < segment.bytes() {
            let (header, _) = segment.header_at(position)?;
            let size = header.size_in_bytes() as u64;
            let marker = if header.is_control() {
                let batch = segment.view(position, position + size)?;
                EndTxnMarker::parse(&batch.slice(position, position + size))?
            } else {
                None
            };
            let step = follow(&mut producers, &header, marker);
            entries.extend(open.step(&header, step));
            position += size;
        }
        if i == which {
            let mut index = segment.txn_index.write();
            index.replace(entries);
            index.persist()?;
        }
    }
    Ok(())
}

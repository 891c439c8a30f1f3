//! Decides what is left of each batch. Plain data in, plain data out.

use super::offset_map::OffsetMap;
use super::transactions::Transactions;
use crate::batch::rebuild::{
    RecordSlice, decompressed, record_slices, with_records, without_records,
};
use crate::batch::{BatchError, BatchHeader};
use crate::ids::{Offset, ProducerId};
use std::collections::HashMap;

/// What is left of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// All of it, byte for byte.
    Same,
    /// These bytes; the offsets it stands for are the same.
    Changed(Vec<u8>),
    Nothing,
}

/// What the log remembers last of a producer that is still active.
#[derive(Debug, Clone, Copy)]
pub struct LastOfProducer {
    pub epoch: i16,
    /// Last offset of its last batch that is not a marker.
    pub last_data_offset: Option<Offset>,
}

/// One walk through the log.
pub struct Filter<'a> {
    pub map: &'a OffsetMap,
    /// The map knows the keys below this offset; later records stay.
    pub limit: Offset,
    pub now_ms: i64,
    pub delete_retention_ms: i64,
    pub producers: &'a HashMap<ProducerId, LastOfProducer>,
    pub transactions: Transactions,
    /// The first delete horizon among what is left.
    pub horizon_ms: Option<i64>,
    /// Tombstones and markers that are dropped lie below this offset.
    pub gone_below: Offset,
    pub records_read: u64,
    pub records_left: u64,
}

impl Filter<'_> {
    /// `needed` batches stay, if without records, so that their last offset is not forgotten.
    ///
    /// # Errors
    /// [`BatchError`] when a batch cannot be built anew.
    pub fn apply(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        needed: bool,
    ) -> Result<Left, BatchError> {
        let may_go = self.transactions.may_go(header, batch);
        let needed = needed || self.is_last_of_producer(header);
        self.records_read += header.record_count.max(0) as u64;
        self.filter(header, batch, may_go, needed)
    }

    fn filter(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        may_go: bool,
        needed: bool,
    ) -> Result<Left, BatchError> {
        let expired = header
            .delete_horizon_ms()
            .is_some_and(|horizon| horizon <= self.now_ms);
        let discard = may_go && (!header.is_control() || expired);
        if discard {
            if header.is_control() {
                self.gone_below = self.gone_below.max(header.last_offset() + 1);
            }
            return Ok(without(header, needed));
        }
        if header.record_count == 0 {
            return Ok(if needed { Left::Same } else { Left::Nothing });
        }
        if header.base_offset >= self.limit && !(header.is_control() && may_go) {
            return Ok(self.same(header));
        }
        let mut kept: Vec<RecordSlice<'_>> =
            Vec::with_capacity(header.record_count.max(0) as usize);
        let mut tombstones = false;
        let parsed = decompressed(header, batch);
        let records = match &parsed {
            Ok(records) => records,
            // The producer sent it so. What cannot be looked at cannot be compacted.
            Err(_) => return Ok(self.same(header)),
        };
        let walked = record_slices(header, records, |record| {
            if header.is_control() || self.stays(header, &record, expired) {
                tombstones |= !header.is_control() && !record.has_value;
                kept.push(record);
            }
        });
        if walked.is_err() {
            return Ok(self.same(header));
        }
        if kept.is_empty() {
            return Ok(without(header, needed));
        }
        let expires = tombstones || (header.is_control() && may_go);
        let horizon = match header.delete_horizon_ms() {
            None if expires => Some(self.now_ms.saturating_add(self.delete_retention_ms)),
            _ => None,
        };
        if expires && let Some(at) = horizon.or(header.delete_horizon_ms()) {
            self.horizon_ms = Some(self.horizon_ms.map_or(at, |first| first.min(at)));
        }
        if kept.len() as i64 == i64::from(header.record_count) && horizon.is_none() {
            return Ok(self.same(header));
        }
        self.records_left += kept.len() as u64;
        with_records(header, &kept, horizon).map(Left::Changed)
    }

    fn same(&mut self, header: &BatchHeader) -> Left {
        self.records_left += header.record_count.max(0) as u64;
        Left::Same
    }

    fn stays(&mut self, header: &BatchHeader, record: &RecordSlice<'_>, expired: bool) -> bool {
        let offset = header.base_offset.wrapping_add(record.offset_delta);
        if offset >= self.limit {
            return true;
        }
        // As in Kafka, a record without a key has no place in a compacted log.
        let Some(key) = record.key else { return false };
        let last = self.map.get(key).is_none_or(|last| last <= offset);
        if last && !record.has_value && expired {
            self.gone_below = self.gone_below.max(offset + 1);
            return false;
        }
        last
    }

    /// As in Kafka: what tells the producer's last sequence, or its epoch if there is no sequence.
    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        if !header.is_idempotent() {
            return false;
        }
        self.producers
            .get(&header.producer_id)
            .is_some_and(|last| match last.last_data_offset {
                Some(offset) => header.last_offset() == offset,
                None => header.is_control() && header.producer_epoch == last.epoch,
            })
    }
}

fn without(header: &BatchHeader, needed: bool) -> Left {
    match (needed, header.record_count) {
        (false, _) => Left::Nothing,
        (true, 0) => Left::Same,
        (true, _) => Left::Changed(without_records(header)),
    }
}

//! Which batches of finished transactions compaction may drop (Kafka's rules).
//!
//! Records of aborted transactions go at once. A marker stays until a compaction has found none of its
//! transaction's records left, and then for `delete.retention.ms` more, so that a consumer that has
//! read some of them learns how the transaction ended.

use crate::batch::{BatchHeader, for_each_record};
use crate::ids::{Offset, ProducerId};
use std::collections::{HashMap, HashSet, VecDeque};

/// A transaction that was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// Offset of the abort marker.
    pub last_offset: Offset,
}

/// Follows transactions through a log that is read from its beginning.
#[derive(Default)]
pub struct Transactions {
    /// Not reached yet, by first offset.
    ahead: VecDeque<Aborted>,
    /// Aborted ones under way, and whether any record of theirs is left.
    aborted: HashMap<ProducerId, (Aborted, bool)>,
    /// Producers of committed ones under way that have records left.
    committed: HashSet<ProducerId>,
}

/// Control record types, the second field of a control record's key.
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

impl Transactions {
    /// `aborted` are all that touch the part of the log to be read.
    pub fn new(mut aborted: Vec<Aborted>) -> Transactions {
        aborted.sort_unstable_by_key(|a| a.first_offset);
        Transactions {
            ahead: aborted.into(),
            ..Transactions::default()
        }
    }

    /// Takes note of the next batch; true when nothing of it is needed any more, for a marker once its
    /// delete horizon has passed.
    pub fn may_go(&mut self, header: &BatchHeader, batch: &[u8]) -> bool {
        while let Some(next) = self.ahead.front()
            && next.first_offset <= header.last_offset()
        {
            self.aborted
                .entry(next.producer_id)
                .or_insert((*next, false));
            self.ahead.pop_front();
        }
        let producer = header.producer_id;
        if !header.is_control() {
            if !header.is_transactional() {
                return false;
            }
            if let Some((_, records_left)) = self.aborted.get_mut(&producer) {
                *records_left = true;
                return true;
            }
            self.committed.insert(producer);
            return false;
        }
        match control_type(batch) {
            Some(ABORT) => self
                .aborted
                .remove(&producer)
                .is_none_or(|(_, records_left)| !records_left),
            Some(COMMIT) => !self.committed.remove(&producer),
            Some(_) => false,
            // An emptied marker has been through this before.
            None => true,
        }
    }
}

fn control_type(batch: &[u8]) -> Option<i16> {
    let mut found = None;
    let _ = for_each_record(batch, |record| {
        found = record
            .key
            .and_then(|key| key.get(2..4))
            .map(|t| i16::from_be_bytes([t[0], t[1]]));
        false
    });
    found
}

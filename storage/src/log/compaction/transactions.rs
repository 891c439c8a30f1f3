//! Which batches of finished transactions compaction may drop (Kafka's rules).
//!
//! Records of aborted transactions go at once. A marker stays until a compaction has found none of its
//! transaction's records left, and then for `delete.retention.ms` more, so that a consumer that has
//! read some of them learns how the transaction ended.

use crate::batch::{BatchHeader, EndTxnMarker};
use crate::ids::ProducerId;
use crate::log::AbortedTransaction;
use std::collections::{HashMap, HashSet, VecDeque};

/// Follows transactions through a log that is read from its beginning.
#[derive(Default)]
pub struct Transactions {
    /// Not reached yet, by first offset.
    ahead: VecDeque<AbortedTransaction>,
    /// Aborted ones under way, and whether any record of theirs is left.
    aborted: HashMap<ProducerId, bool>,
    /// Producers of committed ones under way that have records left.
    committed: HashSet<ProducerId>,
}

impl Transactions {
    /// `aborted` are all that touch the part of the log to be read.
    pub fn new(mut aborted: Vec<AbortedTransaction>) -> Transactions {
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
            self.aborted.entry(next.producer_id).or_insert(false);
            self.ahead.pop_front();
        }
        let producer = header.producer_id;
        if !header.is_control() {
            if !header.is_transactional() {
                return false;
            }
            if let Some(records_left) = self.aborted.get_mut(&producer) {
                *records_left = true;
                return true;
            }
            self.committed.insert(producer);
            return false;
        }
        match EndTxnMarker::parse(batch) {
            Ok(Some(marker)) if marker.commit => !self.committed.remove(&producer),
            Ok(Some(_)) => !self.aborted.remove(&producer).unwrap_or(false),
            // An emptied marker has been through this before; others are not ours to drop.
            _ => header.record_count == 0,
        }
    }
}

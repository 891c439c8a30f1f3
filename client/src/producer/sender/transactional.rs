//! What the sending task does otherwise for transactions.

use super::{Event, Sender};
use crate::error::{Error, Result};
use crate::topic_partition::TopicPartition;

impl Sender {
    /// Takes over a new producer id or epoch: everything before is settled, so all partitions
    /// number from 0 again.
    pub(super) fn take_new_mark(&mut self) {
        let Some(transactional) = &self.transactional else {
            return;
        };
        if let Some(mark) = transactional.take_new_mark() {
            self.producer = Some(mark);
            for slot in &mut self.slots {
                slot.producer = None;
                slot.gap = false;
                slot.retry_at = None;
            }
        }
    }

    /// Gives up what waits, when the transaction is being aborted.
    pub(super) fn discard(&mut self) {
        let discarding = self
            .transactional
            .as_ref()
            .is_some_and(|t| t.is_discarding());
        if !discarding {
            return;
        }
        for slot in 0..self.slots.len() {
            for batch in std::mem::take(&mut self.slots[slot].queue) {
                let reason = "it is being aborted".to_owned();
                self.finish(batch, Err(Error::TransactionFailed { reason }));
            }
        }
    }

    /// Whether the coordinator knows that the slot's partition is part of the transaction; tells it
    /// otherwise.
    pub(super) fn in_transaction(&mut self, slot: usize) -> bool {
        let Some(transactional) = &self.transactional else {
            return true;
        };
        let place = |slot: &super::Slot| TopicPartition {
            topic: slot.topic.clone(),
            partition: slot.partition,
        };
        if transactional.knows(&place(&self.slots[slot])) {
            transactional.note_begun();
            return true;
        }
        if !self.adding {
            self.adding = true;
            let waiting = self.slots.iter().filter(|slot| !slot.queue.is_empty());
            let places = waiting.map(place);
            let places = places.filter(|place| !transactional.knows(place)).collect();
            let transactional = transactional.clone();
            let number = transactional.number();
            self.events.push(Box::pin(async move {
                let added = transactional.add_partitions(number, places).await;
                Event::Added(number, added)
            }));
        }
        false
    }

    pub(super) fn added(&mut self, number: u64, result: Result<()>) {
        self.adding = false;
        let current = self
            .transactional
            .as_ref()
            .is_some_and(|t| t.number() == number);
        if let (true, Err(error)) = (current, result) {
            self.fail_transaction(&error);
        }
    }

    /// The transaction can only be aborted: nothing of it needs to be written any more.
    pub(super) fn fail_transaction(&mut self, error: &Error) {
        let Some(transactional) = &self.transactional else {
            return;
        };
        transactional.fail(error);
        for slot in 0..self.slots.len() {
            for batch in std::mem::take(&mut self.slots[slot].queue) {
                self.finish(batch, Err(error.clone()));
            }
        }
    }
}

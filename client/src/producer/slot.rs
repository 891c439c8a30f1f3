//! What the sender keeps of one partition: its batches in order, and the numbers they carry.
//!
//! A batch is numbered when it is first sent and keeps its number whatever is sent again, so the
//! broker can tell a repetition from a gap. After a passing failure nothing of the partition is sent
//! until all that is on its way has come back; then everything goes again from the lowest number.
//! When a numbered batch is given up, the numbers after it would show a gap: the partition then goes
//! on under a new producer id. A batch that may have been written under the old id must not be sent
//! under the new one, for the broker could not recognise it; it fails as [`Error::Uncertain`].

use super::accumulator::Written;
use crate::batch::{ClosedBatch, ProducerMark, remark};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The bytes of a batch on its way from records to the wire.
#[derive(Debug)]
pub(super) enum Payload {
    /// Being compressed.
    Packing,
    Packed(ClosedBatch),
    Sealed(Bytes),
}

/// A batch in the sender's hands.
#[derive(Debug)]
pub(super) struct Batch {
    pub id: u64,
    pub slot: usize,
    pub payload: Payload,
    pub count: i32,
    /// None until first sent, and again when the partition changes its producer id.
    pub mark: Option<ProducerMark>,
    /// An attempt ended without an answer that says it was not written.
    pub maybe_written: bool,
    pub deadline: Instant,
    pub reserved_bytes: usize,
    pub outcome: oneshot::Sender<Result<Written>>,
    /// Why the last attempt failed.
    pub last_error: Option<Error>,
}

/// One partition.
#[derive(Debug)]
pub(super) struct Slot {
    pub topic: Arc<str>,
    pub partition: i32,
    /// Waiting, in order.
    pub queue: VecDeque<Batch>,
    /// On their way, by id.
    pub in_flight: BTreeSet<u64>,
    /// The broker that those went to.
    pub in_flight_to: Option<i32>,
    /// Producer id, epoch, and the next sequence number.
    pub producer: Option<ProducerMark>,
    /// Nothing is sent until `in_flight` is empty and this has passed.
    pub retry_at: Option<Instant>,
    /// A numbered batch was given up: take a new producer id once `in_flight` is empty.
    pub gap: bool,
}

impl Slot {
    pub(super) fn new(topic: Arc<str>, partition: i32) -> Slot {
        Slot {
            topic,
            partition,
            queue: VecDeque::new(),
            in_flight: BTreeSet::new(),
            in_flight_to: None,
            producer: None,
            retry_at: None,
            gap: false,
        }
    }

    /// Whether its next batch may go to broker `leader` now.
    pub(super) fn may_send(&self, leader: i32, in_flight_max: usize, now: Instant) -> bool {
        let settled = self.in_flight.is_empty();
        if (self.retry_at.is_some() || self.gap) && !settled {
            return false;
        }
        // Two brokers keep no order between them.
        let same_broker = settled || self.in_flight_to == Some(leader);
        same_broker
            && !self.gap
            && self.in_flight.len() < in_flight_max
            && self.retry_at.is_none_or(|at| at <= now)
            && self.queue.front().is_some_and(Batch::is_packed)
    }

    /// Takes the first batch, numbered and sealed. Call only when [`Slot::may_send`].
    pub(super) fn take(&mut self, leader: i32, idempotent: bool) -> Option<(Batch, Bytes)> {
        let mut batch = self.queue.pop_front()?;
        let mark = match (batch.mark, &mut self.producer) {
            (Some(mark), _) => mark,
            (None, Some(producer)) if idempotent => {
                let mark = *producer;
                producer.sequence = next_sequence(producer.sequence, batch.count);
                mark
            }
            (None, _) => ProducerMark::NONE,
        };
        let bytes = batch.seal(mark)?;
        self.retry_at = None;
        self.in_flight.insert(batch.id);
        self.in_flight_to = Some(leader);
        Some((batch, bytes))
    }

    /// Whether a batch before `id` is still without an answer.
    pub(super) fn has_earlier(&self, id: u64) -> bool {
        let waiting = self.queue.front().is_some_and(|batch| batch.id < id);
        waiting || self.in_flight.first().is_some_and(|&first| first < id)
    }

    /// Puts a batch back where it belongs.
    pub(super) fn put_back(&mut self, batch: Batch) {
        let at = self.queue.partition_point(|other| other.id < batch.id);
        self.queue.insert(at, batch);
    }

    /// Once nothing is on its way, closes a gap: batches that were never written wait for a new
    /// producer id, the others are returned as failed.
    pub(super) fn close_gap(&mut self) -> Vec<(Batch, Error)> {
        if !self.gap || !self.in_flight.is_empty() {
            return Vec::new();
        }
        self.gap = false;
        self.producer = None;
        let mut failed = Vec::new();
        for mut batch in std::mem::take(&mut self.queue) {
            if batch.mark.is_some() && batch.maybe_written {
                let error = self.uncertain(&batch);
                failed.push((batch, error));
            } else {
                batch.mark = None;
                self.queue.push_back(batch);
            }
        }
        failed
    }

    pub(super) fn uncertain(&self, batch: &Batch) -> Error {
        let reason = batch.last_error.as_ref().map(ToString::to_string);
        Error::Uncertain {
            topic: self.topic.to_string(),
            partition: self.partition,
            reason: reason.unwrap_or_else(|| "a batch before them was given up".to_owned()),
        }
    }
}

impl Batch {
    fn is_packed(&self) -> bool {
        !matches!(self.payload, Payload::Packing)
    }

    /// None while it is being compressed.
    fn seal(&mut self, mark: ProducerMark) -> Option<Bytes> {
        let bytes = match std::mem::replace(&mut self.payload, Payload::Packing) {
            Payload::Packing => return None,
            Payload::Packed(closed) => closed.seal(mark),
            Payload::Sealed(bytes) if self.mark == Some(mark) => bytes,
            Payload::Sealed(bytes) => remark(&bytes, mark),
        };
        self.mark = Some(mark);
        self.payload = Payload::Sealed(bytes.clone());
        Some(bytes)
    }
}

/// Sequence numbers count records and go on from 0 after the largest i32.
fn next_sequence(sequence: i32, count: i32) -> i32 {
    let next = (i64::from(sequence) + i64::from(count)) % (1i64 << 31);
    next as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchBuilder;
    use crate::compression::Compression;
    use crate::record::Record;
    use std::time::Duration;

    fn batch(id: u64) -> Batch {
        let builder = BatchBuilder::new(&Record::new("t", "v"), 0, Vec::new());
        Batch {
            id,
            slot: 0,
            payload: Payload::Packed(builder.close(Compression::None).unwrap()),
            count: 1,
            mark: None,
            maybe_written: false,
            deadline: Instant::now() + Duration::from_secs(60),
            reserved_bytes: 0,
            outcome: oneshot::channel().0,
            last_error: None,
        }
    }

    fn slot() -> Slot {
        let mut slot = Slot::new("t".into(), 0);
        slot.producer = Some(ProducerMark {
            id: 5,
            epoch: 0,
            sequence: i32::MAX,
            transactional: false,
        });
        slot.queue.extend((0..4).map(batch));
        slot
    }

    fn sequence(batch: &Batch) -> i32 {
        batch.mark.unwrap().sequence
    }

    #[test]
    fn what_comes_back_goes_again_in_order_under_its_numbers() {
        let now = Instant::now();
        let mut slot = slot();
        let (a, bytes_a) = slot.take(1, true).unwrap();
        let (b, _) = slot.take(1, true).unwrap();
        let (c, _) = slot.take(1, true).unwrap();
        assert_eq!(
            [&a, &b, &c].map(sequence),
            [i32::MAX, 0, 1],
            "numbers go on from 0 after the largest"
        );
        assert!(slot.may_send(1, 5, now) && !slot.may_send(1, 3, now));
        assert!(
            !slot.may_send(2, 5, now),
            "another broker while some are on their way"
        );

        // The second comes back first, then the first; the third is written.
        slot.retry_at = Some(now);
        for batch in [b, a] {
            slot.in_flight.remove(&batch.id);
            slot.put_back(batch);
        }
        assert!(!slot.may_send(1, 5, now), "one is still on its way");
        assert!(slot.has_earlier(c.id));
        slot.in_flight.remove(&c.id);
        assert!(!slot.may_send(1, 5, now - Duration::from_millis(1)));
        assert!(slot.may_send(2, 5, now));
        let (again, bytes_again) = slot.take(2, true).unwrap();
        assert_eq!((again.id, sequence(&again)), (0, i32::MAX));
        assert_eq!(bytes_a, bytes_again);
        assert_eq!(sequence(&slot.take(2, true).unwrap().0), 0);
        assert_eq!(sequence(&slot.take(2, true).unwrap().0), 2);
    }

    #[test]
    fn after_a_gap_only_what_was_surely_not_written_gets_new_numbers() {
        let mut slot = slot();
        let (a, _) = slot.take(1, true).unwrap();
        let (mut b, _) = slot.take(1, true).unwrap();
        let (c, _) = slot.take(1, true).unwrap();
        // The first is given up.
        slot.gap = true;
        slot.in_flight.remove(&a.id);
        assert!(
            slot.close_gap().is_empty() && slot.gap,
            "two are still on their way"
        );
        b.maybe_written = true;
        for batch in [b, c] {
            slot.in_flight.remove(&batch.id);
            slot.put_back(batch);
        }
        assert!(!slot.may_send(1, 5, Instant::now()));
        let failed = slot.close_gap();
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].0.id, 1);
        assert!(matches!(failed[0].1, Error::Uncertain { .. }));

        slot.producer = Some(ProducerMark {
            id: 6,
            epoch: 0,
            sequence: 0,
            transactional: false,
        });
        let (c, bytes) = slot.take(1, true).unwrap();
        assert_eq!((c.id, c.mark.unwrap().id, sequence(&c)), (2, 6, 0));
        assert_eq!(crate::batch::split_batches(bytes).unwrap().len(), 1);
        assert_eq!(sequence(&slot.take(1, true).unwrap().0), 1);
    }

    #[test]
    fn without_idempotence_batches_carry_no_numbers() {
        let mut slot = slot();
        slot.producer = None;
        let (a, _) = slot.take(1, false).unwrap();
        assert_eq!(a.mark, Some(ProducerMark::NONE));
    }
}

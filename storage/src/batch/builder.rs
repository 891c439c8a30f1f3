//! Makes uncompressed record batches: what a broker itself writes to internal topics.

use super::{
    ATTRIBUTE_CONTROL, ATTRIBUTE_TRANSACTIONAL, CRC_START, HEADER_BYTES, LENGTH_PREFIX_BYTES,
    batch_crc,
};
use bytes::Bytes;

/// Whose batch it is, when it belongs to a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionMark {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// A control batch: its one record ends the transaction.
    pub control: bool,
}

/// A batch under construction. Records get the offsets from the base offset on, in order.
pub struct BatchBuilder {
    bytes: Vec<u8>,
    count: i32,
}

impl BatchBuilder {
    /// `base_offset` and `leader_epoch` are what the batch says of itself before it is appended;
    /// every record gets `timestamp_ms`.
    pub fn new(
        base_offset: i64,
        leader_epoch: i32,
        timestamp_ms: i64,
        transaction: Option<TransactionMark>,
    ) -> BatchBuilder {
        let attributes = match transaction {
            None => 0,
            Some(mark) if mark.control => ATTRIBUTE_TRANSACTIONAL | ATTRIBUTE_CONTROL,
            Some(_) => ATTRIBUTE_TRANSACTIONAL,
        };
        let (producer_id, producer_epoch) =
            transaction.map_or((-1, -1), |t| (t.producer_id, t.producer_epoch));
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&base_offset.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&leader_epoch.to_be_bytes());
        bytes.push(2);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&attributes.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&timestamp_ms.to_be_bytes());
        bytes.extend_from_slice(&timestamp_ms.to_be_bytes());
        bytes.extend_from_slice(&producer_id.to_be_bytes());
        bytes.extend_from_slice(&producer_epoch.to_be_bytes());
        // No sequence: the broker's own batches are not deduplicated.
        bytes.extend_from_slice(&(-1_i32).to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        BatchBuilder { bytes, count: 0 }
    }

    /// Adds a record; a value of `None` is a tombstone.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        let value_bytes = value.map_or(0, <[u8]>::len);
        let mut record = Vec::with_capacity(key.len() + value_bytes + 16);
        // No attributes, and the batch's own timestamp.
        record.push(0);
        put_varint(0, &mut record);
        put_varint(i64::from(self.count), &mut record);
        put_varint(key.len() as i64, &mut record);
        record.extend_from_slice(key);
        put_varint(value.map_or(-1, |v| v.len() as i64), &mut record);
        record.extend_from_slice(value.unwrap_or_default());
        // No headers.
        put_varint(0, &mut record);
        put_varint(record.len() as i64, &mut self.bytes);
        self.bytes.extend_from_slice(&record);
        self.count += 1;
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Records so far.
    pub fn records(&self) -> i32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch. It holds at least one record, as every batch in a log does.
    pub fn finish(mut self) -> Bytes {
        let length = (self.bytes.len() - LENGTH_PREFIX_BYTES) as i32;
        self.bytes[8..12].copy_from_slice(&length.to_be_bytes());
        self.bytes[23..27].copy_from_slice(&(self.count - 1).to_be_bytes());
        self.bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&self.count.to_be_bytes());
        let crc = batch_crc(&self.bytes);
        self.bytes[CRC_START - 4..CRC_START].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(self.bytes)
    }
}

fn put_varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchHeader, for_each_record, validate_produced};
    use proptest::prelude::*;

    type Pairs = Vec<(Vec<u8>, Option<Vec<u8>>)>;

    proptest! {
        #[test]
        fn what_is_pushed_is_read_back(
            pairs in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), prop::option::of(prop::collection::vec(any::<u8>(), 0..300))), 1..20),
            base in 0_i64..1 << 40, epoch in 0_i32..1000, timestamp in 0_i64..1 << 42,
        ) {
            let mut builder = BatchBuilder::new(base, epoch, timestamp, None);
            for (key, value) in &pairs {
                builder.push(key, value.as_deref());
            }
            let batch = builder.finish();
            let header = validate_produced(&batch, 1 << 20).expect("a valid batch");
            prop_assert_eq!((header.base_offset, header.leader_epoch), (base, epoch));
            let mut seen: Pairs = Vec::new();
            let mut next = base;
            for_each_record(&batch, |r| {
                assert_eq!((r.offset, r.timestamp), (next, timestamp));
                next += 1;
                seen.push((r.key.unwrap_or_default().to_vec(), r.value.map(<[u8]>::to_vec)));
                true
            }).expect("readable");
            prop_assert_eq!(seen, pairs);
        }
    }

    #[test]
    fn a_transactional_batch_says_so() {
        let mark = TransactionMark {
            producer_id: 7,
            producer_epoch: 3,
            control: true,
        };
        let mut builder = BatchBuilder::new(0, 0, 1, Some(mark));
        builder.push(&[0, 0, 0, 1], Some(&[0, 0, 0, 0, 0, 1]));
        let header = BatchHeader::parse(&builder.finish()).expect("a header");
        assert!(header.is_transactional() && header.is_control());
        assert_eq!((header.producer_id, header.producer_epoch), (7, 3));
    }
}

//! Record batches written field by field, so that a test can write a wrong one.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the fields that the checksum covers.
const ATTRIBUTES_AT: usize = 21;

/// The fields of a batch of format version 2; wrong ones are written as they are.
#[derive(Debug, Clone)]
pub struct Batch {
    pub base_offset: i64,
    /// `None`: the right one.
    pub batch_length: Option<i32>,
    pub leader_epoch: i32,
    pub magic: i8,
    /// `None`: the right one.
    pub crc: Option<u32>,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub count: i32,
    pub records: Bytes,
}

impl Batch {
    /// A valid batch of records without keys, by no idempotent producer.
    #[must_use]
    pub fn of(values: &[&[u8]]) -> Self {
        let keyless: Vec<_> = values.iter().map(|value| (None, *value)).collect();
        Self::keyed(&keyless)
    }

    /// The same of records with keys.
    #[must_use]
    pub fn keyed(values: &[(Option<&[u8]>, &[u8])]) -> Self {
        let mut records = BytesMut::new();
        for (delta, (key, value)) in (0..).zip(values) {
            put_keyed(&mut records, delta, *key, value);
        }
        let count = i32::try_from(values.len()).unwrap_or(i32::MAX);
        Self {
            base_offset: 0,
            batch_length: None,
            leader_epoch: -1,
            magic: 2,
            crc: None,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 1_700_000_000_000,
            max_timestamp: 1_700_000_000_000,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count,
            records: records.freeze(),
        }
    }

    /// The same by an idempotent producer.
    #[must_use]
    pub fn by(mut self, producer_id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.producer_id = producer_id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// The bytes as they go into a Produce request.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut covered = BytesMut::new();
        covered.put_i16(self.attributes);
        covered.put_i32(self.last_offset_delta);
        covered.put_i64(self.base_timestamp);
        covered.put_i64(self.max_timestamp);
        covered.put_i64(self.producer_id);
        covered.put_i16(self.producer_epoch);
        covered.put_i32(self.base_sequence);
        covered.put_i32(self.count);
        covered.put_slice(&self.records);
        let after_length = i32::try_from(ATTRIBUTES_AT - 12 + covered.len()).unwrap_or(i32::MAX);
        let mut batch = BytesMut::new();
        batch.put_i64(self.base_offset);
        batch.put_i32(self.batch_length.unwrap_or(after_length));
        batch.put_i32(self.leader_epoch);
        batch.put_i8(self.magic);
        batch.put_u32(self.crc.unwrap_or_else(|| crc32c(&covered)));
        batch.put_slice(&covered);
        batch.freeze()
    }
}

/// One record without a key, at the batch's base timestamp.
pub fn put_record(to: &mut BytesMut, offset_delta: i32, value: &[u8]) {
    put_keyed(to, offset_delta, None, value);
}

fn put_keyed(to: &mut BytesMut, offset_delta: i32, key: Option<&[u8]>, value: &[u8]) {
    let mut body = BytesMut::new();
    body.put_i8(0);
    put_varint(&mut body, 0);
    put_varint(&mut body, offset_delta);
    match key {
        Some(key) => {
            put_varint(&mut body, i32::try_from(key.len()).unwrap_or(i32::MAX));
            body.put_slice(key);
        }
        None => put_varint(&mut body, -1),
    }
    put_varint(&mut body, i32::try_from(value.len()).unwrap_or(i32::MAX));
    body.put_slice(value);
    put_varint(&mut body, 0);
    put_varint(to, i32::try_from(body.len()).unwrap_or(i32::MAX));
    to.put_slice(&body);
}

/// A zigzag number of variable length, as records have them.
pub fn put_varint(to: &mut BytesMut, value: i32) {
    let mut zigzag = ((value << 1) ^ (value >> 31)) as u32;
    while zigzag >= 0x80 {
        to.put_u8(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    to.put_u8(zigzag as u8);
}

/// Castagnoli's checksum, bit by bit: written apart from the broker's.
fn crc32c(bytes: &[u8]) -> u32 {
    const REFLECTED: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (REFLECTED & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}

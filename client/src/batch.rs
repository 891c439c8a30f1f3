//! Kafka's record batch, format 2: built record by record, and read back.
//!
//! ```text
//! base offset i64 | length i32 | leader epoch i32 | magic i8 | CRC-32C u32 | attributes i16 |
//! last offset delta i32 | base timestamp i64 | max timestamp i64 | producer id i64 |
//! producer epoch i16 | base sequence i32 | record count i32 | records
//! ```
//! The CRC covers everything after itself.

use crate::compression::Compression;
use crate::record::{ConsumerRecord, Header, Record};
use crate::topic_partition::TopicPartition;
use bytes::{Buf, Bytes};
use crc_fast::{CrcAlgorithm, checksum};

/// Bytes of a batch before its records.
pub(crate) const HEADER_BYTES: usize = 61;
/// Bytes of base offset and length, which the length does not count.
const LENGTH_PREFIX_BYTES: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAGIC: i8 = 2;
const CODEC_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
/// The five varints of a record, its attributes, and two bytes a header, at their longest.
const RECORD_OVERHEAD_BYTES: usize = 1 + 5 + 10 + 5 + 5 + 5 + 5;

/// Who wrote a batch and as which in order; what a broker tells repeated batches by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerMark {
    pub id: i64,
    pub epoch: i16,
    pub sequence: i32,
    /// Part of a transaction.
    pub transactional: bool,
}

impl ProducerMark {
    fn attributes(self, codec: i16) -> i16 {
        if self.transactional {
            codec | TRANSACTIONAL
        } else {
            codec
        }
    }

    /// Of a producer that does not ask for duplicates to be recognised.
    pub(crate) const NONE: ProducerMark = ProducerMark {
        id: -1,
        epoch: -1,
        sequence: -1,
        transactional: false,
    };
}

/// A batch that records are still added to.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    /// Room for the header, then the records, not compressed.
    bytes: Vec<u8>,
    count: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl BatchBuilder {
    /// Begins a batch with its first record, in a buffer that is empty.
    pub(crate) fn new(record: &Record, timestamp_ms: i64, mut bytes: Vec<u8>) -> BatchBuilder {
        bytes.reserve(HEADER_BYTES + size_bound(record));
        bytes.resize(HEADER_BYTES, 0);
        let mut batch = BatchBuilder {
            bytes,
            count: 0,
            base_timestamp_ms: timestamp_ms,
            max_timestamp_ms: timestamp_ms,
        };
        batch.push(record, timestamp_ms);
        batch
    }

    /// Bytes of the batch so far, not compressed.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that it can have without being moved.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn count(&self) -> i32 {
        self.count
    }

    pub(crate) fn push(&mut self, record: &Record, timestamp_ms: i64) {
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        let offset_delta = i64::from(self.count);
        let timestamp_delta = timestamp_ms - self.base_timestamp_ms;
        let length = record_length(record, timestamp_delta, offset_delta);
        let out = &mut self.bytes;
        put_varint(out, length as i64);
        out.push(0);
        put_varint(out, timestamp_delta);
        put_varint(out, offset_delta);
        put_bytes(out, record.key.as_deref());
        put_bytes(out, record.value.as_deref());
        put_varint(out, record.headers.len() as i64);
        for header in &record.headers {
            put_bytes(out, Some(header.key.as_bytes()));
            put_bytes(out, header.value.as_deref());
        }
        self.count += 1;
    }

    /// Compresses the records; the batch then waits for its [`ProducerMark`].
    pub(crate) fn close(self, codec: Compression) -> std::io::Result<ClosedBatch> {
        let bytes = match codec {
            Compression::None => self.bytes,
            codec => codec.compress(&self.bytes[HEADER_BYTES..], vec![0; HEADER_BYTES])?,
        };
        Ok(ClosedBatch {
            bytes,
            codec,
            count: self.count,
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
        })
    }
}

/// A batch whose records are final.
#[derive(Debug)]
pub(crate) struct ClosedBatch {
    bytes: Vec<u8>,
    codec: Compression,
    count: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl ClosedBatch {
    pub(crate) fn seal(self, mark: ProducerMark) -> Bytes {
        let mut bytes = self.bytes;
        let length = (bytes.len() - LENGTH_PREFIX_BYTES) as i32;
        let last_offset_delta = self.count - 1;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&0i64.to_be_bytes());
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(&(-1i32).to_be_bytes());
        header.extend_from_slice(&MAGIC.to_be_bytes());
        header.extend_from_slice(&0u32.to_be_bytes());
        header.extend_from_slice(&mark.attributes(self.codec.id()).to_be_bytes());
        header.extend_from_slice(&last_offset_delta.to_be_bytes());
        header.extend_from_slice(&self.base_timestamp_ms.to_be_bytes());
        header.extend_from_slice(&self.max_timestamp_ms.to_be_bytes());
        header.extend_from_slice(&mark.id.to_be_bytes());
        header.extend_from_slice(&mark.epoch.to_be_bytes());
        header.extend_from_slice(&mark.sequence.to_be_bytes());
        header.extend_from_slice(&self.count.to_be_bytes());
        bytes[..HEADER_BYTES].copy_from_slice(&header);
        let crc = crc(&bytes);
        bytes[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }
}

/// Gives a sealed batch another mark, in a copy.
pub(crate) fn remark(batch: &Bytes, mark: ProducerMark) -> Bytes {
    const MARK_AT: usize = 43;
    let mut bytes = batch.to_vec();
    let codec = (&bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2]).get_i16() & CODEC_MASK;
    bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&mark.attributes(codec).to_be_bytes());
    bytes[MARK_AT..MARK_AT + 8].copy_from_slice(&mark.id.to_be_bytes());
    bytes[MARK_AT + 8..MARK_AT + 10].copy_from_slice(&mark.epoch.to_be_bytes());
    bytes[MARK_AT + 10..MARK_AT + 14].copy_from_slice(&mark.sequence.to_be_bytes());
    let crc = crc(&bytes);
    bytes[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn crc(batch: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, &batch[ATTRIBUTES_AT..]) as u32
}

/// At least the bytes that `record` takes in a batch, not compressed.
pub(crate) fn size_bound(record: &Record) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|h| 10 + h.key.len() + h.value.as_ref().map_or(0, |v| v.len()))
        .sum();
    let key = record.key.as_ref().map_or(0, |k| k.len());
    let value = record.value.as_ref().map_or(0, |v| v.len());
    RECORD_OVERHEAD_BYTES + key + value + headers
}

fn record_length(record: &Record, timestamp_delta: i64, offset_delta: i64) -> usize {
    let optional = |bytes: Option<&Bytes>| match bytes {
        Some(bytes) => varint_length(bytes.len() as i64) + bytes.len(),
        None => varint_length(-1),
    };
    let headers: usize = record
        .headers
        .iter()
        .map(|h| varint_length(h.key.len() as i64) + h.key.len() + optional(h.value.as_ref()))
        .sum();
    1 + varint_length(timestamp_delta)
        + varint_length(offset_delta)
        + optional(record.key.as_ref())
        + optional(record.value.as_ref())
        + varint_length(record.headers.len() as i64)
        + headers
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn varint_length(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

/// Marks the batches of aborted transactions, given as producer id and first offset, so that their
/// records are not read. Control batches end them.
pub(crate) fn skip_aborted(batches: &mut [FetchedBatch], mut aborted: Vec<(i64, i64)>) {
    aborted.sort_by_key(|&(_, first_offset)| std::cmp::Reverse(first_offset));
    let mut open = std::collections::HashSet::new();
    for batch in batches {
        while let Some(&(producer_id, first_offset)) = aborted.last()
            && first_offset <= batch.last_offset
        {
            open.insert(producer_id);
            aborted.pop();
        }
        if batch.attributes & CONTROL != 0 {
            if batch.is_abort_marker() {
                open.remove(&batch.producer_id);
            }
        } else {
            let transactional = batch.attributes & TRANSACTIONAL != 0;
            batch.skip = transactional && open.contains(&batch.producer_id);
        }
    }
}

/// A batch as fetched, its checksum verified and its records not yet decompressed.
#[derive(Debug, Clone)]
pub(crate) struct FetchedBatch {
    pub base_offset: i64,
    pub last_offset: i64,
    attributes: i16,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    producer_id: i64,
    count: i32,
    records: Bytes,
    /// Of an aborted transaction.
    skip: bool,
}

/// Cuts fetched bytes into batches. A batch that is cut off at the end is left out: a broker sends
/// as much as fits.
pub(crate) fn split_batches(mut bytes: Bytes) -> Result<Vec<FetchedBatch>, DamagedBatch> {
    let mut batches = Vec::new();
    while bytes.len() >= LENGTH_PREFIX_BYTES {
        let base_offset = (&bytes[..8]).get_i64();
        let damaged = |reason: String| DamagedBatch {
            offset: base_offset,
            reason,
        };
        let length = (&bytes[8..12]).get_i32();
        let total = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(LENGTH_PREFIX_BYTES))
            .filter(|&total| total >= HEADER_BYTES)
            .ok_or_else(|| damaged(format!("its length is {length}")))?;
        if total > bytes.len() {
            break;
        }
        let batch = bytes.split_to(total);
        let magic = batch[MAGIC_AT] as i8;
        if magic != MAGIC {
            return Err(damaged(format!("its format is {magic}; only 2 is read")));
        }
        let stored = (&batch[CRC_AT..ATTRIBUTES_AT]).get_u32();
        if stored != crc(&batch) {
            return Err(damaged("its checksum is wrong".to_owned()));
        }
        let mut header = &batch[ATTRIBUTES_AT..HEADER_BYTES];
        let attributes = header.get_i16();
        let last_offset_delta = header.get_i32();
        let base_timestamp_ms = header.get_i64();
        let max_timestamp_ms = header.get_i64();
        let producer_id = header.get_i64();
        // Epoch and sequence mean nothing to a reader.
        header.advance(2 + 4);
        let count = header.get_i32();
        if last_offset_delta < 0 || count < 0 {
            return Err(damaged("its counts are negative".to_owned()));
        }
        batches.push(FetchedBatch {
            base_offset,
            last_offset: base_offset + i64::from(last_offset_delta),
            attributes,
            base_timestamp_ms,
            max_timestamp_ms,
            producer_id,
            count,
            records: batch.slice(HEADER_BYTES..),
            skip: false,
        });
    }
    Ok(batches)
}

/// A batch that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DamagedBatch {
    pub offset: i64,
    pub reason: String,
}

impl FetchedBatch {
    pub(crate) fn is_compressed(&self) -> bool {
        self.attributes & CODEC_MASK != 0
    }

    /// Bytes of the records as they were sent.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The control record of an aborted transaction: its key is a version and a type, 0 for an abort.
    fn is_abort_marker(&self) -> bool {
        let place = TopicPartition::new("", 0);
        let record = self.read_record(&mut self.records.clone(), &place);
        let key = record.and_then(|record| record.key);
        key.is_some_and(|key| key.get(2..4) == Some(&[0, 0]))
    }

    /// Appends the records from offset `from` on. A control batch has none for a reader, nor has
    /// one of an aborted transaction.
    ///
    /// # Errors
    /// When the records are malformed, or more than `max` bytes after decompression.
    pub(crate) fn read(
        &self,
        place: &TopicPartition,
        from: i64,
        max: usize,
        out: &mut Vec<ConsumerRecord>,
    ) -> Result<(), DamagedBatch> {
        if self.attributes & CONTROL != 0 || self.skip {
            return Ok(());
        }
        let damaged = |reason: String| DamagedBatch {
            offset: self.base_offset,
            reason,
        };
        let codec = Compression::from_id(self.attributes & CODEC_MASK)
            .ok_or_else(|| damaged("its codec is unknown".to_owned()))?;
        let mut bytes = match codec {
            Compression::None => self.records.clone(),
            codec => codec
                .decompress(&self.records, max)
                .map_err(|e| damaged(e.to_string()))?
                .into(),
        };
        for _ in 0..self.count {
            let record = self.read_record(&mut bytes, place);
            let record = record.ok_or_else(|| damaged("a record in it is cut".to_owned()))?;
            if record.offset >= from {
                out.push(record);
            }
        }
        Ok(())
    }

    fn read_record(&self, bytes: &mut Bytes, place: &TopicPartition) -> Option<ConsumerRecord> {
        let length = usize::try_from(get_varint(bytes)?).ok()?;
        if length > bytes.len() {
            return None;
        }
        let mut record = bytes.split_to(length);
        // Attributes: none are defined.
        record.try_get_u8().ok()?;
        let timestamp_delta = get_varint(&mut record)?;
        let offset_delta = get_varint(&mut record)?;
        let key = get_bytes(&mut record)?;
        let value = get_bytes(&mut record)?;
        let header_count = usize::try_from(get_varint(&mut record)?).ok()?;
        // Each takes two bytes or more, so a count cannot claim more memory than was sent.
        if header_count > record.len() / 2 {
            return None;
        }
        let mut headers = Vec::with_capacity(header_count);
        for _ in 0..header_count {
            let key = get_bytes(&mut record)??;
            headers.push(Header {
                key: String::from_utf8(key.into()).ok()?,
                value: get_bytes(&mut record)?,
            });
        }
        let log_append_time = self.attributes & LOG_APPEND_TIME != 0;
        Some(ConsumerRecord {
            topic: place.topic.clone(),
            partition: place.partition,
            offset: self.base_offset.checked_add(offset_delta)?,
            timestamp_ms: if log_append_time {
                self.max_timestamp_ms
            } else {
                self.base_timestamp_ms.checked_add(timestamp_delta)?
            },
            key,
            value,
            headers,
        })
    }
}

fn get_varint(bytes: &mut Bytes) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// The outer None: malformed; the inner: null.
#[expect(clippy::option_option, reason = "malformed and null are two things")]
fn get_bytes(bytes: &mut Bytes) -> Option<Option<Bytes>> {
    match get_varint(bytes)? {
        -1 => Some(None),
        length => {
            let length = usize::try_from(length).ok()?;
            (length <= bytes.len()).then(|| Some(bytes.split_to(length)))
        }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;

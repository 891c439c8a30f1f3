//! Makes batches anew from some of their own records: compaction, recompression, and batches without
//! records that only stand for offsets.
//!
//! As in Kafka, a batch keeps its base offset, last offset and base sequence whatever becomes of its
//! records, so that offsets and producers' sequences can still be told from what is left.

use super::{
    ATTRIBUTE_COMPRESSION, ATTRIBUTE_CONTROL, ATTRIBUTE_DELETE_HORIZON, ATTRIBUTE_LOG_APPEND_TIME,
    ATTRIBUTE_TRANSACTIONAL, BatchError, BatchHeader, HEADER_BYTES, LENGTH_PREFIX_BYTES,
    UNCOMPRESSED_MAX, Varints, batch_crc,
};
use crate::compression::{self, Compression};
use std::borrow::Cow;

/// One record as its batch holds it.
#[derive(Debug, Clone, Copy)]
pub struct RecordSlice<'a> {
    /// The whole record, its length included.
    whole: &'a [u8],
    attributes: u8,
    timestamp_delta: i64,
    pub offset_delta: i64,
    pub key: Option<&'a [u8]>,
    pub has_value: bool,
    /// From the offset delta on.
    tail: &'a [u8],
}

/// The records of a whole batch, decompressed.
///
/// # Errors
/// [`BatchError::Invalid`] when they cannot be decompressed.
pub fn decompressed<'a>(
    header: &BatchHeader,
    batch: &'a [u8],
) -> Result<Cow<'a, [u8]>, BatchError> {
    let body = batch
        .get(HEADER_BYTES..header.size_in_bytes())
        .ok_or_else(|| BatchError::Corrupt("the batch is cut".to_owned()))?;
    match header.compression()? {
        Compression::None => Ok(Cow::Borrowed(body)),
        codec => compression::decompress(codec, body, UNCOMPRESSED_MAX)
            .map(|records| Cow::Owned(records.into()))
            .map_err(|e| BatchError::Invalid(format!("decompression: {e}"))),
    }
}

/// Walks decompressed records in order.
///
/// # Errors
/// [`BatchError::Invalid`] when they are not what the header says.
pub fn record_slices<'a>(
    header: &BatchHeader,
    records: &'a [u8],
    mut visit: impl FnMut(RecordSlice<'a>),
) -> Result<(), BatchError> {
    let mut rest = Varints(records);
    for _ in 0..header.record_count {
        let record = rest
            .record()
            .ok_or_else(|| BatchError::Invalid("a record is malformed".to_owned()))?;
        visit(record);
    }
    Ok(())
}

impl<'a> Varints<'a> {
    fn record(&mut self) -> Option<RecordSlice<'a>> {
        let before = self.0;
        let length = usize::try_from(self.varint()?).ok()?;
        let mut record = Varints(self.take(length)?);
        let whole = &before[..before.len() - self.0.len()];
        let attributes = record.take(1)?[0];
        let timestamp_delta = record.varint()?;
        let tail = record.0;
        let offset_delta = record.varint()?;
        let key = record.nullable()?;
        let has_value = record.nullable()?.is_some();
        Some(RecordSlice {
            whole,
            attributes,
            timestamp_delta,
            offset_delta,
            key,
            has_value,
            tail,
        })
    }
}

/// The batch with only `kept` of its records, in the same codec. With a delete horizon its records'
/// timestamps are told relative to it (KIP-534), which changes none of them.
///
/// # Errors
/// [`BatchError::Invalid`] when compression fails.
pub fn with_records(
    header: &BatchHeader,
    kept: &[RecordSlice<'_>],
    delete_horizon_ms: Option<i64>,
) -> Result<Vec<u8>, BatchError> {
    let mut changed = *header;
    let mut records = Vec::with_capacity(kept.iter().map(|r| r.whole.len() + 4).sum());
    if let Some(horizon) = delete_horizon_ms {
        changed.base_timestamp = horizon;
        changed.attributes |= ATTRIBUTE_DELETE_HORIZON;
    }
    let shift = header.base_timestamp.wrapping_sub(changed.base_timestamp);
    for record in kept {
        if shift == 0 {
            records.extend_from_slice(record.whole);
        } else {
            put_shifted(
                record,
                record.timestamp_delta.wrapping_add(shift),
                &mut records,
            );
        }
    }
    if !header.is_log_append_time() {
        let timestamps = kept
            .iter()
            .map(|r| header.base_timestamp.wrapping_add(r.timestamp_delta));
        changed.max_timestamp = timestamps.max().unwrap_or(header.max_timestamp);
    }
    changed.record_count = kept.len() as i32;
    assemble(changed, header.compression()?, &records)
}

/// The same batch in another codec.
///
/// # Errors
/// As [`decompressed`] and [`with_records`].
pub fn recompressed(batch: &[u8], codec: Compression) -> Result<Vec<u8>, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let records = decompressed(&header, batch)?;
    assemble(header, codec, &records)
}

/// A batch that has lost all its records and still tells its offsets and its producer's sequence.
pub fn without_records(header: &BatchHeader) -> Vec<u8> {
    let kept = ATTRIBUTE_LOG_APPEND_TIME | ATTRIBUTE_TRANSACTIONAL | ATTRIBUTE_CONTROL;
    let empty = BatchHeader {
        attributes: header.attributes & kept,
        base_timestamp: -1,
        record_count: 0,
        ..*header
    };
    encode(empty, &[])
}

/// A batch without records or producer: nothing is left of the offsets `[base_offset, last_offset]`.
/// They are at most 2³¹.
pub fn filler(base_offset: i64, last_offset: i64, leader_epoch: i32) -> Vec<u8> {
    let header = BatchHeader {
        base_offset,
        batch_length: 0,
        leader_epoch,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: (last_offset - base_offset) as i32,
        base_timestamp: -1,
        max_timestamp: -1,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 0,
    };
    encode(header, &[])
}

fn put_shifted(record: &RecordSlice<'_>, timestamp_delta: i64, out: &mut Vec<u8>) {
    let mut delta = Vec::with_capacity(10);
    put_varint(timestamp_delta, &mut delta);
    put_varint((1 + delta.len() + record.tail.len()) as i64, out);
    out.push(record.attributes);
    out.extend_from_slice(&delta);
    out.extend_from_slice(record.tail);
}

fn put_varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn assemble(
    mut header: BatchHeader,
    codec: Compression,
    records: &[u8],
) -> Result<Vec<u8>, BatchError> {
    header.attributes = header.attributes & !ATTRIBUTE_COMPRESSION | codec.id();
    if codec == Compression::None {
        return Ok(encode(header, records));
    }
    let body = compression::compress(codec, records)
        .map_err(|e| BatchError::Invalid(format!("compression: {e}")))?;
    Ok(encode(header, &body))
}

/// The bytes of a batch; length and checksum are set here.
fn encode(header: BatchHeader, body: &[u8]) -> Vec<u8> {
    let length = (HEADER_BYTES - LENGTH_PREFIX_BYTES + body.len()) as i32;
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(&header.base_offset.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&header.leader_epoch.to_be_bytes());
    out.push(header.magic as u8);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&header.attributes.to_be_bytes());
    out.extend_from_slice(&header.last_offset_delta.to_be_bytes());
    out.extend_from_slice(&header.base_timestamp.to_be_bytes());
    out.extend_from_slice(&header.max_timestamp.to_be_bytes());
    out.extend_from_slice(&header.producer_id.to_be_bytes());
    out.extend_from_slice(&header.producer_epoch.to_be_bytes());
    out.extend_from_slice(&header.base_sequence.to_be_bytes());
    out.extend_from_slice(&header.record_count.to_be_bytes());
    out.extend_from_slice(body);
    let crc = batch_crc(&out);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    out
}

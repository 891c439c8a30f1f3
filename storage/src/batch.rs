//! Kafka's record batch, version 2: header, checks, and a walk over the records.
//!
//! Layout as in Kafka's `DefaultRecordBatch`. The checksum covers everything from the attributes on;
//! base offset and leader epoch lie before it, so a broker may set them without touching it.

mod builder;
mod control;

pub use builder::{BatchBuilder, TransactionMark};
pub use control::EndTxnMarker;

use crate::compression::{self, Compression};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;

/// Bytes of a batch header, record count included.
pub const HEADER_BYTES: usize = 61;
/// Bytes before the part that `batch_length` counts.
pub const LENGTH_PREFIX_BYTES: usize = 12;
const CRC_START: usize = 21;
/// Smallest possible record: length, attributes, two deltas, two lengths and a header count.
const RECORD_BYTES_MIN: usize = 7;
/// Largest a compressed batch may become when the broker looks inside.
const UNCOMPRESSED_MAX: usize = 256 * 1024 * 1024;

const ATTRIBUTE_COMPRESSION: i16 = 0x07;
const ATTRIBUTE_LOG_APPEND_TIME: i16 = 0x08;
const ATTRIBUTE_TRANSACTIONAL: i16 = 0x10;
const ATTRIBUTE_CONTROL: i16 = 0x20;
const ATTRIBUTE_DELETE_HORIZON: i16 = 0x40;

/// Why bytes are not an acceptable batch; each maps to one Kafka error code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// `CORRUPT_MESSAGE`
    #[error("corrupt record batch: {0}")]
    Corrupt(String),
    /// `INVALID_RECORD`
    #[error("invalid record batch: {0}")]
    Invalid(String),
    /// `MESSAGE_TOO_LARGE`
    #[error("record batch of {bytes} bytes is larger than max.message.bytes = {max}")]
    TooLarge { bytes: usize, max: usize },
    /// `UNSUPPORTED_FOR_MESSAGE_FORMAT`
    #[error("record batch has magic {0}; only magic 2 is accepted")]
    Magic(i8),
    /// `UNSUPPORTED_COMPRESSION_TYPE`
    #[error("record batch has unknown compression {0}")]
    Compression(i16),
}

/// The fixed part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// Bytes after this field.
    pub batch_length: i32,
    pub leader_epoch: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    /// −1 when the producer is not idempotent.
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// −1 when the producer is not idempotent.
    pub base_sequence: i32,
    pub record_count: i32,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl BatchHeader {
    /// Reads the header; checks only that it is there and of magic 2, and that the length is sane.
    ///
    /// # Errors
    /// [`BatchError::Corrupt`] or [`BatchError::Magic`].
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Corrupt(format!(
                "{} bytes are too few for a header",
                bytes.len()
            )));
        }
        let header = BatchHeader {
            base_offset: i64::from_be_bytes(array(bytes, 0)),
            batch_length: i32::from_be_bytes(array(bytes, 8)),
            leader_epoch: i32::from_be_bytes(array(bytes, 12)),
            magic: bytes[16] as i8,
            crc: u32::from_be_bytes(array(bytes, 17)),
            attributes: i16::from_be_bytes(array(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(array(bytes, 23)),
            base_timestamp: i64::from_be_bytes(array(bytes, 27)),
            max_timestamp: i64::from_be_bytes(array(bytes, 35)),
            producer_id: i64::from_be_bytes(array(bytes, 43)),
            producer_epoch: i16::from_be_bytes(array(bytes, 51)),
            base_sequence: i32::from_be_bytes(array(bytes, 53)),
            record_count: i32::from_be_bytes(array(bytes, 57)),
        };
        if header.magic != 2 {
            return Err(BatchError::Magic(header.magic));
        }
        if header.batch_length < (HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32 {
            return Err(BatchError::Corrupt(format!(
                "batch length {} is too small",
                header.batch_length
            )));
        }
        Ok(header)
    }

    /// Bytes of the whole batch.
    pub fn size_in_bytes(&self) -> usize {
        LENGTH_PREFIX_BYTES + self.batch_length as usize
    }

    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Sequence of the last record; sequences wrap after `i32::MAX`.
    pub fn last_sequence(&self) -> i32 {
        sequence_add(self.base_sequence, self.last_offset_delta)
    }

    pub fn is_idempotent(&self) -> bool {
        self.producer_id >= 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & ATTRIBUTE_TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & ATTRIBUTE_CONTROL != 0
    }

    /// When compaction may drop the batch's tombstones, if it has looked at them once (KIP-534). It
    /// then stands where the base timestamp was.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & ATTRIBUTE_DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// Holds neither records nor a producer's sequence: stands for offsets only.
    pub fn is_filler(&self) -> bool {
        self.record_count == 0 && !self.is_idempotent()
    }

    pub fn is_log_append_time(&self) -> bool {
        self.attributes & ATTRIBUTE_LOG_APPEND_TIME != 0
    }

    /// # Errors
    /// [`BatchError::Compression`] for an unknown codec.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let id = self.attributes & ATTRIBUTE_COMPRESSION;
        Compression::from_id(id).ok_or(BatchError::Compression(id))
    }
}

/// Sequence `sequence + delta`, wrapping to 0 after `i32::MAX` as Kafka does.
pub fn sequence_add(sequence: i32, delta: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(delta);
    if sum > i64::from(i32::MAX) {
        (sum - i64::from(i32::MAX) - 1) as i32
    } else {
        sum as i32
    }
}

/// CRC-32C of a batch's checked part. `batch` is at least a header long.
pub fn batch_crc(batch: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &batch[CRC_START..]) as u32
}

/// Full check of what a producer sent for one partition: exactly one batch of magic 2 whose lengths,
/// counts and checksum agree. The records themselves are not parsed.
///
/// # Errors
/// See [`BatchError`].
pub fn validate_produced(
    bytes: &[u8],
    max_message_bytes: usize,
) -> Result<BatchHeader, BatchError> {
    // Old magics have the byte at the same place; say so instead of "corrupt".
    if bytes.len() > 16 && bytes[16] < 2 {
        return Err(BatchError::Magic(bytes[16] as i8));
    }
    let header = BatchHeader::parse(bytes)?;
    let size = header.size_in_bytes();
    if size > bytes.len() {
        return Err(BatchError::Corrupt(format!(
            "the batch says {size} bytes, {} came",
            bytes.len()
        )));
    }
    if size < bytes.len() {
        return Err(BatchError::Invalid(
            "a produce request carries exactly one record batch a partition".to_owned(),
        ));
    }
    if size > max_message_bytes {
        return Err(BatchError::TooLarge {
            bytes: size,
            max: max_message_bytes,
        });
    }
    if batch_crc(bytes) != header.crc {
        return Err(BatchError::Corrupt("CRC-32C does not match".to_owned()));
    }
    let compression = header.compression()?;
    if header.is_control() {
        return Err(BatchError::Invalid(
            "control batches are written by the broker only".to_owned(),
        ));
    }
    check_counts(&header, size, compression)?;
    check_producer(&header)?;
    Ok(header)
}

fn check_counts(
    header: &BatchHeader,
    size: usize,
    compression: Compression,
) -> Result<(), BatchError> {
    let count = header.record_count;
    if count <= 0 || header.last_offset_delta != count - 1 {
        return Err(BatchError::Invalid(format!(
            "{count} records with last offset delta {}",
            header.last_offset_delta
        )));
    }
    let room = (size - HEADER_BYTES) / RECORD_BYTES_MIN;
    if compression == Compression::None && count as usize > room {
        return Err(BatchError::Invalid(format!(
            "{count} records do not fit in {size} bytes"
        )));
    }
    Ok(())
}

fn check_producer(header: &BatchHeader) -> Result<(), BatchError> {
    let idempotent = header.producer_id >= 0;
    if idempotent && (header.producer_epoch < 0 || header.base_sequence < 0) {
        return Err(BatchError::Invalid(format!(
            "producer {} with epoch {} and sequence {}",
            header.producer_id, header.producer_epoch, header.base_sequence
        )));
    }
    if !idempotent && header.is_transactional() {
        return Err(BatchError::Invalid(
            "a transactional batch without a producer id".to_owned(),
        ));
    }
    Ok(())
}

/// Makes `batch` carry the broker's time (`message.timestamp.type=LogAppendTime`). The checksum
/// covers the timestamp, so this happens before the batch is proposed.
pub fn set_log_append_time(batch: &mut [u8], now_ms: i64) {
    let attributes = i16::from_be_bytes(array(batch, 21)) | ATTRIBUTE_LOG_APPEND_TIME;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[35..43].copy_from_slice(&now_ms.to_be_bytes());
    let crc = batch_crc(batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// One record of a batch, as far as the broker looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// What follows: the number of headers, then each.
    rest: &'a [u8],
}

/// A record's header: its key and value.
pub type RecordHeader<'a> = (&'a [u8], Option<&'a [u8]>);

impl<'a> RecordView<'a> {
    /// The headers in their order; the broker itself never looks at them.
    ///
    /// # Errors
    /// [`BatchError::Invalid`] when they cannot be parsed.
    pub fn headers(&self) -> Result<Vec<RecordHeader<'a>>, BatchError> {
        let mut rest = Varints(self.rest);
        let mut parse = || {
            let count = usize::try_from(rest.varint()?).ok()?;
            // Each takes two bytes at least.
            let mut headers = Vec::with_capacity(count.min(rest.0.len() / 2));
            for _ in 0..count {
                headers.push((rest.nullable()??, rest.nullable()?));
            }
            rest.0.is_empty().then_some(headers)
        };
        parse().ok_or_else(|| BatchError::Invalid("a record's headers are malformed".to_owned()))
    }
}

/// Walks the records of one whole batch, decompressing when needed, until `visit` returns false.
///
/// # Errors
/// [`BatchError::Invalid`] when the records cannot be parsed.
pub fn for_each_record(
    batch: &[u8],
    mut visit: impl FnMut(RecordView<'_>) -> bool,
) -> Result<(), BatchError> {
    let header = BatchHeader::parse(batch)?;
    let body = batch
        .get(HEADER_BYTES..header.size_in_bytes())
        .ok_or_else(|| BatchError::Corrupt("the batch is cut".to_owned()))?;
    let records = match header.compression()? {
        Compression::None => Bytes::copy_from_slice(body),
        codec => compression::decompress(codec, body, UNCOMPRESSED_MAX)
            .map_err(|e| BatchError::Invalid(format!("decompression: {e}")))?,
    };
    let mut reader = Varints(&records);
    for _ in 0..header.record_count {
        let malformed = || BatchError::Invalid("a record is malformed".to_owned());
        let length =
            usize::try_from(reader.varint().ok_or_else(malformed)?).map_err(|_| malformed())?;
        let mut record = Varints(reader.take(length).ok_or_else(malformed)?);
        let view = record.view(&header).ok_or_else(malformed)?;
        if !visit(view) {
            return Ok(());
        }
    }
    Ok(())
}

struct Varints<'a>(&'a [u8]);

impl<'a> Varints<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A zig-zag variable-length integer.
    fn varint(&mut self) -> Option<i64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        None
    }

    fn nullable(&mut self) -> Option<Option<&'a [u8]>> {
        let length = self.varint()?;
        if length < 0 {
            return Some(None);
        }
        Some(Some(self.take(usize::try_from(length).ok()?)?))
    }

    fn view(&mut self, header: &BatchHeader) -> Option<RecordView<'a>> {
        self.take(1)?;
        let timestamp_delta = self.varint()?;
        let offset_delta = self.varint()?;
        let timestamp = if header.is_log_append_time() {
            header.max_timestamp
        } else {
            header.base_timestamp.wrapping_add(timestamp_delta)
        };
        Some(RecordView {
            offset: header.base_offset.wrapping_add(offset_delta),
            timestamp,
            key: self.nullable()?,
            value: self.nullable()?,
            rest: self.0,
        })
    }
}

pub mod rebuild;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

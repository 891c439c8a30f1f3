//! Record batches for tests, made from the description of the format alone.

use super::{HEADER_BYTES, LENGTH_PREFIX_BYTES, batch_crc};
use crate::compression::Compression;
use bytes::Bytes;
use std::io::Write;

/// Timestamp, key and value.
pub type SampleRecord = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

/// A batch to be made; the defaults are one producer-less, uncompressed record.
#[derive(Debug, Clone)]
pub struct Sample {
    pub records: Vec<SampleRecord>,
    pub codec: Compression,
    /// Id, epoch and base sequence.
    pub producer: Option<(i64, i16, i32)>,
    /// Further attribute bits.
    pub attributes: i16,
}

impl Default for Sample {
    fn default() -> Self {
        Sample::of(1, 10, 1_000)
    }
}

impl Sample {
    /// `count` records of `bytes` each, with the timestamps `timestamp`, `timestamp + 1`, ...
    pub fn of(count: usize, bytes: usize, timestamp: i64) -> Sample {
        let record = |i: usize| {
            let key = i.is_multiple_of(2).then(|| i.to_be_bytes().to_vec());
            (timestamp + i as i64, key, Some(vec![i as u8; bytes]))
        };
        Sample {
            records: (0..count).map(record).collect(),
            codec: Compression::None,
            producer: None,
            attributes: 0,
        }
    }

    pub fn by_producer(mut self, id: i64, epoch: i16, sequence: i32) -> Sample {
        self.producer = Some((id, epoch, sequence));
        self
    }

    pub fn compressed(mut self, codec: Compression) -> Sample {
        self.codec = codec;
        self
    }

    fn record_bytes(&self) -> Vec<u8> {
        let base = self.records.first().map_or(0, |r| r.0);
        let mut out = Vec::new();
        for (i, (timestamp, key, value)) in self.records.iter().enumerate() {
            let mut record = vec![0];
            put_varint(timestamp - base, &mut record);
            put_varint(i as i64, &mut record);
            for part in [key, value] {
                put_varint(part.as_ref().map_or(-1, |p| p.len() as i64), &mut record);
                record.extend_from_slice(part.as_deref().unwrap_or_default());
            }
            put_varint(0, &mut record);
            put_varint(record.len() as i64, &mut out);
            out.extend_from_slice(&record);
        }
        out
    }

    /// The batch as a producer sends it: base offset 0, no leader epoch.
    pub fn build(&self) -> Bytes {
        self.build_with_body(&compress(self.codec, &self.record_bytes()))
    }

    /// The batch with `body` instead of its own records.
    pub fn build_with_body(&self, body: &[u8]) -> Bytes {
        let codec: i16 = match self.codec {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        };
        let (id, epoch, sequence) = self.producer.unwrap_or((-1, -1, -1));
        let count = self.records.len() as i32;
        let timestamps = self.records.iter().map(|r| r.0);
        let length = (HEADER_BYTES - LENGTH_PREFIX_BYTES + body.len()) as i32;
        let mut batch = Vec::new();
        batch.extend_from_slice(&0_i64.to_be_bytes());
        batch.extend_from_slice(&length.to_be_bytes());
        batch.extend_from_slice(&(-1_i32).to_be_bytes());
        batch.push(2);
        batch.extend_from_slice(&[0; 4]);
        batch.extend_from_slice(&(codec | self.attributes).to_be_bytes());
        batch.extend_from_slice(&(count - 1).to_be_bytes());
        batch.extend_from_slice(&timestamps.clone().next().unwrap_or(0).to_be_bytes());
        batch.extend_from_slice(&timestamps.max().unwrap_or(0).to_be_bytes());
        batch.extend_from_slice(&id.to_be_bytes());
        batch.extend_from_slice(&epoch.to_be_bytes());
        batch.extend_from_slice(&sequence.to_be_bytes());
        batch.extend_from_slice(&count.to_be_bytes());
        batch.extend_from_slice(body);
        with_crc(batch)
    }
}

/// Sets the checksum over what the batch holds now.
pub fn with_crc(mut batch: Vec<u8>) -> Bytes {
    let crc = batch_crc(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

fn put_varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

pub fn compress(codec: Compression, bytes: &[u8]) -> Vec<u8> {
    match codec {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).expect("into memory");
            encoder.finish().expect("into memory")
        }
        Compression::Snappy => snap::raw::Encoder::new()
            .compress_vec(bytes)
            .expect("into memory"),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(bytes).expect("into memory");
            encoder.finish().expect("into memory")
        }
        Compression::Zstd => zstd::encode_all(bytes, 3).expect("into memory"),
    }
}

/// Snappy as the Java client writes it: a header, then blocks with their lengths.
pub fn compress_xerial(bytes: &[u8], block_bytes: usize) -> Vec<u8> {
    let mut out = vec![0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
    out.extend_from_slice(&1_u32.to_be_bytes());
    out.extend_from_slice(&1_u32.to_be_bytes());
    for block in bytes.chunks(block_bytes) {
        let block = compress(Compression::Snappy, block);
        out.extend_from_slice(&(block.len() as u32).to_be_bytes());
        out.extend_from_slice(&block);
    }
    out
}

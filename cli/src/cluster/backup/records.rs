//! The file of a partition: records in order, each a protobuf message behind its length (varint).

use super::manifest::PartitionEntry;
use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes};
use prost::Message;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tidelog_client::{ConsumerRecord, Header, Record};

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(int64, tag = "2")]
    timestamp_ms: i64,
    #[prost(bytes = "bytes", optional, tag = "3")]
    key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    value: Option<Bytes>,
    #[prost(message, repeated, tag = "5")]
    headers: Vec<StoredHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredHeader {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    value: Option<Bytes>,
}

/// Writes a partition's file.
pub struct RecordsWriter {
    path: PathBuf,
    file: String,
    out: BufWriter<File>,
    hasher: crc32fast::Hasher,
    bytes: u64,
    records: u64,
    buffer: Vec<u8>,
}

impl RecordsWriter {
    /// `file` is relative to `folder`.
    pub fn create(folder: &Path, file: String) -> Result<RecordsWriter> {
        let path = folder.join(&file);
        let out = File::create_new(&path).with_context(|| path.display().to_string())?;
        Ok(RecordsWriter {
            path,
            file,
            out: BufWriter::with_capacity(256 << 10, out),
            hasher: crc32fast::Hasher::new(),
            bytes: 0,
            records: 0,
            buffer: Vec::new(),
        })
    }

    pub fn write(&mut self, record: &ConsumerRecord) -> Result<()> {
        let headers = record.headers.iter().map(|header| StoredHeader {
            key: header.key.clone(),
            value: header.value.clone(),
        });
        let stored = Stored {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: headers.collect(),
        };
        self.buffer.clear();
        stored.encode_length_delimited(&mut self.buffer)?;
        self.hasher.update(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        self.records += 1;
        let written = self.out.write_all(&self.buffer);
        written.with_context(|| self.path.display().to_string())
    }

    /// Makes the file durable; the records have offsets in `[start, end)`.
    pub fn finish(self, start: i64, end: i64) -> Result<PartitionEntry> {
        let shown = self.path.display().to_string();
        let out = self.out.into_inner().map_err(|e| e.into_error());
        let synced = out.and_then(|file| file.sync_all());
        synced.with_context(|| shown)?;
        Ok(PartitionEntry {
            start,
            end,
            records: self.records,
            file: self.file,
            bytes: self.bytes,
            crc32: self.hasher.finalize(),
        })
    }
}

/// Reads a partition's file, whose checksum has been verified.
pub struct RecordsReader {
    path: PathBuf,
    input: BufReader<File>,
    left: u64,
}

impl RecordsReader {
    pub fn open(folder: &Path, entry: &PartitionEntry) -> Result<RecordsReader> {
        let path = entry.path(folder)?;
        let input = File::open(&path).with_context(|| path.display().to_string())?;
        Ok(RecordsReader {
            path,
            input: BufReader::with_capacity(256 << 10, input),
            left: entry.bytes,
        })
    }

    /// The next record and the offset it had.
    pub fn next(&mut self) -> Result<Option<(i64, Record)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let stored = self.read();
        let stored = stored.with_context(|| format!("{} is damaged", self.path.display()))?;
        let headers = stored.headers.into_iter().map(|header| Header {
            key: header.key,
            value: header.value,
        });
        let mut record = Record::new("", Bytes::new()).with_timestamp_ms(stored.timestamp_ms);
        record.key = stored.key;
        record.value = stored.value;
        record.headers = headers.collect();
        Ok(Some((stored.offset, record)))
    }

    fn read(&mut self) -> Result<Stored> {
        let mut prefix = Vec::with_capacity(10);
        loop {
            let mut byte = [0];
            self.input.read_exact(&mut byte)?;
            prefix.push(byte[0]);
            if byte[0] < 0x80 || prefix.len() == 10 {
                break;
            }
        }
        let prefixed = prefix.len() as u64;
        let size = prost::decode_length_delimiter(&prefix[..])? as u64;
        ensure!(size + prefixed <= self.left, "a record of {size} bytes");
        let mut body = vec![0; size as usize];
        self.input.read_exact(&mut body)?;
        self.left -= size + prefixed;
        let mut body = Bytes::from(body);
        let stored = Stored::decode(&mut body)?;
        ensure!(!body.has_remaining(), "bytes behind a record");
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let record = |offset, key: Option<&'static str>, value: Option<&'static str>| {
            let header = |value: Option<&'static str>| Header {
                key: "h".to_owned(),
                value: value.map(Bytes::from),
            };
            ConsumerRecord {
                topic: "t".into(),
                partition: 0,
                offset,
                timestamp_ms: 1_000 + offset,
                key: key.map(Bytes::from),
                value: value.map(Bytes::from),
                headers: vec![header(Some("")), header(None)],
            }
        };
        let written = [
            record(3, Some("k"), Some("v")),
            record(5, None, Some("")),
            record(9, Some(""), None),
        ];
        let mut writer = RecordsWriter::create(folder.path(), "0.records".to_owned()).unwrap();
        for record in &written {
            writer.write(record).unwrap();
        }
        let entry = writer.finish(2, 11).unwrap();
        assert_eq!((entry.records, entry.start, entry.end), (3, 2, 11));
        let bytes = std::fs::read(folder.path().join("0.records")).unwrap();
        assert_eq!(
            (entry.bytes, entry.crc32),
            (bytes.len() as u64, crc32fast::hash(&bytes))
        );
        let mut reader = RecordsReader::open(folder.path(), &entry).unwrap();
        for expected in &written {
            let (offset, record) = reader.next().unwrap().unwrap();
            assert_eq!(offset, expected.offset);
            assert_eq!(record.timestamp_ms, Some(expected.timestamp_ms));
            assert_eq!(record.key, expected.key);
            assert_eq!(record.value, expected.value);
            assert_eq!(record.headers, expected.headers);
        }
        assert!(reader.next().unwrap().is_none());
    }
}

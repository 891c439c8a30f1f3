//! Bytes of the journal: file header, batch header, records.
//!
//! A file is a 4 KiB header block and then batches, each beginning on a 4 KiB boundary. One batch is
//! one sync. Each batch carries its file's key, a random number drawn whenever a file is begun, so the
//! bytes a recycled file still holds are never taken for its own, whatever clients made them look
//! like. Batch numbers go on over all files, so a batch that is gone leaves a gap.

use super::{EntryRecord, Record};
use crate::ids::GroupId;
use bytes::Bytes;

pub const BLOCK: usize = 4096;
pub const BATCH_HEADER: usize = 40;
/// Bytes of the first block that are in use.
pub const FILE_HEADER: usize = 28;
const FILE_MAGIC: [u8; 8] = *b"TIDEJRN1";
/// Bytes of the magic that every version has.
const FAMILY: usize = 7;
const BATCH_MAGIC: u32 = 0x5444_4C42;
/// Larger lengths are damage: no record batch can be this long.
const PAYLOAD_MAX: u64 = 1 << 31;

const TAG_ENTRY: u8 = 1;
const TAG_VOTE: u8 = 2;
const TAG_TRUNCATE: u8 = 3;
const TAG_CHECKPOINT: u8 = 4;
const TAG_REMOVE: u8 = 5;
const TAG_COMMITTED: u8 = 6;

/// Rounds up to whole blocks.
pub fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK) * BLOCK
}

/// Header of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHead {
    pub sequence: u64,
    /// Random; every batch of the file repeats it.
    pub key: u64,
}

impl FileHead {
    /// The file's first block.
    pub fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(&FILE_MAGIC);
        block[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        block[16..24].copy_from_slice(&self.key.to_le_bytes());
        let crc = crc32fast::hash(&block[..24]);
        block[24..FILE_HEADER].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// The version of a whole header that is of another one than this build writes.
    pub fn other_version(block: &[u8]) -> Option<char> {
        let block = block.get(..FILE_HEADER)?;
        let crc = u32::from_le_bytes(block[24..].try_into().ok()?);
        let other = block[..FAMILY] == FILE_MAGIC[..FAMILY] && block[..8] != FILE_MAGIC;
        (other && crc == crc32fast::hash(&block[..24])).then_some(char::from(block[FAMILY]))
    }

    pub fn parse(block: &[u8]) -> Option<FileHead> {
        let block = block.get(..FILE_HEADER)?;
        let crc = u32::from_le_bytes(block[24..].try_into().ok()?);
        if block[..8] != FILE_MAGIC || crc != crc32fast::hash(&block[..24]) {
            return None;
        }
        Some(FileHead {
            sequence: u64::from_le_bytes(block[8..16].try_into().ok()?),
            key: u64::from_le_bytes(block[16..24].try_into().ok()?),
        })
    }
}

/// Header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHead {
    /// Key of the file.
    pub key: u64,
    pub batch: u64,
    pub payload_bytes: u64,
    pub records: u32,
    /// CRC-32 of the payload.
    pub crc: u32,
}

impl BatchHead {
    pub fn write(&self, out: &mut [u8]) {
        out[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        out[4..12].copy_from_slice(&self.key.to_le_bytes());
        out[12..20].copy_from_slice(&self.batch.to_le_bytes());
        out[20..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[28..32].copy_from_slice(&self.records.to_le_bytes());
        out[32..36].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..36]);
        out[36..40].copy_from_slice(&crc.to_le_bytes());
    }

    pub fn parse(bytes: &[u8]) -> Option<BatchHead> {
        let bytes = bytes.get(..BATCH_HEADER)?;
        let u32_at = |i: usize| bytes[i..i + 4].try_into().map(u32::from_le_bytes).ok();
        let u64_at = |i: usize| bytes[i..i + 8].try_into().map(u64::from_le_bytes).ok();
        if u32_at(0)? != BATCH_MAGIC || u32_at(36)? != crc32fast::hash(&bytes[..36]) {
            return None;
        }
        let head = BatchHead {
            key: u64_at(4)?,
            batch: u64_at(12)?,
            payload_bytes: u64_at(20)?,
            records: u32_at(28)?,
            crc: u32_at(32)?,
        };
        (head.payload_bytes <= PAYLOAD_MAX).then_some(head)
    }
}

impl BatchHead {
    /// Whether `bytes` were written as the head of a batch of the file with `key`, newer than `last`,
    /// even if some bits have changed since: with the checksum broken, the magic and the key, 96 bits,
    /// still agree but for one damaged byte.
    pub fn was_meant(bytes: &[u8], key: u64, last: u64) -> bool {
        if let Some(head) = BatchHead::parse(bytes) {
            return head.key == key && head.batch > last;
        }
        let mut expected = [0; 12];
        expected[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        expected[4..].copy_from_slice(&key.to_le_bytes());
        let different = bytes
            .iter()
            .zip(expected)
            .filter(|(a, b)| **a != *b)
            .count();
        bytes.len() >= BATCH_HEADER && different <= 1
    }
}

/// Bytes a record takes.
pub fn record_bytes(record: &Record) -> usize {
    9 + match record {
        Record::Entry { entry, .. } => 21 + entry.body.len(),
        Record::Vote { vote, .. } => 4 + vote.len(),
        Record::Truncate { .. } => 9,
        Record::Checkpoint { vote, state, .. } => {
            5 + vote.as_ref().map_or(0, Bytes::len) + 17 + 4 + state.len()
        }
        Record::Committed { .. } => 16,
        Record::Remove { .. } => 0,
    }
}

/// Appends a record's bytes.
pub fn write_record(record: &Record, out: &mut Vec<u8>) {
    let head = |tag: u8, group: &GroupId, out: &mut Vec<u8>| {
        out.push(tag);
        out.extend_from_slice(&group.0.to_le_bytes());
    };
    match record {
        Record::Entry { group, entry } => {
            head(TAG_ENTRY, group, out);
            out.extend_from_slice(&entry.index.to_le_bytes());
            out.extend_from_slice(&entry.term.to_le_bytes());
            out.push(entry.kind);
            put_bytes(&entry.body, out);
        }
        Record::Vote { group, vote } => {
            head(TAG_VOTE, group, out);
            put_bytes(vote, out);
        }
        Record::Truncate { group, after } => {
            head(TAG_TRUNCATE, group, out);
            out.push(u8::from(after.is_some()));
            out.extend_from_slice(&after.unwrap_or(0).to_le_bytes());
        }
        Record::Checkpoint {
            group,
            vote,
            applied,
            state,
        } => {
            head(TAG_CHECKPOINT, group, out);
            out.push(u8::from(vote.is_some()));
            put_bytes(vote.as_deref().unwrap_or_default(), out);
            out.push(u8::from(applied.is_some()));
            let (index, term) = applied.unwrap_or((0, 0));
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&term.to_le_bytes());
            put_bytes(state, out);
        }
        Record::Committed { group, index, term } => {
            head(TAG_COMMITTED, group, out);
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&term.to_le_bytes());
        }
        Record::Remove { group } => head(TAG_REMOVE, group, out),
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Why a record of a valid batch cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    Malformed,
    /// The kind of a record that this build does not know. The checksum is right: a newer build wrote it.
    Unknown(u8),
}

/// Reads records one after another.
pub struct RecordReader<'a> {
    bytes: &'a [u8],
}

impl<'a> RecordReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        RecordReader { bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn owned(&mut self) -> Option<Bytes> {
        let len = u32::from_le_bytes(self.take(4)?.try_into().ok()?) as usize;
        Some(Bytes::copy_from_slice(self.take(len)?))
    }

    pub fn next_record(&mut self) -> Result<Record, Unreadable> {
        match self.bytes.first() {
            Some(&tag) if !(TAG_ENTRY..=TAG_COMMITTED).contains(&tag) => {
                Err(Unreadable::Unknown(tag))
            }
            _ => self.known_record().ok_or(Unreadable::Malformed),
        }
    }

    fn known_record(&mut self) -> Option<Record> {
        let tag = self.u8()?;
        let group = GroupId(self.u64()?);
        Some(match tag {
            TAG_ENTRY => Record::Entry {
                group,
                entry: EntryRecord {
                    index: self.u64()?,
                    term: self.u64()?,
                    kind: self.u8()?,
                    body: self.owned()?,
                },
            },
            TAG_VOTE => Record::Vote {
                group,
                vote: self.owned()?,
            },
            TAG_TRUNCATE => {
                let some = self.u8()? == 1;
                let after = self.u64()?;
                Record::Truncate {
                    group,
                    after: some.then_some(after),
                }
            }
            TAG_CHECKPOINT => {
                let has_vote = self.u8()? == 1;
                let vote = self.owned()?;
                let has_applied = self.u8()? == 1;
                let applied = (self.u64()?, self.u64()?);
                Record::Checkpoint {
                    group,
                    vote: has_vote.then_some(vote),
                    applied: has_applied.then_some(applied),
                    state: self.owned()?,
                }
            }
            TAG_COMMITTED => Record::Committed {
                group,
                index: self.u64()?,
                term: self.u64()?,
            },
            TAG_REMOVE => Record::Remove { group },
            _ => return None,
        })
    }
}

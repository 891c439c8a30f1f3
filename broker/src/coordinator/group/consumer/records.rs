//! The records of a consumer group in `__consumer_offsets`, in Kafka's formats
//! (`group-coordinator/src/main/resources/common/message/ConsumerGroup*.json`).
//!
//! A key begins with the record's type, a value with its version, 0. Keys are written in the fixed form,
//! values in the flexible one. Tags this build does not know are skipped.

mod assignment;
mod member_metadata;
#[cfg(test)]
mod tests;

use super::member::{CurrentAssignment, MemberMetadata};
use super::partitions::Partitions;
use crate::coordinator::{Malformed, NewRecord, Reader, Writer};
use std::collections::BTreeSet;

const METADATA: i16 = 3;
/// Written by Kafka before 4.1; the hash in METADATA has taken its place.
const PARTITION_METADATA: i16 = 4;
const MEMBER: i16 = 5;
const TARGET: i16 = 6;
const TARGET_MEMBER: i16 = 7;
const CURRENT: i16 = 8;
const REGEX: i16 = 16;

/// The only version of all values.
const VALUE_VERSION: i16 = 0;

/// Value of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupMetadata {
    pub epoch: i32,
    /// Changes with the topics the group is subscribed to; 0 without any.
    pub metadata_hash: i64,
}

/// A pattern and the topics it names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedRegex {
    pub topics: BTreeSet<String>,
    /// Of the metadata it was resolved with.
    pub version: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// What a record says of its group; `None` is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Group(Option<GroupMetadata>),
    /// Of Kafka before 4.1: passed over.
    PartitionMetadata,
    Member(String, Option<MemberMetadata>),
    /// Epoch of the target assignment.
    Target(Option<i32>),
    TargetMember(String, Option<Partitions>),
    Current(String, Option<CurrentAssignment>),
    Regex(String, Option<ResolvedRegex>),
}

/// A change of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord {
    pub group: String,
    pub change: Change,
}

impl Change {
    pub fn is_tombstone(&self) -> bool {
        match self {
            Change::Group(v) => v.is_none(),
            Change::PartitionMetadata => true,
            Change::Member(_, v) => v.is_none(),
            Change::Target(v) => v.is_none(),
            Change::TargetMember(_, v) => v.is_none(),
            Change::Current(_, v) => v.is_none(),
            Change::Regex(_, v) => v.is_none(),
        }
    }

    /// As it is written for `group`.
    pub fn encode(&self, group: &str) -> NewRecord {
        let (kind, second) = match self {
            Change::Group(_) => (METADATA, None),
            Change::PartitionMetadata => (PARTITION_METADATA, None),
            Change::Member(id, _) => (MEMBER, Some(id)),
            Change::Target(_) => (TARGET, None),
            Change::TargetMember(id, _) => (TARGET_MEMBER, Some(id)),
            Change::Current(id, _) => (CURRENT, Some(id)),
            Change::Regex(regex, _) => (REGEX, Some(regex)),
        };
        let mut key = Writer::versioned(kind);
        key.string(false, group);
        if let Some(second) = second {
            key.string(false, second);
        }
        let value = (!self.is_tombstone()).then(|| {
            let mut value = Writer::versioned(VALUE_VERSION);
            self.encode_value(&mut value);
            value.finish()
        });
        NewRecord {
            key: key.finish(),
            value,
        }
    }

    fn encode_value(&self, w: &mut Writer) {
        match self {
            Change::Group(Some(v)) => {
                w.i32(v.epoch);
                if v.metadata_hash == 0 {
                    w.no_tags();
                } else {
                    // One tag, number 0, eight bytes.
                    w.unsigned_varint(1).unsigned_varint(0).unsigned_varint(8);
                    w.i64(v.metadata_hash);
                }
            }
            Change::Member(_, Some(v)) => member_metadata::encode(w, v),
            Change::Target(Some(epoch)) => {
                w.i32(*epoch).no_tags();
            }
            Change::TargetMember(_, Some(v)) => assignment::encode_target(w, v),
            Change::Current(_, Some(v)) => assignment::encode_current(w, v),
            Change::Regex(_, Some(v)) => {
                w.array_of(true, &v.topics, |w, topic| {
                    w.string(true, topic);
                });
                w.i64(v.version).i64(v.timestamp_ms).no_tags();
            }
            // Tombstones have no value.
            _ => {}
        }
    }
}

/// Reads a record; `Ok(None)` when its key is of another kind.
///
/// # Errors
/// When it is of a consumer group and cannot be read.
pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<GroupRecord>, Malformed> {
    let mut reader = Reader::new(key);
    let kind = reader.i16()?;
    if !matches!(kind, METADATA..=CURRENT | REGEX) {
        return Ok(None);
    }
    let group = reader.string(false)?;
    let second = match kind {
        MEMBER | TARGET_MEMBER | CURRENT | REGEX => reader.string(false)?,
        _ => String::new(),
    };
    let mut value = match value {
        Some(bytes) => {
            let mut reader = Reader::new(bytes);
            if reader.i16()? != VALUE_VERSION {
                return Err(Malformed("a value of an unknown version"));
            }
            Some(reader)
        }
        None => None,
    };
    let value = value.as_mut();
    let change = match kind {
        METADATA => Change::Group(value.map(group_metadata).transpose()?),
        PARTITION_METADATA => Change::PartitionMetadata,
        MEMBER => Change::Member(second, value.map(member_metadata::decode).transpose()?),
        TARGET => Change::Target(value.map(Reader::i32).transpose()?),
        TARGET_MEMBER => {
            Change::TargetMember(second, value.map(assignment::decode_target).transpose()?)
        }
        CURRENT => Change::Current(second, value.map(assignment::decode_current).transpose()?),
        _ => Change::Regex(second, value.map(regex).transpose()?),
    };
    Ok(Some(GroupRecord { group, change }))
}

fn group_metadata(r: &mut Reader<'_>) -> Result<GroupMetadata, Malformed> {
    let epoch = r.i32()?;
    let mut metadata_hash = 0;
    r.tagged(|tag, r| {
        if tag == 0 {
            metadata_hash = r.i64()?;
        }
        Ok(())
    })?;
    Ok(GroupMetadata {
        epoch,
        metadata_hash,
    })
}

fn regex(r: &mut Reader<'_>) -> Result<ResolvedRegex, Malformed> {
    Ok(ResolvedRegex {
        topics: r.array_of(true, |r| r.string(true))?.into_iter().collect(),
        version: r.i64()?,
        timestamp_ms: r.i64()?,
    })
}

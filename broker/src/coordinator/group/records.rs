//! Records of `__consumer_offsets`, in Kafka's formats (`OffsetCommitKey`, `OffsetCommitValue`,
//! `GroupMetadataKey`, `GroupMetadataValue` of Kafka's group coordinator).
//!
//! A key begins with its version, which tells its kind: 0 and 1 an offset commit, 2 a classic group.
//! Versions from 3 on belong to KIP-848. Values are written in version 3 (1 for a commit with an expiry
//! time of its own) and read in all versions, the flexible version 4 with its tagged fields included.

use super::super::{Malformed, NewRecord, Reader, Writer};
use super::offsets::Committed;
use bytes::Bytes;

const KEY_OFFSET_COMMIT: i16 = 1;
const KEY_GROUP: i16 = 2;
/// Newest value versions that can be read.
const VALUE_MAX: i16 = 4;
const FLEXIBLE: i16 = 4;

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    OffsetCommit {
        group: String,
        topic: String,
        partition: i32,
    },
    Group {
        group: String,
    },
    /// A kind that this module does not know; its version.
    Other(i16),
}

/// Reads a key.
///
/// # Errors
/// When it is cut or not UTF-8.
pub fn read_key(bytes: &[u8]) -> Result<Key, Malformed> {
    let mut reader = Reader::new(bytes);
    match reader.i16()? {
        0 | KEY_OFFSET_COMMIT => Ok(Key::OffsetCommit {
            group: reader.string(false)?,
            topic: reader.string(false)?,
            partition: reader.i32()?,
        }),
        KEY_GROUP => Ok(Key::Group {
            group: reader.string(false)?,
        }),
        other => Ok(Key::Other(other)),
    }
}

fn offset_commit_key(group: &str, topic: &str, partition: i32) -> Bytes {
    let mut key = Writer::versioned(KEY_OFFSET_COMMIT);
    key.string(false, group).string(false, topic).i32(partition);
    key.finish()
}

/// A committed offset.
pub fn offset_commit(group: &str, topic: &str, partition: i32, value: &Committed) -> NewRecord {
    NewRecord {
        key: offset_commit_key(group, topic, partition),
        value: Some(write_committed(value)),
    }
}

/// Forgets a committed offset.
pub fn offset_tombstone(group: &str, topic: &str, partition: i32) -> NewRecord {
    NewRecord {
        key: offset_commit_key(group, topic, partition),
        value: None,
    }
}

fn write_committed(value: &Committed) -> Bytes {
    // Only version 1 has an expiry time, only 3 and later a leader epoch.
    let version = if value.expire_ms.is_some() { 1 } else { 3 };
    let mut writer = Writer::versioned(version);
    writer.i64(value.offset);
    if version >= 3 {
        writer.i32(value.leader_epoch.unwrap_or(-1));
    }
    writer.string(false, &value.metadata).i64(value.commit_ms);
    if let Some(expire_ms) = value.expire_ms {
        writer.i64(expire_ms);
    }
    writer.finish()
}

/// Reads the value of an offset commit.
///
/// # Errors
/// When it is cut, or of a version that is not known.
pub fn read_committed(bytes: &[u8]) -> Result<Committed, Malformed> {
    let mut reader = Reader::new(bytes);
    let version = value_version(&mut reader)?;
    let flexible = version >= FLEXIBLE;
    let offset = reader.i64()?;
    let epoch = if version >= 3 { reader.i32()? } else { -1 };
    let metadata = reader.string(flexible)?;
    let commit_ms = reader.i64()?;
    let expire_ms = if version == 1 { reader.i64()? } else { -1 };
    Ok(Committed {
        offset,
        leader_epoch: (epoch >= 0).then_some(epoch),
        metadata: metadata.into(),
        commit_ms,
        expire_ms: (expire_ms >= 0).then_some(expire_ms),
        order: 0,
    })
}

fn value_version(reader: &mut Reader<'_>) -> Result<i16, Malformed> {
    let version = reader.i16()?;
    if (0..=VALUE_MAX).contains(&version) {
        Ok(version)
    } else {
        Err(Malformed("a value of an unknown version"))
    }
}

/// A classic group as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredGroup {
    pub protocol_type: String,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    /// When the group came into its state; `None` in values of old versions.
    pub state_ms: Option<i64>,
    pub members: Vec<StoredMember>,
}

/// A member of a [`StoredGroup`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredMember {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// What it subscribes to, as it said itself.
    pub subscription: Bytes,
    pub assignment: Bytes,
}

fn group_key(group: &str) -> Bytes {
    let mut key = Writer::versioned(KEY_GROUP);
    key.string(false, group);
    key.finish()
}

/// A classic group's generation.
pub fn group(group: &str, value: &StoredGroup) -> NewRecord {
    let mut writer = Writer::versioned(3);
    writer
        .string(false, &value.protocol_type)
        .i32(value.generation)
        .nullable_string(false, value.protocol.as_deref())
        .nullable_string(false, value.leader.as_deref())
        .i64(value.state_ms.unwrap_or(-1))
        .array_of(false, &value.members, |writer, member| {
            writer
                .string(false, &member.member_id)
                .nullable_string(false, member.instance_id.as_deref())
                .string(false, &member.client_id)
                .string(false, &member.client_host)
                .i32(member.rebalance_timeout_ms)
                .i32(member.session_timeout_ms)
                .bytes(false, &member.subscription)
                .bytes(false, &member.assignment);
        });
    NewRecord {
        key: group_key(group),
        value: Some(writer.finish()),
    }
}

/// Forgets a classic group.
pub fn group_tombstone(group: &str) -> NewRecord {
    NewRecord {
        key: group_key(group),
        value: None,
    }
}

/// Reads the value of a classic group.
///
/// # Errors
/// As for [`read_committed`].
pub fn read_group(bytes: &[u8]) -> Result<StoredGroup, Malformed> {
    let mut reader = Reader::new(bytes);
    let version = value_version(&mut reader)?;
    let flexible = version >= FLEXIBLE;
    let protocol_type = reader.string(flexible)?;
    let generation = reader.i32()?;
    let protocol = reader.nullable_string(flexible)?;
    let leader = reader.nullable_string(flexible)?;
    let state_ms = if version >= 2 { reader.i64()? } else { -1 };
    let members = reader.array_of(flexible, |reader| read_member(reader, version))?;
    Ok(StoredGroup {
        protocol_type,
        generation,
        protocol,
        leader,
        state_ms: (state_ms >= 0).then_some(state_ms),
        members,
    })
}

fn read_member(reader: &mut Reader<'_>, version: i16) -> Result<StoredMember, Malformed> {
    let flexible = version >= FLEXIBLE;
    let member_id = reader.string(flexible)?;
    let instance_id = if version >= 3 {
        reader.nullable_string(flexible)?
    } else {
        None
    };
    let client_id = reader.string(flexible)?;
    let client_host = reader.string(flexible)?;
    let rebalance_timeout_ms = if version >= 1 { reader.i32()? } else { -1 };
    let session_timeout_ms = reader.i32()?;
    let subscription = reader.bytes(flexible)?;
    let assignment = reader.bytes(flexible)?;
    if flexible {
        reader.skip_tagged()?;
    }
    Ok(StoredMember {
        member_id,
        instance_id,
        client_id,
        client_host,
        // As in Kafka, values without one are from times when it was the session timeout.
        rebalance_timeout_ms: if rebalance_timeout_ms < 0 {
            session_timeout_ms
        } else {
            rebalance_timeout_ms
        },
        session_timeout_ms,
        subscription,
        assignment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blob() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn member() -> impl Strategy<Value = StoredMember> {
        (
            ".{0,9}",
            prop::option::of("[a-z]{0,9}"),
            ".{0,9}",
            0_i32..9_000,
            blob(),
            blob(),
        )
            .prop_map(
                |(id, instance_id, client, timeout, subscription, assignment)| StoredMember {
                    member_id: id,
                    instance_id,
                    client_id: client.clone(),
                    client_host: client,
                    rebalance_timeout_ms: timeout * 2,
                    session_timeout_ms: timeout,
                    subscription,
                    assignment,
                },
            )
    }

    proptest! {
        #[test]
        fn commits_come_back(
            group in ".{0,12}", topic in "[a-z]{1,9}", partition in 0_i32..99, offset in 0_i64..1 << 50,
            epoch in prop::option::of(0_i32..99), metadata in ".{0,20}", commit_ms in 0_i64..1 << 42,
            expire in prop::option::of(0_i64..1 << 42),
        ) {
            let value = Committed {
                offset,
                // The version with an expiry time has no place for the epoch.
                leader_epoch: epoch.filter(|_| expire.is_none()),
                metadata: metadata.into(),
                commit_ms,
                expire_ms: expire,
                order: 0,
            };
            let record = offset_commit(&group, &topic, partition, &value);
            prop_assert_eq!(read_committed(&record.value.unwrap_or_default()), Ok(value));
            let key = Key::OffsetCommit { group: group.clone(), topic: topic.clone(), partition };
            prop_assert_eq!(read_key(&record.key), Ok(key));
        }

        #[test]
        fn groups_come_back(
            name in ".{0,12}", generation: i32, protocol in prop::option::of("[a-z]{1,9}"),
            state in prop::option::of(0_i64..1 << 42), members in prop::collection::vec(member(), 0..4),
        ) {
            let stored = StoredGroup {
                protocol_type: "consumer".to_owned(),
                generation,
                leader: protocol.clone(),
                protocol,
                state_ms: state,
                members,
            };
            let record = group(&name, &stored);
            prop_assert_eq!(read_group(&record.value.unwrap_or_default()), Ok(stored));
            prop_assert_eq!(read_key(&record.key), Ok(Key::Group { group: name }));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read_key(&bytes);
            let _ = read_committed(&bytes);
            let _ = read_group(&bytes);
        }
    }

    /// Bytes as Kafka's generated classes write them, made by hand from its message definitions.
    #[test]
    fn the_layout_is_kafkas() {
        let value = Committed {
            offset: 258,
            leader_epoch: Some(7),
            metadata: "m".into(),
            commit_ms: 1,
            expire_ms: None,
            order: 0,
        };
        let record = offset_commit("g", "t", 5, &value);
        assert_eq!(&record.key[..], b"\0\x01\0\x01g\0\x01t\0\0\0\x05");
        assert_eq!(
            record.value.as_deref(),
            Some(&b"\0\x03\0\0\0\0\0\0\x01\x02\0\0\0\x07\0\x01m\0\0\0\0\0\0\0\x01"[..])
        );
        // Version 4 of a commit: compact metadata, and a tagged field that is skipped.
        let flexible = b"\0\x04\0\0\0\0\0\0\x01\x02\0\0\0\x07\x02m\0\0\0\0\0\0\0\x01\x01\0\x01x";
        assert_eq!(read_committed(flexible), Ok(value));
        assert_eq!(&group_tombstone("g").key[..], b"\0\x02\0\x01g");
    }
}

//! The types openraft is used with, and their journal and wire forms.

use crate::runtime::Runtime;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::impls::leader_id_std::LeaderId;
use openraft::impls::{EmptyNode, Entry, Vote as RaftVoteImpl};
use openraft::type_config::alias::CommittedLeaderIdOf;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership, StoredMembership};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tidelog_proto::peer;
use tidelog_storage::journal::EntryRecord;
use tidelog_storage::log::{BatchOrigin, ProducerExpiry, ProducerRejection};

/// One command of a group's log.
#[derive(Debug, Clone)]
pub enum Command {
    /// One v2 record batch, as the producer sent it.
    Produce(Bytes),
    /// One v2 record batch whose header names the offset and the leader epoch it must get.
    ProduceFenced(Bytes),
    /// One v2 record batch that may begin a transaction, if the producer's last marker is still this
    /// one.
    ProduceVerified {
        last_marker: Option<i64>,
        batch: Bytes,
    },
    /// A control batch that ends a transaction; `bumped` as in [`BatchOrigin::Coordinator`].
    Marker { bumped: bool, batch: Bytes },
    /// Forget producers.
    ExpireProducers(ProducerExpiry),
    /// Move the log start offset forward.
    LogStart(i64),
    /// A metadata command (group 0 only).
    Metadata {
        command: Bytes,
        /// Of a later version than the first: builds that know only that one must not take it.
        versioned: bool,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Produce(batch) => write!(f, "produce {} bytes", batch.len()),
            Command::ProduceFenced(batch) => write!(f, "produce fenced {} bytes", batch.len()),
            Command::ProduceVerified { batch, .. } => {
                write!(f, "produce verified {} bytes", batch.len())
            }
            Command::Marker { .. } => write!(f, "transaction marker"),
            Command::ExpireProducers(expiry) => write!(f, "expire producers {expiry:?}"),
            Command::LogStart(offset) => write!(f, "log start {offset}"),
            Command::Metadata { command, .. } => write!(f, "metadata {} bytes", command.len()),
        }
    }
}

impl Command {
    /// The batch to be appended, if the command is about one, and where it comes from.
    pub fn batch(&self) -> Option<(&Bytes, BatchOrigin)> {
        match self {
            Command::Produce(batch) => Some((batch, BatchOrigin::Client)),
            Command::ProduceFenced(batch) => Some((batch, BatchOrigin::Fenced)),
            Command::ProduceVerified { last_marker, batch } => {
                let last_marker = *last_marker;
                Some((batch, BatchOrigin::Verified { last_marker }))
            }
            Command::Marker { bumped, batch } => {
                let bumped = *bumped;
                Some((batch, BatchOrigin::Coordinator { bumped }))
            }
            Command::LogStart(_) | Command::ExpireProducers(_) | Command::Metadata { .. } => None,
        }
    }
}

/// What applying a command gives its proposer.
#[derive(Debug, Clone)]
pub enum Reply {
    None,
    Appended {
        base_offset: i64,
        log_start_offset: i64,
    },
    Rejected(ProducerRejection),
    /// A fenced batch came too late; it is not in the log.
    Fenced,
    Metadata {
        index: u64,
        reply: Bytes,
    },
}

openraft::declare_raft_types!(
    /// One leader a term, so that the leader epoch is the term.
    pub TypeConfig:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = EmptyNode,
        LeaderId = LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

/// A term, once its leader is elected.
pub type CommittedLeaderId = CommittedLeaderIdOf<TypeConfig>;
pub type LogId = openraft::LogId<CommittedLeaderId>;
pub type Vote = RaftVoteImpl<LeaderId<u64, u64>>;
pub type Payload = EntryPayload<Command, u64, EmptyNode>;
pub type RaftEntry = Entry<CommittedLeaderId, Payload>;
pub type GroupMembership = StoredMembership<CommittedLeaderId, u64, EmptyNode>;
pub type SnapshotMeta = openraft::storage::SnapshotMeta<CommittedLeaderId, u64, EmptyNode>;

const KIND_BLANK: u8 = 0;
const KIND_MEMBERSHIP: u8 = 1;
const KIND_PRODUCE: u8 = 2;
const KIND_LOG_START: u8 = 3;
const KIND_METADATA: u8 = 4;
const KIND_PRODUCE_FENCED: u8 = 5;
const KIND_PRODUCE_VERIFIED: u8 = 6;
const KIND_MARKER: u8 = 7;
const KIND_MARKER_BUMPED: u8 = 8;
const KIND_EXPIRE_PRODUCERS: u8 = 9;
/// Builds that know `metadata.version` 1 only skip a metadata command they do not know. So later ones
/// are of a kind that such builds refuse to take, from a peer as from their journal.
const KIND_METADATA_VERSIONED: u8 = 10;

/// What an entry in the journal is, for people.
#[must_use]
pub fn entry_kind_name(kind: u8) -> &'static str {
    match kind {
        KIND_BLANK => "blank",
        KIND_MEMBERSHIP => "membership",
        KIND_PRODUCE => "produce",
        KIND_LOG_START => "log-start",
        KIND_METADATA => "metadata",
        KIND_PRODUCE_FENCED => "produce-fenced",
        KIND_PRODUCE_VERIFIED => "produce-verified",
        KIND_MARKER => "marker",
        KIND_MARKER_BUMPED => "marker-bumped",
        KIND_EXPIRE_PRODUCERS => "expire-producers",
        KIND_METADATA_VERSIONED => "metadata-versioned",
        _ => "unknown",
    }
}

/// In front of a verified batch whose producer has no marker.
const NO_MARKER: i64 = -1;

/// A stored or received form that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("malformed raft data: {0}")]
pub struct Malformed(pub String);

pub fn log_id(term: u64, index: u64) -> LogId {
    // With one leader a term, the term alone names the leader of an entry.
    let leader = LeaderId { term, voted_for: 0 };
    LogId::new(leader.to_committed(), index)
}

/// `(index, term)` as the journal keeps it.
pub fn position(id: &LogId) -> (u64, u64) {
    (id.index, id.leader_id.term)
}

/// Journal form of an entry. The batch of a produce command is not copied.
pub fn entry_to_record(entry: &RaftEntry) -> EntryRecord {
    let (kind, body) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Membership(m) => (
            KIND_MEMBERSHIP,
            Bytes::from(membership_to_proto(m).encode_to_vec()),
        ),
        EntryPayload::Normal(Command::Produce(batch)) => (KIND_PRODUCE, batch.clone()),
        EntryPayload::Normal(Command::ProduceFenced(batch)) => (KIND_PRODUCE_FENCED, batch.clone()),
        EntryPayload::Normal(Command::ProduceVerified { last_marker, batch }) => {
            // Copies the batch: one a transaction and partition.
            let mut body = BytesMut::with_capacity(8 + batch.len());
            body.put_i64_le(last_marker.unwrap_or(NO_MARKER));
            body.put_slice(batch);
            (KIND_PRODUCE_VERIFIED, body.freeze())
        }
        EntryPayload::Normal(Command::Marker { bumped, batch }) if *bumped => {
            (KIND_MARKER_BUMPED, batch.clone())
        }
        EntryPayload::Normal(Command::Marker { batch, .. }) => (KIND_MARKER, batch.clone()),
        EntryPayload::Normal(Command::ExpireProducers(expiry)) => {
            let mut body = BytesMut::with_capacity(24);
            body.put_i64_le(expiry.now_ms);
            body.put_i64_le(expiry.expiration_ms);
            body.put_u64_le(expiry.keep_max);
            (KIND_EXPIRE_PRODUCERS, body.freeze())
        }
        EntryPayload::Normal(Command::LogStart(offset)) => (
            KIND_LOG_START,
            Bytes::copy_from_slice(&offset.to_le_bytes()),
        ),
        EntryPayload::Normal(Command::Metadata { command, versioned }) => {
            let kind = if *versioned {
                KIND_METADATA_VERSIONED
            } else {
                KIND_METADATA
            };
            (kind, command.clone())
        }
    };
    EntryRecord {
        index: entry.log_id.index,
        term: entry.log_id.leader_id.term,
        kind,
        body,
    }
}

/// Inverse of [`entry_to_record`].
pub fn entry_from_parts(
    index: u64,
    term: u64,
    kind: u8,
    body: Bytes,
) -> Result<RaftEntry, Malformed> {
    let payload = match kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_MEMBERSHIP => {
            let stored = peer::Membership::decode(body)
                .map_err(|e| Malformed(format!("membership of entry {index}: {e}")))?;
            EntryPayload::Membership(membership_from_proto(&stored)?)
        }
        KIND_PRODUCE => EntryPayload::Normal(Command::Produce(body)),
        KIND_PRODUCE_FENCED => EntryPayload::Normal(Command::ProduceFenced(body)),
        KIND_PRODUCE_VERIFIED if body.len() > 8 => {
            let mut batch = body;
            let last_marker = Some(batch.get_i64_le()).filter(|m| *m != NO_MARKER);
            EntryPayload::Normal(Command::ProduceVerified { last_marker, batch })
        }
        KIND_MARKER | KIND_MARKER_BUMPED => EntryPayload::Normal(Command::Marker {
            bumped: kind == KIND_MARKER_BUMPED,
            batch: body,
        }),
        KIND_EXPIRE_PRODUCERS if body.len() == 24 => {
            let mut body = body;
            EntryPayload::Normal(Command::ExpireProducers(ProducerExpiry {
                now_ms: body.get_i64_le(),
                expiration_ms: body.get_i64_le(),
                keep_max: body.get_u64_le(),
            }))
        }
        KIND_LOG_START => {
            let bytes: [u8; 8] = body[..]
                .try_into()
                .map_err(|_| Malformed(format!("log start of entry {index}")))?;
            EntryPayload::Normal(Command::LogStart(i64::from_le_bytes(bytes)))
        }
        KIND_METADATA | KIND_METADATA_VERSIONED => EntryPayload::Normal(Command::Metadata {
            command: body,
            versioned: kind == KIND_METADATA_VERSIONED,
        }),
        other => {
            return Err(Malformed(format!(
                "entry {index} is of kind {other}, which this build does not know: a newer build has \
                 written it, start this broker with that one"
            )));
        }
    };
    Ok(RaftEntry {
        log_id: log_id(term, index),
        payload,
    })
}

/// Bytes an entry keeps in memory, roughly.
pub fn entry_bytes(entry: &RaftEntry) -> usize {
    64 + match &entry.payload {
        EntryPayload::Normal(Command::Metadata { command, .. }) => command.len(),
        EntryPayload::Normal(command) => command.batch().map_or(0, |(b, _)| b.len()),
        _ => 0,
    }
}

pub fn vote_to_proto(vote: &Vote) -> peer::Vote {
    peer::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub fn vote_from_proto(vote: &peer::Vote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node)
    } else {
        Vote::new(vote.term, vote.node)
    }
}

pub fn vote_to_bytes(vote: &Vote) -> Bytes {
    Bytes::from(vote_to_proto(vote).encode_to_vec())
}

pub fn vote_from_bytes(bytes: &[u8]) -> Result<Vote, Malformed> {
    peer::Vote::decode(bytes)
        .map(|v| vote_from_proto(&v))
        .map_err(|e| Malformed(format!("vote: {e}")))
}

pub fn log_id_to_proto(id: &LogId) -> peer::LogId {
    peer::LogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

pub fn log_id_from_proto(id: &peer::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub fn membership_to_proto(m: &Membership<u64, EmptyNode>) -> peer::Membership {
    peer::Membership {
        configs: m
            .get_joint_config()
            .iter()
            .map(|set| peer::VoterSet {
                voters: set.iter().copied().collect(),
            })
            .collect(),
        nodes: m.nodes().map(|(id, _)| *id).collect(),
    }
}

pub fn membership_from_proto(
    m: &peer::Membership,
) -> Result<Membership<u64, EmptyNode>, Malformed> {
    let configs: Vec<BTreeSet<u64>> = m
        .configs
        .iter()
        .map(|set| set.voters.iter().copied().collect())
        .collect();
    let nodes: BTreeMap<u64, EmptyNode> = m.nodes.iter().map(|id| (*id, EmptyNode {})).collect();
    if configs.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|e| Malformed(format!("membership: {e}")))
}

pub fn stored_membership_to_proto(m: &GroupMembership) -> peer::StoredMembership {
    peer::StoredMembership {
        log_id: m.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(m.membership())),
    }
}

pub fn stored_membership_from_proto(
    m: Option<&peer::StoredMembership>,
) -> Result<GroupMembership, Malformed> {
    let Some(m) = m else {
        return Ok(GroupMembership::default());
    };
    let membership = match &m.membership {
        Some(inner) => membership_from_proto(inner)?,
        None => Membership::default(),
    };
    Ok(GroupMembership::new(
        m.log_id.as_ref().map(log_id_from_proto),
        membership,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_versioned_metadata_command_is_of_a_kind_of_its_own() {
        let command = Bytes::from_static(b"command");
        for (versioned, kind) in [(false, KIND_METADATA), (true, KIND_METADATA_VERSIONED)] {
            let payload = EntryPayload::Normal(Command::Metadata {
                command: command.clone(),
                versioned,
            });
            let log_id = log_id(3, 9);
            let record = entry_to_record(&RaftEntry { log_id, payload });
            assert_eq!((record.kind, &record.body), (kind, &command));
            let read = entry_from_parts(9, 3, record.kind, record.body).expect("own entry");
            let EntryPayload::Normal(Command::Metadata {
                versioned: read, ..
            }) = read.payload
            else {
                panic!("another command: {read:?}");
            };
            assert_eq!(read, versioned);
        }
    }

    #[test]
    fn an_entry_of_an_unknown_kind_is_not_taken() {
        let refused = entry_from_parts(9, 3, KIND_METADATA_VERSIONED + 1, Bytes::new());
        let message = refused.expect_err("not known").to_string();
        assert!(
            message.contains("a newer build has written it"),
            "{message}"
        );
    }
}

//! A classic group becomes a consumer group and the other way round, with its members.

use super::embedded::{self, Subscription};
use crate::coordinator::Malformed;
use crate::coordinator::group::consumer::group::ConsumerGroup;
use crate::coordinator::group::consumer::member::{
    ClassicMember, CurrentAssignment, MemberMetadata, MemberState,
};
use crate::coordinator::group::consumer::partitions::{Held, Partitions};
use crate::coordinator::group::consumer::records::{Change, GroupMetadata};
use crate::metadata::MetadataImage;
use bytes::Bytes;

/// A member as both kinds of group know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedMember {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// Assignors with their serialised subscriptions.
    pub protocols: Vec<(String, Bytes)>,
    /// In the consumers' embedded format; empty before the first.
    pub assignment: Bytes,
}

/// A group on its way from one kind to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedGroup {
    /// Generation, or group epoch.
    pub generation: i32,
    pub members: Vec<ConvertedMember>,
}

impl ConsumerGroup {
    /// Makes a consumer group of a classic one. All its members are stable with what they were last
    /// assigned; whoever joins next sets the group going.
    ///
    /// # Errors
    /// When the members' subscriptions or assignments are not those of consumers.
    pub fn from_classic(
        group: &ConvertedGroup,
        image: &MetadataImage,
        changes: &mut Vec<Change>,
    ) -> Result<ConsumerGroup, Malformed> {
        let epoch = group.generation;
        let mut made = ConsumerGroup::default();
        let mut parts: Vec<Change> = Vec::new();
        let mut currents: Vec<Change> = Vec::new();
        for member in &group.members {
            let (_, metadata) = member.protocols.first().ok_or(Malformed("no protocol"))?;
            let subscription = Subscription::decode(metadata)?;
            let assigned = embedded::decode_assignment(&member.assignment, image)?;
            parts.push(Change::Member(
                member.id.clone(),
                Some(MemberMetadata {
                    instance_id: member.instance_id.clone(),
                    rack_id: subscription.rack_id.clone(),
                    client_id: member.client_id.clone(),
                    client_host: member.client_host.clone(),
                    topics: subscription.topics.clone(),
                    regex: None,
                    rebalance_timeout_ms: member.rebalance_timeout_ms,
                    assignor: None,
                    classic: Some(ClassicMember {
                        session_timeout_ms: member.session_timeout_ms,
                        protocols: member.protocols.clone(),
                    }),
                }),
            ));
            currents.push(Change::Current(
                member.id.clone(),
                Some(CurrentAssignment {
                    epoch,
                    previous_epoch: epoch,
                    state: MemberState::Stable,
                    assigned: held(&assigned, epoch),
                    revoking: Held::new(),
                }),
            ));
            parts.push(Change::TargetMember(member.id.clone(), Some(assigned)));
        }
        parts.push(Change::Group(Some(GroupMetadata {
            epoch,
            metadata_hash: 0,
        })));
        parts.push(Change::Target(Some(epoch)));
        for change in parts.into_iter().chain(currents) {
            made.change(changes, change);
        }
        Ok(made)
    }

    /// The group as a classic one, each member with its target assignment. Only where
    /// [`ConsumerGroup::is_all_classic`].
    pub fn to_classic(&self, image: &MetadataImage) -> ConvertedGroup {
        let nothing = Partitions::new();
        let members = self.members.iter().filter_map(|(id, member)| {
            let classic = member.metadata.classic.as_ref()?;
            let (_, metadata) = classic.protocols.first()?;
            let target = self.target.get(id).unwrap_or(&nothing);
            Some(ConvertedMember {
                id: id.clone(),
                instance_id: member.metadata.instance_id.clone(),
                client_id: member.metadata.client_id.clone(),
                client_host: member.metadata.client_host.clone(),
                rebalance_timeout_ms: member.metadata.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                protocols: classic.protocols.clone(),
                assignment: embedded::encode_assignment(embedded::version(metadata), target, image),
            })
        });
        ConvertedGroup {
            generation: self.epoch,
            members: members.collect(),
        }
    }
}

fn held(partitions: &Partitions, epoch: i32) -> Held {
    partitions
        .iter()
        .map(|(topic, partitions)| (*topic, partitions.iter().map(|p| (*p, epoch)).collect()))
        .collect()
}

//! Consumer groups: which there are, who is in them, how far they have come.

use super::{Admin, text};
use crate::cluster::Lane;
use crate::error::{Error, ErrorCode, Result};
use crate::group::coordinator::{Coordinator, Kind};
use crate::group::{CommittedOffset, Group, decode_assignment};
use crate::topic_partition::TopicPartition;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DeleteGroupsRequest,
    DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, OffsetDeleteRequest,
    OffsetDeleteResponse, TopicName,
};
use std::collections::BTreeMap;

/// KIP-800.
const FIRST_LEAVE_WITH_REASON: i16 = 5;

/// A group as its coordinator lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupListing {
    /// The group's name.
    pub group_id: String,
    /// Kafka's name of its state, such as `Stable` or `Empty`; empty when the broker is too old.
    pub state: String,
    /// `classic`, `consumer` (KIP-848) or what else the broker says; empty when it is too old.
    pub kind: String,
    /// `consumer` for consumers, something else for other uses of the classic protocol.
    pub protocol_type: String,
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// The group's name.
    pub group_id: String,
    /// Kafka's name of its state.
    pub state: String,
    /// `classic` or `consumer` (KIP-848).
    pub kind: String,
    /// Who assigns; empty when nobody does just now.
    pub assignor: String,
    /// The members, by their id.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMember {
    /// Given by the coordinator, or chosen by the member.
    pub member_id: String,
    /// Of a static member.
    pub instance_id: Option<String>,
    /// The client's name.
    pub client_id: String,
    /// The client's address as the coordinator sees it.
    pub host: String,
    /// What it reads.
    pub partitions: Vec<TopicPartition>,
}

impl Admin {
    /// Every group of the cluster, by name.
    ///
    /// # Errors
    /// When a broker cannot be asked.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>> {
        let mut listings = BTreeMap::new();
        self.cluster.refresh().await?;
        let brokers: Vec<i32> = self.cluster.metadata().brokers.keys().copied().collect();
        for broker in brokers {
            let mut retry = self.cluster.retry("list the groups");
            let response = loop {
                let attempt = async {
                    let connection = self.cluster.broker(broker, Lane::Main).await?;
                    let request = ListGroupsRequest::default();
                    let deadline = retry.deadline();
                    let response = self.cluster.send(&connection, &request, deadline).await?;
                    Error::check("list the groups", response.error_code, None)?;
                    Ok(response)
                };
                match attempt.await {
                    Ok(response) => break response,
                    Err(error) => retry.pause(error).await?,
                }
                self.look_again().await;
            };
            for group in response.groups {
                let listing = GroupListing {
                    group_id: group.group_id.0.to_string(),
                    state: group.group_state.to_string(),
                    kind: group.group_type.to_string().to_lowercase(),
                    protocol_type: group.protocol_type.to_string(),
                };
                listings.insert(listing.group_id.clone(), listing);
            }
        }
        Ok(listings.into_values().collect())
    }

    /// A group with its members. One that does not exist has the state `Dead` and no members.
    ///
    /// # Errors
    /// When its coordinator cannot be asked.
    pub async fn describe_group(&self, group_id: &str) -> Result<GroupDescription> {
        let coordinator = Coordinator::new(self.cluster.clone(), Kind::Group, group_id);
        let described = describe_consumer_group(&coordinator).await;
        match described {
            Ok(description) => return Ok(description),
            // Older brokers, and groups of the classic protocol.
            Err(Error::Unsupported { .. }) => {}
            Err(error) if error.code() == Some(ErrorCode::GROUP_ID_NOT_FOUND) => {}
            Err(error) => return Err(error),
        }
        describe_classic_group(&coordinator).await
    }

    /// What a group has committed, of all partitions.
    ///
    /// # Errors
    /// When its coordinator cannot be asked.
    pub async fn group_offsets(
        &self,
        group_id: &str,
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>> {
        let group = Group::new(self.cluster.clone(), group_id, None);
        group.committed(None).await
    }

    /// Commits offsets for a group that has no members.
    ///
    /// # Errors
    /// [`ErrorCode::NON_EMPTY_GROUP`] when it has members.
    pub async fn alter_group_offsets(
        &self,
        group_id: &str,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<()> {
        let group = Group::new(self.cluster.clone(), group_id, None);
        group.commit(offsets).await.map_err(|error| match error {
            Error::Rebalanced { .. } => {
                let what = format!("set the offsets of group {group_id:?}");
                Error::broker(what, ErrorCode::NON_EMPTY_GROUP)
            }
            error => error,
        })
    }

    /// Deletes what a group has committed for some partitions.
    ///
    /// # Errors
    /// [`ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC`] while members read the topic.
    pub async fn delete_group_offsets(
        &self,
        group_id: &str,
        places: &[TopicPartition],
    ) -> Result<()> {
        let coordinator = Coordinator::new(self.cluster.clone(), Kind::Group, group_id);
        let mut topics: BTreeMap<&str, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
        for place in places {
            let asked =
                OffsetDeleteRequestPartition::default().with_partition_index(place.partition);
            topics.entry(&*place.topic).or_default().push(asked);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetDeleteRequestTopic::default()
                .with_name(TopicName(text(name)))
                .with_partitions(partitions)
        });
        let topics: Vec<_> = topics.collect();
        let build = |_: i16| {
            OffsetDeleteRequest::default()
                .with_group_id(GroupId(text(group_id)))
                .with_topics(topics.clone())
        };
        let check = |response: &OffsetDeleteResponse| {
            let what = || format!("delete offsets of group {group_id:?}");
            Error::check(what(), response.error_code, None)?;
            let mut partitions = response.topics.iter().flat_map(|t| &t.partitions);
            partitions.try_for_each(|p| Error::check(what(), p.error_code, None))
        };
        let deleted = coordinator.call("delete the offsets", i16::MAX, build, check);
        deleted.await.map(|_| ())
    }

    /// Takes members out of a group of the classic protocol, those of
    /// [`describe_group`](Admin::describe_group) or some of them; the group rebalances at once. A
    /// member that lives joins again with its next heartbeat, so stop it first. As Kafka's
    /// `removeMembersFromConsumerGroup` (KIP-345, KIP-571).
    ///
    /// # Errors
    /// [`ErrorCode::UNKNOWN_MEMBER_ID`] when one of them is not in the group (any more); the others
    /// are taken out then.
    pub async fn remove_group_members(
        &self,
        group_id: &str,
        members: &[GroupMember],
        reason: &str,
    ) -> Result<()> {
        let coordinator = Coordinator::new(self.cluster.clone(), Kind::Group, group_id);
        let build = |version: i16| {
            let members = members.iter().map(|m| identity(m, reason, version));
            LeaveGroupRequest::default()
                .with_group_id(GroupId(text(group_id)))
                .with_members(members.collect())
        };
        let check = |response: &LeaveGroupResponse| {
            let what = |member: &str| format!("take member {member:?} out of group {group_id:?}");
            Error::check(what("-"), response.error_code, None)?;
            response.members.iter().try_for_each(|member| {
                let instance = member.group_instance_id.as_deref();
                let name = instance.unwrap_or(&member.member_id);
                Error::check(what(name), member.error_code, None)
            })
        };
        if members.is_empty() {
            return Ok(());
        }
        let left = coordinator.call("take members out of the group", i16::MAX, build, check);
        left.await.map(|_| ())
    }

    /// Deletes a group that has no members, with its offsets.
    ///
    /// # Errors
    /// [`ErrorCode::NON_EMPTY_GROUP`] when it has members, [`ErrorCode::GROUP_ID_NOT_FOUND`] when
    /// there is no such group.
    pub async fn delete_group(&self, group_id: &str) -> Result<()> {
        let coordinator = Coordinator::new(self.cluster.clone(), Kind::Group, group_id);
        let build = |_: i16| {
            DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group_id))])
        };
        let check = |response: &DeleteGroupsResponse| {
            let mut results = response.results.iter();
            results.try_for_each(|result| {
                let what = format!("delete group {group_id:?}");
                Error::check(what, result.error_code, None)
            })
        };
        let deleted = coordinator.call("delete the group", i16::MAX, build, check);
        deleted.await.map(|_| ())
    }
}

/// How a request to leave names a member: static ones by their instance, as their id changes.
fn identity(member: &GroupMember, reason: &str, version: i16) -> MemberIdentity {
    let identity = match &member.instance_id {
        Some(instance) => MemberIdentity::default().with_group_instance_id(Some(text(instance))),
        None => MemberIdentity::default().with_member_id(text(&member.member_id)),
    };
    if version >= FIRST_LEAVE_WITH_REASON {
        return identity.with_reason(Some(text(reason)));
    }
    identity
}

async fn describe_consumer_group(coordinator: &Coordinator) -> Result<GroupDescription> {
    let build = |_: i16| {
        ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId(coordinator.key())])
    };
    let check = |response: &ConsumerGroupDescribeResponse| {
        let mut groups = response.groups.iter();
        groups.try_for_each(|group| {
            let what = format!("describe group {:?}", coordinator.name());
            Error::check(what, group.error_code, group.error_message.as_deref())
        })
    };
    let described = coordinator.call("describe the group", i16::MAX, build, check);
    let response = described.await?;
    let Some(group) = response.groups.into_iter().next() else {
        let what = format!("describe group {:?}", coordinator.name());
        return Err(Error::broker(what, ErrorCode::GROUP_ID_NOT_FOUND));
    };
    let members = group.members.into_iter().map(|member| {
        let topics = member.assignment.topic_partitions.iter();
        let partitions = topics.flat_map(|topic| {
            let name: &str = &topic.topic_name.0;
            let places = topic.partitions.iter();
            places.map(move |&p| TopicPartition::new(name, p))
        });
        GroupMember {
            partitions: partitions.collect(),
            member_id: member.member_id.to_string(),
            instance_id: member.instance_id.map(|id| id.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
        }
    });
    Ok(GroupDescription {
        group_id: group.group_id.0.to_string(),
        state: group.group_state.to_string(),
        kind: "consumer".to_owned(),
        assignor: group.assignor_name.to_string(),
        members: in_order(members.collect()),
    })
}

async fn describe_classic_group(coordinator: &Coordinator) -> Result<GroupDescription> {
    let build =
        |_: i16| DescribeGroupsRequest::default().with_groups(vec![GroupId(coordinator.key())]);
    let check = |response: &DescribeGroupsResponse| {
        let mut groups = response.groups.iter();
        groups.try_for_each(|group| {
            // Newer versions say so, older ones describe a dead group.
            let gone = ErrorCode(group.error_code) == ErrorCode::GROUP_ID_NOT_FOUND;
            let what = format!("describe group {:?}", coordinator.name());
            Error::check(what, if gone { 0 } else { group.error_code }, None)
        })
    };
    let described = coordinator.call("describe the group", i16::MAX, build, check);
    let mut groups = described.await?.groups.into_iter();
    let group = groups.next().unwrap_or_default();
    let members = group.members.into_iter().map(|member| GroupMember {
        partitions: decode_assignment(member.member_assignment)
            .unwrap_or_default()
            .into_iter()
            .collect(),
        member_id: member.member_id.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
    });
    let state = group.group_state.to_string();
    Ok(GroupDescription {
        group_id: coordinator.name().to_string(),
        state: if state.is_empty() {
            "Dead".to_owned()
        } else {
            state
        },
        kind: "classic".to_owned(),
        assignor: group.protocol_data.to_string(),
        members: in_order(members.collect()),
    })
}

fn in_order(mut members: Vec<GroupMember>) -> Vec<GroupMember> {
    members.sort_by(|a, b| a.member_id.cmp(&b.member_id));
    members
}

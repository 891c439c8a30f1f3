//! ConsumerGroupDescribe, and what DescribeGroups and ListGroups say of a consumer group.

use super::group::ConsumerGroup;
use super::heartbeat::Context;
use super::member::Member;
use super::partitions::Partitions;
use crate::metadata::MetadataImage;
use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;

/// Kafka's member types (ConsumerGroupDescribe version 1).
const TYPE_CLASSIC: i8 = 0;
const TYPE_CONSUMER: i8 = 1;
/// The authorized operations were not asked for, or are not known.
const NO_OPERATIONS: i32 = i32::MIN;

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

impl ConsumerGroup {
    /// As ConsumerGroupDescribe answers it.
    pub fn describe(&self, id: &str, cx: Context<'_>) -> DescribedGroup {
        let nothing = Partitions::new();
        let members = self
            .members
            .iter()
            .map(|(member_id, member)| {
                let target = self.target.get(member_id).unwrap_or(&nothing);
                describe_member(member_id, member, target, &cx.turn.image)
            })
            .collect();
        DescribedGroup::default()
            .with_group_id(GroupId(text(id)))
            .with_group_state(text(self.state().name()))
            .with_group_epoch(self.epoch)
            .with_assignment_epoch(self.target_epoch)
            .with_assignor_name(text(self.assignor(&cx.settings.assignors).name()))
            .with_members(members)
            .with_authorized_operations(NO_OPERATIONS)
    }
}

fn describe_member(
    id: &str,
    member: &Member,
    target: &Partitions,
    image: &MetadataImage,
) -> DescribedMember {
    let metadata = &member.metadata;
    let topics = metadata.topics.iter().map(|t| TopicName(text(t)));
    DescribedMember::default()
        .with_member_id(text(id))
        .with_instance_id(metadata.instance_id.as_deref().map(text))
        .with_rack_id(metadata.rack_id.as_deref().map(text))
        .with_member_epoch(member.current.epoch)
        .with_client_id(text(&metadata.client_id))
        .with_client_host(text(&metadata.client_host))
        .with_subscribed_topic_names(topics.collect())
        .with_subscribed_topic_regex(metadata.pattern().map(text))
        .with_assignment(named(&member.current.partitions(), image))
        .with_target_assignment(named(target, image))
        .with_member_type(if metadata.classic.is_some() {
            TYPE_CLASSIC
        } else {
            TYPE_CONSUMER
        })
}

/// Topics that are gone are left out, as their names are.
fn named(partitions: &Partitions, image: &MetadataImage) -> Assignment {
    let topics = partitions.iter().filter_map(|(id, partitions)| {
        let topic = image.topic_by_id(*id)?;
        Some(
            TopicPartitions::default()
                .with_topic_id(*id)
                .with_topic_name(TopicName(text(&topic.name)))
                .with_partitions(partitions.iter().copied().collect()),
        )
    });
    Assignment::default().with_topic_partitions(topics.collect())
}

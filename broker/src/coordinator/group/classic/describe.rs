//! DescribeGroups.

use super::group::{ClassicGroup, State};
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::protocol::StrBytes;

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// A group as DescribeGroups tells of it; what members subscribe to only when it is stable.
pub fn described(group: &ClassicGroup) -> DescribedGroup {
    let stable = group.state == State::Stable;
    let protocol = group.protocol.as_deref().filter(|_| stable);
    let members = group.members.values().map(|m| {
        DescribedGroupMember::default()
            .with_member_id(text(&m.id))
            .with_group_instance_id(m.instance_id.as_deref().map(text))
            .with_client_id(text(&m.client_id))
            .with_client_host(text(&m.client_host))
            .with_member_metadata(protocol.map(|p| m.metadata(p)).unwrap_or_default())
            .with_member_assignment(m.assignment.clone())
    });
    DescribedGroup::default()
        .with_group_id(GroupId(text(&group.id)))
        .with_group_state(text(group.state.name()))
        .with_protocol_type(text(group.protocol_type.as_deref().unwrap_or_default()))
        .with_protocol_data(text(protocol.unwrap_or_default()))
        .with_members(members.collect())
}

/// A group that is not there: as in Kafka, dead rather than an error (the handler adds one from
/// version 6 on).
pub fn unknown_group(id: &str) -> DescribedGroup {
    DescribedGroup::default()
        .with_group_id(GroupId(text(id)))
        .with_group_state(text("Dead"))
}

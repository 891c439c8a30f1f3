//! DescribeGroups and ListGroups.

use super::consumer::classic::PROTOCOL_TYPE;
use super::request::Listed;
use super::{Group, GroupShard, classic};
use kafka_protocol::messages::describe_groups_response::DescribedGroup;

impl GroupShard {
    /// One group, for DescribeGroups.
    pub(super) fn describe(&self, id: &str) -> DescribedGroup {
        match self.groups.get(id) {
            Some(Group::Classic(group)) => classic::described(group),
            Some(Group::Consumer(_)) | None => classic::unknown_group(id),
        }
    }

    /// Groups in one of `states` and of one of `types`, each in lower case; empty lists mean all.
    pub(super) fn list(&self, states: &[String], types: &[String]) -> Vec<Listed> {
        let wanted = |list: &[String], value: &str| {
            list.is_empty() || list.iter().any(|l| l.eq_ignore_ascii_case(value))
        };
        let mut listed: Vec<Listed> = self
            .groups
            .iter()
            .map(|(id, group)| match group {
                Group::Classic(group) => Listed {
                    id: id.clone(),
                    protocol_type: group.protocol_type.clone().unwrap_or_default(),
                    state: group.state.name(),
                    kind: "classic",
                },
                Group::Consumer(group) => Listed {
                    id: id.clone(),
                    protocol_type: PROTOCOL_TYPE.to_owned(),
                    state: group.state().name(),
                    kind: "consumer",
                },
            })
            .filter(|l| wanted(states, l.state) && wanted(types, l.kind))
            .collect();
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        listed
    }
}

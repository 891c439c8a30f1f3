//! Runs of partitions, topic by topic (Kafka's `RangeAssignor` without racks).

use super::{Assignment, MemberView, nothing_for, ranked};
use crate::topic_partition::TopicPartition;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn assign(members: &[MemberView], topics: &BTreeMap<String, i32>) -> Assignment {
    let mut assignment = nothing_for(members);
    let ranked = ranked(members);
    for (topic, &partitions) in topics {
        let name: Arc<str> = topic.as_str().into();
        let wanting: Vec<_> = ranked.iter().filter(|m| m.topics.contains(topic)).collect();
        if wanting.is_empty() {
            continue;
        }
        let (each, more) = (
            partitions / wanting.len() as i32,
            partitions % wanting.len() as i32,
        );
        let mut first = 0;
        for (at, member) in wanting.iter().enumerate() {
            let end = first + each + i32::from((at as i32) < more);
            if let Some(places) = assignment.get_mut(&member.member_id) {
                places.extend((first..end).map(|p| TopicPartition::new(name.clone(), p)));
            }
            first = end;
        }
    }
    assignment
}

//! Partitions dealt out like cards (Kafka's `RoundRobinAssignor`).

use super::{Assignment, MemberView, nothing_for, ranked};
use crate::topic_partition::TopicPartition;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn assign(members: &[MemberView], topics: &BTreeMap<String, i32>) -> Assignment {
    let mut assignment = nothing_for(members);
    let ranked = ranked(members);
    let mut turn = 0;
    for (topic, &partitions) in topics {
        if !ranked.iter().any(|member| member.topics.contains(topic)) {
            continue;
        }
        let name: Arc<str> = topic.as_str().into();
        for partition in 0..partitions {
            // Some member wants it, so this ends.
            while !ranked[turn % ranked.len()].topics.contains(topic) {
                turn += 1;
            }
            let member = ranked[turn % ranked.len()];
            turn += 1;
            if let Some(places) = assignment.get_mut(&member.member_id) {
                places.insert(TopicPartition::new(name.clone(), partition));
            }
        }
    }
    assignment
}

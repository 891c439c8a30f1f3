//! `uniform` where all members are subscribed to the same topics.
//!
//! Everyone gets `partitions / members`, and the first few one more. Members keep what they had up to
//! that number; only what is too much somewhere, or has no owner, moves. That is the least possible.

use super::GroupSpec;
use super::model::Model;
use crate::coordinator::group::consumer::partitions::Partitions;
use std::collections::BTreeMap;

pub fn assign(group: &GroupSpec<'_>) -> BTreeMap<String, Partitions> {
    let mut model = Model::new(group);
    let members = model.member_count();
    if members == 0 {
        return BTreeMap::new();
    }
    let quota = model.partition_count() / members;
    let mut extra = model.partition_count() % members;

    for (member, spec) in group.members.values().enumerate() {
        let Some(previous) = spec.previous else {
            continue;
        };
        let free = model.free_of(member, previous);
        let mut keep = quota;
        if free.len() > quota && extra > 0 {
            keep += 1;
            extra -= 1;
        }
        for partition in free.into_iter().take(keep) {
            model.give(partition, member);
        }
    }

    // Who may take how many more: everyone up to the quota, and the first few one above it.
    let mut room: Vec<usize> = model
        .load
        .iter()
        .map(|load| {
            let mut room = quota.saturating_sub(*load);
            if *load <= quota && extra > 0 {
                room += 1;
                extra -= 1;
            }
            room
        })
        .collect();
    // Round about, so that the partitions of one topic are spread over many members.
    let mut next = 0;
    for partition in 0..model.partition_count() {
        if model.owner(partition).is_some() {
            continue;
        }
        // There is room for every partition without an owner: quotas add up to their number.
        while room[next % members] == 0 {
            next += 1;
        }
        room[next % members] -= 1;
        model.give(partition, next % members);
        next += 1;
    }
    model.finish()
}

//! `range`: each topic's partitions in contiguous ranges, one a subscriber.
//!
//! Members stand in the order of their instance ids, then of their member ids, so that a static member
//! that comes back under another id gets the same range. Topics with as many partitions and the same
//! subscribers are cut at the same places, which is what joins need.

use super::GroupSpec;
use crate::coordinator::group::consumer::partitions::Partitions;
use std::collections::BTreeMap;
use uuid::Uuid;

pub fn assign(group: &GroupSpec<'_>) -> BTreeMap<String, Partitions> {
    let mut members: Vec<(&str, &super::MemberSpec<'_>)> =
        group.members.iter().map(|(id, m)| (*id, m)).collect();
    // Static members first.
    members.sort_by_key(|(id, m)| (m.instance_id.is_none(), m.instance_id, *id));
    let mut subscribers: BTreeMap<Uuid, Vec<&str>> = BTreeMap::new();
    for (id, member) in &members {
        for topic in member.topics.iter() {
            subscribers.entry(*topic).or_default().push(id);
        }
    }
    let mut all: BTreeMap<String, Partitions> = members
        .iter()
        .map(|(id, _)| ((*id).to_owned(), Partitions::new()))
        .collect();
    for (topic, subscribers) in subscribers {
        let count = group.topics.get(&topic).copied().unwrap_or(0) as usize;
        let (quota, extra) = (count / subscribers.len(), count % subscribers.len());
        let mut next = 0;
        for (index, id) in subscribers.into_iter().enumerate() {
            let length = quota + usize::from(index < extra);
            let range = next..next + length;
            next = range.end;
            if let Some(member) = all.get_mut(id)
                && length > 0
            {
                member.insert(topic, range.map(|p| p as i32).collect());
            }
        }
    }
    all
}

//! `uniform` where members are subscribed to different topics.
//!
//! Members keep what they had; partitions without an owner go to the subscriber with the least, topics
//! with few subscribers first. Then, topic by topic, partitions move from the subscriber with the most
//! to the one with the least as long as they differ by more than one. Each such move makes the loads
//! more even (the sum of their squares falls), so it comes to an end.

use super::GroupSpec;
use super::model::Model;
use crate::coordinator::group::consumer::partitions::Partitions;
use std::collections::BTreeMap;

pub fn assign(group: &GroupSpec<'_>) -> BTreeMap<String, Partitions> {
    let mut model = Model::new(group);
    for (member, spec) in group.members.values().enumerate() {
        let Some(previous) = spec.previous else {
            continue;
        };
        for partition in model.free_of(member, previous) {
            model.give(partition, member);
        }
    }

    let mut order: Vec<usize> = (0..model.topics.len()).collect();
    order.sort_by_key(|topic| model.subscribers[*topic].len());
    for topic in &order {
        for partition in model.topics[*topic].start..model.topics[*topic].end {
            if model.owner(partition).is_none()
                && let Some(member) = least_loaded(&model, *topic)
            {
                model.give(partition, member);
            }
        }
    }

    loop {
        let mut moved = false;
        for topic in &order {
            moved |= balance_topic(&mut model, *topic);
        }
        if !moved {
            return model.finish();
        }
    }
}

fn least_loaded(model: &Model<'_>, topic: usize) -> Option<usize> {
    model.subscribers[topic]
        .iter()
        .copied()
        .min_by_key(|m| (model.load[*m], *m))
}

/// Evens out what the subscribers of a topic have, as far as partitions of this topic can do it.
fn balance_topic(model: &mut Model<'_>, topic: usize) -> bool {
    let (start, end) = (model.topics[topic].start, model.topics[topic].end);
    let mut owned: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for partition in start..end {
        if let Some(owner) = model.owner(partition) {
            owned.entry(owner).or_default().push(partition);
        }
    }
    let mut moved = false;
    loop {
        let most = owned
            .iter()
            .filter(|(_, partitions)| !partitions.is_empty())
            .map(|(member, _)| *member)
            .max_by_key(|m| (model.load[*m], *m));
        let (Some(most), Some(least)) = (most, least_loaded(model, topic)) else {
            return moved;
        };
        if model.load[most] <= model.load[least] + 1 {
            return moved;
        }
        let Some(partition) = owned.get_mut(&most).and_then(Vec::pop) else {
            return moved;
        };
        model.give(partition, least);
        owned.entry(least).or_default().push(partition);
        moved = true;
    }
}

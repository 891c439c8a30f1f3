//! Sets of partitions, by topic id.

use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Partitions of topics; no topic has an empty set.
pub type Partitions = BTreeMap<Uuid, BTreeSet<i32>>;

/// Partitions a member holds, each with the epoch at which it was assigned to the member (KIP-1251).
pub type Held = BTreeMap<Uuid, BTreeMap<i32, i32>>;

/// Whether `held` contains the partition.
pub fn holds(held: &Held, topic: Uuid, partition: i32) -> bool {
    held.get(&topic).is_some_and(|p| p.contains_key(&partition))
}

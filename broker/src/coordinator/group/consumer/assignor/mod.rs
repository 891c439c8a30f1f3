//! Server-side assignors: who gets which partitions.
//!
//! Pure functions of the members, their subscriptions and the last target assignment. All of them
//! assign every partition of every subscribed topic to exactly one member subscribed to it.

mod heterogeneous;
mod model;
mod range;
#[cfg(test)]
mod tests;
mod uniform;

use super::partitions::Partitions;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// What an assignor knows of a member.
#[derive(Debug, Clone)]
pub struct MemberSpec<'a> {
    pub instance_id: Option<&'a str>,
    /// Topics it is subscribed to. Those not in [`GroupSpec::topics`] are passed over.
    pub topics: Arc<BTreeSet<Uuid>>,
    /// Its last target assignment.
    pub previous: Option<&'a Partitions>,
}

/// What an assignor works on.
#[derive(Debug, Clone)]
pub struct GroupSpec<'a> {
    /// By member id.
    pub members: BTreeMap<&'a str, MemberSpec<'a>>,
    /// Number of partitions of every topic that exists and is subscribed to.
    pub topics: BTreeMap<Uuid, u32>,
}

impl GroupSpec<'_> {
    /// Whether all members are subscribed to the same topics.
    fn is_homogeneous(&self) -> bool {
        let mut sets = self.members.values().map(|m| &m.topics);
        let Some(first) = sets.next() else {
            return true;
        };
        sets.all(|set| Arc::ptr_eq(set, first) || set == first)
    }
}

/// A server-side assignor, by Kafka's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assignor {
    /// Even numbers of partitions, and as few of them moved as possible.
    Uniform,
    /// Contiguous ranges of each topic: topics alike in size and subscribers are co-partitioned.
    Range,
}

impl Assignor {
    /// All there are; the first is the default.
    pub const ALL: [Assignor; 2] = [Assignor::Uniform, Assignor::Range];

    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    pub fn named(name: &str) -> Option<Assignor> {
        Assignor::ALL.into_iter().find(|a| a.name() == name)
    }

    /// The new target assignment of every member, empty ones included.
    pub fn assign(self, group: &GroupSpec<'_>) -> BTreeMap<String, Partitions> {
        match self {
            Assignor::Range => range::assign(group),
            Assignor::Uniform if group.is_homogeneous() => uniform::assign(group),
            Assignor::Uniform => heterogeneous::assign(group),
        }
    }
}

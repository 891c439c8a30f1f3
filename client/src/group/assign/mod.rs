//! Who reads which partition, decided by the member that the coordinator chose as the leader: pure
//! functions of the members and the topics they want.

mod range;
mod round_robin;
mod sticky;

use crate::topic_partition::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How partitions are spread over the members of a classic group. Each is compatible with that of
/// Kafka's Java client under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Assignor {
    /// Topic by topic, each member gets a run of partitions; the same numbers of several topics
    /// come to the same member.
    Range,
    /// All partitions in order, dealt out like cards.
    RoundRobin,
    /// As even as can be, and then as little moved as can be.
    Sticky,
    /// As [`Assignor::Sticky`], but members keep reading through a rebalance what stays theirs.
    CooperativeSticky,
}

impl Assignor {
    /// All of them.
    pub const ALL: [Assignor; 4] = [
        Assignor::Range,
        Assignor::RoundRobin,
        Assignor::Sticky,
        Assignor::CooperativeSticky,
    ];

    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::RoundRobin => "roundrobin",
            Assignor::Sticky => "sticky",
            Assignor::CooperativeSticky => "cooperative-sticky",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Assignor> {
        Assignor::ALL.into_iter().find(|a| a.name() == name)
    }

    /// Whether members may keep partitions while they join.
    pub(super) fn is_cooperative(self) -> bool {
        self == Assignor::CooperativeSticky
    }

    /// What each member gets, by member id; `topics` has the number of partitions of each topic.
    pub(super) fn assign(
        self,
        members: &[MemberView],
        topics: &BTreeMap<String, i32>,
    ) -> Assignment {
        match self {
            Assignor::Range => range::assign(members, topics),
            Assignor::RoundRobin => round_robin::assign(members, topics),
            Assignor::Sticky => sticky::assign(members, topics),
            Assignor::CooperativeSticky => {
                let mut assignment = sticky::assign(members, topics);
                sticky::hold_back(&mut assignment, members);
                assignment
            }
        }
    }
}

impl fmt::Display for Assignor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

pub(super) type Assignment = BTreeMap<String, BTreeSet<TopicPartition>>;

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemberView {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub topics: BTreeSet<String>,
    /// What it has, or had before it gave everything back.
    pub owned: BTreeSet<TopicPartition>,
    /// The generation in which it had that; -1 when it does not know.
    pub generation: i32,
}

impl MemberView {
    /// Static members come first, by the name that stays theirs through restarts.
    fn rank(&self) -> (bool, &str) {
        match &self.instance_id {
            Some(id) => (false, id),
            None => (true, &self.member_id),
        }
    }
}

fn ranked(members: &[MemberView]) -> Vec<&MemberView> {
    let mut ranked: Vec<_> = members.iter().collect();
    ranked.sort_by(|a, b| a.rank().cmp(&b.rank()));
    ranked
}

fn nothing_for(members: &[MemberView]) -> Assignment {
    let ids = members.iter().map(|m| m.member_id.clone());
    ids.map(|id| (id, BTreeSet::new())).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

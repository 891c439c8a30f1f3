//! The numbers an assignor works with: members and partitions as indexes into arrays.

use super::GroupSpec;
use crate::coordinator::group::consumer::partitions::Partitions;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Of a partition without an owner.
const NOBODY: usize = usize::MAX;

/// A topic's slice of all partitions, which are numbered through: topic by topic, then by partition.
pub struct Slice {
    id: Uuid,
    pub start: usize,
    pub end: usize,
}

/// An assignment being made.
pub struct Model<'a> {
    members: Vec<&'a str>,
    pub topics: Vec<Slice>,
    /// For each topic its subscribers, ascending.
    pub subscribers: Vec<Vec<usize>>,
    owner: Vec<usize>,
    /// Number of partitions each member has.
    pub load: Vec<usize>,
}

impl<'a> Model<'a> {
    /// Without any owner. Topics that nobody is subscribed to are left out.
    pub fn new(group: &GroupSpec<'a>) -> Model<'a> {
        let mut by_topic: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
        for (index, member) in group.members.values().enumerate() {
            for topic in member.topics.iter() {
                if group.topics.contains_key(topic) {
                    by_topic.entry(*topic).or_default().push(index);
                }
            }
        }
        let mut topics = Vec::with_capacity(by_topic.len());
        let mut end = 0;
        for id in by_topic.keys() {
            let start = end;
            end += group.topics[id] as usize;
            topics.push(Slice {
                id: *id,
                start,
                end,
            });
        }
        Model {
            members: group.members.keys().copied().collect(),
            topics,
            subscribers: by_topic.into_values().collect(),
            owner: vec![NOBODY; end],
            load: vec![0; group.members.len()],
        }
    }

    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    pub fn partition_count(&self) -> usize {
        self.owner.len()
    }

    /// The partitions of `previous` that still exist, whose topics `member` is subscribed to and that
    /// nobody has yet.
    pub fn free_of(&self, member: usize, previous: &Partitions) -> Vec<usize> {
        let mut found = Vec::new();
        for (topic, partitions) in previous {
            let Ok(at) = self.topics.binary_search_by_key(topic, |s| s.id) else {
                continue;
            };
            if self.subscribers[at].binary_search(&member).is_err() {
                continue;
            }
            let slice = &self.topics[at];
            found.extend(
                partitions
                    .iter()
                    .filter_map(|p| usize::try_from(*p).ok())
                    .map(|p| slice.start + p)
                    .filter(|p| *p < slice.end && self.owner[*p] == NOBODY),
            );
        }
        found
    }

    /// Gives a partition to a member, taking it from whoever had it.
    pub fn give(&mut self, partition: usize, member: usize) {
        if let Some(before) = self.owner(partition) {
            self.load[before] -= 1;
        }
        self.owner[partition] = member;
        self.load[member] += 1;
    }

    pub fn owner(&self, partition: usize) -> Option<usize> {
        Some(self.owner[partition]).filter(|o| *o != NOBODY)
    }

    /// What every member has.
    pub fn finish(self) -> BTreeMap<String, Partitions> {
        let mut all: Vec<Partitions> = vec![Partitions::new(); self.members.len()];
        for slice in &self.topics {
            for (partition, owner) in self.owner[slice.start..slice.end].iter().enumerate() {
                if let Some(member) = all.get_mut(*owner) {
                    member.entry(slice.id).or_default().insert(partition as i32);
                }
            }
        }
        self.members
            .into_iter()
            .map(str::to_owned)
            .zip(all)
            .collect()
    }
}

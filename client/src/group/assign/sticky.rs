//! As even as can be, then as little moved as can be.
//!
//! What members had stays with them where they still want it. What nobody has goes to the member
//! that has the least of those that want the topic. Then partitions are passed on along chains of
//! members, from one that has at least two more than the last: when there is no such chain, no
//! assignment is more even (the augmenting paths of optimal semi-matchings). Where all members want
//! the same topics, chains have one link.

use super::{Assignment, MemberView, nothing_for, ranked};
use crate::topic_partition::TopicPartition;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub(super) fn assign(members: &[MemberView], topics: &BTreeMap<String, i32>) -> Assignment {
    let mut state = State::new(members, topics);
    state.keep_what_they_have(topics);
    state.give_out(topics);
    while state.pass_on() {}
    let mut assignment = nothing_for(members);
    for (member, owned) in state.members.iter().zip(state.owned) {
        let places = owned.into_values().flatten();
        if let Some(of_member) = assignment.get_mut(&member.member_id) {
            of_member.extend(places);
        }
    }
    assignment
}

/// Takes out what another member still has: that one gives it back first, and the rebalance after
/// that hands it on (KIP-429).
pub(super) fn hold_back(assignment: &mut Assignment, members: &[MemberView]) {
    let newest = members.iter().map(|m| m.generation).max().unwrap_or(-1);
    // Who missed a generation has lost its partitions.
    let current = members.iter().filter(|m| m.generation == newest);
    let mut owner: BTreeMap<&TopicPartition, &str> = BTreeMap::new();
    for member in current {
        owner.extend(member.owned.iter().map(|p| (p, member.member_id.as_str())));
    }
    for (member_id, places) in assignment {
        places.retain(|place| owner.get(place).is_none_or(|owner| owner == member_id));
    }
}

struct State<'a> {
    members: Vec<&'a MemberView>,
    /// Of each member, by topic.
    owned: Vec<BTreeMap<Arc<str>, BTreeSet<TopicPartition>>>,
    loads: Vec<usize>,
    /// Who wants each topic.
    wanting: BTreeMap<Arc<str>, Vec<usize>>,
}

impl<'a> State<'a> {
    fn new(members: &'a [MemberView], topics: &BTreeMap<String, i32>) -> State<'a> {
        let members = ranked(members);
        let wanting = topics.keys().map(|topic| {
            let wanting = members.iter().enumerate();
            let wanting = wanting.filter(|(_, m)| m.topics.contains(topic));
            (topic.as_str().into(), wanting.map(|(at, _)| at).collect())
        });
        State {
            owned: vec![BTreeMap::new(); members.len()],
            loads: vec![0; members.len()],
            wanting: wanting.collect(),
            members,
        }
    }

    fn give(&mut self, at: usize, place: TopicPartition) {
        self.loads[at] += 1;
        let topic = self.owned[at].entry(place.topic.clone()).or_default();
        topic.insert(place);
    }

    /// Of two that say they have a partition, the one of the newer generation is right; of two in
    /// the same generation neither is believed.
    fn keep_what_they_have(&mut self, topics: &BTreeMap<String, i32>) {
        let mut claims: BTreeMap<&TopicPartition, (i32, Option<usize>)> = BTreeMap::new();
        for (at, member) in self.members.iter().enumerate() {
            for place in &member.owned {
                let exists = topics
                    .get(&*place.topic)
                    .is_some_and(|&n| place.partition < n);
                if !exists || place.partition < 0 || !member.topics.contains(&*place.topic) {
                    continue;
                }
                let claim = (member.generation, Some(at));
                let known = claims.entry(place).or_insert(claim);
                if known.0 < member.generation {
                    *known = claim;
                } else if known.0 == member.generation && known.1 != Some(at) {
                    known.1 = None;
                }
            }
        }
        for (place, (_, at)) in claims {
            if let Some(at) = at {
                self.give(at, place.clone());
            }
        }
    }

    fn give_out(&mut self, topics: &BTreeMap<String, i32>) {
        let mut taken: BTreeSet<TopicPartition> = BTreeSet::new();
        for owned in &self.owned {
            taken.extend(owned.values().flatten().cloned());
        }
        for (topic, wanting) in self.wanting.clone() {
            let partitions = topics.get(&*topic).copied().unwrap_or(0);
            for partition in 0..partitions {
                let place = TopicPartition::new(topic.clone(), partition);
                let least = wanting.iter().min_by_key(|&&at| self.loads[at]);
                if let (Some(&at), false) = (least, taken.contains(&place)) {
                    self.give(at, place);
                }
            }
        }
    }

    /// Moves one partition along each link of a chain that makes the assignment more even. False
    /// when there is none.
    fn pass_on(&mut self) -> bool {
        let mut fullest: Vec<usize> = (0..self.members.len()).collect();
        fullest.sort_by_key(|&at| std::cmp::Reverse(self.loads[at]));
        let least = self.loads.iter().min().copied().unwrap_or(0);
        for from in fullest {
            if self.loads[from] < least + 2 {
                return false;
            }
            if let Some(chain) = self.chain(from) {
                for link in chain.windows(2) {
                    self.hand_on(link[0], link[1]);
                }
                return true;
            }
        }
        false
    }

    /// The members along which a partition can be passed on from `from` to one that has at least
    /// two less, by the shortest way.
    fn chain(&self, from: usize) -> Option<Vec<usize>> {
        let mut before: Vec<Option<usize>> = vec![None; self.members.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            if self.loads[at] + 2 <= self.loads[from] {
                let mut chain = vec![at];
                while let Some(&last) = chain.last()
                    && last != from
                {
                    chain.extend(before[last]);
                }
                chain.reverse();
                return Some(chain);
            }
            let topics = self.owned[at]
                .iter()
                .filter(|(_, places)| !places.is_empty());
            let next = topics.filter_map(|(topic, _)| self.wanting.get(topic));
            let mut next: Vec<usize> = next.flatten().copied().collect();
            next.sort_by_key(|&to| self.loads[to]);
            for to in next {
                if to != from && before[to].is_none() {
                    before[to] = Some(at);
                    queue.push_back(to);
                }
            }
        }
        None
    }

    fn hand_on(&mut self, from: usize, to: usize) {
        let topics = &self.members[to].topics;
        let had = &self.members[to].owned;
        let movable = || {
            let owned = self.owned[from].iter();
            let wanted = owned.filter(|(topic, _)| topics.contains(&***topic));
            wanted.flat_map(|(_, places)| places)
        };
        // One that its new owner had before moves the least.
        let place = movable()
            .find(|p| had.contains(p))
            .or_else(|| movable().last());
        if let Some(place) = place.cloned()
            && let Some(places) = self.owned[from].get_mut(&place.topic)
        {
            places.remove(&place);
            self.loads[from] -= 1;
            self.give(to, place);
        }
    }
}

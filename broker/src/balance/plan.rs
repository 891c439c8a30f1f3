//! Decides which partitions are to move, from what is there: nothing here waits or sends.
//!
//! First every replica leaves brokers that are to hold none. Then, if that is asked for, replicas are spread
//! evenly by count, by bytes, and at last preferred leaders, which moves nothing. A move takes one replica's
//! place in the order of preference. No move puts two replicas into one rack that were in two.

use super::load::Loads;
use crate::metadata::{MetadataImage, PartitionMeta, Topic};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use tidelog_replication::{BrokerId, GroupId};
use uuid::Uuid;

/// Bytes of two brokers that differ by less are even.
const BYTES_SLACK_MIN: u64 = 64 << 20;
/// So are those that differ by less than this share of the mean: a tenth.
const BYTES_SLACK_SHARE: u64 = 10;

/// What a plan is made from.
#[derive(Debug)]
pub struct Picture<'a> {
    pub image: &'a MetadataImage,
    /// Brokers that may be given replicas.
    pub takers: BTreeSet<BrokerId>,
    /// Brokers that are to hold nothing.
    pub leaving: BTreeSet<BrokerId>,
    /// Bytes of a partition; one that is not here counts as empty.
    pub bytes: HashMap<GroupId, u64>,
    /// Whether the brokers are to be made even.
    pub spread: bool,
}

/// One partition's new replicas, in preference order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub topic_id: Uuid,
    pub partition: i32,
    pub target: Vec<BrokerId>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub moves: Vec<Move>,
    /// Replicas that are to leave their broker, and that no other can take.
    pub stuck: usize,
    /// Nothing is left to be done, now or when what is under way has ended.
    pub even: bool,
}

/// A partition as the plan leaves it.
struct Part<'a> {
    topic: &'a Topic,
    index: usize,
    meta: &'a PartitionMeta,
    target: Vec<BrokerId>,
    bytes: u64,
    /// Planned, or under way already.
    moves: bool,
}

impl Part<'_> {
    fn has(&self, broker: BrokerId) -> bool {
        self.target.contains(&broker)
    }
}

struct Planner<'a> {
    picture: &'a Picture<'a>,
    parts: Vec<Part<'a>>,
    loads: Loads,
    room: usize,
}

/// Plans at most `room` moves of replicas at the same time, those under way included.
pub fn plan(picture: &Picture<'_>, room: usize) -> Plan {
    let mut planner = Planner::new(picture, room);
    let stuck = planner.empty_leaving();
    let mut plan = Plan {
        stuck,
        ..Plan::default()
    };
    // Those that leave go first.
    if picture.spread && planner.moves().is_empty() {
        planner.spread_counts();
        planner.spread_bytes();
        if planner.parts.iter().all(|p| !p.moves) {
            planner.spread_leaders();
        }
    }
    plan.moves = planner.moves();
    plan.even = planner.parts.iter().all(|p| !p.moves);
    plan
}

impl<'a> Planner<'a> {
    fn new(picture: &'a Picture<'a>, room: usize) -> Planner<'a> {
        let mut parts = Vec::new();
        let mut loads = Loads::new(&picture.takers);
        let mut under_way = 0;
        for topic in picture.image.topics.values() {
            for (index, meta) in topic.partitions.iter().enumerate() {
                let bytes = picture.bytes.get(&meta.group).copied().unwrap_or(0);
                loads.add(meta.target(), bytes);
                let moves = meta.reassignment.is_some();
                under_way += usize::from(moves);
                parts.push(Part {
                    topic,
                    index,
                    meta,
                    target: meta.target().to_vec(),
                    bytes,
                    moves,
                });
            }
        }
        Planner {
            picture,
            parts,
            loads,
            room: room.saturating_sub(under_way),
        }
    }

    fn moves(&self) -> Vec<Move> {
        let changed = self.parts.iter().filter(|p| p.target != p.meta.target());
        changed
            .map(|part| Move {
                topic_id: part.topic.id,
                partition: part.index as i32,
                target: part.target.clone(),
            })
            .collect()
    }

    /// Moves replicas off the brokers that leave, also where a move under way was to end there; the number of
    /// replicas that nobody can take.
    fn empty_leaving(&mut self) -> usize {
        let mut stuck = 0;
        for at in 0..self.parts.len() {
            let part = &self.parts[at];
            let going: Vec<BrokerId> = self
                .picture
                .leaving
                .iter()
                .copied()
                .filter(|b| part.has(*b))
                .collect();
            if going.is_empty() {
                continue;
            }
            if self.room == 0 && !part.moves {
                continue;
            }
            for gone in going {
                match self.taker(at, gone) {
                    Some(taker) => self.replace(at, gone, taker),
                    None => stuck += 1,
                }
            }
        }
        stuck
    }

    /// The broker with the least on it that can have the replica instead of `gone`.
    fn taker(&self, at: usize, gone: BrokerId) -> Option<BrokerId> {
        let part = &self.parts[at];
        let free = self.loads.brokers().filter(|b| self.may_take(part, *b));
        free.min_by_key(|b| {
            let crowded = !self.keeps_racks(part, gone, *b);
            let load = self.loads.of(*b);
            (crowded, load.replicas, load.bytes, *b)
        })
    }

    fn may_take(&self, part: &Part<'_>, broker: BrokerId) -> bool {
        let dropped = self.picture.image.dropped.get(&(broker, part.meta.group));
        !part.has(broker) && !dropped.is_some_and(|replica| replica.removing)
    }

    /// Whether there are no fewer racks with `to` in the place of `from`.
    fn keeps_racks(&self, part: &Part<'_>, from: BrokerId, to: BrokerId) -> bool {
        let rack = |broker: BrokerId| {
            let meta = self.picture.image.brokers.get(&broker);
            meta.and_then(|m| m.rack.as_deref())
        };
        let others: BTreeSet<_> = part
            .target
            .iter()
            .filter(|b| **b != from)
            .map(|b| rack(*b))
            .collect();
        others.contains(&rack(from)) || !others.contains(&rack(to))
    }

    fn replace(&mut self, at: usize, from: BrokerId, to: BrokerId) {
        let part = &mut self.parts[at];
        self.loads.remove(&part.target, part.bytes);
        for place in &mut part.target {
            if *place == from {
                *place = to;
            }
        }
        self.loads.add(&part.target, part.bytes);
        if !part.moves {
            part.moves = true;
            self.room = self.room.saturating_sub(1);
        }
    }

    /// While one broker has at least two replicas more than another, one of them moves.
    fn spread_counts(&mut self) {
        while self.room > 0 {
            let Some((at, from, to)) = self.next_of_counts() else {
                return;
            };
            self.replace(at, from, to);
        }
    }

    fn next_of_counts(&self) -> Option<(usize, BrokerId, BrokerId)> {
        let order = self.loads.sorted_by(|load| load.replicas as u64);
        for (from, most) in order.iter().rev() {
            for (to, least) in &order {
                if most.replicas < least.replicas + 2 {
                    break;
                }
                // The one that brings the bytes of the two closest to each other.
                let ideal = most.bytes.saturating_sub(least.bytes) / 2;
                let best = (0..self.parts.len())
                    .filter(|at| self.can_move(*at, *from, *to))
                    .min_by_key(|at| self.parts[*at].bytes.abs_diff(ideal));
                if let Some(at) = best {
                    return Some((at, *from, *to));
                }
            }
        }
        None
    }

    fn can_move(&self, at: usize, from: BrokerId, to: BrokerId) -> bool {
        let part = &self.parts[at];
        !part.moves && part.has(from) && self.may_take(part, to) && self.keeps_racks(part, from, to)
    }

    /// Two partitions change places, a large one against a small one, while that brings two brokers closer.
    fn spread_bytes(&mut self) {
        while self.room >= 2 {
            let Some(swap) = self.next_of_bytes() else {
                return;
            };
            self.replace(swap.large, swap.from, swap.to);
            self.replace(swap.small, swap.to, swap.from);
        }
    }

    fn next_of_bytes(&self) -> Option<Swap> {
        let order = self.loads.sorted_by(|load| load.bytes);
        let mean =
            order.iter().map(|(_, load)| load.bytes).sum::<u64>() / order.len().max(1) as u64;
        let slack = (mean / BYTES_SLACK_SHARE).max(BYTES_SLACK_MIN);
        for (from, most) in order.iter().rev() {
            for (to, least) in &order {
                let gap = most.bytes.saturating_sub(least.bytes);
                if gap <= slack {
                    break;
                }
                if let Some(swap) = self.swap(*from, *to, gap, slack) {
                    return Some(swap);
                }
            }
        }
        None
    }

    /// The pair that moves closest to half of `gap`, and at least a quarter of `slack`.
    fn swap(&self, from: BrokerId, to: BrokerId, gap: u64, slack: u64) -> Option<Swap> {
        let sorted = |a: BrokerId, b: BrokerId| {
            let mut found: Vec<usize> = (0..self.parts.len())
                .filter(|at| self.can_move(*at, a, b))
                .collect();
            found.sort_unstable_by_key(|at| self.parts[*at].bytes);
            found
        };
        let back = sorted(to, from);
        let mut best: Option<(u64, Swap)> = None;
        for large in sorted(from, to) {
            let bytes = self.parts[large].bytes;
            let ideal = bytes.saturating_sub(gap / 2);
            let near = back.partition_point(|at| self.parts[*at].bytes < ideal);
            for small in back.iter().skip(near.saturating_sub(1)).take(2).copied() {
                let moved = bytes.saturating_sub(self.parts[small].bytes);
                let miss = moved.abs_diff(gap / 2);
                // Beyond the whole gap it would only be turned round.
                let helps = moved >= slack / 4 && gap.saturating_sub(moved) >= slack / 4;
                if helps && best.as_ref().is_none_or(|(least, _)| miss < *least) {
                    let swap = Swap {
                        large,
                        small,
                        from,
                        to,
                    };
                    best = Some((miss, swap));
                }
            }
        }
        best.map(|(_, swap)| swap)
    }

    /// While one broker is preferred by at least two partitions more than another, preference goes from the
    /// one to the other, over brokers in between where they share no partition.
    fn spread_leaders(&mut self) {
        let brokers: Vec<BrokerId> = self.loads.brokers().collect();
        'next: loop {
            let order = self.loads.sorted_by(|load| load.leads as u64);
            for (from, most) in order.iter().rev() {
                for (to, least) in &order {
                    if most.leads < least.leads + 2 {
                        break;
                    }
                    if let Some(path) = self.path(*from, *to, &brokers) {
                        for (at, heir) in path {
                            self.prefer(at, heir);
                        }
                        continue 'next;
                    }
                }
            }
            return;
        }
    }

    /// Partitions whose preference, given to the broker named with each, takes one from `from` and gives one
    /// to `to`: a shortest path.
    fn path(
        &self,
        from: BrokerId,
        to: BrokerId,
        brokers: &[BrokerId],
    ) -> Option<Vec<(usize, BrokerId)>> {
        let mut led: BTreeMap<BrokerId, Vec<usize>> = BTreeMap::new();
        for (at, part) in self.parts.iter().enumerate() {
            if let Some(first) = part.target.first() {
                led.entry(*first).or_default().push(at);
            }
        }
        let mut came: BTreeMap<BrokerId, (BrokerId, usize)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(broker) = queue.pop_front() {
            for at in led.get(&broker).into_iter().flatten() {
                for heir in &self.parts[*at].target[1..] {
                    if *heir != from && brokers.contains(heir) && !came.contains_key(heir) {
                        came.insert(*heir, (broker, *at));
                        queue.push_back(*heir);
                    }
                }
            }
        }
        let mut path = Vec::new();
        let mut end = to;
        while end != from {
            let (before, at) = came.get(&end)?;
            path.push((*at, end));
            end = *before;
        }
        Some(path)
    }

    fn prefer(&mut self, at: usize, heir: BrokerId) {
        let part = &mut self.parts[at];
        self.loads.remove(&part.target, part.bytes);
        if let Some(place) = part.target.iter().position(|b| *b == heir) {
            part.target.swap(0, place);
        }
        self.loads.add(&part.target, part.bytes);
    }
}

struct Swap {
    large: usize,
    small: usize,
    from: BrokerId,
    to: BrokerId,
}

#[cfg(test)]
mod tests;

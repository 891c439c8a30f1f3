//! Committed offsets of a shard's groups, and those of open transactions. Both group protocols share
//! it. Nothing here writes or decides who may commit: that is `commits`.

use std::collections::{BTreeMap, HashMap, HashSet};

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    pub leader_epoch: Option<i32>,
    pub metadata: Box<str>,
    /// When it was committed, in milliseconds since 1970.
    pub commit_ms: i64,
    /// Asked for by old clients: when to forget it.
    pub expire_ms: Option<i64>,
    /// Place among the records of the partition: of a transaction's commit and a plain one, the later
    /// *record* counts, whenever the transaction ends.
    pub order: u64,
}

type ByPartition = BTreeMap<i32, Committed>;
type ByTopic = BTreeMap<String, ByPartition>;

/// Offsets by group, topic and partition.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Table(HashMap<String, ByTopic>);

impl Table {
    fn get(&self, group: &str, topic: &str, partition: i32) -> Option<&Committed> {
        self.0.get(group)?.get(topic)?.get(&partition)
    }

    fn put(&mut self, group: &str, topic: &str, partition: i32, value: Committed) {
        // Names are copied only when they are new.
        if !self.0.contains_key(group) {
            self.0.insert(group.to_owned(), ByTopic::new());
        }
        let Some(topics) = self.0.get_mut(group) else {
            return;
        };
        match topics.get_mut(topic) {
            Some(partitions) => {
                partitions.insert(partition, value);
            }
            None => {
                topics.insert(topic.to_owned(), BTreeMap::from([(partition, value)]));
            }
        }
    }

    fn remove(&mut self, group: &str, topic: &str, partition: i32) -> Option<Committed> {
        let topics = self.0.get_mut(group)?;
        let partitions = topics.get_mut(topic)?;
        let removed = partitions.remove(&partition);
        if partitions.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.0.remove(group);
        }
        removed
    }

    fn places(&self, group: &str) -> impl Iterator<Item = (&str, i32, &Committed)> {
        self.0.get(group).into_iter().flat_map(|topics| {
            topics.iter().flat_map(|(topic, partitions)| {
                partitions
                    .iter()
                    .map(|(partition, value)| (topic.as_str(), *partition, value))
            })
        })
    }
}

/// All offsets of a shard.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Offsets {
    committed: Table,
    /// Offsets of open transactions, by producer id: visible when the transaction commits.
    pending: BTreeMap<i64, Table>,
    /// Producers with pending offsets, by group.
    open: HashMap<String, HashSet<i64>>,
    next_order: u64,
}

impl Offsets {
    fn order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    /// Takes over a commit that belongs to no transaction.
    pub fn commit(&mut self, group: &str, topic: &str, partition: i32, mut value: Committed) {
        value.order = self.order();
        self.committed.put(group, topic, partition, value);
    }

    /// Takes over a commit that becomes visible when the producer's transaction commits.
    pub fn commit_pending(
        &mut self,
        producer_id: i64,
        group: &str,
        topic: &str,
        partition: i32,
        mut value: Committed,
    ) {
        value.order = self.order();
        let table = self.pending.entry(producer_id).or_default();
        table.put(group, topic, partition, value);
        self.open
            .entry(group.to_owned())
            .or_default()
            .insert(producer_id);
    }

    /// Ends a producer's transaction. A pending offset that a later plain commit has overtaken stays
    /// behind.
    pub fn end_transaction(&mut self, producer_id: i64, commit: bool) {
        let Some(pending) = self.pending.remove(&producer_id) else {
            return;
        };
        // Also where a tombstone has taken the offset itself.
        self.open.retain(|_, producers| {
            producers.remove(&producer_id);
            !producers.is_empty()
        });
        if !commit {
            return;
        }
        for (group, topics) in pending.0 {
            for (topic, partitions) in topics {
                for (partition, value) in partitions {
                    let present = self.committed.get(&group, &topic, partition);
                    if present.is_none_or(|p| p.order < value.order) {
                        self.committed.put(&group, &topic, partition, value);
                    }
                }
            }
        }
    }

    /// Takes over a tombstone: forgets the committed offset and every pending one of this place.
    pub fn remove(&mut self, group: &str, topic: &str, partition: i32) {
        self.committed.remove(group, topic, partition);
        for producer in self.open.get(group).into_iter().flatten() {
            if let Some(table) = self.pending.get_mut(producer) {
                table.remove(group, topic, partition);
            }
        }
    }

    pub fn get(&self, group: &str, topic: &str, partition: i32) -> Option<&Committed> {
        self.committed.get(group, topic, partition)
    }

    /// Whether an open transaction has an offset for this place.
    pub fn is_pending(&self, group: &str, topic: &str, partition: i32) -> bool {
        self.open.get(group).into_iter().flatten().any(|producer| {
            self.pending
                .get(producer)
                .is_some_and(|t| t.get(group, topic, partition).is_some())
        })
    }

    /// Whether a transaction with offsets of the group is open.
    pub fn has_open_transactions(&self, group: &str) -> bool {
        self.open.contains_key(group)
    }

    /// Committed offsets of a group, by topic and partition.
    pub fn of_group(&self, group: &str) -> impl Iterator<Item = (&str, i32, &Committed)> {
        self.committed.places(group)
    }

    /// Every place of a group with a committed or pending offset, once.
    pub fn places(&self, group: &str) -> Vec<(String, i32)> {
        let mut places: Vec<(String, i32)> = self
            .committed
            .places(group)
            .chain(
                self.open
                    .get(group)
                    .into_iter()
                    .flatten()
                    .filter_map(|p| self.pending.get(p))
                    .flat_map(|t| t.places(group)),
            )
            .map(|(topic, partition, _)| (topic.to_owned(), partition))
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Groups with committed or pending offsets.
    pub fn groups(&self) -> HashSet<&str> {
        let open = self.open.keys();
        self.committed
            .0
            .keys()
            .chain(open)
            .map(String::as_str)
            .collect()
    }

    /// How many offsets are committed.
    pub fn len(&self) -> usize {
        let topics = self.committed.0.values().flat_map(BTreeMap::values);
        topics.map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.committed.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Committed {
        Committed {
            offset,
            leader_epoch: None,
            metadata: "".into(),
            commit_ms: 0,
            expire_ms: None,
            order: 0,
        }
    }

    #[test]
    fn a_transactions_offset_shows_when_it_commits() {
        let mut offsets = Offsets::default();
        offsets.commit("g", "t", 0, at(1));
        offsets.commit_pending(7, "g", "t", 0, at(5));
        assert!(offsets.is_pending("g", "t", 0) && !offsets.is_pending("g", "t", 1));
        assert_eq!(offsets.get("g", "t", 0).map(|c| c.offset), Some(1));
        let mut aborted = offsets.clone();
        aborted.end_transaction(7, false);
        assert_eq!(aborted.get("g", "t", 0).map(|c| c.offset), Some(1));
        offsets.end_transaction(7, true);
        assert_eq!(offsets.get("g", "t", 0).map(|c| c.offset), Some(5));
        assert!(!offsets.is_pending("g", "t", 0) && !offsets.has_open_transactions("g"));
    }

    #[test]
    fn the_later_record_wins() {
        let mut offsets = Offsets::default();
        offsets.commit_pending(7, "g", "t", 0, at(5));
        offsets.commit("g", "t", 0, at(9));
        offsets.end_transaction(7, true);
        assert_eq!(offsets.get("g", "t", 0).map(|c| c.offset), Some(9));
    }

    #[test]
    fn a_tombstone_takes_pending_offsets_along() {
        let mut offsets = Offsets::default();
        offsets.commit_pending(7, "g", "t", 0, at(5));
        assert_eq!(offsets.places("g"), [("t".to_owned(), 0)]);
        offsets.remove("g", "t", 0);
        offsets.end_transaction(7, true);
        assert_eq!(offsets.get("g", "t", 0), None);
        assert!(offsets.is_empty() && offsets.groups().is_empty());
    }
}

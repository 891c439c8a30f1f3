//! Are topics that were created there, those that were deleted gone, and ids never given twice?

use std::collections::{BTreeMap, BTreeSet};

use super::Anomaly;
use crate::history::{History, Kind, Op};

/// What is wrong with topics that came and went.
#[must_use]
pub fn topics(history: &History) -> Vec<Anomaly> {
    let mut found = Vec::new();
    // Name of each id that was given, and those whose deletion was asked for, or done.
    let mut created: BTreeMap<&String, &String> = BTreeMap::new();
    let mut asked: BTreeSet<&String> = BTreeSet::new();
    // Those that were created and nobody has asked to delete.
    let mut expected: BTreeMap<&String, &String> = BTreeMap::new();
    let mut deleted: BTreeSet<&String> = BTreeSet::new();
    for event in &history.events {
        match (&event.op, event.kind) {
            (Op::Create { topic, id }, Kind::Ok) => {
                let before = created.insert(id, topic);
                if !asked.contains(id) {
                    expected.insert(id, topic);
                }
                found.extend(before.map(|_| Anomaly::TopicIdReused {
                    topic: topic.clone(),
                    id: id.clone(),
                }));
            }
            (Op::Delete { id, .. }, kind) => {
                asked.insert(id);
                expected.remove(id);
                if kind == Kind::Ok {
                    deleted.insert(id);
                }
            }
            (Op::Listed { topics }, Kind::Ok) => {
                for (topic, id) in topics.iter().filter(|(_, id)| deleted.contains(id)) {
                    found.push(Anomaly::DeletedTopicThere {
                        topic: topic.clone(),
                        id: id.clone(),
                    });
                }
                let there: BTreeSet<&String> = topics.values().collect();
                let missing = expected.iter().filter(|(id, _)| !there.contains(*id));
                for (id, topic) in missing {
                    found.push(Anomaly::CreatedTopicMissing {
                        topic: (*topic).clone(),
                        id: (*id).clone(),
                    });
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(h: &mut History, topic: &str, id: &str) {
        let (topic, id) = (topic.to_owned(), id.to_owned());
        h.push(0, Kind::Ok, Op::Create { topic, id });
    }

    fn delete(h: &mut History, kind: Kind, topic: &str, id: &str) {
        let (topic, id) = (topic.to_owned(), id.to_owned());
        h.push(0, kind, Op::Delete { topic, id });
    }

    fn listed(h: &mut History, topics: &[(&str, &str)]) {
        let topics = topics
            .iter()
            .map(|(topic, id)| ((*topic).to_owned(), (*id).to_owned()));
        let topics = topics.collect();
        h.push(0, Kind::Ok, Op::Listed { topics });
    }

    fn found(build: impl FnOnce(&mut History)) -> Vec<Anomaly> {
        let mut history = History::default();
        build(&mut history);
        topics(&history)
    }

    #[test]
    fn names_may_come_back_with_other_ids() {
        let clean = found(|h| {
            create(h, "t", "A");
            delete(h, Kind::Ok, "t", "A");
            create(h, "t", "B");
            create(h, "u", "C");
            delete(h, Kind::Info, "u", "C");
            listed(h, &[("t", "B")]);
        });
        assert_eq!(clean, []);
    }

    #[test]
    fn an_id_given_twice_is_told() {
        let twice = found(|h| {
            create(h, "t", "A");
            delete(h, Kind::Ok, "t", "A");
            create(h, "t", "A");
        });
        let (topic, id) = ("t".into(), "A".into());
        assert_eq!(twice, [Anomaly::TopicIdReused { topic, id }]);
    }

    #[test]
    fn a_deleted_topic_that_is_listed_is_told() {
        let there = found(|h| {
            create(h, "t", "A");
            delete(h, Kind::Ok, "t", "A");
            listed(h, &[("t", "A")]);
        });
        let (topic, id) = ("t".into(), "A".into());
        assert_eq!(there, [Anomaly::DeletedTopicThere { topic, id }]);
    }

    #[test]
    fn a_created_topic_that_is_not_listed_is_told() {
        let missing = found(|h| {
            create(h, "t", "A");
            listed(h, &[("t", "B")]);
        });
        let (topic, id) = ("t".into(), "A".into());
        assert_eq!(missing, [Anomaly::CreatedTopicMissing { topic, id }]);
    }
}

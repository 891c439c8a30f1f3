//! Partitions as they are named on the command line: `TOPIC` or `TOPIC:PARTITION,...`.

use anyhow::{Result, bail};
use std::collections::BTreeSet;
use tidelog_client::{Admin, TopicPartition};

/// A topic, and some of its partitions unless all are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub topic: String,
    pub partitions: Option<Vec<i32>>,
}

/// Parses one argument.
pub fn places(text: &str) -> Result<Places, String> {
    let Some((topic, partitions)) = text.rsplit_once(':') else {
        return Ok(Places {
            topic: text.to_owned(),
            partitions: None,
        });
    };
    let numbers = partitions
        .split(',')
        .map(|n| n.parse().ok().filter(|&n| n >= 0));
    let numbers: Option<Vec<i32>> = numbers.collect();
    Ok(Places {
        topic: topic.to_owned(),
        partitions: Some(numbers.ok_or("give TOPIC:PARTITION,...")?),
    })
}

impl Places {
    pub fn contains(&self, place: &TopicPartition) -> bool {
        let partitions = self.partitions.as_ref();
        self.topic == *place.topic && partitions.is_none_or(|all| all.contains(&place.partition))
    }
}

/// The partitions that are meant, in order.
///
/// # Errors
/// When a topic or a partition of it does not exist.
pub async fn find(admin: &Admin, of: &[Places]) -> Result<BTreeSet<TopicPartition>> {
    let mut all = BTreeSet::new();
    for Places { topic, partitions } in of {
        let info = admin.describe_topic(topic).await?;
        let partitions = match partitions {
            Some(partitions) => partitions.clone(),
            None => info.partitions.iter().map(|p| p.index).collect(),
        };
        if let Some(beyond) = partitions.iter().find(|&&p| info.partition(p).is_none()) {
            let count = info.partitions.len();
            bail!("topic {topic:?} has no partition {beyond}; it has {count}, counted from 0");
        }
        let partitions = partitions.into_iter();
        all.extend(partitions.map(|p| TopicPartition::new(topic.as_str(), p)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_a_topic_with_or_without_partitions() {
        let all = places("orders").unwrap();
        assert_eq!((all.topic.as_str(), &all.partitions), ("orders", &None));
        let some = places("orders:0,2").unwrap();
        assert_eq!(some.partitions, Some(vec![0, 2]));
        for wrong in ["orders:", "orders:x", "orders:1,-2"] {
            places(wrong).unwrap_err();
        }
        let second = TopicPartition::new("orders", 1);
        assert!(all.contains(&second) && !some.contains(&second));
        assert!(!all.contains(&TopicPartition::new("other", 1)));
    }
}

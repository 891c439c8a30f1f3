//! The internal topics coordinators live in.

use crate::broker::Broker;
use crate::metadata::changes::{NewTopic, Refused, create_topic};
use crate::metadata::{MetadataImage, Topic};
use kafka_protocol::error::ResponseError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::BrokerId;

/// Consumer groups and committed offsets.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// Transactions.
pub const TRANSACTION_STATE: &str = "__transaction_state";

/// As in Kafka, internal topics have at most three replicas by default.
const REPLICAS_MAX: usize = 3;
/// How long a creation waits for leaders; clients ask again anyway.
const CREATE_WAIT: Duration = Duration::from_secs(3);

/// Whether clients may neither write to the topic nor delete it.
pub fn is_internal(name: &str) -> bool {
    name == CONSUMER_OFFSETS || name == TRANSACTION_STATE
}

/// Whether first brokers are still to register; one that has left the cluster is not waited for.
fn is_forming(image: &MetadataImage, mut seeds: impl Iterator<Item = BrokerId>) -> bool {
    seeds.any(|id| !image.brokers.contains_key(&id) && !image.retired.contains(&id))
}

/// The partition of `count` that a group or a transactional id belongs to: Kafka's
/// `Utils.abs(key.hashCode()) % count`.
pub fn partition_for(key: &str, count: usize) -> usize {
    // Java hashes UTF-16 units.
    let hash = key.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive as usize % count.max(1)
}

/// The internal topic, created when it is not there yet. Several brokers may do so at once.
///
/// # Errors
/// `COORDINATOR_NOT_AVAILABLE` while the cluster is still forming; else why it cannot be created.
pub async fn ensure(broker: &Broker, name: &str) -> Result<Arc<Topic>, Refused> {
    if let Some(topic) = broker.metadata.load().topic(name) {
        return Ok(topic.clone());
    }
    let image = broker.metadata.load_full();
    let seeds = broker.config.seeds();
    let forming = is_forming(&image, seeds.iter().map(|s| s.broker));
    if image.brokers.is_empty() || forming {
        // Placed now, the topic would have fewer replicas than it should, for ever.
        return Err(Refused::new(
            ResponseError::CoordinatorNotAvailable,
            "not all brokers have registered yet",
        ));
    }
    let prefix = if name == TRANSACTION_STATE {
        "transaction.state.log"
    } else {
        "offsets.topic"
    };
    let setting = |of: &str| broker.config.int(&format!("{prefix}.{of}"));
    let segment_bytes = setting("segment.bytes").to_string();
    let configs = [
        ("cleanup.policy", "compact"),
        ("compression.type", "producer"),
        ("segment.bytes", &segment_bytes),
    ];
    let leaving = image.leaving();
    let stays = |id: &&BrokerId| !leaving.contains(*id);
    let staying = image.brokers.keys().filter(stays).count();
    let new = NewTopic {
        name: name.to_owned(),
        partitions: Some(setting("num.partitions") as i32),
        replication_factor: Some(staying.min(REPLICAS_MAX) as i16),
        assignments: None,
        configs: configs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
    };
    match create_topic(broker, &new, CREATE_WAIT).await {
        Ok(topic) => Ok(topic),
        Err(refused) if refused.error == ResponseError::TopicAlreadyExists => {
            let topic = broker.metadata.load().topic(name).cloned();
            topic.ok_or(refused)
        }
        Err(refused) => Err(refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::RegisterBroker;

    /// Values of Java's `String.hashCode`.
    #[test]
    fn keys_go_where_kafka_puts_them() {
        // "".hashCode() = 0, "group" = 98629247, "polygenelubricants" = Integer.MIN_VALUE,
        // "é𝄞" = 233 * 961 + 0xD834 * 31 + 0xDD1E.
        assert_eq!(partition_for("", 16), 0);
        assert_eq!(partition_for("group", 50), 98_629_247 % 50);
        assert_eq!(partition_for("polygenelubricants", 7), 0);
        let hash = 233 * 961 + 0xD834 * 31 + 0xDD1E;
        assert_eq!(partition_for("é𝄞", 1000), hash % 1000);
    }

    #[test]
    fn a_broker_that_has_left_is_not_waited_for() {
        let seeds = || [1, 2].map(BrokerId).into_iter();
        let mut image = MetadataImage::default();
        let one = RegisterBroker {
            id: 1,
            ..RegisterBroker::default()
        };
        image.brokers.insert(BrokerId(1), one.meta());
        assert!(is_forming(&image, seeds()));
        image.retired.insert(BrokerId(2));
        assert!(!is_forming(&image, seeds()));
    }
}

//! The cluster as a broker described it: brokers, topics, and who leads what.

use crate::error::ErrorCode;
use kafka_protocol::messages::metadata_response::{
    MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataResponse};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::time::Instant;

/// One broker and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerInfo {
    /// The broker's id, 0 or more.
    pub id: i32,
    /// A name or address that clients reach it by (`advertised.listeners`).
    pub host: String,
    /// TCP port of that host.
    pub port: u16,
    /// Where it stands (`broker.rack`), if it says so.
    pub rack: Option<String>,
}

impl BrokerInfo {
    /// `host:port`, with an IPv6 host in brackets.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// One topic with its partitions, ordered by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// The topic's name.
    pub name: String,
    /// All zero when the broker is too old to have topic ids.
    pub id: [u8; 16],
    /// Made by the cluster for itself, such as `__consumer_offsets`.
    pub internal: bool,
    /// All partitions, by index; never empty for a topic that exists.
    pub partitions: Vec<PartitionInfo>,
}

/// One partition. Replicas are broker ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// From 0 on, below the number of partitions.
    pub index: i32,
    /// None while there is none, such as during an election.
    pub leader: Option<i32>,
    /// Grows with every election of the partition; -1 when the broker is too old to say.
    pub leader_epoch: i32,
    /// All brokers that have a replica, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those of `replicas` that have everything that is acknowledged.
    pub in_sync: Vec<i32>,
    /// Those of `replicas` whose broker or disk is away.
    pub offline: Vec<i32>,
}

impl TopicInfo {
    /// The partition of this index; None when the topic has none.
    pub fn partition(&self, index: i32) -> Option<&PartitionInfo> {
        let at = self.partitions.binary_search_by_key(&index, |p| p.index);
        at.ok().map(|at| &self.partitions[at])
    }

    pub(crate) fn uuid(&self) -> uuid::Uuid {
        uuid::Uuid::from_bytes(self.id)
    }

    /// A broker that was away may tell of leaders that have been followed by others.
    fn keep_newer_leaders(&mut self, known: &TopicInfo) {
        if self.id != known.id {
            return;
        }
        for partition in &mut self.partitions {
            if let Some(known) = known.partition(partition.index)
                && known.leader_epoch > partition.leader_epoch
            {
                *partition = known.clone();
            }
        }
    }

    fn decode(topic: MetadataResponseTopic) -> TopicInfo {
        let mut partitions: Vec<_> = topic.partitions.into_iter().map(decode_partition).collect();
        partitions.sort_by_key(|p| p.index);
        TopicInfo {
            name: topic.name.map(|n| n.0.to_string()).unwrap_or_default(),
            id: topic.topic_id.into_bytes(),
            internal: topic.is_internal,
            partitions,
        }
    }
}

fn decode_partition(partition: MetadataResponsePartition) -> PartitionInfo {
    let ids = |ids: Vec<BrokerId>| ids.into_iter().map(|id| id.0).collect();
    PartitionInfo {
        index: partition.partition_index,
        leader: (partition.leader_id.0 >= 0).then_some(partition.leader_id.0),
        leader_epoch: partition.leader_epoch,
        replicas: ids(partition.replica_nodes),
        in_sync: ids(partition.isr_nodes),
        offline: ids(partition.offline_replicas),
    }
}

/// What is known of the cluster; replaced as a whole, never changed.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    pub brokers: BTreeMap<i32, BrokerInfo>,
    pub controller: Option<i32>,
    pub topics: HashMap<String, Arc<TopicInfo>>,
    pub fetched_at: Instant,
}

impl Metadata {
    pub(crate) fn empty() -> Metadata {
        Metadata {
            brokers: BTreeMap::new(),
            controller: None,
            topics: HashMap::new(),
            fetched_at: Instant::now(),
        }
    }

    /// This view with an answer merged into it. Topics that the answer leaves out are kept when it
    /// was asked for some topics only.
    pub(crate) fn merge(
        &self,
        response: MetadataResponse,
        all_topics: bool,
    ) -> (Metadata, HashMap<String, ErrorCode>) {
        let brokers = response.brokers.into_iter().filter_map(|broker| {
            let info = BrokerInfo {
                id: broker.node_id.0,
                host: broker.host.to_string(),
                port: u16::try_from(broker.port).ok()?,
                rack: broker.rack.map(|rack| rack.to_string()),
            };
            Some((info.id, info))
        });
        let mut topics = if all_topics {
            HashMap::new()
        } else {
            self.topics.clone()
        };
        let mut errors = HashMap::new();
        for topic in response.topics {
            let Some(name) = topic.name.as_ref().map(|n| n.0.to_string()) else {
                continue;
            };
            match ErrorCode::of(topic.error_code) {
                // Some partitions may lack a leader; the rest of the topic is still of use.
                Some(code) if topic.partitions.is_empty() => {
                    if code.is_unknown_topic() {
                        topics.remove(&name);
                    }
                    errors.insert(name, code);
                }
                _ => {
                    let mut topic = TopicInfo::decode(topic);
                    if let Some(known) = self.topics.get(&name) {
                        topic.keep_newer_leaders(known);
                    }
                    topics.insert(name, Arc::new(topic));
                }
            }
        }
        let merged = Metadata {
            brokers: brokers.collect(),
            controller: (response.controller_id.0 >= 0).then_some(response.controller_id.0),
            topics,
            fetched_at: Instant::now(),
        };
        (merged, errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
    use kafka_protocol::protocol::StrBytes;

    fn topic(name: &'static str, error: i16, partitions: &[(i32, i32)]) -> MetadataResponseTopic {
        let partitions = partitions.iter().map(|&(index, leader)| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(BrokerId(leader))
        });
        MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str(name))))
            .with_error_code(error)
            .with_partitions(partitions.collect())
    }

    #[test]
    fn an_older_leader_does_not_replace_a_newer_one_of_the_same_topic() {
        let led = |leader, epoch, id| {
            let mut topic = topic("a", 0, &[(0, leader)]).with_topic_id(uuid::Uuid::from_u128(id));
            topic.partitions[0].leader_epoch = epoch;
            MetadataResponse::default().with_topics(vec![topic])
        };
        let leader = |view: &Metadata| view.topics["a"].partitions[0].leader;
        let (view, _) = Metadata::empty().merge(led(1, 5, 9), false);
        let (view, _) = view.merge(led(2, 4, 9), false);
        assert_eq!(leader(&view), Some(1));
        let (view, _) = view.merge(led(2, 6, 9), true);
        assert_eq!(leader(&view), Some(2));
        // Deleted and created again, it begins anew.
        let (view, _) = view.merge(led(3, 0, 10), false);
        assert_eq!(leader(&view), Some(3));
    }

    #[test]
    fn an_answer_about_some_topics_keeps_the_others_and_forgets_deleted_ones() {
        let first = MetadataResponse::default()
            .with_brokers(vec![
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(7))
                    .with_host(StrBytes::from_static_str("::1"))
                    .with_port(9092),
            ])
            .with_controller_id(BrokerId(7))
            .with_topics(vec![
                topic("a", 0, &[(1, 7), (0, -1)]),
                topic("b", 0, &[(0, 7)]),
            ]);
        let (view, errors) = Metadata::empty().merge(first, true);
        assert!(errors.is_empty());
        assert_eq!(view.controller, Some(7));
        assert_eq!(view.brokers[&7].address(), "[::1]:9092");
        let a = &view.topics["a"];
        assert_eq!(a.partition(0).unwrap().leader, None);
        assert_eq!(a.partition(1).unwrap().leader, Some(7));
        assert_eq!(a.partition(2), None);

        let second = MetadataResponse::default().with_topics(vec![topic("b", 3, &[])]);
        let (view, errors) = view.merge(second, false);
        assert_eq!(errors["b"], ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        assert!(view.topics.contains_key("a") && !view.topics.contains_key("b"));
        assert_eq!(view.controller, None);
    }
}

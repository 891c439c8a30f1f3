//! A group and its clients, without I/O.

mod fencing;
mod random;
mod steps;

use super::group::ConsumerGroup;
use super::heartbeat::{Context, Heartbeat, validate};
use super::partitions::Partitions;
use super::records::{Change, GroupRecord, decode};
use super::settings::ConsumerGroupSettings;
use crate::coordinator::Turn;
use crate::metadata::changes::Refused;
use crate::metadata::image::PartitionMeta;
use crate::metadata::{MetadataImage, Topic};
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions,
};
use kafka_protocol::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;
use tidelog_replication::GroupId;
use uuid::Uuid;

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// One group, its clock, the topics there are and all it has written.
pub(super) struct World {
    pub group: ConsumerGroup,
    pub settings: ConsumerGroupSettings,
    pub turn: Turn,
    pub written: Vec<Change>,
}

impl World {
    pub fn new(topics: &[(&str, usize)]) -> World {
        let mut world = World {
            group: ConsumerGroup::default(),
            settings: ConsumerGroupSettings::default(),
            turn: Turn {
                leader_epoch: 1,
                now_ms: 1_000_000,
                clock_ms: 0,
                image: Arc::new(MetadataImage::default()),
            },
            written: Vec::new(),
        };
        for (name, partitions) in topics {
            world.set_topic(name, *partitions);
        }
        world
    }

    /// Makes a topic of this size, or removes it.
    pub fn set_topic(&mut self, name: &str, partitions: usize) {
        let mut image = (*self.turn.image).clone();
        image.applied_index += 1;
        let index = u128::from(image.applied_index);
        let id = image
            .topics
            .remove(name)
            .map_or(Uuid::from_u128(index), |t| t.id);
        image.topic_names.remove(&id);
        if partitions > 0 {
            let meta = PartitionMeta::new(GroupId(0), Vec::new());
            let topic = Topic {
                name: name.to_owned(),
                id,
                partitions: vec![meta; partitions],
                configs: Default::default(),
                first_sequences: false,
            };
            image.topic_names.insert(id, name.to_owned());
            image.topics.insert(name.to_owned(), Arc::new(topic));
        }
        self.turn.image = Arc::new(image);
    }

    pub fn id_of(&self, topic: &str) -> Uuid {
        self.turn.image.topics[topic].id
    }

    pub fn send(
        &mut self,
        heartbeat: &Heartbeat,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        validate(heartbeat, &self.settings)?;
        let cx = Context {
            turn: &self.turn,
            settings: &self.settings,
        };
        let mut changes = Vec::new();
        let answer = if heartbeat.is_leaving() {
            self.group.leave(cx, heartbeat, &mut changes)
        } else {
            self.group.heartbeat(cx, heartbeat, &mut changes)
        };
        assert!(
            answer.is_ok() || changes.is_empty(),
            "{answer:?} with {changes:?}"
        );
        self.written.append(&mut changes);
        answer
    }

    /// Lets time pass and removes whose time is up.
    pub fn pass(&mut self, ms: i64) {
        self.turn.clock_ms += ms;
        let ids: Vec<String> = self
            .group
            .expired(self.turn.clock_ms)
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        if !ids.is_empty() {
            self.group.fence(&self.turn, &ids, &mut self.written);
        }
    }

    /// What a coordinator that reads the partition has.
    pub fn replayed(&self) -> ConsumerGroup {
        let mut group = ConsumerGroup::default();
        for change in &self.written {
            let record = change.encode("g");
            let read = decode(&record.key, record.value.as_deref())
                .unwrap()
                .unwrap();
            let GroupRecord { change, .. } = read;
            group.apply(&change);
        }
        group
    }

    /// As [`World::replayed`], of a compacted partition: the last record of each key.
    pub fn compacted(&self) -> ConsumerGroup {
        let mut group = ConsumerGroup::default();
        let records: Vec<_> = self.written.iter().map(|c| (c.encode("g"), c)).collect();
        for (i, (record, change)) in records.iter().enumerate() {
            if records[i + 1..]
                .iter()
                .all(|(later, _)| later.key != record.key)
            {
                group.apply(change);
            }
        }
        group
    }
}

/// What must be the same after a replay.
pub(super) fn assert_same(a: &ConsumerGroup, b: &ConsumerGroup) {
    assert_eq!(a.durable(), b.durable());
}

/// A client as the next protocol wants it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub id: String,
    pub instance: Option<String>,
    pub topics: Vec<String>,
    pub regex: Option<String>,
    pub epoch: i32,
    pub owned: Partitions,
    /// What it was last told to hold.
    pub told: Partitions,
}

impl Client {
    pub fn new(id: &str, topics: &[&str]) -> Client {
        Client {
            id: id.to_owned(),
            instance: None,
            topics: topics.iter().map(|t| (*t).to_owned()).collect(),
            regex: None,
            epoch: 0,
            owned: Partitions::new(),
            told: Partitions::new(),
        }
    }

    /// A heartbeat that says everything.
    pub fn request(&self) -> Heartbeat {
        let owned = self
            .owned
            .iter()
            .map(|(topic, partitions)| {
                TopicPartitions::default()
                    .with_topic_id(*topic)
                    .with_partitions(partitions.iter().copied().collect())
            })
            .collect();
        let topics = self.topics.iter().map(|t| TopicName(text(t))).collect();
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(kafka_protocol::messages::GroupId(text("g")))
            .with_member_id(text(&self.id))
            .with_member_epoch(self.epoch)
            .with_instance_id(self.instance.as_deref().map(text))
            .with_rebalance_timeout_ms(30_000)
            .with_subscribed_topic_names(Some(topics))
            .with_subscribed_topic_regex(self.regex.as_deref().map(text))
            .with_topic_partitions(Some(owned));
        Heartbeat {
            request,
            version: 1,
            new_member_id: "made-by-the-broker".to_owned(),
            client_id: "client".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
        }
    }

    /// Sends a heartbeat and takes note of the answer.
    pub fn beat(&mut self, world: &mut World) -> Result<(), Refused> {
        let answer = world.send(&self.request())?;
        self.take(&answer);
        Ok(())
    }

    pub fn take(&mut self, answer: &ConsumerGroupHeartbeatResponse) {
        self.epoch = answer.member_epoch;
        if let Some(assignment) = &answer.assignment {
            self.told = assignment
                .topic_partitions
                .iter()
                .map(|t| (t.topic_id, t.partitions.iter().copied().collect()))
                .collect();
        }
    }

    /// Gives up what it is not to hold any more, and takes what it is.
    pub fn obey(&mut self) {
        self.owned = self.told.clone();
    }

    pub fn leave(&mut self, world: &mut World, epoch: i32) -> Result<(), Refused> {
        self.epoch = epoch;
        let result = world.send(&self.request());
        self.forget();
        result.map(drop)
    }

    /// Abandons everything, as a client that is fenced does.
    pub fn forget(&mut self) {
        self.epoch = 0;
        self.owned.clear();
        self.told.clear();
    }

    pub fn count(&self) -> usize {
        self.owned.values().map(|p| p.len()).sum()
    }
}

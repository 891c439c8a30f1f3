//! Applies metadata commands: `image + command → image + reply`, the same on every broker.

use super::command::{
    AllocateProducerIds, AlterConfigs, AlterGroupConfigs, Command, CreatePartitions, DeleteTopic,
    Envelope, FinishSpread, Refusal, RegisterBroker, Reply, Snapshot, TopicRecord,
    UnregisterBroker,
};
use super::features;
use super::image::{DECOMMISSION, MetadataImage, Topic};
use super::reassign;
use super::version::{self, Read};
use arc_swap::ArcSwap;
use bytes::Bytes;
use prost::Message as _;
use std::sync::Arc;
use tidelog_replication::{BrokerId, GroupId, MetadataMachine};
use tokio::sync::watch;
use uuid::Uuid;

/// Group ids below are reserved; 0 is the metadata group.
const FIRST_GROUP: u64 = 1000;
/// Producer ids below are never given out, so that 0 is not taken for "none" by tools.
const FIRST_PRODUCER_ID: i64 = 1000;
/// The setting that lets replicas be spread; setting it asks for it.
const BALANCE: &str = "balance.enable";
/// Deleted partitions remembered for brokers that are away.
const DELETED_MAX: usize = 100_000;

/// The state machine of the metadata group; every change is published as a new image.
pub struct Machine {
    image: MetadataImage,
    published: Arc<ArcSwap<MetadataImage>>,
    changed: watch::Sender<u64>,
    hooks: Hooks,
}

/// What a machine does beside its image.
pub struct Hooks {
    /// Notes durably that the data are of this `metadata.version` from now on: before they are.
    pub note_version: Box<dyn Fn(u32) -> Result<(), String> + Send>,
    /// Told why the broker cannot go on.
    pub failed: watch::Sender<Option<String>>,
}

impl Machine {
    pub fn new(
        published: Arc<ArcSwap<MetadataImage>>,
        changed: watch::Sender<u64>,
        hooks: Hooks,
    ) -> Machine {
        Machine {
            image: MetadataImage::default(),
            published,
            changed,
            hooks,
        }
    }

    fn stop<T>(&self, reason: String) -> Result<T, String> {
        self.hooks.failed.send_replace(Some(reason.clone()));
        Err(reason)
    }

    fn publish(&self) {
        self.published.store(Arc::new(self.image.clone()));
        self.changed.send_replace(self.image.applied_index);
    }
}

impl MetadataMachine for Machine {
    fn apply(&mut self, index: u64, command: &[u8], versioned: bool) -> Result<Bytes, String> {
        let version = self.image.metadata_version();
        let reply = match version::read(command, versioned) {
            Read::Command(envelope) => apply(&mut self.image, envelope),
            Read::Refused(reply) => reply,
            Read::Unknown(reason) => return self.stop(reason),
        };
        if self.image.metadata_version() > version
            && let Err(reason) = (self.hooks.note_version)(self.image.metadata_version())
        {
            return self.stop(reason);
        }
        self.image.applied_index = index;
        self.publish();
        Ok(Bytes::from(reply.encode_to_vec()))
    }

    fn snapshot(&self) -> Bytes {
        Bytes::from(Snapshot::of(&self.image).encode_to_vec())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let snapshot = Snapshot::decode(snapshot).map_err(|e| e.to_string())?;
        if snapshot.version > version::NEWEST {
            return self.stop(version::too_new(snapshot.version));
        }
        let image = snapshot.image();
        if let Err(reason) = (self.hooks.note_version)(image.metadata_version()) {
            return self.stop(reason);
        }
        self.image = image;
        self.publish();
        Ok(())
    }
}

pub(super) fn refused(refusal: Refusal, message: impl Into<String>) -> Reply {
    Reply {
        refusal: refusal as i32,
        message: message.into(),
        ..Reply::default()
    }
}

/// Applies one command.
pub fn apply(image: &mut MetadataImage, envelope: Envelope) -> Reply {
    if let Some(command) = &envelope.command
        && let Err(missing) = version::check(image, command)
    {
        return refused(Refusal::UnsupportedVersion, missing);
    }
    match envelope.command {
        Some(Command::RegisterBroker(c)) => register_broker(image, &c, envelope.version),
        Some(Command::CreateTopic(c)) => create_topic(image, &c),
        Some(Command::DeleteTopic(c)) => delete_topic(image, &c),
        Some(Command::CreatePartitions(c)) => create_partitions(image, &c),
        Some(Command::AlterConfigs(c)) => alter_configs(image, c),
        Some(Command::AlterGroupConfigs(c)) => alter_group_configs(image, c),
        Some(Command::AlterReassignments(c)) => reassign::alter(image, &c),
        Some(Command::FinishReassignment(c)) => reassign::finish(image, &c),
        Some(Command::ReplicaRemoved(c)) => reassign::removed(image, &c),
        Some(Command::UnregisterBroker(c)) => unregister_broker(image, &c),
        Some(Command::FinishSpread(c)) => finish_spread(image, &c),
        Some(Command::UpdateFeatures(c)) => match features::update(image, &c) {
            Ok(()) => Reply::default(),
            Err((refusal, message)) => refused(refusal, message),
        },
        Some(Command::AllocateProducerIds(c)) => allocate_producer_ids(image, &c),
        None => refused(Refusal::UnsupportedVersion, "unknown metadata command"),
    }
}

/// The version of the first registration is that of the new cluster.
fn register_broker(image: &mut MetadataImage, command: &RegisterBroker, version: u32) -> Reply {
    let meta = command.meta();
    if image.retired.contains(&meta.id) {
        // Its votes are forgotten: under the same id they might be cast again.
        return refused(
            Refusal::DuplicateBroker,
            format!(
                "broker {} was unregistered; start it with an empty data.dir under a new broker.id",
                meta.id
            ),
        );
    }
    if let Some(known) = image.brokers.get(&meta.id)
        && known.incarnation != meta.incarnation
    {
        return refused(
            Refusal::DuplicateBroker,
            format!(
                "broker {} is registered with another data folder; if its disk was lost, start it \
                 under a new broker.id",
                meta.id
            ),
        );
    }
    let known = features::known_of(&command.features);
    if image.cluster_id.is_empty() {
        version::begin(image, version, &known);
        image.cluster_id.clone_from(&command.cluster_id);
    }
    if let Err((refusal, reason)) = features::register(image, meta.id, known) {
        return refused(refusal, reason);
    }
    let id = meta.id;
    image.brokers.insert(id, meta);
    // It has just joined, or was away so long that all it had has moved elsewhere.
    let mut partitions = image.topics.values().flat_map(|t| &t.partitions);
    if !image.topics.is_empty() && !partitions.any(|p| p.replicas.contains(&id)) {
        image.ask_to_spread();
    }
    Reply {
        cluster_id: image.cluster_id.clone(),
        ..Reply::default()
    }
}

fn unregister_broker(image: &mut MetadataImage, command: &UnregisterBroker) -> Reply {
    let id = BrokerId(command.id);
    if !image.brokers.contains_key(&id) {
        return refused(
            Refusal::UnknownBroker,
            format!("Broker ID {id} is not currently registered."),
        );
    }
    if image.brokers.len() == 1 {
        return refused(Refusal::BrokerInUse, format!("broker {id} is the only one"));
    }
    let partitions = image.topics.values().flat_map(|t| &t.partitions);
    let held = partitions.filter(|p| p.replicas.contains(&id)).count();
    if held > 0 {
        return refused(
            Refusal::BrokerInUse,
            format!("broker {id} still has replicas of {held} partitions; move them first"),
        );
    }
    image.brokers.remove(&id);
    image.broker_configs.remove(&Some(id));
    image.broker_features.remove(&id);
    image.dropped.retain(|(broker, _), _| *broker != id);
    image.retired.insert(id);
    Reply::default()
}

fn next_group(image: &mut MetadataImage) -> GroupId {
    let group = image.next_group.max(FIRST_GROUP);
    image.next_group = group + 1;
    GroupId(group)
}

fn create_topic(image: &mut MetadataImage, command: &TopicRecord) -> Reply {
    if let Some(known) = image.topics.get(&command.name) {
        if known.id.as_bytes()[..] == command.id {
            // The proposer tried again after it lost the answer.
            return Reply::default();
        }
        return refused(
            Refusal::TopicAlreadyExists,
            format!("Topic '{}' already exists.", command.name),
        );
    }
    // Metrics names cannot tell '.' from '_', so two such topics may not both exist.
    let folded = command.name.replace('.', "_");
    if let Some(clash) = image.topics.keys().find(|t| t.replace('.', "_") == folded) {
        return refused(
            Refusal::InvalidTopic,
            format!(
                "Topic '{}' collides with existing topic: {clash}",
                command.name
            ),
        );
    }
    let mut topic = command.topic();
    topic.first_sequences = image.metadata_version() >= version::FIRST_WITH_FIRST_SEQUENCES
        && !had_topic(image, &topic.name);
    for partition in &mut topic.partitions {
        partition.group = next_group(image);
    }
    image.topic_names.insert(topic.id, topic.name.clone());
    image.topics.insert(topic.name.clone(), Arc::new(topic));
    Reply::default()
}

/// Whether there was a topic of this name, as far as is known.
fn had_topic(image: &MetadataImage, name: &str) -> bool {
    let folder = MetadataImage::folder(name, 0);
    image.deleted.values().any(|deleted| *deleted == folder)
}

pub(super) fn find(image: &MetadataImage, id: &[u8]) -> Option<Arc<Topic>> {
    let id = Uuid::from_slice(id).ok()?;
    image.topic_by_id(id).cloned()
}

fn delete_topic(image: &mut MetadataImage, command: &DeleteTopic) -> Reply {
    let Some(topic) = find(image, &command.id) else {
        return refused(Refusal::UnknownTopic, "The topic does not exist.");
    };
    image.topics.remove(&topic.name);
    image.topic_names.remove(&topic.id);
    for (index, partition) in topic.partitions.iter().enumerate() {
        let folder = MetadataImage::folder(&topic.name, index);
        image
            .dropped
            .retain(|(_, group), _| *group != partition.group);
        image.deleted.insert(partition.group, folder);
    }
    while image.deleted.len() > DELETED_MAX {
        image.deleted.pop_first();
    }
    Reply::default()
}

fn create_partitions(image: &mut MetadataImage, command: &CreatePartitions) -> Reply {
    let Some(topic) = find(image, &command.topic_id) else {
        return refused(Refusal::UnknownTopic, "The topic does not exist.");
    };
    if topic.partitions.len() != command.from_count as usize {
        return refused(
            Refusal::InvalidPartitions,
            format!("Topic currently has {} partitions.", topic.partitions.len()),
        );
    }
    let mut grown = (*topic).clone();
    for replicas in &command.partitions {
        let mut partition = replicas.partition();
        partition.group = next_group(image);
        grown.partitions.push(partition);
    }
    image.topics.insert(grown.name.clone(), Arc::new(grown));
    Reply::default()
}

fn alter_configs(image: &mut MetadataImage, command: AlterConfigs) -> Reply {
    match &command.topic {
        Some(name) => {
            let Some(topic) = image.topics.get(name) else {
                return refused(Refusal::UnknownTopic, "The topic does not exist.");
            };
            let mut changed = (**topic).clone();
            change(&mut changed.configs, command.changes);
            image.topics.insert(name.clone(), Arc::new(changed));
        }
        None => {
            let broker = command.broker.map(BrokerId);
            if asks_to_spread(&command.changes) {
                image.ask_to_spread();
            }
            change(
                image.broker_configs.entry(broker).or_default(),
                command.changes,
            );
            image
                .broker_configs
                .retain(|_, configs| !configs.is_empty());
        }
    }
    Reply::default()
}

/// Also when they were set so before: that is how spreading is asked for by hand. A broker that is to stay
/// after all gets back its share.
fn asks_to_spread(changes: &[super::command::ConfigChange]) -> bool {
    changes.iter().any(|change| {
        let on = change.value.as_deref() == Some("true");
        change.name == BALANCE && on || change.name == DECOMMISSION && !on
    })
}

fn finish_spread(image: &mut MetadataImage, command: &FinishSpread) -> Reply {
    // Another wish may have come meanwhile.
    if image.spread == Some(command.id) {
        image.spread = None;
    }
    Reply::default()
}

fn alter_group_configs(image: &mut MetadataImage, command: AlterGroupConfigs) -> Reply {
    let configs = image.group_configs.entry(command.group).or_default();
    change(configs, command.changes);
    image.group_configs.retain(|_, configs| !configs.is_empty());
    Reply::default()
}

fn change(
    configs: &mut std::collections::BTreeMap<String, String>,
    changes: Vec<super::command::ConfigChange>,
) {
    for change in changes {
        match change.value {
            Some(value) => {
                configs.insert(change.name, value);
            }
            None => {
                configs.remove(&change.name);
            }
        }
    }
}

fn allocate_producer_ids(image: &mut MetadataImage, command: &AllocateProducerIds) -> Reply {
    let first = image.next_producer_id.max(FIRST_PRODUCER_ID);
    image.next_producer_id = first + i64::from(command.count.max(1));
    Reply {
        first_producer_id: first,
        ..Reply::default()
    }
}

#[cfg(test)]
mod tests;

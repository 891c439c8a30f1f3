//! Opens and removes this broker's replicas as the metadata says, and keeps their settings.

use super::command::{Command, ReplicaRemoved};
use super::image::{MetadataImage, Topic};
use super::{changes, members};
use crate::broker::Broker;
use crate::config::{TopicConfig, broker_value};
use futures_util::stream::{self, StreamExt as _};
use kafka_protocol::error::ResponseError;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidelog_replication::{GroupId, PartitionSpec, PeerAddress};
use tokio::sync::watch;

/// Follows the image until `stop`. Nothing is removed because metadata lacks it: only the groups the
/// image lists as deleted are.
pub async fn run(
    broker: Arc<Broker>,
    mut changed: watch::Receiver<u64>,
    mut stop: watch::Receiver<bool>,
) {
    let mut opened: HashSet<GroupId> = HashSet::new();
    let mut removed: HashSet<GroupId> = HashSet::new();
    let mut configs: HashMap<GroupId, TopicConfig> = HashMap::new();
    loop {
        changed.borrow_and_update();
        // Of the image that is looked at: asked before it is taken.
        let current = broker.node.metadata_is_current();
        let image = broker.metadata.load_full();
        peers(&broker, &image);
        for (group, folder) in &image.deleted {
            if removed.insert(*group) {
                remove(&broker, *group, folder, &image).await;
                opened.remove(group);
                configs.remove(group);
            }
        }
        let mut failed = !drop_moved(&broker, &image, &mut opened, &mut configs).await;
        for topic in image.topics.values() {
            let config = TopicConfig::resolve(&topic.configs, &broker.config, &image);
            let open = open_topic(&broker, topic, &config, current, &mut opened, &mut configs);
            failed |= !open.await;
        }
        if !failed && current {
            broker.node.all_replicas_open();
        }
        broker.opened_index.store(
            if failed {
                0
            } else {
                image.applied_index.max(1)
            },
            Ordering::Release,
        );
        let pause = if current {
            Duration::from_secs(1)
        } else {
            Duration::from_millis(100)
        };
        let retry = async {
            if failed || broker.node.is_rebuilding() {
                tokio::time::sleep(pause).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            result = changed.changed() => if result.is_err() { return },
            () = retry => {}
            _ = stop.wait_for(|s| *s) => return,
        }
    }
}

fn peers(broker: &Broker, image: &MetadataImage) {
    members::name_replicas(&broker.node, image);
    for meta in image.brokers.values().filter(|b| b.id != broker.id) {
        broker.node.set_peer_address(PeerAddress {
            broker: meta.id,
            address: meta.peer_address.clone(),
        });
        broker
            .node
            .expect_incarnation(meta.id, meta.incarnation.as_u128());
    }
    broker.node.refuse(&image.retired);
    broker
        .node
        .require_metadata_version(image.metadata_version());
    broker.node.set_maintenance(image.in_maintenance());
    let rate = broker_value("replication.throttled.rate", &broker.config, image);
    let rate = rate.parse().ok().filter(|rate| *rate < i64::MAX as u64);
    broker.node.set_move_rate(rate);
}

/// Replicas opened at the same time: their first journal records are synced together.
const OPEN_AT_ONCE: usize = 8;

/// Opens what is missing; false when something could not be opened.
async fn open_topic(
    broker: &Arc<Broker>,
    topic: &Topic,
    config: &TopicConfig,
    current: bool,
    opened: &mut HashSet<GroupId>,
    configs: &mut HashMap<GroupId, TopicConfig>,
) -> bool {
    let mut all = true;
    let mut missing = Vec::new();
    for (index, partition) in topic.partitions.iter().enumerate() {
        if !partition.replicas.contains(&broker.id) {
            continue;
        }
        if opened.contains(&partition.group) {
            broker.node.set_leaving(partition.group, false);
            broker
                .node
                .set_replicas(partition.group, &partition.replicas);
            if configs.get(&partition.group) != Some(config) {
                if let Some(replica) = broker.node.partition(partition.group) {
                    replica.log().update_config(config.log.clone());
                }
                configs.insert(partition.group, config.clone());
            }
            continue;
        }
        // A replica the journal does not know begins empty. Old metadata may name one whose topic
        // is deleted by now, in the folder of a later topic of the same name; or one that was moved
        // away, whose first voters would form the group once more beside those that have it.
        if !broker.node.knows(partition.group) && !current {
            all = false;
            continue;
        }
        let folder = MetadataImage::folder(&topic.name, index);
        missing.push(PartitionSpec {
            group: partition.group,
            topic: topic.name.clone(),
            topic_id: topic.id.into_bytes(),
            partition: index as i32,
            dir: broker.data_dir().join("partitions").join(folder),
            replicas: partition.replicas.clone(),
            founders: if partition.founders.contains(&broker.id) {
                partition.founders.clone()
            } else {
                Vec::new()
            },
            first_sequences: topic.first_sequences,
            config: config.log.clone(),
        });
    }
    let open = |spec: PartitionSpec| async {
        let (group, partition) = (spec.group, spec.partition);
        (group, partition, broker.node.open_partition(spec).await)
    };
    let mut opening = stream::iter(missing)
        .map(open)
        .buffer_unordered(OPEN_AT_ONCE);
    while let Some((group, partition, done)) = opening.next().await {
        match done {
            Ok(_) => {
                opened.insert(group);
                configs.insert(group, config.clone());
            }
            Err(error) => {
                all = false;
                tracing::error!(
                    topic = topic.name,
                    partition,
                    "cannot open the replica: {error}"
                );
            }
        }
    }
    all
}

/// Removes replicas of partitions that have moved elsewhere; false when it has to be tried again.
///
/// Between the removal's commit and the last answer this replica gives there must be nothing: the partition
/// may move back here meanwhile, and its leader must not count on what is being removed. So the replica
/// falls silent first.
async fn drop_moved(
    broker: &Arc<Broker>,
    image: &MetadataImage,
    opened: &mut HashSet<GroupId>,
    configs: &mut HashMap<GroupId, TopicConfig>,
) -> bool {
    let mine = image.dropped.iter().filter(|((id, _), _)| *id == broker.id);
    let mut all = true;
    for ((_, group), dropped) in mine {
        let (group, me) = (*group, broker.id.0);
        let say = |done| {
            let removed = ReplicaRemoved {
                broker: me,
                group: group.0,
                done,
            };
            changes::propose(broker, Command::ReplicaRemoved(removed))
        };
        broker.node.set_leaving(group, true);
        if let Err(refused) = say(false).await {
            // Wanted again: newer metadata say so. Otherwise nobody could be asked, and it is tried again.
            tracing::debug!(group = group.0, "not removed: {}", refused.message);
            all &= refused.error == ResponseError::NoReassignmentInProgress;
            continue;
        }
        if let Err(error) = broker.node.remove_replica(group).await {
            tracing::error!(group = group.0, "cannot remove the replica: {error}");
            all = false;
            continue;
        }
        opened.remove(&group);
        configs.remove(&group);
        let dir = broker.data_dir().join("partitions").join(&dropped.folder);
        let gone = move || std::fs::remove_dir_all(dir);
        let _ = broker.node.host().disk_work(gone).await;
        match say(true).await {
            Ok(_) => tracing::info!("{} has moved away and is removed", dropped.folder),
            Err(_) => all = false,
        }
    }
    all
}

async fn remove(broker: &Broker, group: GroupId, folder: &str, image: &MetadataImage) {
    if let Err(error) = broker.node.remove_partition(group).await {
        tracing::error!(group = group.0, "cannot remove the replica: {error}");
    }
    // The replica may never have been opened in this run; its folder still has to go, unless a new
    // topic of the same name has it.
    let taken = folder
        .rsplit_once('-')
        .and_then(|(name, index)| {
            let index: usize = index.parse().ok()?;
            image.topic(name).map(|t| index < t.partitions.len())
        })
        .unwrap_or(false);
    if !taken {
        let dir = broker.data_dir().join("partitions").join(folder);
        let gone = move || std::fs::remove_dir_all(dir);
        let _ = broker.node.host().disk_work(gone).await;
    }
}

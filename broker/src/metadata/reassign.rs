//! Applies commands about moving partitions. The rules are Kafka's `ReplicationControlManager`; what differs
//! is that a partition keeps all replicas that may still vote in its replica set until its leader has said
//! that they do not, also when a move is cancelled.

use super::command::{
    AlterReassignments, FinishReassignment, Outcome, ReassignmentChange, Refusal, ReplicaRemoved,
    Reply, brokers_of,
};
use super::image::{Dropped, MetadataImage, PartitionMeta, Reassignment, Topic};
use super::machine::{find, refused};
use std::sync::Arc;
use tidelog_replication::{BrokerId, GroupId};

type Refused = (Refusal, String);

/// Begins, changes and cancels moves.
pub fn alter(image: &mut MetadataImage, command: &AlterReassignments) -> Reply {
    let outcomes = command.changes.iter().map(|change| {
        let outcome = alter_one(image, change, command.factor_may_change);
        outcome
            .err()
            .map_or_else(Outcome::default, |(refusal, message)| Outcome {
                refusal: refusal as i32,
                message,
            })
    });
    Reply {
        outcomes: outcomes.collect(),
        ..Reply::default()
    }
}

fn alter_one(
    image: &mut MetadataImage,
    change: &ReassignmentChange,
    factor_may_change: bool,
) -> Result<(), Refused> {
    let (topic, index) = partition(image, &change.topic_id, change.partition).ok_or_else(|| {
        (
            Refusal::UnknownTopic,
            "Unable to find the partition.".to_owned(),
        )
    })?;
    let meta = &topic.partitions[index];
    let target = brokers_of(&change.target);
    // One move of a partition begins at most with each command.
    let id = image.applied_index + 1;
    let moved = if target.is_empty() {
        let moving = meta.reassignment.as_ref().ok_or_else(|| {
            let none = "No reassignment is in progress.".to_owned();
            (Refusal::NoReassignmentInProgress, none)
        })?;
        let original = moving.original.clone();
        to(meta, original, id)
    } else {
        check(image, meta, &target, factor_may_change)?;
        to(meta, target, id)
    };
    for broker in &moved.replicas {
        // A replica that was to be removed and is wanted again goes on where it is.
        image.dropped.remove(&(*broker, moved.group));
    }
    replace(image, &topic, index, moved);
    Ok(())
}

fn check(
    image: &MetadataImage,
    meta: &PartitionMeta,
    target: &[BrokerId],
    factor_may_change: bool,
) -> Result<(), Refused> {
    for (at, broker) in target.iter().enumerate() {
        if target[..at].contains(broker) {
            let twice = format!(
                "The manual partition assignment includes the broker {broker} more than once."
            );
            return Err((Refusal::InvalidReplicaAssignment, twice));
        }
        if !image.brokers.contains_key(broker) {
            let unknown = format!(
                "The manual partition assignment includes broker {broker}, but no such broker is registered."
            );
            return Err((Refusal::InvalidReplicaAssignment, unknown));
        }
    }
    let removing = target.iter().find(|broker| {
        let replica = image.dropped.get(&(**broker, meta.group));
        replica.is_some_and(|dropped| dropped.removing)
    });
    if let Some(broker) = removing {
        let busy = format!(
            "Broker {broker} is still removing the replica it had before; try again in a moment."
        );
        return Err((Refusal::InvalidReplicaAssignment, busy));
    }
    let before = meta
        .reassignment
        .as_ref()
        .map_or(&meta.replicas, |m| &m.original);
    if !factor_may_change && before.len() != target.len() {
        let changes = format!(
            "The replication factor is changed from {} to {}",
            before.len(),
            target.len()
        );
        return Err((Refusal::InvalidReplicationFactor, changes));
    }
    Ok(())
}

/// The partition on its way to `target`, whatever it was doing.
fn to(meta: &PartitionMeta, target: Vec<BrokerId>, id: u64) -> PartitionMeta {
    let mut moved = meta.clone();
    if meta.reassignment.is_none() && meta.replicas.len() == target.len() {
        let same = meta.replicas.iter().all(|b| target.contains(b));
        if same {
            // Only the order of preference changes.
            moved.replicas = target;
            return moved;
        }
    }
    let original = meta
        .reassignment
        .as_ref()
        .map_or_else(|| meta.replicas.clone(), |m| m.original.clone());
    let before = meta.replicas.iter().copied();
    moved.replicas = target.clone();
    moved
        .replicas
        .extend(before.filter(|b| !target.contains(b)));
    moved.reassignment = Some(Reassignment {
        id,
        target,
        original,
    });
    moved
}

/// Ends a move: replicas that go are dropped.
pub fn finish(image: &mut MetadataImage, command: &FinishReassignment) -> Reply {
    let Some((topic, index)) = partition(image, &command.topic_id, command.partition) else {
        return refused(Refusal::UnknownTopic, "The partition does not exist.");
    };
    let meta = &topic.partitions[index];
    let Some(moving) = meta.reassignment.as_ref().filter(|m| m.id == command.id) else {
        return refused(
            Refusal::NoReassignmentInProgress,
            "The partition moves elsewhere by now, or not at all.",
        );
    };
    let target = moving.target.clone();
    let folder = MetadataImage::folder(&topic.name, index);
    let mut settled = meta.clone();
    for gone in meta.removing() {
        let dropped = Dropped {
            folder: folder.clone(),
            removing: false,
        };
        image.dropped.insert((gone, meta.group), dropped);
    }
    settled.replicas = target;
    settled.reassignment = None;
    replace(image, &topic, index, settled);
    Reply::default()
}

/// A broker removes a replica, or has removed it.
pub fn removed(image: &mut MetadataImage, command: &ReplicaRemoved) -> Reply {
    let replica = (BrokerId(command.broker), GroupId(command.group));
    let Some(dropped) = image.dropped.get_mut(&replica) else {
        return refused(
            Refusal::NoReassignmentInProgress,
            "The replica is wanted again, or was removed before.",
        );
    };
    dropped.removing = true;
    if command.done {
        image.dropped.remove(&replica);
    }
    Reply::default()
}

fn partition(
    image: &MetadataImage,
    topic_id: &[u8],
    partition: i32,
) -> Option<(Arc<Topic>, usize)> {
    let topic = find(image, topic_id)?;
    let index = usize::try_from(partition).ok()?;
    (index < topic.partitions.len()).then_some((topic, index))
}

fn replace(image: &mut MetadataImage, topic: &Topic, index: usize, mut partition: PartitionMeta) {
    let founders = std::mem::take(&mut partition.founders);
    let replicas = partition.replicas.iter().copied();
    partition.founders = replicas.filter(|b| founders.contains(b)).collect();
    let mut changed = topic.clone();
    changed.partitions[index] = partition;
    image.topics.insert(changed.name.clone(), Arc::new(changed));
}

#[cfg(test)]
mod tests;

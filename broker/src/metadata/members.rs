//! Moves the replicas of partitions that this broker leads to where the metadata want them, and keeps the
//! metadata group's voters on brokers that are there.

use super::changes::propose;
use super::command::{Command, FinishReassignment};
use super::image::MetadataImage;
use crate::broker::Broker;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::{BrokerId, GroupId, METADATA_GROUP, Members, Node, Wanted};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Pause between two looks at partitions under way.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Groups that take a step at the same time.
const STEPS_MAX: usize = 50;
/// Most voters of the metadata group; the other brokers learn.
const METADATA_VOTERS_MAX: usize = 5;

/// A partition that this broker leads, and whose voters are not yet those it is to have.
struct Moving {
    group: GroupId,
    wanted: Wanted,
    /// What tells that it is there; none when the metadata do not know that it moves: a leader that had old
    /// metadata may have taken steps of a move that was cancelled.
    finish: Option<FinishReassignment>,
}

/// Drives moves until `stop`.
pub async fn run(
    broker: Arc<Broker>,
    mut changed: watch::Receiver<u64>,
    mut stop: watch::Receiver<bool>,
) {
    let mut leaders = broker.node.watch_leaders();
    // A step without a majority takes seconds: other groups go on meanwhile.
    let mut steps: JoinSet<GroupId> = JoinSet::new();
    let mut busy: HashSet<GroupId> = HashSet::new();
    loop {
        changed.borrow_and_update();
        leaders.borrow_and_update();
        while let Some(ended) = steps.try_join_next() {
            match ended {
                Ok(group) => drop(busy.remove(&group)),
                Err(error) => tracing::error!("a step of a move failed: {error}"),
            }
        }
        let image = broker.metadata.load_full();
        for one in led_here(&broker, &image) {
            if busy.len() < STEPS_MAX && busy.insert(one.group) {
                let broker = broker.clone();
                steps.spawn(async move {
                    step(&broker, &one).await;
                    one.group
                });
            }
        }
        let settled = metadata_voters(&broker, &image).await;
        let again = async {
            if steps.is_empty() && settled {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        tokio::select! {
            () = again => {}
            result = changed.changed() => if result.is_err() { return },
            result = leaders.changed() => if result.is_err() { return },
            _ = stop.wait_for(|s| *s) => return,
        }
    }
}

fn led_here(broker: &Broker, image: &MetadataImage) -> Vec<Moving> {
    let mut moving = Vec::new();
    for topic in image.topics.values() {
        for (index, partition) in topic.partitions.iter().enumerate() {
            let leader = broker.node.leader_of(partition.group);
            if leader.is_none_or(|info| info.leader != broker.id) {
                continue;
            }
            if partition.reassignment.is_none()
                && broker
                    .node
                    .consists_of(partition.group, &partition.replicas)
            {
                continue;
            }
            moving.push(Moving {
                group: partition.group,
                wanted: Wanted {
                    voters: partition.target().to_vec(),
                    learners: BTreeSet::new(),
                },
                finish: partition.reassignment.as_ref().map(|r| FinishReassignment {
                    topic_id: topic.id.as_bytes().to_vec(),
                    partition: index as i32,
                    id: r.id,
                }),
            });
        }
    }
    moving
}

async fn step(broker: &Broker, moving: &Moving) {
    if !broker
        .node
        .move_replicas(moving.group, &moving.wanted)
        .await
    {
        return;
    }
    // A majority of the new voters has it: those that go are needed no more.
    let Some(finish) = moving.finish.clone() else {
        return;
    };
    let finish = Command::FinishReassignment(finish);
    if let Err(refused) = propose(broker, finish).await {
        tracing::debug!(
            group = moving.group.0,
            "move not finished: {}",
            refused.message
        );
    }
}

/// Takes a step towards the voters the metadata group should have; true when there is nothing to do here.
async fn metadata_voters(broker: &Broker, image: &MetadataImage) -> bool {
    if broker.node.metadata_leader() != Some(broker.id) {
        return true;
    }
    let Some(members) = broker.node.members(METADATA_GROUP) else {
        return true;
    };
    let alive = broker.node.alive_brokers();
    let wanted = wanted_members(image, &members, &alive);
    broker.node.move_replicas(METADATA_GROUP, &wanted).await
}

/// Voters stay as long as their brokers are not retired or to leave; others take free places, living ones first
/// come. All other registered brokers learn. Those that are to leave stay where nobody else is.
fn wanted_members(image: &MetadataImage, members: &Members, alive: &[BrokerId]) -> Wanted {
    let present: BTreeSet<BrokerId> = members.configs.iter().flatten().copied().collect();
    // A voter that has not registered yet is a first broker of a cluster that is just being formed.
    let leaving = image.leaving();
    let goes = |b: &BrokerId| image.retired.contains(b) || leaving.contains(b);
    let stay = present.iter().copied().filter(|b| !goes(b));
    let mut voters: Vec<BrokerId> = stay.take(METADATA_VOTERS_MAX).collect();
    for broker in image.brokers.keys().copied() {
        if voters.len() < METADATA_VOTERS_MAX
            && !voters.contains(&broker)
            && alive.contains(&broker)
            && !leaving.contains(&broker)
        {
            voters.push(broker);
        }
    }
    if voters.is_empty() {
        let last = present.iter().copied();
        voters.extend(last.filter(|b| !image.retired.contains(b)));
    }
    let learners = image.brokers.keys().copied();
    Wanted {
        learners: learners.filter(|b| !voters.contains(b)).collect(),
        voters,
    }
}

/// Tells the metadata group which replicas it has, in the order in which they stand for election.
pub fn name_replicas(node: &Node, image: &MetadataImage) {
    let present = node.replicas(METADATA_GROUP);
    let members = node.members(METADATA_GROUP);
    let voters = members.into_iter().flat_map(|m| m.configs);
    let named = replicas_of(image, &present, voters.flatten());
    node.set_replicas(METADATA_GROUP, &named);
}

/// Nobody goes who was not unregistered: a broker whose metadata are not there yet, or are lost, knows from its
/// `seed.brokers` whom to ask for them.
fn replicas_of(
    image: &MetadataImage,
    present: &[BrokerId],
    voters: impl Iterator<Item = BrokerId>,
) -> Vec<BrokerId> {
    let mut all: BTreeSet<BrokerId> = voters.chain(present.iter().copied()).collect();
    all.extend(image.brokers.keys());
    all.retain(|b| !image.retired.contains(b));
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::RegisterBroker;

    fn ids(ids: &[i32]) -> Vec<BrokerId> {
        ids.iter().copied().map(BrokerId).collect()
    }

    fn image(registered: &[i32], retired: &[i32]) -> MetadataImage {
        let mut image = MetadataImage::default();
        for id in registered {
            let broker = RegisterBroker {
                id: *id,
                ..RegisterBroker::default()
            };
            image.brokers.insert(BrokerId(*id), broker.meta());
        }
        image.retired = ids(retired).into_iter().collect();
        image
    }

    fn members(voters: &[i32]) -> Members {
        Members {
            configs: vec![ids(voters).into_iter().collect()],
            learners: BTreeSet::new(),
            committed: true,
        }
    }

    #[test]
    fn a_broker_without_metadata_still_knows_whom_to_ask() {
        let seeds = ids(&[1, 2, 3]);
        let none = std::iter::empty;
        assert_eq!(replicas_of(&image(&[], &[]), &seeds, none()), seeds);
        let joined = image(&[1, 3, 4], &[2]);
        assert_eq!(replicas_of(&joined, &seeds, none()), ids(&[1, 3, 4]));
        let voter = std::iter::once(BrokerId(5));
        assert_eq!(replicas_of(&joined, &seeds, voter), ids(&[1, 3, 4, 5]));
    }

    #[test]
    fn metadata_voters_follow_the_brokers() {
        let alive = ids(&[1, 2, 3, 4, 5, 6]);
        let wanted = |image: &MetadataImage, voters: &[i32]| {
            let wanted = wanted_members(image, &members(voters), &alive);
            (
                wanted.voters,
                wanted.learners.into_iter().collect::<Vec<_>>(),
            )
        };
        // Being formed: only the first has registered.
        let forming = image(&[1], &[]);
        assert_eq!(wanted(&forming, &[1, 2, 3]), (ids(&[1, 2, 3]), vec![]));
        let joined = image(&[1, 2, 3, 4, 5, 6, 7], &[]);
        assert_eq!(
            wanted(&joined, &[1, 2, 3]),
            (ids(&[1, 2, 3, 4, 5]), ids(&[6, 7]))
        );
        // A dead one does not get a place.
        let two = image(&[1, 2, 7], &[]);
        assert_eq!(wanted(&two, &[1, 2]), (ids(&[1, 2]), ids(&[7])));
        let gone = image(&[2, 3, 4, 5, 6], &[1]);
        assert_eq!(wanted(&gone, &[1, 2, 3]), (ids(&[2, 3, 4, 5, 6]), vec![]));
    }
}

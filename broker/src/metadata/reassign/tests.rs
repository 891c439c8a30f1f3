use super::*;
use crate::metadata::command::Replicas;
use crate::metadata::command::{
    Command, Envelope, RegisterBroker, Snapshot, TopicRecord, UnregisterBroker,
};
use crate::metadata::machine::apply;
use proptest::prelude::*;
use uuid::Uuid;

const TOPIC: Uuid = Uuid::from_u128(7);

fn run(image: &mut MetadataImage, command: Command) -> Reply {
    let envelope = Envelope::of(command);
    let reply = apply(image, envelope);
    image.applied_index += 1;
    reply
}

/// Five brokers and a topic with one partition on 1, 2, 3.
fn cluster() -> MetadataImage {
    let mut image = MetadataImage::default();
    for id in 1..=5 {
        let register = RegisterBroker {
            id,
            incarnation: Uuid::from_u128(id as u128).as_bytes().to_vec(),
            ..RegisterBroker::default()
        };
        run(&mut image, Command::RegisterBroker(register));
    }
    let record = TopicRecord {
        name: "t".to_owned(),
        id: TOPIC.as_bytes().to_vec(),
        partitions: vec![Replicas {
            brokers: vec![1, 2, 3],
            ..Replicas::default()
        }],
        configs: Default::default(),
        first_sequences: false,
    };
    run(&mut image, Command::CreateTopic(record));
    image
}

fn change(image: &mut MetadataImage, target: &[i32], factor_may_change: bool) -> Refusal {
    let reply = run(
        image,
        Command::AlterReassignments(AlterReassignments {
            changes: vec![ReassignmentChange {
                topic_id: TOPIC.as_bytes().to_vec(),
                partition: 0,
                target: target.to_vec(),
            }],
            factor_may_change,
        }),
    );
    reply.outcomes[0].refusal()
}

/// The leader tells of the end of the move `id`.
fn end_of(image: &mut MetadataImage, id: u64) -> Refusal {
    let command = Command::FinishReassignment(FinishReassignment {
        topic_id: TOPIC.as_bytes().to_vec(),
        partition: 0,
        id,
    });
    run(image, command).refusal()
}

/// It ends the move there is; 0 is none's.
fn end(image: &mut MetadataImage) -> Refusal {
    let id = meta(image).reassignment.as_ref().map_or(0, |m| m.id);
    end_of(image, id)
}

fn remove(image: &mut MetadataImage, broker: i32, done: bool) -> Refusal {
    let group = meta(image).group.0;
    let command = Command::ReplicaRemoved(ReplicaRemoved {
        broker,
        group,
        done,
    });
    run(image, command).refusal()
}

fn meta(image: &MetadataImage) -> &PartitionMeta {
    &image.topics["t"].partitions[0]
}

fn ids(ids: &[i32]) -> Vec<BrokerId> {
    brokers_of(ids)
}

#[test]
fn a_move_keeps_all_replicas_until_its_leader_ends_it() {
    let mut image = cluster();
    assert_eq!(change(&mut image, &[4, 2, 3], false), Refusal::None);
    assert_eq!(meta(&image).replicas, ids(&[4, 2, 3, 1]));
    assert_eq!(meta(&image).adding(), ids(&[4]));
    assert_eq!(meta(&image).removing(), ids(&[1]));
    assert_eq!(meta(&image).founders, ids(&[2, 3, 1]));
    assert_eq!(end_of(&mut image, 0), Refusal::NoReassignmentInProgress);
    assert_eq!(end(&mut image), Refusal::None);
    assert_eq!(meta(&image).replicas, ids(&[4, 2, 3]));
    assert_eq!(meta(&image).founders, ids(&[2, 3]));
    assert!(meta(&image).adding().is_empty() && meta(&image).removing().is_empty());
    let group = meta(&image).group;
    assert_eq!(image.dropped[&(BrokerId(1), group)].folder, "t-0");
    assert_eq!(end(&mut image), Refusal::NoReassignmentInProgress);
}

#[test]
fn a_cancelled_move_keeps_the_newcomer_until_it_votes_no_more() {
    let mut image = cluster();
    assert_eq!(
        change(&mut image, &[], false),
        Refusal::NoReassignmentInProgress
    );
    change(&mut image, &[4, 5, 3], false);
    assert_eq!(change(&mut image, &[], false), Refusal::None);
    assert_eq!(meta(&image).replicas, ids(&[1, 2, 3, 4, 5]));
    assert!(meta(&image).adding().is_empty());
    assert_eq!(meta(&image).removing(), ids(&[4, 5]));
    assert_eq!(end(&mut image), Refusal::None);
    assert_eq!(meta(&image).replicas, ids(&[1, 2, 3]));
    assert_eq!(meta(&image).founders, ids(&[1, 2, 3]));
    let dropped: Vec<BrokerId> = image.dropped.keys().map(|(broker, _)| *broker).collect();
    assert_eq!(dropped, ids(&[4, 5]));
}

#[test]
fn a_replica_that_is_being_removed_cannot_come_back_before_it_is_gone() {
    let mut image = cluster();
    change(&mut image, &[4, 2, 3], false);
    end(&mut image);
    // Wanted again before the broker has begun: it goes on with what it has, as a newcomer.
    assert_eq!(change(&mut image, &[1, 2, 3], false), Refusal::None);
    assert_eq!(
        remove(&mut image, 1, false),
        Refusal::NoReassignmentInProgress
    );
    assert_eq!(meta(&image).founders, ids(&[2, 3]));
    end(&mut image);
    assert_eq!(remove(&mut image, 4, false), Refusal::None);
    assert_eq!(
        change(&mut image, &[4, 2, 3], false),
        Refusal::InvalidReplicaAssignment
    );
    assert_eq!(remove(&mut image, 4, true), Refusal::None);
    assert_eq!(change(&mut image, &[4, 2, 3], false), Refusal::None);
}

#[test]
fn only_the_order_of_preference_changes_at_once() {
    let mut image = cluster();
    assert_eq!(change(&mut image, &[3, 1, 2], false), Refusal::None);
    assert_eq!(meta(&image).replicas, ids(&[3, 1, 2]));
    assert_eq!(meta(&image).reassignment, None);
}

#[test]
fn targets_that_make_no_sense_are_refused() {
    let mut image = cluster();
    let before = image.clone();
    assert_eq!(
        change(&mut image, &[4, 4, 3], true),
        Refusal::InvalidReplicaAssignment
    );
    assert_eq!(
        change(&mut image, &[9, 2, 3], true),
        Refusal::InvalidReplicaAssignment
    );
    assert_eq!(
        change(&mut image, &[4, 2], false),
        Refusal::InvalidReplicationFactor
    );
    let mut index = before.clone();
    index.applied_index = image.applied_index;
    assert_eq!(image, index);
    assert_eq!(change(&mut image, &[4], true), Refusal::None);
    assert_eq!(meta(&image).least_replicas(), 1);
}

#[test]
fn a_broker_is_unregistered_once_it_has_no_replicas_and_its_id_never_comes_back() {
    let mut image = cluster();
    let unregister = |image: &mut MetadataImage| {
        run(image, Command::UnregisterBroker(UnregisterBroker { id: 1 })).refusal()
    };
    assert_eq!(unregister(&mut image), Refusal::BrokerInUse);
    change(&mut image, &[4, 2, 3], false);
    end(&mut image);
    assert_eq!(unregister(&mut image), Refusal::None);
    assert_eq!(unregister(&mut image), Refusal::UnknownBroker);
    assert!(image.dropped.is_empty() && image.retired.contains(&BrokerId(1)));
    let again = RegisterBroker {
        id: 1,
        incarnation: Uuid::from_u128(99).as_bytes().to_vec(),
        ..RegisterBroker::default()
    };
    assert_eq!(
        run(&mut image, Command::RegisterBroker(again)).refusal(),
        Refusal::DuplicateBroker
    );
    for id in 2..=5 {
        image.topics.clear();
        let last = run(
            &mut image,
            Command::UnregisterBroker(UnregisterBroker { id }),
        )
        .refusal();
        let expected = if id == 5 {
            Refusal::BrokerInUse
        } else {
            Refusal::None
        };
        assert_eq!(last, expected, "broker {id}");
    }
}

/// A leader that is late tells of the end of a move that was changed and changed back meanwhile: the voters
/// may be others by now.
#[test]
fn the_end_of_an_earlier_move_ends_no_later_one() {
    let mut image = cluster();
    change(&mut image, &[4, 2, 3], false);
    let first = meta(&image).reassignment.as_ref().map_or(0, |m| m.id);
    change(&mut image, &[5, 2, 3], false);
    change(&mut image, &[4, 2, 3], false);
    assert_eq!(end_of(&mut image, first), Refusal::NoReassignmentInProgress);
    assert!(image.dropped.is_empty());
    assert_eq!(end(&mut image), Refusal::None);
    assert_eq!(meta(&image).replicas, ids(&[4, 2, 3]));
}

proptest! {
    /// Whatever is asked for in whatever order: what may still vote is in the replica set, founders were
    /// never away, nothing is both a replica and dropped, and a snapshot holds all of it.
    #[test]
    fn replicas_are_never_forgotten(
        steps in proptest::collection::vec((0..4_u8, proptest::collection::btree_set(1..6_i32, 0..4)), 0..40)
    ) {
        let mut image = cluster();
        let mut away: Vec<BrokerId> = Vec::new();
        for (kind, brokers) in steps {
            let brokers: Vec<i32> = brokers.into_iter().collect();
            let before = meta(&image).clone();
            match kind {
                0 => { change(&mut image, &brokers, true); }
                1 => {
                    let target: Vec<i32> = before.target().iter().map(|b| b.0).collect();
                    if end(&mut image) == Refusal::None {
                        away.extend(before.replicas.iter().filter(|b| !target.contains(&b.0)));
                    }
                }
                2 => for broker in brokers { remove(&mut image, broker, false); },
                _ => for broker in brokers { remove(&mut image, broker, true); },
            }
            let now = meta(&image);
            if kind != 1 {
                prop_assert!(before.replicas.iter().all(|b| now.replicas.contains(b)));
            }
            prop_assert!(now.target().iter().all(|b| now.replicas.contains(b)));
            prop_assert!(now.founders.iter().all(|b| now.replicas.contains(b) && !away.contains(b)));
            prop_assert!(image.dropped.keys().all(|(b, _)| !now.replicas.contains(b)));
            let copy = Snapshot::of(&image).image();
            prop_assert_eq!(&copy, &image);
        }
    }
}

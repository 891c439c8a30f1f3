use super::*;
use crate::metadata::command::RegisterBroker;
use crate::metadata::image::{Dropped, Reassignment};
use proptest::prelude::*;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn set(ids: &[i32]) -> BTreeSet<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

/// Brokers from 1 on, one for each rack given, and one topic; group `i` is partition `i`.
fn image(racks: &[Option<&str>], replicas: &[Vec<BrokerId>]) -> MetadataImage {
    let mut image = MetadataImage::default();
    for (id, rack) in (1..).zip(racks) {
        let broker = RegisterBroker {
            id,
            rack: rack.map(str::to_owned),
            ..RegisterBroker::default()
        };
        image.brokers.insert(BrokerId(id), broker.meta());
    }
    let partitions = (0..)
        .zip(replicas)
        .map(|(group, set)| PartitionMeta::new(GroupId(group), set.clone()));
    let topic = Topic {
        name: "t".to_owned(),
        id: Uuid::from_u128(7),
        partitions: partitions.collect(),
        configs: BTreeMap::new(),
        first_sequences: false,
    };
    image.topic_names.insert(topic.id, topic.name.clone());
    image.topics.insert(topic.name.clone(), Arc::new(topic));
    image
}

fn picture<'a>(image: &'a MetadataImage, leaving: &[i32], spread: bool) -> Picture<'a> {
    let leaving = set(leaving);
    let stay = image.brokers.keys().filter(|b| !leaving.contains(b));
    Picture {
        takers: stay.copied().collect(),
        leaving,
        bytes: HashMap::new(),
        spread,
        image,
    }
}

fn partitions(image: &MetadataImage) -> &[PartitionMeta] {
    &image.topics["t"].partitions
}

/// As if every move had ended.
fn apply(image: &mut MetadataImage, moves: &[Move]) {
    let mut topic = (*image.topics["t"]).clone();
    for one in moves {
        let partition = &mut topic.partitions[one.partition as usize];
        partition.replicas = one.target.clone();
        partition.reassignment = None;
    }
    image.topics.insert("t".to_owned(), Arc::new(topic));
}

fn targets(plan: &Plan) -> Vec<(i32, Vec<i32>)> {
    let moves = plan.moves.iter();
    moves
        .map(|m| (m.partition, m.target.iter().map(|b| b.0).collect()))
        .collect()
}

#[test]
fn a_replica_leaves_for_the_broker_with_the_least() {
    let mut of = image(
        &[None; 5],
        &[ids(&[1, 2, 3]), ids(&[2, 3, 4]), ids(&[2, 3, 4])],
    );
    let planned = plan(&picture(&of, &[1], false), 10);
    assert_eq!(targets(&planned), [(0, vec![5, 2, 3])]);
    assert_eq!(planned.stuck, 0);
    // What is still being removed there is not wanted again yet.
    let dropped = Dropped {
        folder: String::new(),
        removing: true,
    };
    of.dropped.insert((BrokerId(5), GroupId(0)), dropped);
    let planned = plan(&picture(&of, &[1], false), 10);
    assert_eq!(targets(&planned), [(0, vec![4, 2, 3])]);
}

#[test]
fn a_replica_that_nobody_can_take_is_told() {
    let of = image(&[None; 3], &[ids(&[1, 2, 3]), ids(&[1, 2])]);
    let planned = plan(&picture(&of, &[1], true), 10);
    assert_eq!(targets(&planned), [(1, vec![3, 2])]);
    assert_eq!(planned.stuck, 1);
}

#[test]
fn racks_are_kept_apart_if_they_can_be() {
    let racks = [Some("a"), Some("b"), Some("c"), Some("a"), Some("b")];
    let of = image(&racks, &[ids(&[1, 2, 3])]);
    // 5 has nothing either, but shares a rack with 2.
    let planned = plan(&picture(&of, &[1], false), 10);
    assert_eq!(targets(&planned), [(0, vec![4, 2, 3])]);
    let planned = plan(&picture(&of, &[1, 4], false), 10);
    assert_eq!(targets(&planned), [(0, vec![5, 2, 3])]);
}

#[test]
fn moves_under_way_take_room_and_go_elsewhere_when_their_target_leaves() {
    let mut of = image(
        &[None; 5],
        &[ids(&[1, 2, 3]), ids(&[1, 2, 3]), ids(&[1, 2, 3])],
    );
    let mut topic = (*of.topics["t"]).clone();
    topic.partitions[0].replicas = ids(&[4, 2, 3, 1]);
    topic.partitions[0].reassignment = Some(Reassignment {
        id: 9,
        target: ids(&[4, 2, 3]),
        original: ids(&[1, 2, 3]),
    });
    of.topics.insert("t".to_owned(), Arc::new(topic));
    let planned = plan(&picture(&of, &[1], false), 2);
    assert_eq!(targets(&planned), [(1, vec![5, 2, 3])]);
    assert!(!planned.even);
    let planned = plan(&picture(&of, &[4], false), 1);
    assert_eq!(targets(&planned).len(), 1);
    assert_eq!(planned.moves[0].partition, 0);
    assert!(!planned.moves[0].target.contains(&BrokerId(4)));
}

#[test]
fn a_newcomer_gets_its_share_and_even_brokers_are_left_alone() {
    let sets: Vec<_> = (0..8)
        .map(|i| ids(&[1 + i % 3, 1 + (i + 1) % 3, 1 + (i + 2) % 3]))
        .collect();
    let mut of = image(&[None; 4], &sets);
    assert!(
        plan(&picture(&of, &[], false), 100).moves.is_empty(),
        "nobody asked"
    );
    let first = plan(&picture(&of, &[], true), 3);
    assert_eq!(first.moves.len(), 3, "no more than there is room for");
    assert!(!first.even);
    let mut rounds = 0;
    loop {
        let planned = plan(&picture(&of, &[], true), 3);
        if planned.even && planned.moves.is_empty() {
            break;
        }
        apply(&mut of, &planned.moves);
        rounds += 1;
        assert!(rounds < 20);
    }
    let on = |id: i32| {
        let held = partitions(&of)
            .iter()
            .filter(|p| p.replicas.contains(&BrokerId(id)))
            .count();
        let led = partitions(&of)
            .iter()
            .filter(|p| p.replicas[0] == BrokerId(id))
            .count();
        (held, led)
    };
    assert_eq!([on(1), on(2), on(3), on(4)], [(6, 2); 4]);
}

#[test]
fn large_partitions_change_places_with_small_ones() {
    // Even by count, but all large ones are on 1.
    let of = image(&[None; 2], &[ids(&[1]), ids(&[1]), ids(&[2]), ids(&[2])]);
    let mut seen = picture(&of, &[], true);
    for (group, bytes) in [
        (0, 1000 * MIB),
        (1, 600 * MIB),
        (2, 10 * MIB),
        (3, 20 * MIB),
    ] {
        seen.bytes.insert(GroupId(group), bytes);
    }
    let planned = plan(&seen, 2);
    // Half of what is between them is 785 MiB: this pair moves 590 of it, another would move 990.
    assert_eq!(targets(&planned), [(1, vec![2]), (2, vec![1])]);
    let little: HashMap<_, _> = seen.bytes.iter().map(|(g, b)| (*g, b / 100)).collect();
    seen.bytes = little;
    assert!(plan(&seen, 10).moves.is_empty(), "not worth a move");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever was there, a few plans end with nothing on those that leave and the rest even.
    #[test]
    fn plans_end_evenly(
        brokers in 1_usize..8,
        factor in 1_usize..4,
        with_racks in any::<bool>(),
        starts in proptest::collection::vec((0_usize..8, 1_usize..7), 1..40),
        bytes in proptest::collection::vec(0_u64..2000, 40),
        gone in proptest::collection::btree_set(1_i32..8, 0..3),
        room in 2_usize..10,
    ) {
        let factor = factor.min(brokers);
        let sets: Vec<Vec<BrokerId>> = starts.iter().map(|(at, step)| {
            let mut all: Vec<i32> = (1..=brokers as i32).collect();
            all.rotate_left(at % brokers);
            if step % 2 == 0 { all.reverse(); }
            ids(&all[..factor])
        }).collect();
        let names = [Some("a"), Some("b"), Some("c")];
        let racks: Vec<_> = (0..brokers).map(|i| if with_racks { names[i % 3] } else { None }).collect();
        let mut of = image(&racks, &sets);
        let gone: Vec<i32> = gone.into_iter().filter(|b| *b <= brokers as i32).collect();
        let sizes: HashMap<GroupId, u64> = (0..).zip(&bytes).map(|(g, b)| (GroupId(g), b * MIB)).collect();
        let rack_of = |b: &BrokerId| racks[b.0 as usize - 1];
        let mut rounds = 0;
        let stuck = loop {
            let mut seen = picture(&of, &gone, true);
            seen.bytes = sizes.clone();
            let planned = plan(&seen, room);
            prop_assert!(planned.moves.len() <= room.max(sets.len()));
            if planned.moves.is_empty() {
                prop_assert!(planned.even);
                break planned.stuck;
            }
            if gone.is_empty() {
                for one in &planned.moves {
                    let before: BTreeSet<_> = partitions(&of)[one.partition as usize].replicas.iter().map(rack_of).collect();
                    let after: BTreeSet<_> = one.target.iter().map(rack_of).collect();
                    prop_assert!(after.len() >= before.len());
                }
            }
            let moves = planned.moves;
            apply(&mut of, &moves);
            rounds += 1;
            prop_assert!(rounds < 200, "never ends");
        };
        let stay = brokers - gone.len();
        let mut held = vec![0_usize; brokers + 1];
        let mut led = held.clone();
        for partition in partitions(&of) {
            let distinct: BTreeSet<_> = partition.replicas.iter().collect();
            prop_assert_eq!(distinct.len(), factor);
            led[partition.replicas[0].0 as usize] += 1;
            for replica in &partition.replicas {
                held[replica.0 as usize] += 1;
            }
        }
        if stay >= factor {
            prop_assert_eq!(stuck, 0);
            for b in &gone { prop_assert_eq!(held[*b as usize], 0); }
            if !with_racks {
                let even = |counts: &[usize]| {
                    let of = (1..=brokers).filter(|b| !gone.contains(&(*b as i32))).map(|b| counts[b]);
                    of.clone().max().unwrap_or(0) - of.min().unwrap_or(0) <= 1
                };
                prop_assert!(even(&held), "replicas {:?}", held);
                prop_assert!(even(&led), "leaders {:?}", led);
            }
        }
    }
}

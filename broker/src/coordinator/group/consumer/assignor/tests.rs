use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A group as tests make it: members with their topics, and what they had.
#[derive(Debug, Clone)]
struct Given {
    topics: Vec<u32>,
    members: Vec<(BTreeSet<usize>, Partitions)>,
}

fn topic(index: usize) -> Uuid {
    Uuid::from_u128(index as u128 + 1)
}

fn member(index: usize) -> String {
    format!("member-{index:04}")
}

fn run(given: &Given, assignor: Assignor) -> BTreeMap<String, Partitions> {
    let names: Vec<String> = (0..given.members.len()).map(member).collect();
    let spec = GroupSpec {
        members: given
            .members
            .iter()
            .enumerate()
            .map(|(i, (topics, previous))| {
                let spec = MemberSpec {
                    instance_id: None,
                    topics: Arc::new(topics.iter().copied().map(topic).collect()),
                    previous: Some(previous),
                };
                (names[i].as_str(), spec)
            })
            .collect(),
        topics: given
            .topics
            .iter()
            .enumerate()
            .map(|(i, count)| (topic(i), *count))
            .collect(),
    };
    assignor.assign(&spec)
}

fn count(assigned: &Partitions) -> usize {
    assigned.values().map(BTreeSet::len).sum()
}

/// Every partition of every subscribed topic has exactly one owner, who is subscribed to it.
fn check_complete(given: &Given, assigned: &BTreeMap<String, Partitions>) {
    assert_eq!(assigned.len(), given.members.len());
    for (t, partitions) in given.topics.iter().enumerate() {
        let subscribed = given.members.iter().any(|(topics, _)| topics.contains(&t));
        let mut owners = BTreeMap::new();
        for (m, (topics, _)) in given.members.iter().enumerate() {
            for p in assigned[&member(m)].get(&topic(t)).into_iter().flatten() {
                assert!(topics.contains(&t), "member {m} is not subscribed to {t}");
                assert!(owners.insert(*p, m).is_none(), "{t}-{p} has two owners");
            }
        }
        let expected = if subscribed { *partitions as usize } else { 0 };
        assert_eq!(owners.len(), expected, "topic {t}");
        assert!(owners.keys().all(|p| (0..*partitions as i32).contains(p)));
    }
}

/// What members had, kept to what exists and is theirs to keep: no two had the same.
fn arb_given(homogeneous: bool) -> impl Strategy<Value = Given> {
    (prop::collection::vec(1u32..12, 1..6), 1usize..9).prop_flat_map(move |(topics, members)| {
        let all = topics.len();
        let subscription = prop::collection::btree_set(0..all, 0..=all);
        // For every partition there could be: which member had it.
        let owners = prop::collection::vec(prop::option::of(0..members + 2), all * 14);
        (
            Just(topics),
            prop::collection::vec(subscription.clone(), members),
            subscription,
            owners,
        )
            .prop_map(move |(topics, subscriptions, common, owners)| {
                let mut members: Vec<_> = subscriptions
                    .into_iter()
                    .map(|own| {
                        let topics = if homogeneous { common.clone() } else { own };
                        (topics, Partitions::new())
                    })
                    .collect();
                for (i, owner) in owners.into_iter().enumerate() {
                    if let Some((_, previous)) = owner.and_then(|o| members.get_mut(o)) {
                        previous
                            .entry(topic(i / 14))
                            .or_default()
                            .insert((i % 14) as i32);
                    }
                }
                Given { topics, members }
            })
    })
}

/// How many partitions changed hands or were handed out.
fn movements(given: &Given, assigned: &BTreeMap<String, Partitions>) -> usize {
    (0..given.members.len())
        .map(|m| {
            let previous = &given.members[m].1;
            assigned[&member(m)]
                .iter()
                .flat_map(|(t, ps)| ps.iter().map(move |p| (t, p)))
                .filter(|(t, p)| !previous.get(*t).is_some_and(|had| had.contains(*p)))
                .count()
        })
        .sum()
}

/// The least number of movements of an even assignment: each member keeps as much as it may.
fn least_movements(given: &Given) -> usize {
    let members = given.members.len();
    let common = &given.members[0].0;
    let total: usize = common.iter().map(|t| given.topics[*t] as usize).sum();
    let (quota, mut extra) = (total / members, total % members);
    let mut kept = 0;
    for (_, previous) in &given.members {
        let valid = previous
            .iter()
            .map(|(t, ps)| {
                let index = (t.as_u128() - 1) as usize;
                let below = |p: &&i32| (**p as u32) < given.topics[index];
                if common.contains(&index) {
                    ps.iter().filter(below).count()
                } else {
                    0
                }
            })
            .sum::<usize>();
        kept += valid.min(quota);
        if valid > quota && extra > 0 {
            extra -= 1;
            kept += 1;
        }
    }
    total - kept
}

proptest! {
    #[test]
    fn uniform_is_even_and_moves_the_least(given in arb_given(true)) {
        let assigned = run(&given, Assignor::Uniform);
        check_complete(&given, &assigned);
        let loads: Vec<usize> = assigned.values().map(count).collect();
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{loads:?}");
        prop_assert_eq!(movements(&given, &assigned), least_movements(&given));
    }

    #[test]
    fn uniform_over_different_subscriptions_is_as_even_as_single_moves_make_it(
        given in arb_given(false)
    ) {
        let assigned = run(&given, Assignor::Uniform);
        check_complete(&given, &assigned);
        let loads: Vec<usize> = (0..given.members.len()).map(|m| count(&assigned[&member(m)])).collect();
        for (m, load) in loads.iter().enumerate() {
            for t in assigned[&member(m)].keys() {
                for (other, (topics, _)) in given.members.iter().enumerate() {
                    if topics.contains(&((t.as_u128() - 1) as usize)) {
                        prop_assert!(*load <= loads[other] + 1, "{m} could give {t} to {other}: {loads:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn uniform_leaves_alone_what_it_made(mut given in arb_given(false)) {
        let first = run(&given, Assignor::Uniform);
        for (m, (_, previous)) in given.members.iter_mut().enumerate() {
            *previous = first[&member(m)].clone();
        }
        prop_assert_eq!(run(&given, Assignor::Uniform), first);
    }

    #[test]
    fn range_is_complete_and_contiguous(given in arb_given(false)) {
        let assigned = run(&given, Assignor::Range);
        check_complete(&given, &assigned);
        for partitions in assigned.values().flat_map(Partitions::values) {
            let (first, last) = (partitions.first().unwrap(), partitions.last().unwrap());
            prop_assert_eq!(partitions.len() as i32, last - first + 1);
        }
    }
}

#[test]
fn range_cuts_topics_of_one_size_at_the_same_places() {
    let both: BTreeSet<usize> = [0, 1].into();
    let given = Given {
        topics: vec![3, 3],
        members: vec![(both.clone(), Partitions::new()), (both, Partitions::new())],
    };
    let assigned = run(&given, Assignor::Range);
    let first: BTreeSet<i32> = [0, 1].into();
    let second: BTreeSet<i32> = [2].into();
    assert_eq!(
        assigned[&member(0)],
        [(topic(0), first.clone()), (topic(1), first)].into()
    );
    assert_eq!(
        assigned[&member(1)],
        [(topic(0), second.clone()), (topic(1), second)].into()
    );
}

#[test]
fn range_follows_instance_ids() {
    let topics = Arc::new(BTreeSet::from([topic(0)]));
    let static_member = |instance_id| MemberSpec {
        instance_id: Some(instance_id),
        topics: topics.clone(),
        previous: None,
    };
    let spec = GroupSpec {
        members: [("z", static_member("i0")), ("a", static_member("i1"))].into(),
        topics: [(topic(0), 2)].into(),
    };
    let assigned = Assignor::Range.assign(&spec);
    assert_eq!(assigned["z"], [(topic(0), [0].into())].into());
    assert_eq!(assigned["a"], [(topic(0), [1].into())].into());
}

#[test]
fn one_of_many_members_leaves() {
    let topics: Vec<u32> = vec![100; 10];
    let all: BTreeSet<usize> = (0..10).collect();
    let mut given = Given {
        topics,
        members: vec![(all, Partitions::new()); 500],
    };
    let first = run(&given, Assignor::Uniform);
    for (m, (_, previous)) in given.members.iter_mut().enumerate() {
        *previous = first[&member(m)].clone();
    }
    given.members.pop();
    let began = std::time::Instant::now();
    let second = run(&given, Assignor::Uniform);
    println!(
        "500 members, 1,000 partitions, one leaves: {:?}",
        began.elapsed()
    );
    check_complete(&given, &second);
    assert_eq!(movements(&given, &second), 2);
    // One differs: the other way.
    given.members[0].0.remove(&3);
    let began = std::time::Instant::now();
    let third = run(&given, Assignor::Uniform);
    println!(
        "the same with different subscriptions: {:?}",
        began.elapsed()
    );
    check_complete(&given, &third);
}

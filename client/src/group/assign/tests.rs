use super::*;
use proptest::prelude::*;

fn member(id: &str, topics: &str) -> MemberView {
    MemberView {
        member_id: id.to_owned(),
        instance_id: None,
        topics: topics.split_whitespace().map(str::to_owned).collect(),
        owned: BTreeSet::new(),
        generation: -1,
    }
}

fn topics(of: &[(&str, i32)]) -> BTreeMap<String, i32> {
    of.iter()
        .map(|(name, n)| ((*name).to_owned(), *n))
        .collect()
}

fn show(assignment: &Assignment) -> Vec<String> {
    let shown = assignment.iter().map(|(id, places)| {
        let places: Vec<_> = places.iter().map(ToString::to_string).collect();
        format!("{id}: {}", places.join(" "))
    });
    shown.collect()
}

/// The example in the documentation of Kafka's `RangeAssignor`, and static members in order.
#[test]
fn range_gives_runs_of_each_topic() {
    let mut members = [member("c1", "t0 t1"), member("c0", "t0 t1")];
    let topics = topics(&[("t0", 3), ("t1", 3), ("unwanted", 3)]);
    let assigned = show(&Assignor::Range.assign(&members, &topics));
    let expected = ["c0: t0-0 t0-1 t1-0 t1-1", "c1: t0-2 t1-2"];
    assert_eq!(assigned, expected);
    members[0].instance_id = Some("first".to_owned());
    let assigned = show(&Assignor::Range.assign(&members, &topics));
    assert_eq!(assigned[1], "c1: t0-0 t0-1 t1-0 t1-1");
}

/// The two examples in the documentation of Kafka's `RoundRobinAssignor`.
#[test]
fn round_robin_deals_and_passes_over_who_does_not_want() {
    let members = [member("c0", "t0 t1"), member("c1", "t0 t1")];
    let assigned = Assignor::RoundRobin.assign(&members, &topics(&[("t0", 3), ("t1", 3)]));
    let expected = ["c0: t0-0 t0-2 t1-1", "c1: t0-1 t1-0 t1-2"];
    assert_eq!(show(&assigned), expected);

    let members = [
        member("c0", "t0"),
        member("c1", "t0 t1"),
        member("c2", "t0 t1 t2"),
    ];
    let wanted = topics(&[("t0", 1), ("t1", 2), ("t2", 3)]);
    let assigned = show(&Assignor::RoundRobin.assign(&members, &wanted));
    let expected = ["c0: t0-0", "c1: t1-0", "c2: t1-1 t2-0 t2-1 t2-2"];
    assert_eq!(assigned, expected);
}

#[test]
fn sticky_is_even_through_chains_of_members_with_different_wishes() {
    // c2 alone wants t2; only c1 can relieve it of t1, and c0 in turn relieves c1 of t0.
    let members = [
        member("c0", "t0"),
        member("c1", "t0 t1"),
        member("c2", "t1 t2"),
    ];
    let wanted = topics(&[("t0", 3), ("t1", 3), ("t2", 3)]);
    let assigned = Assignor::Sticky.assign(&members, &wanted);
    let loads: Vec<_> = assigned.values().map(BTreeSet::len).collect();
    assert_eq!(loads, [3, 3, 3], "{:?}", show(&assigned));
}

/// What the next generation would see of its members.
fn rejoin(members: &mut [MemberView], assignment: &Assignment, generation: i32) {
    for member in members {
        member.owned = assignment[&member.member_id].clone();
        member.generation = generation;
    }
}

#[test]
fn sticky_moves_only_what_it_must_when_a_member_comes_or_goes() {
    let wanted = topics(&[("t", 12)]);
    let mut members: Vec<_> = (0..3).map(|i| member(&format!("c{i}"), "t")).collect();
    let first = Assignor::Sticky.assign(&members, &wanted);
    rejoin(&mut members, &first, 1);
    members.push(member("c3", "t"));
    let second = Assignor::Sticky.assign(&members, &wanted);
    assert!(second.values().all(|places| places.len() == 3));
    for id in ["c0", "c1", "c2"] {
        assert!(second[id].is_subset(&first[id]), "{id} got something else");
    }
    rejoin(&mut members, &second, 2);
    members.remove(0);
    let third = Assignor::Sticky.assign(&members, &wanted);
    for id in ["c1", "c2", "c3"] {
        assert!(third[id].is_superset(&second[id]), "{id} lost something");
    }
}

#[test]
fn of_two_owners_the_newer_generation_is_believed() {
    let wanted = topics(&[("t", 2)]);
    let mut members = [member("old", "t"), member("new", "t")];
    for (at, member) in members.iter_mut().enumerate() {
        member.generation = at as i32;
        member.owned = (0..2).map(|p| TopicPartition::new("t", p)).collect();
    }
    // "old" has lost both; one comes back to it for evenness, but is not held back from it.
    let assigned = Assignor::CooperativeSticky.assign(&members, &wanted);
    assert_eq!(assigned["new"].len(), 1);
    assert!(assigned["old"].is_empty(), "still read by the other");
}

#[test]
fn cooperative_hands_on_only_what_was_given_back() {
    let wanted = topics(&[("t", 4)]);
    let mut members = vec![member("a", "t")];
    let first = Assignor::CooperativeSticky.assign(&members, &wanted);
    rejoin(&mut members, &first, 1);
    members.push(member("b", "t"));
    let second = Assignor::CooperativeSticky.assign(&members, &wanted);
    assert_eq!((second["a"].len(), second["b"].len()), (2, 0));
    rejoin(&mut members, &second, 2);
    let third = Assignor::CooperativeSticky.assign(&members, &wanted);
    assert_eq!(third["a"], second["a"]);
    assert_eq!(third["b"].len(), 2);
}

fn group() -> impl Strategy<Value = (Vec<MemberView>, BTreeMap<String, i32>)> {
    let names = ["t0", "t1", "t2", "t3"];
    let counts = proptest::collection::vec(0i32..8, names.len());
    let wishes = proptest::collection::vec(
        (
            proptest::collection::vec(any::<bool>(), names.len()),
            0..3i32,
        ),
        1..7,
    );
    let owners = proptest::collection::vec(proptest::option::of(0usize..7), 32);
    (counts, wishes, owners).prop_map(move |(counts, wishes, owners)| {
        let mut members: Vec<_> = wishes
            .iter()
            .enumerate()
            .map(|(at, (wish, generation))| {
                let wanted = names.iter().zip(wish).filter(|(_, wanted)| **wanted);
                let wanted: Vec<_> = wanted.map(|(name, _)| *name).collect();
                let mut member = member(&format!("m{at}"), &wanted.join(" "));
                member.generation = *generation;
                member
            })
            .collect();
        for (at, owner) in owners.into_iter().enumerate() {
            let place = TopicPartition::new(names[at / 8], (at % 8) as i32);
            if let Some(member) = owner.and_then(|owner| members.get_mut(owner)) {
                member.owned.insert(place);
            }
        }
        let topics = names.iter().zip(counts);
        (members, topics.map(|(n, c)| ((*n).to_owned(), c)).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_wanted_partition_has_one_reader_who_wants_it((members, topics) in group()) {
        for assignor in [Assignor::Range, Assignor::RoundRobin, Assignor::Sticky] {
            let assignment = assignor.assign(&members, &topics);
            let mut seen = BTreeSet::new();
            for member in &members {
                for place in &assignment[&member.member_id] {
                    prop_assert!(member.topics.contains(&*place.topic));
                    prop_assert!(seen.insert(place.clone()), "{place} twice by {assignor}");
                }
            }
            let wanted = topics.iter().filter(|(t, _)| members.iter().any(|m| m.topics.contains(*t)));
            prop_assert_eq!(seen.len() as i32, wanted.map(|(_, n)| n).sum::<i32>());
        }
    }

    #[test]
    fn sticky_leaves_no_single_move_that_would_be_more_even((members, topics) in group()) {
        let assignment = Assignor::Sticky.assign(&members, &topics);
        for from in &members {
            for to in &members {
                let (has, gets) = (&assignment[&from.member_id], &assignment[&to.member_id]);
                let movable = has.iter().any(|p| to.topics.contains(&*p.topic));
                prop_assert!(!movable || has.len() < gets.len() + 2, "{assignment:?}");
            }
        }
    }

    #[test]
    fn sticky_keeps_an_even_assignment_as_it_is((members, topics) in group()) {
        let first = Assignor::Sticky.assign(&members, &topics);
        let mut members = members;
        rejoin(&mut members, &first, 9);
        prop_assert_eq!(Assignor::Sticky.assign(&members, &topics), first);
    }

    #[test]
    fn cooperative_never_gives_one_partition_to_two_and_settles((members, topics) in group()) {
        let mut members = members;
        // A group in which everybody was in the last generation, with one owner each.
        let start = Assignor::RoundRobin.assign(&members, &topics);
        rejoin(&mut members, &start, 1);
        members.push(MemberView { member_id: "z".to_owned(), owned: BTreeSet::new(), ..members[0].clone() });
        let mut assignment = Assignor::CooperativeSticky.assign(&members, &topics);
        for member in &members {
            for other in members.iter().filter(|o| o.member_id != member.member_id) {
                let given = &assignment[&member.member_id];
                prop_assert!(given.is_disjoint(&other.owned), "taken while still read");
            }
        }
        for generation in 2..4 {
            rejoin(&mut members, &assignment, generation);
            assignment = Assignor::CooperativeSticky.assign(&members, &topics);
        }
        rejoin(&mut members, &assignment, 4);
        prop_assert_eq!(Assignor::CooperativeSticky.assign(&members, &topics), assignment);
    }
}

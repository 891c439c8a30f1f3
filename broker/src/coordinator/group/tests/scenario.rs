//! What Kafka's classic protocol promises, one rule at a time.

use super::*;

#[test]
fn a_new_member_first_gets_an_id() {
    let mut world = World::new(config());
    let answer = joined(world.call(Request::Join(join_request("", None))));
    assert_eq!(answer.error_code, ResponseError::MemberIdRequired.code());
    assert_eq!(&*answer.member_id, "m-new");
    assert!(world.log.is_empty(), "nothing worth keeping has happened");
    let token = world.ask(Request::Join(join_request("m-new", None)));
    world.advance(3_000);
    world.commit_all();
    let answer = joined(world.answered.remove(&token));
    assert_eq!((answer.error_code, answer.generation_id), (0, 1));
    assert_eq!((&*answer.leader, answer.members.len()), ("m-new", 1));
    // An id that was never given out.
    let answer = joined(world.call(Request::Join(join_request("other", None))));
    assert_eq!(answer.error_code, ResponseError::UnknownMemberId.code());
}

#[test]
fn an_id_that_is_not_used_is_forgotten() {
    let mut world = World::new(config());
    world.call(Request::Join(join_request("", None)));
    world.advance(10_001);
    let answer = joined(world.call(Request::Join(join_request("m-new", None))));
    assert_eq!(answer.error_code, ResponseError::UnknownMemberId.code());
}

#[test]
fn the_first_rebalance_waits_while_members_come() {
    let mut world = World::new(config());
    let join = |world: &mut World, id: &str| {
        let mut request = join_request("", None);
        request.version = 3;
        request.new_member_id = id.to_owned();
        world.ask(Request::Join(request))
    };
    let first = join(&mut world, "a");
    world.advance(2_000);
    join(&mut world, "b");
    world.advance(1_500);
    world.commit_all();
    assert_eq!(world.state(), State::PreparingRebalance, "waits for more");
    world.advance(3_000);
    world.commit_all();
    assert_eq!(joined(world.answered.remove(&first)).members.len(), 2);
}

#[test]
fn assignments_leave_when_their_record_is_committed() {
    let mut world = World::new(config());
    let generation = form(&mut world, &["a", "b"]);
    assert_eq!((generation, world.log.len()), (1, 1));
    // Again, from the stable group: nothing is written.
    let answer = synced(world.call(Request::Sync(sync_request("b", generation, &[]))));
    assert_eq!(&answer.assignment[..], b"assigned");
    assert_eq!(heartbeat(&mut world, "a", generation), Ok(()));
    assert_eq!(world.log.len(), 1);
}

#[test]
fn a_member_that_falls_silent_is_removed() {
    let mut world = World::new(config());
    let generation = form(&mut world, &["a", "b"]);
    world.advance(6_000);
    assert_eq!(heartbeat(&mut world, "a", generation), Ok(()));
    world.advance(6_000);
    world.commit_all();
    let rebalancing = Err(ResponseError::RebalanceInProgress);
    assert_eq!(heartbeat(&mut world, "a", generation), rebalancing);
    let token = world.ask(Request::Join(join_request("a", None)));
    world.commit_all();
    let answer = joined(world.answered.remove(&token));
    assert_eq!((answer.generation_id, answer.members.len()), (2, 1));
    let unknown = Err(ResponseError::UnknownMemberId);
    assert_eq!(heartbeat(&mut world, "b", generation), unknown);
}

#[test]
fn a_member_that_does_not_join_again_in_time_is_left_out() {
    let mut world = World::new(config());
    let generation = form(&mut world, &["a", "b"]);
    let mut changed = join_request("a", None);
    changed.protocols = vec![("range".to_owned(), subscription("u"))];
    let token = world.ask(Request::Join(changed));
    // It lives, and yet does not join.
    for _ in 0..4 {
        world.advance(5_000);
        let _ = heartbeat(&mut world, "b", generation);
    }
    world.advance(1);
    world.commit_all();
    let answer = joined(world.answered.remove(&token));
    assert_eq!((answer.generation_id, answer.members.len()), (2, 1));
}

#[test]
fn members_that_do_not_sync_in_time_are_removed() {
    let mut world = World::new(config());
    let generation = form(&mut world, &["a", "b"]);
    let tokens = ["a", "b"].map(|m| {
        let mut request = join_request(m, None);
        request.protocols = vec![("range".to_owned(), subscription("u"))];
        world.ask(Request::Join(request))
    });
    world.commit_all();
    let answer = joined(world.answered.remove(&tokens[0]));
    assert_eq!(answer.generation_id, generation + 1);
    let follower = if &*answer.leader == "a" { "b" } else { "a" };
    let sync = world.ask(Request::Sync(sync_request(follower, generation + 1, &[])));
    // The leader sends heartbeats and never an assignment.
    let leader = answer.leader.to_string();
    for _ in 0..5 {
        world.advance(5_000);
        let _ = heartbeat(&mut world, &leader, generation + 1);
    }
    world.commit_all();
    let answer = synced(world.answered.remove(&sync));
    assert_eq!(answer.error_code, ResponseError::RebalanceInProgress.code());
    assert!(!world.group().members.contains_key(&leader));
}

#[test]
fn commits_of_other_generations_and_members_are_refused() {
    let mut world = World::new(config());
    let generation = form(&mut world, &["a", "b"]);
    let commit = |world: &mut World, member: &str, generation| {
        committed(world.call(Request::Commit(commit_request(member, generation, 1))))
    };
    assert_eq!(commit(&mut world, "a", generation), Ok(()));
    let illegal = Err(ResponseError::IllegalGeneration);
    assert_eq!(commit(&mut world, "a", generation - 1), illegal);
    assert_eq!(commit(&mut world, "a", generation + 1), illegal);
    let unknown = Err(ResponseError::UnknownMemberId);
    assert_eq!(commit(&mut world, "x", generation), unknown);
    assert_eq!(commit(&mut world, "", -1), unknown);
    // The same on the next coordinator.
    world.fail_over();
    assert_eq!(commit(&mut world, "b", generation), Ok(()));
    assert_eq!(commit(&mut world, "b", generation - 1), illegal);
    assert_eq!(commit(&mut world, "", -1), unknown);
}

#[test]
fn after_a_fail_over_members_have_a_whole_session() {
    let mut world = World::new(config());
    let generation = form(&mut world, &["a", "b"]);
    world.advance(9_000);
    world.fail_over();
    world.advance(9_000);
    assert_eq!(heartbeat(&mut world, "a", generation), Ok(()));
    world.advance(1_001);
    assert_eq!(world.group().members.len(), 1, "b was silent");
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut world = World::new(config());
    let mut join = join_request("", Some("i"));
    join.new_member_id = "i-1".to_owned();
    let token = world.ask(Request::Join(join.clone()));
    world.advance(10_000);
    world.commit_all();
    let generation = joined(world.answered.remove(&token)).generation_id;
    let sync = sync_request("i-1", generation, &[("i-1", "mine")]);
    world.call(Request::Sync(sync));
    for version in [8, 9] {
        join.version = version;
        join.new_member_id = format!("i-{version}");
        let before = world.group().leader.clone();
        let answer = joined(world.call(Request::Join(join.clone())));
        assert_eq!((answer.error_code, answer.generation_id), (0, generation));
        if version >= 9 {
            // It leads, and is told that there is nothing to assign (KIP-814).
            assert!(answer.skip_assignment && answer.leader == answer.member_id);
            assert_eq!(answer.members.len(), 1);
        } else {
            assert_eq!(Some(answer.leader.to_string()), before);
        }
        assert_eq!(world.state(), State::Stable);
        let own = synced(world.call(Request::Sync(sync_request(
            &answer.member_id,
            generation,
            &[],
        ))));
        assert_eq!(&own.assignment[..], b"mine");
    }
    // Whoever uses an old id under this name is fenced, here and on the next coordinator.
    for _ in 0..2 {
        let mut stale = commit_request("i-1", generation, 1);
        stale.instance_id = Some("i".to_owned());
        let fenced = Err(ResponseError::FencedInstanceId);
        assert_eq!(committed(world.call(Request::Commit(stale))), fenced);
        world.fail_over();
    }
    // An administrator removes it by its name.
    let answer = world.call(Request::Leave {
        group: GROUP.to_owned(),
        members: vec![Leaving {
            member_id: String::new(),
            instance_id: Some("i".to_owned()),
        }],
    });
    assert_eq!(answer, Some(Answer::Left(vec![Ok(())])));
    assert_eq!(world.state(), State::Empty);
}

#[test]
fn a_full_group_takes_nobody_more() {
    let mut world = World::new(config());
    form(&mut world, &["a", "b", "c", "d"]);
    let answer = joined(world.call(Request::Join(join_request("", None))));
    assert_eq!(answer.error_code, ResponseError::GroupMaxSizeReached.code());
}

#[test]
fn the_protocol_all_have_and_most_prefer_wins() {
    let mut world = World::new(config());
    let mut ask = |id: &str, names: &[&str]| {
        let mut request = join_request("", None);
        request.version = 3;
        request.new_member_id = id.to_owned();
        request.protocols = names
            .iter()
            .map(|n| ((*n).to_owned(), Bytes::new()))
            .collect();
        world.ask(Request::Join(request))
    };
    let token = ask("a", &["x", "y", "z"]);
    ask("b", &["z", "y"]);
    ask("c", &["z", "x", "y"]);
    let refused = ask("d", &["w"]);
    world.advance(12_000);
    world.commit_all();
    let answer = joined(world.answered.remove(&token));
    assert_eq!(answer.protocol_name.as_deref(), Some("z"));
    let answer = joined(world.answered.remove(&refused));
    let inconsistent = ResponseError::InconsistentGroupProtocol.code();
    assert_eq!(answer.error_code, inconsistent);
}

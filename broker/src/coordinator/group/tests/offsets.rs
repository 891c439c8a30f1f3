//! How offsets end: retention, deleted topics, deleted groups.

use super::*;
use crate::metadata::Topic;
use uuid::Uuid;

const DAY_MS: i64 = 86_400_000;

fn retaining() -> World {
    World::new(GroupConfig {
        offsets_retention_ms: 7 * DAY_MS,
        ..config()
    })
}

fn simple_commit(world: &mut World, offset: i64) {
    let answer = world.call(Request::Commit(commit_request("", -1, offset)));
    assert_eq!(committed(answer), Ok(()));
}

#[test]
fn offsets_without_a_group_expire_after_their_own_commit() {
    let mut world = retaining();
    simple_commit(&mut world, 5);
    world.advance(6 * DAY_MS);
    simple_commit(&mut world, 6);
    world.advance(6 * DAY_MS);
    assert_eq!(fetch(&mut world), Some(6));
    world.advance(DAY_MS + 700_000);
    assert_eq!(fetch(&mut world), None);
    assert!(world.shard.groups.is_empty(), "the group went along");
    assert_eq!(world.replayed().offsets.len(), 0);
}

#[test]
fn a_groups_offsets_expire_when_it_has_been_empty_for_long() {
    let mut world = retaining();
    let generation = form(&mut world, &["a"]);
    let answer = world.call(Request::Commit(commit_request("a", generation, 5)));
    assert_eq!(committed(answer), Ok(()));
    // As long as it has members nothing expires, however old.
    for _ in 0..2_500 {
        world.advance(9_000_000 / 1_000);
        assert_eq!(heartbeat(&mut world, "a", generation), Ok(()));
    }
    world.now_ms += 20 * DAY_MS;
    assert_eq!(fetch(&mut world), Some(5));
    // Its session has run out: from now on it is empty.
    world.advance(60_000);
    world.commit_all();
    assert_eq!(world.state(), State::Empty);
    world.advance(6 * DAY_MS);
    assert_eq!(fetch(&mut world), Some(5));
    world.fail_over();
    world.advance(DAY_MS + 700_000);
    assert_eq!(fetch(&mut world), None);
    assert!(
        world.replayed().groups.is_empty(),
        "a tombstone was written"
    );
}

#[test]
fn an_old_clients_own_retention_holds() {
    let mut world = retaining();
    let mut request = commit_request("", -1, 5);
    request.retention_ms = Some(DAY_MS);
    world.call(Request::Commit(request));
    world.fail_over();
    world.advance(DAY_MS - 1_000_000);
    assert_eq!(fetch(&mut world), Some(5));
    world.advance(2_000_000);
    assert_eq!(fetch(&mut world), None);
}

#[test]
fn a_deleted_topics_offsets_go_and_others_stay() {
    let mut world = World::new(config());
    let image = |topics: &[(&str, u128)]| {
        let mut image = MetadataImage::default();
        for (name, id) in topics {
            let id = Uuid::from_u128(*id);
            let topic = Topic {
                name: (*name).to_owned(),
                id,
                partitions: Vec::new(),
                configs: BTreeMap::new(),
                first_sequences: false,
            };
            image.topics.insert((*name).to_owned(), Arc::new(topic));
            image.topic_names.insert(id, (*name).to_owned());
        }
        Arc::new(image)
    };
    simple_commit(&mut world, 5);
    let mut see = |topics: &[(&str, u128)]| {
        world.image = image(topics);
        world.turn(Shard::metadata_changed);
        fetch(&mut world)
    };
    // A topic that was never seen is no deleted topic.
    assert_eq!(see(&[]), Some(5));
    assert_eq!(see(&[("t", 1), ("u", 2)]), Some(5));
    assert_eq!(see(&[("t", 1)]), Some(5));
    // Deleted and made anew between two looks.
    assert_eq!(see(&[("t", 3)]), None);
}

#[test]
fn a_deleted_group_is_gone_with_its_offsets() {
    let mut world = World::new(config());
    let delete = |world: &mut World| {
        let answer = world.call(Request::DeleteGroups(vec![GROUP.to_owned()]));
        match answer {
            Some(Answer::Left(results)) => results[0],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(delete(&mut world), Err(ResponseError::GroupIdNotFound));
    let generation = form(&mut world, &["a"]);
    world.call(Request::Commit(commit_request("a", generation, 5)));
    assert_eq!(delete(&mut world), Err(ResponseError::NonEmptyGroup));
    world.advance(60_000);
    assert_eq!(delete(&mut world), Ok(()));
    assert_eq!(fetch(&mut world), None);
    let replayed = world.replayed();
    assert!(replayed.groups.is_empty() && replayed.offsets.is_empty());
}

#[test]
fn metadata_that_is_too_long_is_refused_alone() {
    let mut world = World::new(config());
    let mut request = commit_request("", -1, 5);
    request.topics[0].1[0].metadata = "x".repeat(101);
    let answer = world.call(Request::Commit(request));
    let large = Err(ResponseError::OffsetMetadataTooLarge);
    assert_eq!(committed(answer), large);
    assert!(world.log.is_empty());
}

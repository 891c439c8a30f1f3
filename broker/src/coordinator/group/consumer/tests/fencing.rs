use super::*;
use kafka_protocol::error::ResponseError::{self, *};

fn refused(result: Result<ConsumerGroupHeartbeatResponse, Refused>) -> ResponseError {
    result.unwrap_err().error
}

fn with(world: &mut World, client: &Client, change: impl FnOnce(&mut Heartbeat)) -> ResponseError {
    let mut heartbeat = client.request();
    change(&mut heartbeat);
    refused(world.send(&heartbeat))
}

#[test]
fn epochs_are_checked() {
    let mut world = World::new(&[("t", 4)]);
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world).unwrap();
    a.obey();
    let b = Client::new("b", &["t"]);
    assert_eq!(
        with(&mut world, &b, |h| h.request.member_epoch = 1),
        UnknownMemberId
    );
    assert_eq!(
        with(&mut world, &b, |h| h.request.member_epoch = -1),
        UnknownMemberId
    );
    assert_eq!(
        with(&mut world, &a, |h| h.request.member_epoch = 2),
        FencedMemberEpoch
    );
    assert_eq!(
        with(&mut world, &a, |h| h.request.member_epoch = -3),
        InvalidRequest
    );

    // A second epoch; the first is still taken, but not by one who holds what it should not.
    world.set_topic("t", 5);
    a.beat(&mut world).unwrap();
    assert_eq!(a.epoch, 2);
    a.epoch = 1;
    world.send(&a.request()).unwrap();
    let other = world.id_of("t");
    a.owned.insert(other, [99].into());
    assert_eq!(refused(world.send(&a.request())), FencedMemberEpoch);
}

#[test]
fn instance_ids_are_checked() {
    let mut world = World::new(&[("t", 4)]);
    let mut a = Client::new("a", &["t"]);
    a.instance = Some("i".to_owned());
    a.beat(&mut world).unwrap();
    a.obey();
    let mut b = Client::new("b", &["t"]);
    b.instance = Some("i".to_owned());
    assert_eq!(refused(world.send(&b.request())), UnreleasedInstanceId);
    b.epoch = 1;
    assert_eq!(refused(world.send(&b.request())), FencedInstanceId);
    b.instance = Some("j".to_owned());
    assert_eq!(refused(world.send(&b.request())), UnknownMemberId);
    b.epoch = -2;
    assert_eq!(refused(world.send(&b.request())), UnknownMemberId);
    b.instance = Some("i".to_owned());
    assert_eq!(refused(world.send(&b.request())), FencedInstanceId);

    a.leave(&mut world, -2).unwrap();
    b.epoch = 0;
    b.beat(&mut world).unwrap();
    // The former one is fenced.
    a.epoch = 1;
    assert_eq!(refused(world.send(&a.request())), FencedInstanceId);
}

#[test]
fn requests_are_checked() {
    let mut world = World::new(&[("t", 4)]);
    let a = Client::new("a", &["t"]);
    type Spoil = fn(&mut ConsumerGroupHeartbeatRequest);
    let spoilt: [(Spoil, ResponseError); 9] = [
        (|r| r.group_id.0 = text(" "), InvalidRequest),
        (|r| r.member_id = text(""), InvalidRequest),
        (|r| r.instance_id = Some(text("")), InvalidRequest),
        (|r| r.rack_id = Some(text("")), InvalidRequest),
        (|r| r.rebalance_timeout_ms = -1, InvalidRequest),
        (|r| r.topic_partitions = None, InvalidRequest),
        (|r| r.subscribed_topic_names = None, InvalidRequest),
        (
            |r| r.server_assignor = Some(text("sticky")),
            UnsupportedAssignor,
        ),
        (
            |r| r.subscribed_topic_regex = Some(text("(")),
            InvalidRegularExpression,
        ),
    ];
    for (i, (spoil, error)) in spoilt.into_iter().enumerate() {
        assert_eq!(
            with(&mut world, &a, |h| spoil(&mut h.request)),
            error,
            "{i}"
        );
    }
    assert!(world.group.is_empty() && world.written.is_empty());

    // Before version 1 the coordinator makes the member id.
    let mut heartbeat = a.request();
    heartbeat.version = 0;
    heartbeat.request.member_id = text("");
    let answer = world.send(&heartbeat).unwrap();
    assert_eq!(answer.member_id, Some(text("made-by-the-broker")));

    world.settings.max_size = 1;
    assert_eq!(refused(world.send(&a.request())), GroupMaxSizeReached);
}

#[test]
fn commits_are_checked() {
    use crate::coordinator::group::consumer::offsets::Committer;
    let mut world = World::new(&[("t", 2)]);
    let by = |member_id, epoch| Committer {
        member_id,
        epoch,
        version: Some(9),
    };
    let t = world.id_of("t");
    let (held, other) = ((t, 0), (t, 2));
    // Without members anybody may commit.
    assert!(world.group.check_commit(by("", -1), &[held]).is_ok());
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world).unwrap();
    a.obey();
    let error = |result: Result<(), Refused>| result.unwrap_err().error;
    let check = |world: &World, by, place| world.group.check_commit(by, &[place]);
    assert_eq!(error(check(&world, by("", -1), held)), UnknownMemberId);
    assert_eq!(error(check(&world, by("b", 1), held)), UnknownMemberId);
    assert_eq!(error(check(&world, by("a", 2), held)), StaleMemberEpoch);
    assert!(check(&world, by("a", 1), held).is_ok());
    let old = Committer {
        version: Some(8),
        ..by("a", 1)
    };
    assert_eq!(error(check(&world, old, held)), UnsupportedVersion);
    // The epoch goes up. What it has held since may still be committed with the old one.
    world.set_topic("t", 3);
    a.beat(&mut world).unwrap();
    assert_eq!(a.epoch, 2);
    assert!(check(&world, by("a", 1), held).is_ok());
    assert_eq!(error(check(&world, by("a", 1), other)), StaleMemberEpoch);
    assert!(check(&world, by("a", 2), other).is_ok());
    assert!(world.group.check_fetch(None, -1).is_ok());
    assert!(world.group.check_fetch(Some("a"), 2).is_ok());
    assert_eq!(
        error(world.group.check_fetch(Some("a"), 1)),
        StaleMemberEpoch
    );
    assert_eq!(
        error(world.group.check_fetch(Some("b"), 1)),
        UnknownMemberId
    );
}

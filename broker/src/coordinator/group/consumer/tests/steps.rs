use super::*;
use crate::coordinator::group::consumer::group::GroupState;

#[test]
fn a_second_member_gets_what_the_first_gives_up() {
    let mut world = World::new(&[("t", 4)]);
    let mut a = Client::new("a", &["t"]);
    let mut b = Client::new("b", &["t"]);
    a.beat(&mut world).unwrap();
    a.obey();
    assert_eq!((a.epoch, a.count()), (1, 4));
    assert_eq!(world.group.state(), GroupState::Stable);

    b.beat(&mut world).unwrap();
    b.obey();
    // It is at the new epoch with nothing yet: the other still holds all.
    assert_eq!((b.epoch, b.count()), (2, 0));
    assert_eq!(world.group.state(), GroupState::Reconciling);

    a.beat(&mut world).unwrap();
    // Told to give two up, at its old epoch until it has.
    assert_eq!(
        (a.epoch, a.told.values().map(|p| p.len()).sum::<usize>()),
        (1, 2)
    );
    a.beat(&mut world).unwrap();
    b.beat(&mut world).unwrap();
    assert_eq!((a.epoch, b.told.len()), (1, 0));
    a.obey();
    a.beat(&mut world).unwrap();
    assert_eq!(a.epoch, 2);
    b.beat(&mut world).unwrap();
    b.obey();
    assert_eq!((a.count(), b.count()), (2, 2));
    assert_eq!(world.group.state(), GroupState::Stable);
    assert_same(&world.group, &world.replayed());
}

/// The point of the protocol: who is slow to revoke holds up only those who wait for these partitions.
#[test]
fn a_member_that_does_not_revoke_does_not_stop_the_others() {
    let mut world = World::new(&[("t", 6)]);
    let mut slow = Client::new("slow", &["t"]);
    let mut quick = Client::new("quick", &["t"]);
    for _ in 0..3 {
        for client in [&mut slow, &mut quick] {
            client.beat(&mut world).unwrap();
            client.obey();
        }
    }
    assert_eq!((slow.count(), quick.count()), (3, 3));
    let mut third = Client::new("third", &["t"]);
    for _ in 0..3 {
        // It goes on with its heartbeats but holds on to everything.
        slow.beat(&mut world).unwrap();
        for client in [&mut quick, &mut third] {
            client.beat(&mut world).unwrap();
            client.obey();
        }
    }
    // The quick one gave one up, and the third has it.
    assert_eq!((slow.count(), quick.count(), third.count()), (3, 2, 1));
    assert_eq!(third.epoch, world.group.epoch());

    // After its rebalance timeout the slow one is removed, although its heartbeats never stopped.
    for _ in 0..4 {
        world.pass(10_000);
        let _ = slow.beat(&mut world);
        for client in [&mut quick, &mut third] {
            client.beat(&mut world).unwrap();
            client.obey();
        }
    }
    assert_eq!(
        slow.beat(&mut world).unwrap_err().error,
        kafka_protocol::error::ResponseError::UnknownMemberId
    );
    assert_eq!((quick.count(), third.count()), (3, 3));
}

#[test]
fn a_silent_member_is_removed_after_its_session() {
    let mut world = World::new(&[("t", 2)]);
    let mut a = Client::new("a", &["t"]);
    let mut b = Client::new("b", &["t"]);
    for _ in 0..3 {
        for client in [&mut a, &mut b] {
            client.beat(&mut world).unwrap();
            client.obey();
        }
    }
    world.pass(44_999);
    assert_eq!(world.group.member_count(), 2);
    a.beat(&mut world).unwrap();
    world.pass(1);
    assert_eq!(world.group.member_count(), 1);
    assert_eq!(world.group.state(), GroupState::Assigning);
    a.beat(&mut world).unwrap();
    a.obey();
    assert_eq!(a.count(), 2);
}

#[test]
fn new_partitions_and_topics_are_noticed() {
    let mut world = World::new(&[("t", 1)]);
    let mut a = Client::new("a", &["t", "later"]);
    let mut b = Client::new("b", &[]);
    b.regex = Some("la.*".to_owned());
    let mut round = |world: &mut World| {
        for _ in 0..3 {
            for client in [&mut a, &mut b] {
                client.beat(world).unwrap();
                client.obey();
            }
        }
        (a.count(), b.count())
    };
    assert_eq!(round(&mut world), (1, 0));
    world.set_topic("t", 3);
    assert_eq!(round(&mut world), (3, 0));
    world.set_topic("later", 4);
    assert_eq!(round(&mut world), (4, 3));
    world.set_topic("last", 2);
    assert_eq!(round(&mut world), (4, 5));
    let epoch = world.group.epoch();
    world.set_topic("unrelated", 2);
    assert_eq!(round(&mut world), (4, 5));
    assert_eq!(
        world.group.epoch(),
        epoch,
        "a topic nobody wants changes nothing"
    );
    world.set_topic("later", 0);
    assert_eq!(round(&mut world), (3, 2));
    assert_same(&world.group, &world.replayed());
}

#[test]
fn an_answer_that_is_lost_is_given_again() {
    let mut world = World::new(&[("t", 4)]);
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world).unwrap();
    a.obey();
    let mut b = Client::new("b", &["t"]);
    b.beat(&mut world).unwrap();
    a.beat(&mut world).unwrap();
    a.obey();
    // The answers that bring a to epoch 2 are lost, twice.
    world.send(&a.request()).unwrap();
    world.send(&a.request()).unwrap();
    assert_eq!(a.epoch, 1);
    a.beat(&mut world).unwrap();
    assert_eq!((a.epoch, a.count()), (2, 2));
}

#[test]
fn a_static_member_comes_back_to_its_partitions() {
    let mut world = World::new(&[("t", 4)]);
    let mut a = Client::new("a", &["t"]);
    let mut b = Client::new("b", &["t"]);
    b.instance = Some("i".to_owned());
    for _ in 0..3 {
        for client in [&mut a, &mut b] {
            client.beat(&mut world).unwrap();
            client.obey();
        }
    }
    let (epoch, had) = (world.group.epoch(), b.owned.clone());
    b.leave(&mut world, -2).unwrap();
    a.beat(&mut world).unwrap();
    a.obey();
    assert_eq!((world.group.epoch(), a.count()), (epoch, 2));
    let mut again = Client::new("b2", &["t"]);
    again.instance = Some("i".to_owned());
    again.beat(&mut world).unwrap();
    again.obey();
    assert_eq!((world.group.epoch(), &again.owned), (epoch, &had));
    assert_same(&world.group, &world.replayed());
    // It does not come back: the others get what it had.
    again.leave(&mut world, -2).unwrap();
    world.pass(30_000);
    a.beat(&mut world).unwrap();
    world.pass(15_000);
    a.beat(&mut world).unwrap();
    a.obey();
    assert_eq!(a.count(), 4);
}

#[test]
fn the_assignor_most_ask_for_is_used() {
    let mut world = World::new(&[("t", 6), ("u", 6)]);
    let mut clients: Vec<Client> = (0..3)
        .map(|i| Client::new(&format!("m{i}"), &["t", "u"]))
        .collect();
    for _ in 0..4 {
        for client in &mut clients {
            let mut heartbeat = client.request();
            heartbeat.request.server_assignor = Some(text("range"));
            let answer = world.send(&heartbeat).unwrap();
            client.take(&answer);
            client.obey();
        }
    }
    let (t, u) = (world.id_of("t"), world.id_of("u"));
    assert_eq!(
        clients[0].owned,
        [(t, [0, 1].into()), (u, [0, 1].into())].into()
    );
}

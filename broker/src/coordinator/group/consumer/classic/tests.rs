use super::*;
use crate::coordinator::Writer;
use crate::coordinator::group::consumer::partitions::Partitions;
use crate::coordinator::group::consumer::tests::{Client, World, assert_same};
use uuid::Uuid;

/// A client of the classic protocol with a cooperative assignor.
struct Classic {
    id: String,
    instance: Option<String>,
    generation: i32,
    owned: Partitions,
}

fn subscription(world: &World, topics: &[&str], owned: &Partitions) -> Bytes {
    let mut w = Writer::versioned(1);
    w.array_of(false, topics, |w, t| {
        w.string(false, t);
    });
    w.i32(-1);
    let owned: Vec<_> = owned
        .iter()
        .filter_map(|(id, p)| Some((world.turn.image.topic_by_id(*id)?.name.clone(), p)))
        .collect();
    w.array_of(false, owned, |w, (name, partitions)| {
        w.string(false, &name);
        w.array_of(false, partitions, |w, p| {
            w.i32(*p);
        });
    });
    w.finish()
}

impl Classic {
    fn new(id: &str) -> Classic {
        Classic {
            id: id.to_owned(),
            instance: None,
            generation: -1,
            owned: Partitions::new(),
        }
    }

    fn who(&self) -> Identity<'_> {
        Identity {
            member_id: &self.id,
            instance_id: self.instance.as_deref(),
        }
    }

    fn join(&mut self, world: &mut World) -> Result<(), ResponseError> {
        let metadata = subscription(world, &["t"], &self.owned);
        let join = Join {
            who: self.who(),
            new_member_id: "made-by-the-broker",
            client_id: "c",
            client_host: "/127.0.0.1",
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer",
            protocols: vec![("cooperative-sticky".to_owned(), metadata)],
            needs_member_id: true,
        };
        let (turn, settings) = (world.turn.clone(), world.settings.clone());
        let cx = Context {
            turn: &turn,
            settings: &settings,
        };
        let joined = world.group.classic_join(cx, &join, &mut world.written);
        match joined.map_err(|r| r.error)? {
            Joined::MemberIdRequired(id) => {
                self.id = id;
                return self.join(world);
            }
            Joined::Joined {
                member_id,
                generation,
                protocol,
            } => {
                assert_eq!(protocol, "cooperative-sticky");
                self.id = member_id;
                self.generation = generation;
            }
        }
        let assignment = world
            .group
            .classic_sync(cx, self.who(), self.generation, (Some("consumer"), None))
            .map_err(|r| r.error)?;
        self.owned = embedded::decode_assignment(&assignment, &world.turn.image).unwrap();
        Ok(())
    }

    /// A heartbeat, and joining again when told to.
    fn beat(&mut self, world: &mut World) -> Result<(), ResponseError> {
        let (turn, settings) = (world.turn.clone(), world.settings.clone());
        let cx = Context {
            turn: &turn,
            settings: &settings,
        };
        match world
            .group
            .classic_heartbeat(cx, self.who(), self.generation)
        {
            Ok(()) => Ok(()),
            Err(r) if r.error == ResponseError::RebalanceInProgress => self.join(world),
            Err(r) => Err(r.error),
        }
    }

    fn count(&self) -> usize {
        self.owned.values().map(|p| p.len()).sum()
    }
}

fn classic_group(world: &World, members: &[(&str, &[i32])]) -> ConvertedGroup {
    let members = members
        .iter()
        .map(|(id, partitions)| {
            let held: Partitions =
                [(world.id_of("t"), partitions.iter().copied().collect())].into();
            ConvertedMember {
                id: (*id).to_owned(),
                instance_id: None,
                client_id: "c".to_owned(),
                client_host: "/127.0.0.1".to_owned(),
                rebalance_timeout_ms: 60_000,
                session_timeout_ms: 10_000,
                protocols: vec![(
                    "cooperative-sticky".to_owned(),
                    subscription(world, &["t"], &held),
                )],
                assignment: embedded::encode_assignment(1, &held, &world.turn.image),
            }
        })
        .collect();
    ConvertedGroup {
        generation: 7,
        members,
    }
}

#[test]
fn a_group_goes_over_member_by_member_and_back() {
    let mut world = World::new(&[("t", 6)]);
    let before = classic_group(&world, &[("x", &[0, 1, 2]), ("y", &[3, 4, 5])]);
    world.group =
        ConsumerGroup::from_classic(&before, &world.turn.image, &mut world.written).unwrap();
    assert_same(&world.group, &world.replayed());
    assert_eq!(world.group.to_classic(&world.turn.image), before);

    let t = world.id_of("t");
    let mut x = Classic::new("x");
    (x.generation, x.owned) = (7, [(t, [0, 1, 2].into())].into());
    let mut y = Classic::new("y");
    (y.generation, y.owned) = (7, [(t, [3, 4, 5].into())].into());
    let mut z = Client::new("z", &["t"]);
    for _ in 0..4 {
        z.beat(&mut world).unwrap();
        z.obey();
        x.beat(&mut world).unwrap();
        y.beat(&mut world).unwrap();
    }
    z.beat(&mut world).unwrap();
    z.obey();
    assert_eq!((x.count(), y.count(), z.count()), (2, 2, 2));
    assert!(!world.group.is_all_classic());
    assert_same(&world.group, &world.replayed());

    // The one with the next protocol leaves.
    z.leave(&mut world, -1).unwrap();
    assert!(world.group.is_all_classic());
    for _ in 0..3 {
        x.beat(&mut world).unwrap();
        y.beat(&mut world).unwrap();
    }
    assert_eq!((x.count(), y.count()), (3, 3));
    let after = world.group.to_classic(&world.turn.image);
    assert_eq!(after.generation, world.group.epoch());
    let ids: Vec<&str> = after.members.iter().map(|m| m.id.as_str()).collect();
    assert_eq!(ids, ["x", "y"]);
}

#[test]
fn a_classic_member_joins_a_consumer_group() {
    let mut world = World::new(&[("t", 4)]);
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world).unwrap();
    a.obey();
    let mut c = Classic::new("");
    c.join(&mut world).unwrap();
    assert_eq!(c.id, "made-by-the-broker");
    assert_eq!(c.count(), 0);
    for _ in 0..2 {
        a.beat(&mut world).unwrap();
        a.obey();
    }
    c.beat(&mut world).unwrap();
    assert_eq!((a.count(), c.count()), (2, 2));
    // Its session timeout is its own.
    world.pass(9_999);
    assert_eq!(world.group.member_count(), 2);
    world.pass(1);
    assert_eq!(world.group.member_count(), 1);
    assert_eq!(c.beat(&mut world), Err(ResponseError::UnknownMemberId));
}

#[test]
fn requests_of_classic_members_are_checked() {
    let mut world = World::new(&[("t", 4)]);
    let mut a = Client::new("a", &["t"]);
    a.beat(&mut world).unwrap();
    let mut c = Classic::new("");
    c.join(&mut world).unwrap();
    let (turn, settings) = (world.turn.clone(), world.settings.clone());
    let cx = Context {
        turn: &turn,
        settings: &settings,
    };
    let group = &mut world.group;
    let error = |result: Result<(), Refused>| result.unwrap_err().error;
    let of = |member_id| Identity {
        member_id,
        instance_id: None,
    };
    assert_eq!(
        error(group.classic_heartbeat(cx, of("nobody"), 1)),
        ResponseError::UnknownMemberId
    );
    // A member of the next protocol is none of the classic one.
    assert_eq!(
        error(group.classic_heartbeat(cx, of("a"), a.epoch)),
        ResponseError::UnknownMemberId
    );
    assert_eq!(
        error(group.classic_heartbeat(cx, c.who(), c.generation + 1)),
        ResponseError::IllegalGeneration
    );
    let static_member = Identity {
        member_id: &c.id,
        instance_id: Some("i"),
    };
    assert_eq!(
        error(group.classic_heartbeat(cx, static_member, c.generation)),
        ResponseError::UnknownMemberId
    );
    let wrong = group.classic_sync(cx, c.who(), c.generation, (Some("connect"), None));
    assert_eq!(
        wrong.unwrap_err().error,
        ResponseError::InconsistentGroupProtocol
    );
    assert_eq!(
        group.check_classic_leave(of("a")).unwrap_err().error,
        ResponseError::UnknownMemberId
    );
    assert_eq!(group.check_classic_leave(c.who()).unwrap(), c.id);
}

#[test]
fn embedded_bytes_of_any_kind_are_read_or_refused() {
    let image = crate::metadata::MetadataImage::default();
    for length in 0..24 {
        for fill in [0, 1, 255] {
            let bytes = vec![fill; length];
            let _ = Subscription::decode(&bytes);
            let _ = embedded::decode_assignment(&bytes, &image);
        }
    }
    let mut held = Partitions::new();
    held.insert(Uuid::from_u128(9), [1].into());
    // A topic that is gone is left out.
    let bytes = embedded::encode_assignment(3, &held, &image);
    assert_eq!(bytes.as_ref(), [0, 3, 0, 0, 0, 0, 255, 255, 255, 255]);
}

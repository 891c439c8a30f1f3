use super::*;
use crate::metadata::command::{ConfigChange, Replicas};
use proptest::prelude::*;

fn envelope(command: Command) -> Envelope {
    Envelope::of(command)
}

fn topic(name: &str, partitions: usize) -> TopicRecord {
    TopicRecord {
        name: name.to_owned(),
        id: Uuid::new_v4().as_bytes().to_vec(),
        partitions: vec![
            Replicas {
                brokers: vec![1, 2, 3],
                ..Default::default()
            };
            partitions
        ],
        configs: Default::default(),
        first_sequences: false,
    }
}

#[test]
fn a_second_create_is_refused_and_changes_nothing() {
    let mut image = MetadataImage::default();
    assert_eq!(
        apply(&mut image, envelope(Command::CreateTopic(topic("a.b", 2)))).refusal,
        0
    );
    let before = image.clone();
    let reply = apply(&mut image, envelope(Command::CreateTopic(topic("a.b", 1))));
    assert_eq!(reply.refusal(), Refusal::TopicAlreadyExists);
    let reply = apply(&mut image, envelope(Command::CreateTopic(topic("a_b", 1))));
    assert_eq!(reply.refusal(), Refusal::InvalidTopic);
    assert_eq!(image, before);
}

#[test]
fn a_create_that_comes_twice_succeeds_once() {
    let mut image = MetadataImage::default();
    let record = topic("a", 2);
    apply(&mut image, envelope(Command::CreateTopic(record.clone())));
    let before = image.clone();
    let reply = apply(&mut image, envelope(Command::CreateTopic(record)));
    assert_eq!(reply.refusal(), Refusal::None);
    assert_eq!(image, before);
}

#[test]
fn groups_and_producer_ids_are_never_used_twice() {
    let mut image = MetadataImage::default();
    let first = topic("a", 3);
    let id = first.id.clone();
    apply(&mut image, envelope(Command::CreateTopic(first)));
    apply(
        &mut image,
        envelope(Command::DeleteTopic(DeleteTopic { id })),
    );
    apply(&mut image, envelope(Command::CreateTopic(topic("a", 3))));
    let live: Vec<_> = image.topics["a"]
        .partitions
        .iter()
        .map(|p| p.group)
        .collect();
    assert!(live.iter().all(|g| !image.deleted.contains_key(g)));
    let allocate = |image: &mut MetadataImage| {
        let command = Command::AllocateProducerIds(AllocateProducerIds { count: 10 });
        apply(image, envelope(command)).first_producer_id
    };
    let a = allocate(&mut image);
    assert_eq!(allocate(&mut image), a + 10);
}

#[test]
fn another_incarnation_is_refused() {
    let mut image = MetadataImage::default();
    let mut broker = RegisterBroker {
        id: 1,
        incarnation: Uuid::new_v4().as_bytes().to_vec(),
        cluster_id: "c".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        apply(
            &mut image,
            envelope(Command::RegisterBroker(broker.clone()))
        )
        .refusal,
        0
    );
    assert_eq!(
        apply(
            &mut image,
            envelope(Command::RegisterBroker(broker.clone()))
        )
        .refusal,
        0
    );
    broker.incarnation = Uuid::new_v4().as_bytes().to_vec();
    let reply = apply(&mut image, envelope(Command::RegisterBroker(broker)));
    assert_eq!(reply.refusal(), Refusal::DuplicateBroker);
}

/// A machine of its own, what it was told to note, and why it stopped.
struct Stand {
    machine: Machine,
    noted: Arc<std::sync::Mutex<Vec<u32>>>,
    failed: watch::Receiver<Option<String>>,
}

impl Stand {
    fn new() -> Stand {
        let noted = Arc::new(std::sync::Mutex::new(Vec::new()));
        let note = noted.clone();
        let (fail, failed) = watch::channel(None);
        let hooks = Hooks {
            note_version: Box::new(move |version| {
                note.lock().expect("no panic").push(version);
                Ok(())
            }),
            failed: fail,
        };
        let published = Arc::new(ArcSwap::from_pointee(MetadataImage::default()));
        let machine = Machine::new(published, watch::channel(0).0, hooks);
        Stand {
            machine,
            noted,
            failed,
        }
    }

    fn apply(&mut self, envelope: &Envelope, versioned: bool) -> Result<Refusal, String> {
        let bytes = envelope.encode_to_vec();
        let reply = self.machine.apply(1, &bytes, versioned)?;
        Ok(Reply::decode(reply).expect("a reply").refusal())
    }

    fn stopped(&self) -> Option<String> {
        self.failed.borrow().clone()
    }
}

fn registration() -> Command {
    Command::RegisterBroker(RegisterBroker {
        id: 1,
        cluster_id: "c".to_owned(),
        features: features::known(),
        ..Default::default()
    })
}

fn at(version: u32, command: Option<Command>) -> Envelope {
    Envelope { version, command }
}

#[test]
fn what_builds_of_the_first_version_skip_is_skipped_where_they_may_be() {
    let mut stand = Stand::new();
    let skipped = Ok(Refusal::UnsupportedVersion);
    assert_eq!(stand.apply(&at(1, None), false), skipped);
    let newer = Command::UpdateFeatures(Default::default());
    assert_eq!(stand.apply(&at(1, Some(newer)), false), skipped);
    assert_eq!(stand.apply(&at(2, Some(registration())), false), skipped);
    let bytes = stand.machine.apply(1, b"nonsense", false).expect("no stop");
    let reply = Reply::decode(bytes).expect("a reply");
    assert_eq!(reply.refusal(), Refusal::UnsupportedVersion);
    assert_eq!(stand.stopped(), None);
    assert!(stand.machine.image.brokers.is_empty());
}

#[test]
fn a_broker_stops_at_what_it_does_not_know() {
    let newest = version::NEWEST;
    for envelope in [
        at(newest + 1, Some(registration())),
        at(newest + 1, None),
        at(newest, None),
    ] {
        let mut stand = Stand::new();
        let error = stand.apply(&envelope, true).expect_err("not known");
        assert!(error.contains("the build of the other brokers"), "{error}");
        assert_eq!(stand.stopped(), Some(error));
        assert_eq!(stand.machine.image.applied_index, 0);
    }
    let mut stand = Stand::new();
    assert!(stand.machine.apply(1, b"nonsense", true).is_err());
    assert!(stand.stopped().is_some());

    let mut stand = Stand::new();
    let snapshot = Snapshot {
        version: newest + 1,
        ..Default::default()
    };
    let error = stand.machine.restore(&snapshot.encode_to_vec());
    assert!(error.is_err_and(|e| e.contains(&format!("metadata.version is {}", newest + 1))));
    assert!(stand.stopped().is_some());
}

#[test]
fn a_new_cluster_is_of_the_version_of_its_first_registration() {
    for version in [1, version::NEWEST] {
        let mut stand = Stand::new();
        let envelope = at(version, Some(registration()));
        assert_eq!(stand.apply(&envelope, version > 1), Ok(Refusal::None));
        assert_eq!(stand.machine.image.metadata_version(), version);
        // Later ones change nothing.
        let mut again = registration();
        if let Command::RegisterBroker(again) = &mut again {
            again.id = 2;
        }
        let other = if version == 1 { version::NEWEST } else { 1 };
        assert_eq!(
            stand.apply(&at(other, Some(again)), other > 1),
            Ok(Refusal::None)
        );
        assert_eq!(stand.machine.image.metadata_version(), version);
        let noted = stand.noted.lock().expect("no panic").clone();
        assert_eq!(noted, if version == 1 { vec![] } else { vec![version] });
        let mut restored = Stand::new();
        let snapshot = stand.machine.snapshot();
        restored.machine.restore(&snapshot).expect("own snapshot");
        assert_eq!(restored.machine.image, stand.machine.image);
        assert_eq!(*restored.noted.lock().expect("no panic"), [version]);
        let snapshot = Snapshot::decode(snapshot).expect("own snapshot");
        assert_eq!(snapshot.version, version);
    }
}

/// From version 3 on, and only under a name that is new: producers of an earlier topic go on in their counting.
#[test]
fn producers_begin_at_zero_in_a_topic_whose_name_is_new() {
    let newest = version::FIRST_WITH_FIRST_SEQUENCES;
    for version in [1, newest - 1, newest] {
        let mut image = MetadataImage::default();
        let level = i16::try_from(version).expect("small");
        image
            .features
            .insert(version::METADATA_VERSION.to_owned(), level);
        let mut created = |name: &str| {
            let record = topic(name, 2);
            let id = record.id.clone();
            apply(&mut image, envelope(Command::CreateTopic(record)));
            let topic = image.topic(name).expect("created").clone();
            let restored = Snapshot::of(&image).image();
            assert_eq!(restored, image);
            apply(
                &mut image,
                envelope(Command::DeleteTopic(DeleteTopic { id })),
            );
            topic.first_sequences
        };
        assert_eq!(created("a"), version == newest);
        assert_eq!(created("b"), version == newest);
        assert!(!created("a"));
    }
}

fn command() -> impl Strategy<Value = Command> {
    let name = prop_oneof!["[a-c]", "[a-c]\\.[a-c]"];
    prop_oneof![
        (name.clone(), 1_usize..4, any::<[u8; 16]>()).prop_map(|(name, n, id)| {
            let mut record = topic(&name, n);
            record.id = id.to_vec();
            Command::CreateTopic(record)
        }),
        (name, prop::option::of("[0-9]{1,3}")).prop_map(|(topic, value)| {
            Command::AlterConfigs(AlterConfigs {
                topic: Some(topic),
                broker: None,
                changes: vec![ConfigChange {
                    name: "retention.ms".to_owned(),
                    value,
                }],
            })
        }),
        (1_u32..5).prop_map(|count| Command::AllocateProducerIds(AllocateProducerIds { count })),
        (1_i32..4, any::<[u8; 16]>()).prop_map(|(id, inc)| {
            Command::RegisterBroker(RegisterBroker {
                id,
                incarnation: inc.to_vec(),
                ..Default::default()
            })
        }),
    ]
}

proptest! {
    #[test]
    fn same_commands_same_image_and_snapshots_keep_it(commands in prop::collection::vec(command(), 0..40)) {
        let mut a = MetadataImage::default();
        let mut b = MetadataImage::default();
        for (i, command) in commands.into_iter().enumerate() {
            let x = apply(&mut a, envelope(command.clone()));
            // One of the two goes through a snapshot in the middle.
            if i % 5 == 2 {
                let bytes = Snapshot::of(&b).encode_to_vec();
                b = Snapshot::decode(&bytes[..]).expect("own bytes").image();
            }
            let y = apply(&mut b, envelope(command));
            prop_assert_eq!(x, y);
        }
        prop_assert_eq!(a, b);
    }
}

#[test]
fn replicas_are_spread_when_a_broker_comes_empty_or_when_it_is_asked_for() {
    let mut image = MetadataImage::default();
    let mut index = 0;
    let mut spread = |command: Command| {
        // The first registration is that of a new cluster.
        let envelope = at(version::NEWEST, Some(command));
        assert_eq!(apply(&mut image, envelope).refusal, 0);
        index += 1;
        image.applied_index = index;
        image.spread
    };
    let register = |id: i32| {
        Command::RegisterBroker(RegisterBroker {
            id,
            incarnation: vec![id as u8; 16],
            cluster_id: "c".to_owned(),
            features: features::known(),
            ..RegisterBroker::default()
        })
    };
    let set = |broker: Option<i32>, name: &str, value: Option<&str>| {
        let change = ConfigChange {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        Command::AlterConfigs(AlterConfigs {
            topic: None,
            broker,
            changes: vec![change],
        })
    };
    for id in 1..=3 {
        assert_eq!(spread(register(id)), None, "there is nothing to spread");
    }
    assert_eq!(spread(Command::CreateTopic(topic("a", 1))), None);
    assert_eq!(spread(register(2)), None, "it has what it had");
    let first = spread(register(4)).expect("a newcomer");
    // A wish that came meanwhile is not fulfilled with the first one.
    let second = spread(set(None, BALANCE, Some("true"))).expect("asked for");
    assert_ne!(first, second);
    let finish = |id| Command::FinishSpread(FinishSpread { id });
    assert_eq!(spread(finish(first)), Some(second));
    assert_eq!(spread(finish(second)), None);
    assert_eq!(spread(set(None, BALANCE, Some("false"))), None);
    assert_eq!(spread(set(Some(1), DECOMMISSION, Some("true"))), None);
    assert!(spread(set(Some(1), DECOMMISSION, None)).is_some());

    // Where builds may be that do not keep the wish, there is none.
    let mut older = MetadataImage::default();
    for command in [
        register(1),
        Command::CreateTopic(topic("a", 1)),
        register(4),
        set(None, BALANCE, Some("true")),
    ] {
        assert_eq!(apply(&mut older, envelope(command)).refusal, 0);
        assert_eq!(older.spread, None);
    }
    let reply = apply(&mut older, envelope(finish(1)));
    assert_eq!(reply.refusal(), Refusal::UnsupportedVersion);
    assert!(reply.message.contains("feature set metadata.version 2"));
}

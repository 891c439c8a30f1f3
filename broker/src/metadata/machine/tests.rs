use super::*;
use crate::metadata::command::{ConfigChange, Replicas};
use proptest::prelude::*;

fn envelope(command: Command) -> Envelope {
    Envelope {
        version: VERSION,
        command: Some(command),
    }
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

#[test]
fn an_unknown_version_is_refused() {
    let mut image = MetadataImage::default();
    let reply = apply(
        &mut image,
        Envelope {
            version: 99,
            command: None,
        },
    );
    assert_eq!(reply.refusal(), Refusal::UnsupportedVersion);
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
        assert_eq!(apply(&mut image, envelope(command)).refusal, 0);
        index += 1;
        image.applied_index = index;
        image.spread
    };
    let register = |id: i32| {
        Command::RegisterBroker(RegisterBroker {
            id,
            incarnation: vec![id as u8; 16],
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
}

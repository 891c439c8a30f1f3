//! Random lives of a group. At every moment nobody holds what another holds, a replay gives the same
//! state, and once things are quiet everything is assigned.

use super::*;
use crate::coordinator::group::consumer::group::GroupState;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Event {
    /// A heartbeat; the answer may be lost, and the client may be slow to obey.
    Beat {
        client: usize,
        lost: bool,
        obeys: bool,
    },
    Leave {
        client: usize,
        for_good: bool,
    },
    Subscribe {
        client: usize,
        topics: Vec<usize>,
        regex: bool,
    },
    Topic {
        topic: usize,
        partitions: usize,
    },
    Pass {
        ms: i64,
    },
    /// Another broker takes over.
    Replay,
}

const TOPICS: [&str; 4] = ["a1", "a2", "b1", "b2"];
const CLIENTS: usize = 5;

fn arb_event() -> impl Strategy<Value = Event> {
    let client = 0..CLIENTS;
    prop_oneof![
        12 => (client.clone(), prop::bool::weighted(0.15), prop::bool::weighted(0.7))
            .prop_map(|(client, lost, obeys)| Event::Beat { client, lost, obeys }),
        1 => (client.clone(), any::<bool>())
            .prop_map(|(client, for_good)| Event::Leave { client, for_good }),
        2 => (client, prop::collection::vec(0usize..4, 0..4), any::<bool>())
            .prop_map(|(client, topics, regex)| Event::Subscribe { client, topics, regex }),
        1 => (0usize..4, 0usize..5).prop_map(|(topic, partitions)| Event::Topic { topic, partitions }),
        1 => (0i64..20_000).prop_map(|ms| Event::Pass { ms }),
        1 => Just(Event::Replay),
    ]
}

fn client(index: usize, life: usize) -> Client {
    let mut client = Client::new(&format!("m{index}-{life}"), &["a1", "b1"]);
    // Two of them are static.
    client.instance = (index < 2).then(|| format!("i{index}"));
    client
}

/// Of the clients that the group has not fenced, no two hold the same partition.
fn check_exclusive(world: &World, clients: &[Client]) {
    let mut owners: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
    for client in clients {
        if !world.group.members.contains_key(&client.id) {
            continue;
        }
        for (topic, partitions) in &client.owned {
            for partition in partitions {
                let before = owners.insert((*topic, *partition), &client.id);
                assert_eq!(before, None, "{topic}-{partition} is also {}'s", client.id);
            }
        }
    }
}

fn beat(world: &mut World, client: &mut Client, lost: bool, obeys: bool) {
    match world.send(&client.request()) {
        Err(_) => client.forget(),
        Ok(_) if lost => {}
        Ok(answer) => {
            client.take(&answer);
            if obeys {
                client.obey();
            }
        }
    }
}

fn run(events: Vec<Event>) {
    let mut world = World::new(&[("a1", 3), ("a2", 2), ("b1", 4)]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|i| client(i, 0)).collect();
    for (life, event) in events.into_iter().enumerate() {
        match event {
            Event::Beat {
                client,
                lost,
                obeys,
            } => {
                beat(&mut world, &mut clients[client], lost, obeys);
            }
            Event::Leave {
                client: index,
                for_good,
            } => {
                let is_static = clients[index].instance.is_some();
                let epoch = if is_static && !for_good { -2 } else { -1 };
                let _ = clients[index].leave(&mut world, epoch);
                clients[index] = client(index, life + 1);
            }
            Event::Subscribe {
                client,
                topics,
                regex,
            } => {
                let client = &mut clients[client];
                client.topics = topics.into_iter().map(|t| TOPICS[t].to_owned()).collect();
                client.regex = Some(if regex { "b.*" } else { "" }.to_owned());
            }
            // Topics grow, or go and come back as new ones.
            Event::Topic { topic, partitions } => {
                let now = world
                    .turn
                    .image
                    .topic(TOPICS[topic])
                    .map_or(0, |t| t.partitions.len());
                if partitions == 0 || partitions > now {
                    world.set_topic(TOPICS[topic], partitions);
                }
            }
            Event::Pass { ms } => world.pass(ms),
            Event::Replay => {
                let mut group = world.replayed();
                group.start_timers(world.turn.clock_ms, &world.settings);
                world.group = group;
            }
        }
        check_exclusive(&world, &clients);
        assert_same(&world.group, &world.replayed());
    }
    assert_same(&world.group, &world.compacted());
    for _ in 0..12 {
        for client in &mut clients {
            beat(&mut world, client, false, true);
        }
        world.pass(5_000);
        check_exclusive(&world, &clients);
    }
    assert_eq!(world.group.state(), GroupState::Stable);
    for name in TOPICS {
        let Some(topic) = world.turn.image.topic(name) else {
            continue;
        };
        let owned: usize = clients
            .iter()
            .filter_map(|c| c.owned.get(&topic.id))
            .map(|p| p.len())
            .sum();
        let wanted = world.group.is_subscribed_to(name);
        assert_eq!(
            owned,
            if wanted { topic.partitions.len() } else { 0 },
            "{name}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn lives_of_groups(events in prop::collection::vec(arb_event(), 0..70)) {
        run(events);
    }
}

//! Members that come, go, stop, return and commit at random, under coordinators that fail at random.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

const CLIENTS: usize = 4;
/// The last one is static.
const STATIC: usize = 3;
const PARTITIONS: usize = 5;

#[derive(Debug, Clone)]
enum Step {
    /// Does what a client would do next: join, sync, or send a heartbeat.
    Act(usize),
    Commit(usize),
    /// With the generation before, as one that has slept.
    CommitStale(usize),
    Leave(usize),
    /// Forgets everything, as after a restart.
    Restart(usize),
    Settle(usize),
    Advance(i64),
    FailOver,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        12 => client.clone().prop_map(Step::Act),
        4 => client.clone().prop_map(Step::Commit),
        2 => client.clone().prop_map(Step::CommitStale),
        1 => client.clone().prop_map(Step::Leave),
        1 => client.prop_map(Step::Restart),
        6 => (1_usize..4).prop_map(Step::Settle),
        3 => (1_i64..8_000).prop_map(Step::Advance),
        1 => Just(Step::FailOver),
    ]
}

#[derive(Debug, Clone, PartialEq)]
enum Waiting {
    Join,
    Sync,
    Heartbeat,
    /// Offset, and the newest completed generation when it was asked.
    Commit {
        offset: i64,
        generation: i32,
        newest: i32,
    },
    Leave,
}

#[derive(Debug, Default, Clone)]
struct Client {
    member: String,
    generation: i32,
    /// Members to assign to, when it leads.
    to_assign: Option<Vec<String>>,
    joined: bool,
    stable: bool,
    waiting: Option<(Token, Waiting)>,
}

struct Run {
    world: World,
    clients: Vec<Client>,
    made: usize,
    next_offset: i64,
    /// Greatest offset whose commit was acknowledged.
    acknowledged: i64,
    /// Newest generation any member has an assignment of.
    newest: i32,
    /// Who got which partition in each generation; a static member by its name.
    owners: HashMap<(i32, u8), String>,
}

impl Run {
    fn new() -> Run {
        Run {
            world: World::new(GroupConfig {
                offsets_retention_ms: i64::MAX / 2,
                ..config()
            }),
            clients: vec![Client::default(); CLIENTS],
            made: 0,
            next_offset: 0,
            acknowledged: -1,
            newest: 0,
            owners: HashMap::new(),
        }
    }

    fn instance(client: usize) -> Option<String> {
        (client == STATIC).then(|| "static".to_owned())
    }

    fn ask(&mut self, client: usize, request: Request, waiting: Waiting) {
        let token = self.world.ask(request);
        self.clients[client].waiting = Some((token, waiting));
    }

    fn act(&mut self, at: usize) {
        let client = self.clients[at].clone();
        if client.waiting.is_some() {
            return;
        }
        if !client.joined {
            self.made += 1;
            let instance = Self::instance(at);
            let mut request = join_request(&client.member, instance.as_deref());
            request.new_member_id = format!("m{}", self.made);
            request.version = if at == 0 { 3 } else { 9 };
            self.ask(at, Request::Join(request), Waiting::Join);
        } else if !client.stable {
            let mut request = sync_request(&client.member, client.generation, &[]);
            request.instance_id = Self::instance(at);
            if let Some(members) = client.to_assign {
                let mut all: Vec<(String, Vec<u8>)> =
                    members.iter().map(|m| (m.clone(), Vec::new())).collect();
                for partition in 0..PARTITIONS {
                    let to = partition % all.len();
                    all[to].1.push(partition as u8);
                }
                request.assignments = all.into_iter().map(|(m, a)| (m, a.into())).collect();
            }
            self.ask(at, Request::Sync(request), Waiting::Sync);
        } else {
            let request = Request::Heartbeat {
                group: GROUP.to_owned(),
                member_id: client.member,
                instance_id: Self::instance(at),
                generation: client.generation,
            };
            self.ask(at, request, Waiting::Heartbeat);
        }
    }

    fn commit(&mut self, at: usize, generation: i32) {
        let client = &self.clients[at];
        if client.waiting.is_some() || client.member.is_empty() || generation < 1 {
            return;
        }
        let offset = self.next_offset;
        self.next_offset += 1;
        let mut request = commit_request(&client.member, generation, offset);
        request.instance_id = Self::instance(at);
        let newest = self.newest;
        let waiting = Waiting::Commit {
            offset,
            generation,
            newest,
        };
        self.ask(at, Request::Commit(request), waiting);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Act(at) => self.act(*at),
            Step::Commit(at) => self.commit(*at, self.clients[*at].generation),
            Step::CommitStale(at) => self.commit(*at, self.clients[*at].generation - 1),
            Step::Leave(at) => {
                let client = self.clients[*at].clone();
                if client.waiting.is_none() && !client.member.is_empty() {
                    let leaving = Leaving {
                        member_id: client.member,
                        instance_id: Self::instance(*at),
                    };
                    let request = Request::Leave {
                        group: GROUP.to_owned(),
                        members: vec![leaving],
                    };
                    self.ask(*at, request, Waiting::Leave);
                }
            }
            Step::Restart(at) => self.clients[*at] = Client::default(),
            Step::Settle(turns) => self.world.commit(*turns),
            Step::Advance(ms) => self.world.advance(*ms),
            Step::FailOver => {
                self.world.fail_over();
                for client in &mut self.clients {
                    if client.waiting.take().is_some() {
                        // NOT_COORDINATOR: it tries again.
                        client.joined &= client.stable;
                    }
                }
            }
        }
        self.receive();
    }

    fn receive(&mut self) {
        for at in 0..CLIENTS {
            let Some((token, waiting)) = self.clients[at].waiting.clone() else {
                continue;
            };
            if let Some(answer) = self.world.answered.remove(&token) {
                self.clients[at].waiting = None;
                self.answered(at, waiting, answer);
            }
        }
    }

    fn answered(&mut self, at: usize, waiting: Waiting, answer: Answer) {
        let client = &mut self.clients[at];
        match (waiting, answer) {
            (Waiting::Join, Answer::Join(response)) => {
                if response.error_code == 0 {
                    client.member = response.member_id.to_string();
                    client.generation = response.generation_id;
                    client.joined = true;
                    client.stable = false;
                    client.to_assign = (response.leader == response.member_id
                        && !response.skip_assignment)
                        .then(|| {
                            let members = response.members.iter();
                            members.map(|m| m.member_id.to_string()).collect()
                        });
                } else if response.error_code == ResponseError::MemberIdRequired.code() {
                    client.member = response.member_id.to_string();
                } else {
                    *client = Client::default();
                }
            }
            (Waiting::Sync, Answer::Sync(response)) => {
                if response.error_code != 0 {
                    self.refused(at, response.error_code);
                    return;
                }
                client.stable = true;
                let generation = client.generation;
                self.newest = self.newest.max(generation);
                let name = Self::instance(at).unwrap_or_else(|| self.clients[at].member.clone());
                for partition in response.assignment {
                    let owner = self.owners.entry((generation, partition));
                    let owner = owner.or_insert_with(|| name.clone());
                    assert_eq!(
                        *owner, name,
                        "partition {partition} in generation {generation}"
                    );
                }
            }
            (
                Waiting::Commit {
                    offset,
                    generation,
                    newest,
                },
                Answer::Committed(result),
            ) => match result {
                Ok(_) => {
                    assert!(
                        generation >= newest,
                        "a commit of generation {generation} after {newest} was complete"
                    );
                    self.acknowledged = self.acknowledged.max(offset);
                }
                Err(error) => self.refused(at, error.code()),
            },
            (Waiting::Heartbeat, Answer::Done(result)) => {
                if let Err(error) = result {
                    self.refused(at, error.code());
                }
            }
            (Waiting::Leave, Answer::Left(_)) => *client = Client::default(),
            (waiting, answer) => panic!("{answer:?} to {waiting:?}"),
        }
    }

    fn refused(&mut self, at: usize, code: i16) {
        let client = &mut self.clients[at];
        client.joined = false;
        client.stable = false;
        let keeps_id = [
            ResponseError::RebalanceInProgress,
            ResponseError::IllegalGeneration,
        ];
        if !keeps_id.iter().any(|e| e.code() == code) {
            *client = Client::default();
        }
    }

    fn check(&mut self) {
        let group = match self.world.shard.groups.get(GROUP) {
            Some(Group::Classic(group)) => group,
            _ => return,
        };
        // While they join, those that have not joined yet do not count; a static member keeps its place.
        if matches!(group.state, State::CompletingRebalance | State::Stable) {
            let dynamic = group.members.values().filter(|m| m.instance_id.is_none());
            assert!(dynamic.count() <= self.world.config.max_size);
        }
        for (instance, member) in &group.static_members {
            let known = group.members.get(member);
            assert_eq!(known.and_then(|m| m.instance_id.as_ref()), Some(instance));
        }
        assert_eq!(
            group.state == State::Empty,
            group.members.is_empty() && group.state != State::PreparingRebalance
        );
        if let Some(leader) = &group.leader {
            assert!(
                group.members.contains_key(leader),
                "{leader} leads and is gone"
            );
        }
    }

    /// What is committed is what the log gives back, and no acknowledged commit is lost.
    fn compare_with_log(&mut self) {
        self.world.commit_all();
        self.receive();
        let replayed = self.world.replayed();
        assert_eq!(self.world.shard.offsets, replayed.offsets);
        let kept = replayed.offsets.get(GROUP, "t", 0).map_or(-1, |c| c.offset);
        assert!(kept >= self.acknowledged, "{} is lost", self.acknowledged);
        let live = match self.world.shard.groups.get(GROUP) {
            Some(Group::Classic(group)) if group.stored => group,
            _ => return,
        };
        let Some(Group::Classic(stored)) = replayed.groups.get(GROUP) else {
            panic!("the group is stored");
        };
        if live.state == State::Stable && live.generation == stored.generation {
            // Members that only joined again may say more than what is stored.
            let ids: Vec<_> = live.members.keys().collect();
            assert_eq!(ids, stored.members.keys().collect::<Vec<_>>());
            for (id, member) in &live.members {
                assert_eq!(member.assignment, stored.members[id].assignment);
            }
        }
    }

    /// Nobody says anything any more: everyone who waits is answered, and the group is empty.
    fn fall_silent(&mut self) {
        self.world.advance(3_600_000);
        self.world.commit_all();
        self.receive();
        for client in &self.clients {
            assert_eq!(client.waiting, None, "parked for ever");
        }
        if let Some(Group::Classic(group)) = self.world.shard.groups.get(GROUP) {
            assert_eq!((group.state, group.members.len()), (State::Empty, 0));
            assert!(group.pending_join.is_empty());
        }
        assert_eq!(
            self.world.shard.timers.len(),
            1,
            "only the look for expired offsets"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn generations_have_one_owner_a_partition_and_commits_are_kept(
        steps in prop::collection::vec(step(), 1..160),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
            run.check();
        }
        run.compare_with_log();
        run.fall_silent();
    }
}

//! The group shard without a broker: requests in, answers and records out, and time as it is told.

mod offsets;
mod random;
mod scenario;

use super::*;
use crate::coordinator::{NewRecord, Write};
use bytes::Bytes;
use kafka_protocol::messages::{JoinGroupResponse, SyncGroupResponse};
use std::collections::BTreeMap;

const GROUP: &str = "g";

fn config() -> GroupConfig {
    GroupConfig {
        initial_rebalance_delay_ms: 3_000,
        session_timeout_min_ms: 1,
        session_timeout_max_ms: i32::MAX,
        max_size: 4,
        offsets_retention_ms: 1_000_000_000,
        retention_check_ms: 600_000,
        metadata_max_bytes: 100,
        broker: Arc::default(),
    }
}

/// What one turn has written and answered.
struct Under {
    writes: Vec<NewRecord>,
    answers: Vec<(Token, Answer)>,
}

/// A shard, its log, and the turns that are not committed yet.
struct World {
    config: GroupConfig,
    shard: GroupShard,
    log: Vec<NewRecord>,
    under_way: Vec<Under>,
    answered: BTreeMap<Token, Answer>,
    asked: u64,
    now_ms: i64,
    image: Arc<MetadataImage>,
}

impl World {
    fn new(config: GroupConfig) -> World {
        let mut world = World {
            shard: GroupShard::new(config.clone()),
            config,
            log: Vec::new(),
            under_way: Vec::new(),
            answered: BTreeMap::new(),
            asked: 0,
            now_ms: 1_000_000,
            image: Arc::default(),
        };
        world.turn(Shard::loaded);
        world
    }

    fn turn(&mut self, act: impl FnOnce(&mut GroupShard, &Turn, &mut Effects<Answer>)) {
        let turn = Turn {
            leader_epoch: 1,
            now_ms: self.now_ms,
            clock_ms: self.now_ms,
            image: self.image.clone(),
        };
        let mut effects = Effects::default();
        act(&mut self.shard, &turn, &mut effects);
        let writes = effects.take_writes().into_iter().map(|w| match w {
            Write::Record(record) => record,
            other => panic!("groups write plain records only: {other:?}"),
        });
        self.under_way.push(Under {
            writes: writes.collect(),
            answers: effects.take_answers(),
        });
    }

    /// Asks; the answer comes with a later [`World::commit`].
    fn ask(&mut self, request: Request) -> Token {
        let token = Token(self.asked);
        self.asked += 1;
        self.turn(|shard, turn, effects| shard.handle(turn, token, request, effects));
        token
    }

    /// The first `turns` turns under way are committed, their answers let out.
    fn commit(&mut self, turns: usize) {
        for under in self.under_way.drain(..turns.min(self.under_way.len())) {
            self.log.extend(under.writes);
            for (token, answer) in under.answers {
                let twice = self.answered.insert(token, answer);
                assert!(twice.is_none(), "{token:?} is answered twice");
            }
        }
    }

    fn commit_all(&mut self) {
        self.commit(usize::MAX);
    }

    /// Asks, commits everything, and takes the answer if there is one already.
    fn call(&mut self, request: Request) -> Option<Answer> {
        let token = self.ask(request);
        self.commit_all();
        self.answered.remove(&token)
    }

    /// Lets time pass, with every timer on its own time.
    fn advance(&mut self, ms: i64) {
        let until = self.now_ms + ms;
        while let Some(at) = self.shard.next_deadline().filter(|at| *at <= until) {
            self.now_ms = self.now_ms.max(at);
            self.turn(Shard::tick);
        }
        self.now_ms = until;
    }

    fn replayed(&self) -> GroupShard {
        let mut shard = GroupShard::new(self.config.clone());
        for (offset, record) in self.log.iter().enumerate() {
            let record = Record {
                offset: offset as i64,
                timestamp_ms: 0,
                key: &record.key,
                value: record.value.as_deref(),
                transaction: None,
            };
            shard.replay(&record).expect("our own record");
        }
        shard
    }

    /// Another broker takes over: what is not committed is lost, and so is who waits.
    fn fail_over(&mut self) {
        self.under_way.clear();
        self.shard = self.replayed();
        self.turn(Shard::loaded);
    }

    fn group(&self) -> &ClassicGroup {
        match self.shard.groups.get(GROUP) {
            Some(Group::Classic(group)) => group,
            _ => panic!("no classic group"),
        }
    }

    fn state(&self) -> State {
        self.group().state
    }
}

fn join_request(member: &str, instance: Option<&str>) -> JoinRequest {
    JoinRequest {
        group: GROUP.to_owned(),
        member_id: member.to_owned(),
        new_member_id: format!("{}-new", instance.unwrap_or("m")),
        instance_id: instance.map(str::to_owned),
        version: 9,
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 20_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), subscription("t"))],
        ..JoinRequest::default()
    }
}

/// A consumer's subscription to one topic.
fn subscription(topic: &str) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, topic.len() as u8];
    bytes.extend(topic.as_bytes());
    bytes.extend([0xff; 4]);
    bytes.into()
}

fn sync_request(member: &str, generation: i32, all: &[(&str, &'static str)]) -> SyncRequest {
    SyncRequest {
        group: GROUP.to_owned(),
        member_id: member.to_owned(),
        generation,
        assignments: all
            .iter()
            .map(|(member, assignment)| ((*member).to_owned(), Bytes::from(*assignment)))
            .collect(),
        ..SyncRequest::default()
    }
}

fn commit_request(member: &str, generation: i32, offset: i64) -> CommitRequest {
    let offset = CommitOffset {
        offset,
        ..CommitOffset::default()
    };
    CommitRequest {
        group: GROUP.to_owned(),
        member_id: member.to_owned(),
        generation,
        version: 8,
        topics: vec![("t".to_owned(), vec![offset])],
        ..CommitRequest::default()
    }
}

fn joined(answer: Option<Answer>) -> JoinGroupResponse {
    match answer {
        Some(Answer::Join(response)) => response,
        other => panic!("no answer to a JoinGroup: {other:?}"),
    }
}

fn synced(answer: Option<Answer>) -> SyncGroupResponse {
    match answer {
        Some(Answer::Sync(response)) => response,
        other => panic!("no answer to a SyncGroup: {other:?}"),
    }
}

/// Whether a commit was taken.
fn committed(answer: Option<Answer>) -> Result<(), ResponseError> {
    match answer {
        Some(Answer::Committed(Ok(topics))) => topics[0].1[0].1,
        Some(Answer::Committed(Err(error))) => Err(error),
        other => panic!("no answer to an OffsetCommit: {other:?}"),
    }
}

fn heartbeat(world: &mut World, member: &str, generation: i32) -> Result<(), ResponseError> {
    let answer = world.call(Request::Heartbeat {
        group: GROUP.to_owned(),
        member_id: member.to_owned(),
        instance_id: None,
        generation,
    });
    match answer {
        Some(Answer::Done(result)) => result,
        other => panic!("no answer to a Heartbeat: {other:?}"),
    }
}

fn fetch(world: &mut World) -> Option<i64> {
    let answer = world.call(Request::Fetch(FetchRequest {
        group: GROUP.to_owned(),
        topics: Some(vec![("t".to_owned(), vec![0])]),
        ..FetchRequest::default()
    }));
    match answer {
        Some(Answer::Fetched(Ok(topics))) => {
            let committed = topics[0].1[0].committed.as_ref();
            committed.map(|c| c.offset)
        }
        other => panic!("no answer to an OffsetFetch: {other:?}"),
    }
}

/// Brings `members` (whose ids they are) together in a stable group; the generation.
fn form(world: &mut World, members: &[&str]) -> i32 {
    let mut tokens = Vec::new();
    for member in members {
        let mut request = join_request("", None);
        request.version = 3;
        request.new_member_id = (*member).to_owned();
        tokens.push(world.ask(Request::Join(request)));
    }
    while world.state() == State::PreparingRebalance {
        world.advance(1_000);
    }
    world.commit_all();
    let first = joined(world.answered.remove(&tokens[0]));
    let generation = first.generation_id;
    let mut order: Vec<&str> = members.to_vec();
    order.sort_by_key(|m| *m == &*first.leader);
    for member in order {
        let all: Vec<_> = members.iter().map(|m| (*m, "assigned")).collect();
        world.ask(Request::Sync(sync_request(member, generation, &all)));
    }
    world.commit_all();
    assert_eq!(world.state(), State::Stable);
    generation
}

//! Both protocols in one shard: requests in, records and answers out.

use crate::config::{BrokerConfig, Source};
use crate::coordinator::group::consumer::classic::PROTOCOL_TYPE;
use crate::coordinator::group::consumer::heartbeat::Heartbeat;
use crate::coordinator::group::{
    Answer, CommitOffset, CommitRequest, FetchRequest, Group, GroupConfig, GroupShard, JoinRequest,
    Leaving, Request, SyncRequest,
};
use crate::coordinator::{Effects, NewRecord, Record, Shard, Token, Turn, Write, Writer};
use crate::metadata::image::PartitionMeta;
use crate::metadata::{MetadataImage, Topic};
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatResponse, GroupId, JoinGroupResponse, SyncGroupResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

const TOPIC: Uuid = Uuid::from_u128(7);

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

struct World {
    shard: GroupShard,
    turn: Turn,
    written: Vec<NewRecord>,
    answers: HashMap<Token, Answer>,
    next_token: u64,
}

fn config(settings: &[(&str, &str)]) -> GroupConfig {
    let mut config = BrokerConfig::default();
    let all = [("group.initial.rebalance.delay.ms", "0")];
    for (name, value) in all.iter().chain(settings) {
        config.put(name, value, Source::Set).unwrap();
    }
    GroupConfig::of(&config)
}

impl World {
    fn new(settings: &[(&str, &str)]) -> World {
        let meta = PartitionMeta::new(tidelog_replication::GroupId(9), Vec::new());
        let topic = Topic {
            name: "t".to_owned(),
            id: TOPIC,
            partitions: vec![meta; 4],
            configs: Default::default(),
            first_sequences: false,
        };
        let image = MetadataImage {
            applied_index: 5,
            topic_names: [(TOPIC, "t".to_owned())].into(),
            topics: [("t".to_owned(), Arc::new(topic))].into(),
            ..MetadataImage::default()
        };
        World {
            shard: GroupShard::new(config(settings)),
            turn: Turn {
                leader_epoch: 1,
                now_ms: 1_000_000,
                clock_ms: 0,
                image: Arc::new(image),
            },
            written: Vec::new(),
            answers: HashMap::new(),
            next_token: 0,
        }
    }

    fn carry_out(&mut self, mut effects: Effects<Answer>) {
        for write in effects.take_writes() {
            let Write::Record(record) = write else {
                panic!("{write:?}");
            };
            self.written.push(record);
        }
        self.answers.extend(effects.take_answers());
    }

    fn start(&mut self, request: Request) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        let mut effects = Effects::default();
        self.shard.handle(&self.turn, token, request, &mut effects);
        self.carry_out(effects);
        token
    }

    fn ask(&mut self, request: Request) -> Answer {
        let token = self.start(request);
        self.answers.remove(&token).expect("answered at once")
    }

    fn pass(&mut self, ms: i64) {
        self.turn.clock_ms += ms;
        let mut effects = Effects::default();
        self.shard.tick(&self.turn, &mut effects);
        self.carry_out(effects);
    }

    /// What another broker builds from what was written.
    fn check_replay(&self) {
        let mut other = GroupShard::new(config(&[]));
        for (offset, record) in self.written.iter().enumerate() {
            other
                .replay(&Record {
                    offset: offset as i64,
                    timestamp_ms: self.turn.now_ms,
                    key: &record.key,
                    value: record.value.as_deref(),
                    transaction: None,
                })
                .unwrap();
        }
        assert_eq!(other.offsets, self.shard.offsets);
        for id in self.shard.groups.keys().chain(other.groups.keys()) {
            match (self.shard.groups.get(id), other.groups.get(id)) {
                (Some(Group::Consumer(a)), Some(Group::Consumer(b))) => {
                    assert_eq!(a.durable(), b.durable());
                }
                (Some(Group::Classic(_)), Some(Group::Classic(_))) => {}
                (a, b) => panic!("{id}: {a:?}, but after a replay {b:?}"),
            }
        }
    }

    fn beat(&mut self, member: &str, epoch: i32) -> ConsumerGroupHeartbeatResponse {
        let joining = epoch == 0;
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_member_id(text(member))
            .with_member_epoch(epoch)
            .with_rebalance_timeout_ms(if joining { 30_000 } else { -1 })
            .with_subscribed_topic_names(joining.then(|| vec![TopicName(text("t"))]))
            .with_topic_partitions(joining.then(Vec::new));
        let heartbeat = Heartbeat {
            request,
            version: 1,
            new_member_id: String::new(),
            client_id: "c".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
        };
        match self.ask(Request::Beat(Box::new(heartbeat))) {
            Answer::Beat(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, member: &str, protocol: &str) -> Token {
        let mut w = Writer::versioned(1);
        w.array_of(false, ["t"], |w, t| {
            w.string(false, t);
        });
        w.i32(-1).i32(0);
        self.start(Request::Join(JoinRequest {
            group: "g".to_owned(),
            member_id: member.to_owned(),
            new_member_id: format!("new-{}", self.next_token),
            client_id: "c".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
            // New members are taken at once.
            version: 3,
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 20_000,
            protocol_type: PROTOCOL_TYPE.to_owned(),
            protocols: vec![(protocol.to_owned(), w.finish())],
            ..JoinRequest::default()
        }))
    }

    fn joined(&mut self, token: Token) -> JoinGroupResponse {
        match self.answers.remove(&token) {
            Some(Answer::Join(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn sync(&mut self, member: &str, generation: i32, all: &[(&str, Bytes)]) -> SyncGroupResponse {
        let request = SyncRequest {
            group: "g".to_owned(),
            member_id: member.to_owned(),
            generation,
            assignments: all
                .iter()
                .map(|(m, a)| ((*m).to_owned(), a.clone()))
                .collect(),
            ..SyncRequest::default()
        };
        match self.ask(Request::Sync(request)) {
            Answer::Sync(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> Result<(), ResponseError> {
        let request = Request::Heartbeat {
            group: "g".to_owned(),
            member_id: member.to_owned(),
            instance_id: None,
            generation,
        };
        match self.ask(request) {
            Answer::Done(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, member: &str, generation: i32, version: i16) -> Option<ResponseError> {
        let offset = CommitOffset {
            partition: 0,
            offset: 3,
            leader_epoch: -1,
            metadata: String::new(),
        };
        let request = CommitRequest {
            group: "g".to_owned(),
            member_id: member.to_owned(),
            generation,
            version,
            topics: vec![("t".to_owned(), vec![offset])],
            ..CommitRequest::default()
        };
        match self.ask(Request::Commit(request)) {
            Answer::Committed(result) => result.err(),
            other => panic!("{other:?}"),
        }
    }

    /// State and type as ListGroups has them.
    fn listed(&mut self) -> Vec<(&'static str, &'static str)> {
        let request = Request::List {
            states: Vec::new(),
            types: Vec::new(),
        };
        match self.ask(request) {
            Answer::Listed(listed) => listed.iter().map(|l| (l.state, l.kind)).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// A classic group of one stable member with all partitions; its id and generation.
    fn classic_group(&mut self) -> (String, i32) {
        let token = self.join("", "range");
        let joined = self.joined(token);
        let id = joined.member_id.to_string();
        let assignment = assignment(&[0, 1, 2, 3]);
        let synced = self.sync(&id, joined.generation_id, &[(&id, assignment)]);
        assert_eq!(synced.error_code, 0);
        assert_eq!(self.listed(), [("Stable", "classic")]);
        (id, joined.generation_id)
    }
}

fn assignment(partitions: &[i32]) -> Bytes {
    let mut w = Writer::versioned(1);
    w.array_of(false, ["t"], |w, t| {
        w.string(false, t);
        w.array_of(false, partitions, |w, p| {
            w.i32(*p);
        });
    });
    w.i32(-1);
    w.finish()
}

#[test]
fn a_classic_group_goes_over_while_it_works_and_back() {
    let mut world = World::new(&[]);
    let (old, generation) = world.classic_group();
    let answer = world.beat("new", 0);
    assert_eq!(
        (answer.error_code, answer.member_epoch),
        (0, generation + 1)
    );
    assert_eq!(world.listed(), [("Reconciling", "consumer")]);
    world.check_replay();

    // The old one is told to join again, gives two partitions up, and has the rest.
    let again = Err(ResponseError::RebalanceInProgress);
    assert_eq!(world.heartbeat(&old, generation), again);
    let token = world.join(&old, "range");
    let joined = world.joined(token);
    assert_eq!(
        (joined.error_code, joined.generation_id),
        (0, generation + 1)
    );
    let synced = world.sync(&old, joined.generation_id, &[]);
    assert_eq!(synced.assignment, assignment(&[0, 1]));
    let answer = world.beat("new", generation + 1);
    let told = answer.assignment.unwrap().topic_partitions;
    assert_eq!(told[0].partitions, [2, 3]);
    assert_eq!(world.listed(), [("Stable", "consumer")]);
    assert_eq!(world.commit(&old, generation + 1, 7), None);
    world.check_replay();

    // The new one leaves: the group is a classic one again, which begins a rebalance.
    assert_eq!(world.beat("new", -1).error_code, 0);
    assert_eq!(world.listed(), [("PreparingRebalance", "classic")]);
    world.check_replay();
    assert_eq!(world.heartbeat(&old, generation + 2), again);
    let token = world.join(&old, "range");
    let joined = world.joined(token);
    assert_eq!(
        (joined.error_code, joined.generation_id),
        (0, generation + 3)
    );
    assert_eq!(&*joined.leader, old.as_str());
    let fetched = world.ask(Request::Fetch(FetchRequest {
        group: "g".to_owned(),
        ..FetchRequest::default()
    }));
    let Answer::Fetched(Ok(topics)) = fetched else {
        panic!("{fetched:?}");
    };
    assert_eq!(topics[0].1[0].committed.as_ref().unwrap().offset, 3);
}

#[test]
fn members_that_wait_are_sent_away_when_the_group_goes_over() {
    let mut world = World::new(&[]);
    let (_, _) = world.classic_group();
    // A second member waits until the first joins again.
    let parked = world.join("", "range");
    assert!(!world.answers.contains_key(&parked));
    assert_eq!(world.beat("new", 0).error_code, 0);
    let error = world.joined(parked).error_code;
    assert_eq!(error, ResponseError::RebalanceInProgress.code());
    world.check_replay();
}

#[test]
fn the_policy_decides() {
    let mut world = World::new(&[("group.consumer.migration.policy", "downgrade")]);
    let (old, generation) = world.classic_group();
    let error = world.beat("new", 0).error_code;
    assert_eq!(error, ResponseError::GroupIdNotFound.code());
    assert_eq!(world.heartbeat(&old, generation), Ok(()));

    let mut world = World::new(&[("group.consumer.migration.policy", "upgrade")]);
    world.classic_group();
    assert_eq!(world.beat("new", 0).error_code, 0);
    world.beat("new", -1);
    assert_eq!(world.listed(), [("Assigning", "consumer")]);

    // A group that is no consumers' cannot go over.
    let mut world = World::new(&[]);
    let token = world.start(Request::Join(JoinRequest {
        group: "g".to_owned(),
        new_member_id: "m".to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "connect".to_owned(),
        protocols: vec![("p".to_owned(), Bytes::new())],
        ..JoinRequest::default()
    }));
    assert_eq!(world.joined(token).error_code, 0);
    let error = world.beat("new", 0).error_code;
    assert_eq!(error, ResponseError::GroupIdNotFound.code());
}

#[test]
fn a_group_nobody_is_in_takes_whoever_comes() {
    let mut world = World::new(&[]);
    let (old, _) = world.classic_group();
    let leaving = Leaving {
        member_id: old,
        instance_id: None,
    };
    world.ask(Request::Leave {
        group: "g".to_owned(),
        members: vec![leaving],
    });
    let answer = world.beat("new", 0);
    assert_eq!((answer.error_code, answer.member_epoch), (0, 1));
    assert_eq!(world.listed(), [("Stable", "consumer")]);
    world.check_replay();
    assert_eq!(world.beat("new", -1).error_code, 0);
    let (_, generation) = world.classic_group();
    assert_eq!(generation, 1);
    world.check_replay();
}

#[test]
fn sessions_run_out_by_the_shards_clock() {
    let mut world = World::new(&[]);
    assert_eq!(world.shard.next_deadline(), None);
    world.beat("a", 0);
    assert_eq!(world.shard.next_deadline(), Some(45_000));
    world.pass(40_000);
    world.beat("a", 1);
    world.pass(44_999);
    assert_eq!(world.listed(), [("Stable", "consumer")]);
    world.pass(1);
    assert_eq!(world.listed(), [("Empty", "consumer")]);
    world.check_replay();
    assert_eq!(
        world.beat("a", 1).error_code,
        ResponseError::UnknownMemberId.code()
    );
}

#[test]
fn commits_need_the_members_epoch() {
    let mut world = World::new(&[]);
    world.beat("a", 0);
    assert_eq!(world.commit("a", 1, 9), None);
    assert_eq!(
        world.commit("a", 1, 8),
        Some(ResponseError::UnsupportedVersion)
    );
    assert_eq!(
        world.commit("a", 2, 9),
        Some(ResponseError::StaleMemberEpoch)
    );
    assert_eq!(
        world.commit("b", 1, 9),
        Some(ResponseError::UnknownMemberId)
    );
    assert_eq!(
        world.commit("", -1, 9),
        Some(ResponseError::UnknownMemberId)
    );
    // Nobody may delete it, and a join of the classic protocol is one of its members.
    let deleted = world.ask(Request::DeleteGroups(vec!["g".to_owned()]));
    assert_eq!(
        deleted,
        Answer::Left(vec![Err(ResponseError::NonEmptyGroup)])
    );
    assert_eq!(world.beat("a", -1).error_code, 0);
    assert_eq!(world.commit("", -1, 9), None);
    let deleted = world.ask(Request::DeleteGroups(vec!["g".to_owned()]));
    assert_eq!(deleted, Answer::Left(vec![Ok(())]));
    world.check_replay();
    assert_eq!(
        world.beat("a", 1).error_code,
        ResponseError::GroupIdNotFound.code()
    );
}

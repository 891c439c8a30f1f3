//! The coordinator's rules one by one, and its life through loading.

use super::super::Write;
use super::state::VERSION_2;
use super::*;
use crate::metadata::MetadataImage;
use std::sync::Arc;

const TIMEOUT_MS: i32 = 60_000;

/// A shard whose writes are committed at once.
struct Coordinator {
    shard: TransactionShard,
    turn: Turn,
    log: Vec<(bytes::Bytes, Option<bytes::Bytes>)>,
    next_token: u64,
    ended: Vec<Ended>,
}

fn config() -> TransactionConfig {
    TransactionConfig {
        timeout_max_ms: 900_000,
        id_expiration_ms: 1_000_000,
    }
}

impl Coordinator {
    fn new() -> Coordinator {
        let mut coordinator = Coordinator {
            shard: TransactionShard::new(config()),
            turn: Turn {
                now_ms: 1_000_000,
                clock_ms: 0,
                leader_epoch: 5,
                image: Arc::new(MetadataImage::default()),
            },
            log: Vec::new(),
            next_token: 0,
            ended: Vec::new(),
        };
        coordinator.call(Request::TakeEnded);
        coordinator
    }

    fn carry_out(&mut self, effects: &mut Effects<Answer>) -> Vec<Answer> {
        for write in effects.take_writes() {
            let Write::Record(record) = write else {
                panic!("{write:?}")
            };
            self.log.push((record.key, record.value));
        }
        let mut answers = Vec::new();
        for (_, answer) in effects.take_answers() {
            match answer {
                Answer::Ended(ended) => {
                    self.ended.extend(ended);
                    // Whoever takes them asks again.
                    let mut more = Effects::default();
                    self.next_token += 1;
                    let token = Token(self.next_token);
                    self.shard
                        .handle(&self.turn, token, Request::TakeEnded, &mut more);
                    assert!(more.take_answers().is_empty());
                }
                other => answers.push(other),
            }
        }
        answers
    }

    fn call(&mut self, request: Request) -> Option<Answer> {
        let mut effects = Effects::default();
        self.next_token += 1;
        let token = Token(self.next_token);
        self.shard.handle(&self.turn, token, request, &mut effects);
        self.carry_out(&mut effects).pop()
    }

    fn pass(&mut self, ms: i64) {
        self.turn.now_ms += ms;
        self.turn.clock_ms += ms;
        let mut effects = Effects::default();
        self.shard.tick(&self.turn, &mut effects);
        self.carry_out(&mut effects);
    }

    /// Another broker takes over, with what is written.
    fn fail_over(&mut self) {
        let mut shard = TransactionShard::new(config());
        for (offset, (key, value)) in self.log.iter().enumerate() {
            let record = Record {
                offset: offset as i64,
                timestamp_ms: 0,
                key,
                value: value.as_deref(),
                transaction: None,
            };
            shard.replay(&record).expect("our own record");
        }
        self.turn.leader_epoch += 1;
        self.turn.clock_ms = 0;
        self.ended.clear();
        let mut effects = Effects::default();
        shard.loaded(&self.turn, &mut effects);
        self.shard = shard;
        self.call(Request::TakeEnded);
    }

    fn init(&mut self, expected: Option<Identity>) -> Result<Identity, ResponseError> {
        let mut fresh_producer_id = None;
        loop {
            let answer = self.call(Request::Init {
                id: "id".to_owned(),
                timeout_ms: TIMEOUT_MS,
                expected,
                fresh_producer_id,
            });
            match answer {
                Some(Answer::NeedProducerId) => {
                    fresh_producer_id = Some(7_000 + self.log.len() as i64);
                }
                Some(Answer::Identity(result)) => return result,
                other => panic!("{other:?}"),
            }
        }
    }

    fn add(&mut self, owner: Identity, partition: i32) -> Result<(), ResponseError> {
        let answer = self.call(Request::Add {
            id: "id".to_owned(),
            owner,
            partitions: vec![("t".to_owned(), partition)],
            verify_only: false,
        });
        match answer {
            Some(Answer::Added(results)) => results[0],
            other => panic!("{other:?}"),
        }
    }

    fn end(
        &mut self,
        owner: Identity,
        commit: bool,
        version: i16,
    ) -> Result<Identity, ResponseError> {
        let mut fresh_producer_id = None;
        loop {
            let answer = self.call(Request::End {
                id: "id".to_owned(),
                owner,
                commit,
                version,
                fresh_producer_id,
            });
            match answer {
                Some(Answer::NeedProducerId) => fresh_producer_id = Some(9_000),
                Some(Answer::Identity(result)) => return result,
                other => panic!("{other:?}"),
            }
        }
    }

    /// All markers of what has ended are written.
    fn mark(&mut self) -> Vec<Ended> {
        let ended = std::mem::take(&mut self.ended);
        for one in &ended {
            let done = self.call(Request::Marked {
                id: one.id.clone(),
                identity: one.identity,
            });
            assert_eq!(done, Some(Answer::Done));
        }
        ended
    }

    fn state(&self) -> &Transaction {
        &self.shard.transactions["id"]
    }
}

use ResponseError::{
    ConcurrentTransactions, InvalidProducerIdMapping, InvalidTransactionTimeout, InvalidTxnState,
    ProducerFenced, TransactionAbortable,
};

#[test]
fn a_transaction_of_version_2_ends_with_a_new_epoch() {
    let mut c = Coordinator::new();
    let first = c.init(None).expect("an identity");
    assert_eq!(first.1, 0);
    assert_eq!(c.add(first, 0), Ok(()));
    assert_eq!(c.add(first, 3), Ok(()));
    let next = c.end(first, true, VERSION_2).expect("committed");
    assert_eq!(next, (first.0, 1));
    // Not before its markers are written.
    assert_eq!(c.add(next, 0), Err(ConcurrentTransactions));
    assert_eq!(c.end(first, true, VERSION_2), Err(ConcurrentTransactions));
    let ended = c.mark();
    assert_eq!(ended.len(), 1);
    assert!(ended[0].commit && ended[0].bumped);
    assert_eq!((ended[0].identity, ended[0].coordinator_epoch), (next, 5));
    assert_eq!(
        ended[0].partitions,
        [("t".to_owned(), 0), ("t".to_owned(), 3)]
    );
    assert_eq!(c.add(first, 0), Err(ProducerFenced));
    assert_eq!(c.add((first.0 + 1, 0), 0), Err(InvalidProducerIdMapping));
    assert_eq!(c.add(next, 0), Ok(()));
    // A repetition of the first end hits nothing (KAFKA-17754).
    assert_eq!(c.end(first, true, VERSION_2), Err(ProducerFenced));
    assert_eq!(c.end(next, false, VERSION_2), Ok((first.0, 2)));
}

/// The table in KIP-890's coordinator: empty and complete transactions, repeated and new requests.
#[test]
fn ends_without_a_transaction_are_judged_as_in_kafka() {
    let empty = || {
        let mut c = Coordinator::new();
        let id = c.init(None).expect("an identity");
        (c, (id.0, id.1 - 1), id)
    };
    let complete = |commit: bool| {
        move || {
            let mut c = Coordinator::new();
            let id = c.init(None).expect("an identity");
            c.add(id, 0).expect("added");
            let next = c.end(id, commit, VERSION_2).expect("ended");
            c.mark();
            (c, id, next)
        }
    };
    let bumped = |id: Identity| Ok((id.0, id.1 + 1));
    let judge = |make: &dyn Fn() -> (Coordinator, Identity, Identity), repeated: bool, commit| {
        let (mut c, before, now) = make();
        let owner = if repeated { before } else { now };
        (c.end(owner, commit, VERSION_2), now)
    };
    assert_eq!(judge(&empty, true, false).0, Err(ProducerFenced));
    assert_eq!(judge(&empty, true, true).0, Err(ProducerFenced));
    let (abort, now) = judge(&empty, false, false);
    assert_eq!(abort, bumped(now));
    assert_eq!(judge(&empty, false, true).0, Err(InvalidTxnState));
    for committed in [false, true] {
        let make = complete(committed);
        for commit in [false, true] {
            let (repeated, now) = judge(&make, true, commit);
            let expected = if commit == committed {
                Ok(now)
            } else {
                Err(InvalidTxnState)
            };
            assert_eq!(repeated, expected, "{committed} {commit}");
        }
        let (abort, now) = judge(&make, false, false);
        assert_eq!(abort, bumped(now));
        assert_eq!(judge(&make, false, true).0, Err(InvalidTxnState));
    }
}

#[test]
fn old_clients_keep_their_epoch() {
    let mut c = Coordinator::new();
    let id = c.init(None).expect("an identity");
    assert_eq!(c.end(id, false, 0), Err(InvalidTxnState));
    c.add(id, 0).expect("added");
    assert_eq!(c.end(id, true, 0), Ok(id));
    assert_eq!(c.end(id, true, 0), Err(ConcurrentTransactions));
    assert_eq!(c.end(id, false, 0), Err(InvalidTxnState));
    let ended = c.mark();
    assert!(!ended[0].bumped && ended[0].identity == id);
    assert_eq!(c.end(id, true, 0), Ok(id));
    assert_eq!(c.end(id, false, 0), Err(InvalidTxnState));
    c.add(id, 1).expect("added");
    let absent = Request::Add {
        id: "id".to_owned(),
        owner: id,
        partitions: vec![("t".to_owned(), 0), ("t".to_owned(), 1)],
        verify_only: true,
    };
    let answer = Some(Answer::Added(vec![Err(TransactionAbortable), Ok(())]));
    assert_eq!(c.call(absent), answer);
}

#[test]
fn a_second_producer_fences_the_first() {
    let mut c = Coordinator::new();
    let zombie = c.init(None).expect("an identity");
    c.add(zombie, 0).expect("added");
    assert_eq!(c.init(None), Err(ConcurrentTransactions));
    // Being aborted: neither of the two can do anything.
    assert_eq!(c.init(None), Err(ConcurrentTransactions));
    for version in [0, VERSION_2] {
        assert_eq!(c.end(zombie, true, version), Err(ProducerFenced));
    }
    let ended = c.mark();
    assert!(!ended[0].commit && ended[0].bumped && ended[0].identity.1 > zombie.1);
    let heir = c.init(None).expect("an identity");
    assert!(heir.0 == zombie.0 && heir.1 > ended[0].identity.1);
    for version in [0, VERSION_2] {
        assert_eq!(c.end(zombie, false, version), Err(ProducerFenced));
    }
    assert_eq!(c.add(zombie, 0), Err(ProducerFenced));
    assert_eq!(c.add(heir, 0), Ok(()));
}

#[test]
fn an_epoch_is_bumped_for_who_has_it_and_once() {
    let mut c = Coordinator::new();
    let id = c.init(None).expect("an identity");
    let bumped = c.init(Some(id)).expect("bumped");
    assert_eq!(bumped, (id.0, id.1 + 1));
    // The answer was lost.
    assert_eq!(c.init(Some(id)), Ok(bumped));
    assert_eq!(c.init(Some((id.0, 17))), Err(ProducerFenced));
    assert_eq!(c.init(Some((id.0 + 1, 0))), Err(ProducerFenced));
    let other = c.init(None).expect("another instance");
    assert_eq!(c.init(Some(bumped)), Err(ProducerFenced));
    // Nor may one with an old epoch abort what its heir has begun.
    c.add(other, 0).expect("added");
    assert_eq!(c.init(Some(bumped)), Err(ProducerFenced));
    assert_eq!(c.end(other, true, VERSION_2), Ok((other.0, other.1 + 1)));
}

#[test]
fn epochs_run_out_and_another_producer_id_follows() {
    let mut c = Coordinator::new();
    let mut id = c.init(None).expect("an identity");
    let first = id;
    // Every end takes one; the last epoch is never given to a client.
    while id.0 == first.0 {
        assert!(id.1 < i16::MAX);
        c.add(id, 0).expect("added");
        let before = id;
        id = c.end(id, true, VERSION_2).expect("ended");
        let ended = c.mark();
        assert_eq!(ended[0].identity, (before.0, before.1 + 1));
        // Asked again, also across the change.
        assert_eq!(c.end(before, true, VERSION_2), Ok(id));
        c.log.drain(..c.log.len() - 1);
    }
    assert_eq!(id, (9_000, 0));
    assert_eq!(
        c.add((first.0, i16::MAX - 1), 0),
        Err(InvalidProducerIdMapping)
    );
    c.add(id, 0).expect("added");
    c.fail_over();
    assert_eq!(c.end(id, true, VERSION_2), Ok((9_000, 1)));

    let mut c = Coordinator::new();
    let first = c.init(None).expect("an identity");
    let mut last = first;
    while last.0 == first.0 {
        last = c.init(None).expect("an identity");
        c.log.drain(..c.log.len() - 1);
    }
    assert_eq!(last.1, 0);
}

#[test]
fn transactions_run_out_of_time_and_ids_are_forgotten() {
    let mut c = Coordinator::new();
    let too_long = Request::Init {
        id: "id".to_owned(),
        timeout_ms: 900_001,
        expected: None,
        fresh_producer_id: Some(1),
    };
    let refused = Some(Answer::Identity(Err(InvalidTransactionTimeout)));
    assert_eq!(c.call(too_long), refused);
    let id = c.init(None).expect("an identity");
    c.add(id, 0).expect("added");
    c.pass(i64::from(TIMEOUT_MS) - 1);
    assert_eq!(c.state().state, State::Ongoing);
    // The clock counts from the beginning of the transaction, through a change of coordinators.
    c.add(id, 1).expect("added");
    c.fail_over();
    c.pass(1);
    assert_eq!(c.state().state, State::PrepareAbort);
    let ended = c.mark();
    assert!(!ended[0].commit && ended[0].identity.1 > id.1);
    assert_eq!(c.state().state, State::CompleteAbort);
    assert_eq!(c.end(id, true, VERSION_2), Err(ProducerFenced));
    c.pass(config().id_expiration_ms - 1);
    assert!(c.shard.transactions.contains_key("id"));
    c.pass(1);
    assert!(c.shard.transactions.is_empty());
    c.fail_over();
    assert!(c.shard.transactions.is_empty() && c.shard.timers.is_empty());
    assert_eq!(c.add(id, 0), Err(InvalidProducerIdMapping));
}

#[test]
fn another_coordinator_goes_on_with_every_state() {
    let mut c = Coordinator::new();
    let id = c.init(None).expect("an identity");
    c.fail_over();
    c.add(id, 0).expect("added");
    c.fail_over();
    c.add(id, 1).expect("added");
    let next = c.end(id, true, VERSION_2).expect("committed");
    // It died before the markers: the next sends all of them, in its own epoch.
    c.fail_over();
    assert_eq!(c.end(id, true, VERSION_2), Err(ConcurrentTransactions));
    let ended = c.mark();
    assert_eq!(ended[0].partitions.len(), 2);
    assert!(ended[0].commit && ended[0].bumped && ended[0].coordinator_epoch > 5);
    c.fail_over();
    assert!(c.ended.is_empty());
    assert_eq!(c.end(id, true, VERSION_2), Ok(next));
    assert_eq!(c.add(next, 0), Ok(()));
}

/// KIP-994: by how long it has been running, which what has ended does no more.
#[test]
fn transactions_are_listed_by_how_long_they_run() {
    let mut c = Coordinator::new();
    let listed = |c: &mut Coordinator, duration_ms| {
        let filters = Filters {
            states: Vec::new(),
            producer_ids: Vec::new(),
            duration_ms,
        };
        match c.call(Request::List(filters)) {
            Some(Answer::Listed(listed)) => listed.len(),
            other => panic!("{other:?}"),
        }
    };
    let id = c.init(None).expect("an identity");
    c.pass(10);
    assert_eq!(listed(&mut c, None), 1);
    assert_eq!(listed(&mut c, Some(0)), 0);
    c.add(id, 0).expect("added");
    c.pass(10);
    assert_eq!(listed(&mut c, Some(10)), 0);
    assert_eq!(listed(&mut c, Some(9)), 1);
    c.end(id, true, VERSION_2).expect("committed");
    assert_eq!(listed(&mut c, Some(9)), 1);
    c.mark();
    assert_eq!(listed(&mut c, Some(9)), 0);
    assert_eq!(listed(&mut c, None), 1);
}

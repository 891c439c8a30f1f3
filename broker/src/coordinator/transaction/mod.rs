//! Transactions: the shard of a partition of `__transaction_state`.
//!
//! [`TransactionShard`] owns the transactional ids that fall on its partition; [`state`] has the rules
//! for one of them, `records` the formats on disk. Ends that are decided are handed to whoever asks
//! with [`Request::TakeEnded`]: `markers` does, which writes the markers and comes back with
//! [`Request::Marked`]. A decision is only handed out once it is committed, like any other answer.

pub mod markers;
pub mod records;
pub mod remote;
mod request;
pub mod state;

pub use request::{Answer, Described, Ended, Filters, Request};

use super::timers::Timers;
use super::{Effects, Malformed, Marker, Record, Shard, Token, Turn};
use crate::config::BrokerConfig;
use kafka_protocol::error::ResponseError;
use state::{Ending, Identity, State, TopicPartition, Transaction};
use std::collections::HashMap;

/// Settings of the transaction coordinator.
#[derive(Debug, Clone, Copy)]
pub struct TransactionConfig {
    /// `transaction.max.timeout.ms`
    pub timeout_max_ms: i32,
    /// `transactional.id.expiration.ms`
    pub id_expiration_ms: i64,
}

impl TransactionConfig {
    pub fn of(config: &BrokerConfig) -> TransactionConfig {
        let timeout = config.int("transaction.max.timeout.ms");
        TransactionConfig {
            timeout_max_ms: i32::try_from(timeout).unwrap_or(i32::MAX),
            id_expiration_ms: config.int("transactional.id.expiration.ms"),
        }
    }
}

/// The state of one partition of `__transaction_state`.
pub struct TransactionShard {
    config: TransactionConfig,
    transactions: HashMap<String, Transaction>,
    /// When a transaction under way times out, or an idle id is forgotten.
    timers: Timers<String>,
    /// Ends that are decided and not yet handed out.
    ended: Vec<Ended>,
    /// Who waits for them.
    taker: Option<Token>,
}

impl TransactionShard {
    pub fn new(config: TransactionConfig) -> TransactionShard {
        TransactionShard {
            config,
            transactions: HashMap::new(),
            timers: Timers::default(),
            ended: Vec::new(),
            taker: None,
        }
    }

    /// Writes an id's state down, and sets its timer or hands out its end.
    fn settle(&mut self, turn: &Turn, id: &str, effects: &mut Effects<Answer>) {
        let Some(transaction) = self.transactions.get(id) else {
            return;
        };
        effects.write(records::record(id, transaction));
        self.follow_up(turn, id);
        self.hand_out(effects);
    }

    fn follow_up(&mut self, turn: &Turn, id: &str) {
        let Some(t) = self.transactions.get(id) else {
            return;
        };
        let due_ms = match t.state {
            State::Ongoing => t.start_ms.unwrap_or(t.updated_ms) + i64::from(t.timeout_ms),
            State::PrepareCommit | State::PrepareAbort => {
                self.timers.cancel(&id.to_owned());
                self.ended.push(Ended {
                    id: id.to_owned(),
                    identity: t.identity(),
                    commit: t.state == State::PrepareCommit,
                    bumped: t.client_version >= state::VERSION_2,
                    coordinator_epoch: turn.leader_epoch,
                    partitions: t.partitions.iter().cloned().collect(),
                });
                return;
            }
            _ => t.updated_ms.saturating_add(self.config.id_expiration_ms),
        };
        let left_ms = due_ms.saturating_sub(turn.now_ms).max(0);
        let at = turn.clock_ms.saturating_add(left_ms);
        self.timers.schedule(id.to_owned(), at);
    }

    fn hand_out(&mut self, effects: &mut Effects<Answer>) {
        if !self.ended.is_empty()
            && let Some(taker) = self.taker.take()
        {
            effects.answer(taker, Answer::Ended(std::mem::take(&mut self.ended)));
        }
    }

    fn init(
        &mut self,
        turn: &Turn,
        (id, timeout_ms): (&str, i32),
        expected: Option<Identity>,
        fresh_producer_id: Option<i64>,
        effects: &mut Effects<Answer>,
    ) -> Answer {
        if timeout_ms <= 0 || timeout_ms > self.config.timeout_max_ms {
            return Answer::Identity(Err(ResponseError::InvalidTransactionTimeout));
        }
        let known = self.transactions.get_mut(id);
        let result = match (known, fresh_producer_id) {
            (None, None) => return Answer::NeedProducerId,
            (Some(t), None) if t.init_needs_producer_id(expected) => {
                return Answer::NeedProducerId;
            }
            (None, Some(fresh)) => {
                let transaction = Transaction::new(fresh, timeout_ms, turn.now_ms);
                let identity = transaction.identity();
                self.transactions.insert(id.to_owned(), transaction);
                Ok(identity)
            }
            (Some(t), fresh) => match t.init(timeout_ms, expected, fresh, turn.now_ms) {
                Ok(Some(identity)) => Ok(identity),
                // It has been fenced, and its transaction is being aborted.
                Ok(None) => Err(ResponseError::ConcurrentTransactions),
                Err(error) => return Answer::Identity(Err(error)),
            },
        };
        self.settle(turn, id, effects);
        Answer::Identity(result)
    }

    fn add(
        &mut self,
        turn: &Turn,
        (id, owner): (&str, Identity),
        partitions: Vec<TopicPartition>,
        verify_only: bool,
        effects: &mut Effects<Answer>,
    ) -> Answer {
        let count = partitions.len();
        let Some(t) = self.transactions.get_mut(id) else {
            return Answer::Added(vec![Err(ResponseError::InvalidProducerIdMapping); count]);
        };
        if verify_only {
            let results = partitions.iter().map(|p| t.verify(owner, p));
            return Answer::Added(results.collect());
        }
        match t.add(owner, partitions, turn.now_ms) {
            Ok(changed) => {
                if changed {
                    self.settle(turn, id, effects);
                }
                Answer::Added(vec![Ok(()); count])
            }
            Err(error) => Answer::Added(vec![Err(error); count]),
        }
    }

    fn end(
        &mut self,
        turn: &Turn,
        (id, owner): (&str, Identity),
        (commit, version): (bool, i16),
        fresh_producer_id: Option<i64>,
        effects: &mut Effects<Answer>,
    ) -> Answer {
        let Some(t) = self.transactions.get_mut(id) else {
            return Answer::Identity(Err(ResponseError::InvalidProducerIdMapping));
        };
        match t.check_end(owner, commit, version, fresh_producer_id.is_some()) {
            Ok(Ending::Done(identity)) => Answer::Identity(Ok(identity)),
            Ok(Ending::NeedProducerId) => Answer::NeedProducerId,
            Ok(Ending::Begin) => {
                let identity = t.end(commit, version, fresh_producer_id, turn.now_ms);
                if t.partitions.is_empty() {
                    // Nobody has to be told.
                    t.complete(turn.now_ms);
                }
                self.settle(turn, id, effects);
                Answer::Identity(Ok(identity))
            }
            Err(error) => Answer::Identity(Err(error)),
        }
    }

    fn marked(&mut self, turn: &Turn, id: &str, identity: Identity, effects: &mut Effects<Answer>) {
        if let Some(t) = self.transactions.get_mut(id)
            && t.is_ending()
            && t.identity() == identity
        {
            t.complete(turn.now_ms);
            self.settle(turn, id, effects);
        }
    }

    fn describe(&self, id: &str) -> Option<Described> {
        let t = self.transactions.get(id)?;
        Some(Described {
            id: id.to_owned(),
            identity: t.identity(),
            state: t.state.name(),
            timeout_ms: t.timeout_ms,
            start_ms: t.start_ms,
            partitions: t.partitions.iter().cloned().collect(),
        })
    }

    fn list(&self, turn: &Turn, filters: &Filters) -> Vec<Described> {
        let matches = |t: &&Described| {
            // What has ended keeps its start, for tools, but runs no more.
            let runs = self.transactions[&t.id].is_running();
            let age = t.start_ms.filter(|_| runs).map(|start| turn.now_ms - start);
            (filters.states.is_empty() || filters.states.iter().any(|s| s == t.state))
                && (filters.producer_ids.is_empty() || filters.producer_ids.contains(&t.identity.0))
                && filters
                    .duration_ms
                    .is_none_or(|ms| age.is_some_and(|age| age > ms))
        };
        let all = self.transactions.keys().filter_map(|id| self.describe(id));
        let mut listed: Vec<Described> = all.filter(|t| matches(&t)).collect();
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        listed
    }
}

impl Shard for TransactionShard {
    type Request = Request;
    type Answer = Answer;

    fn replay(&mut self, record: &Record<'_>) -> Result<(), Malformed> {
        let Some(id) = records::read_key(record.key)? else {
            return Ok(());
        };
        match record.value {
            Some(value) => {
                self.transactions.insert(id, records::read_value(value)?);
            }
            None => {
                self.transactions.remove(&id);
            }
        }
        Ok(())
    }

    fn replay_marker(&mut self, _marker: &Marker) {}

    fn loaded(&mut self, turn: &Turn, _effects: &mut Effects<Answer>) {
        let ids: Vec<String> = self.transactions.keys().cloned().collect();
        for id in ids {
            self.follow_up(turn, &id);
        }
    }

    fn handle(
        &mut self,
        turn: &Turn,
        token: Token,
        request: Request,
        effects: &mut Effects<Answer>,
    ) {
        let answer = match request {
            Request::Init {
                id,
                timeout_ms,
                expected,
                fresh_producer_id,
            } => self.init(
                turn,
                (&id, timeout_ms),
                expected,
                fresh_producer_id,
                effects,
            ),
            Request::Add {
                id,
                owner,
                partitions,
                verify_only,
            } => self.add(turn, (&id, owner), partitions, verify_only, effects),
            Request::End {
                id,
                owner,
                commit,
                version,
                fresh_producer_id,
            } => {
                let how = (commit, version);
                self.end(turn, (&id, owner), how, fresh_producer_id, effects)
            }
            Request::TakeEnded => {
                self.taker = Some(token);
                self.hand_out(effects);
                return;
            }
            Request::Marked { id, identity } => {
                self.marked(turn, &id, identity, effects);
                Answer::Done
            }
            Request::Describe(ids) => {
                let described = ids.into_iter().map(|id| {
                    let found = self.describe(&id);
                    (id, found)
                });
                Answer::Described(described.collect())
            }
            Request::List(filters) => Answer::Listed(self.list(turn, &filters)),
        };
        effects.answer(token, answer);
    }

    fn tick(&mut self, turn: &Turn, effects: &mut Effects<Answer>) {
        while let Some(id) = self.timers.take_due(turn.clock_ms) {
            let Some(t) = self.transactions.get_mut(&id) else {
                continue;
            };
            if t.state == State::Ongoing {
                tracing::info!(
                    transactional_id = id,
                    producer_id = t.producer_id,
                    "a transaction ran out of its {} ms and is aborted",
                    t.timeout_ms
                );
                t.fence(turn.now_ms);
                self.settle(turn, &id, effects);
            } else {
                self.transactions.remove(&id);
                effects.write(records::tombstone(&id));
            }
        }
    }

    fn next_deadline(&self) -> Option<i64> {
        self.timers.next()
    }

    fn metadata_changed(&mut self, _turn: &Turn, _effects: &mut Effects<Answer>) {}
}

#[cfg(test)]
mod tests;

//! One transactional id: its producer, and the rules by which its transactions begin and end.
//!
//! The rules are those of Kafka's `TransactionCoordinator` and `TransactionMetadata`, with KIP-360
//! (bumping an epoch that the caller names) and KIP-890 (every transaction ends with a new epoch).

use kafka_protocol::error::ResponseError;
use std::collections::BTreeSet;

/// A topic's name and a partition of it.
pub type TopicPartition = (String, i32);

/// Where a transaction stands, with Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum State {
    Empty = 0,
    Ongoing = 1,
    PrepareCommit = 2,
    PrepareAbort = 3,
    CompleteCommit = 4,
    CompleteAbort = 5,
}

impl State {
    /// `Dead` and `PrepareEpochFence` are never written.
    pub fn from_id(id: i8) -> Option<State> {
        use State::*;
        let all = [
            Empty,
            Ongoing,
            PrepareCommit,
            PrepareAbort,
            CompleteCommit,
            CompleteAbort,
        ];
        all.into_iter().find(|s| *s as i8 == id)
    }

    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Ongoing => "Ongoing",
            State::PrepareCommit => "PrepareCommit",
            State::PrepareAbort => "PrepareAbort",
            State::CompleteCommit => "CompleteCommit",
            State::CompleteAbort => "CompleteAbort",
        }
    }
}

/// Producer id and epoch.
pub type Identity = (i64, i16);

/// The client ends transactions as of transaction version 2.
pub const VERSION_2: i16 = 2;
/// The last epoch a client may be given: one more must be left to fence it.
const EPOCH_LAST: i16 = i16::MAX - 1;

/// What is known of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub producer_id: i64,
    /// The one before, as a client that missed the change may still name it.
    pub previous_producer_id: Option<i64>,
    /// The one that follows when the transaction is complete, as the epochs are used up.
    pub next_producer_id: Option<i64>,
    pub epoch: i16,
    /// The epoch before, when its owner has got the present one and may ask again. Not written down,
    /// as in Kafka.
    pub last_epoch: Option<i16>,
    pub timeout_ms: i32,
    pub state: State,
    pub partitions: BTreeSet<TopicPartition>,
    pub start_ms: Option<i64>,
    pub updated_ms: i64,
    /// Transaction version with which the present transaction ends.
    pub client_version: i16,
}

/// What is to be done about an EndTxn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Done before: the identity to go on with.
    Done(Identity),
    /// Write it and send the markers.
    Begin,
    /// A producer id is needed first.
    NeedProducerId,
}

impl Transaction {
    /// Nothing has happened yet; the caller sets the epoch.
    pub fn new(producer_id: i64, timeout_ms: i32, now_ms: i64) -> Transaction {
        Transaction {
            producer_id,
            previous_producer_id: None,
            next_producer_id: None,
            epoch: 0,
            last_epoch: None,
            timeout_ms,
            state: State::Empty,
            partitions: BTreeSet::new(),
            start_ms: None,
            updated_ms: now_ms,
            client_version: 0,
        }
    }

    pub fn identity(&self) -> Identity {
        (self.producer_id, self.epoch)
    }

    /// Whether markers are still to be written.
    pub fn is_ending(&self) -> bool {
        matches!(self.state, State::PrepareCommit | State::PrepareAbort)
    }

    /// Whether it is open, or its end is not everywhere yet.
    pub fn is_running(&self) -> bool {
        self.state == State::Ongoing || self.is_ending()
    }

    pub fn is_exhausted(&self) -> bool {
        self.epoch >= EPOCH_LAST
    }

    /// Whether an InitProducerId needs a fresh producer id.
    pub fn init_needs_producer_id(&self, expected: Option<Identity>) -> bool {
        let idle = !self.is_ending() && self.state != State::Ongoing;
        idle && self.is_exhausted() && expected.is_none_or(|(_, epoch)| epoch == self.epoch)
    }

    /// InitProducerId: a new epoch that fences the owner of the present one. `Ok(None)`: a transaction
    /// was under way and is aborted first; the client is to ask again.
    ///
    /// # Errors
    /// What the client is told; nothing has changed then.
    pub fn init(
        &mut self,
        timeout_ms: i32,
        expected: Option<Identity>,
        fresh_producer_id: Option<i64>,
        now_ms: i64,
    ) -> Result<Option<Identity>, ResponseError> {
        if let Some((id, epoch)) = expected {
            let retried = self.previous_producer_id == Some(id) && epoch >= EPOCH_LAST;
            if id != self.producer_id && !retried {
                return Err(ResponseError::ProducerFenced);
            }
        }
        match self.state {
            State::PrepareCommit | State::PrepareAbort => {
                return Err(ResponseError::ConcurrentTransactions);
            }
            State::Ongoing => {
                if expected.is_some_and(|(_, epoch)| epoch != self.epoch) {
                    return Err(ResponseError::ProducerFenced);
                }
                self.fence(now_ms);
                return Ok(None);
            }
            State::Empty | State::CompleteCommit | State::CompleteAbort => {}
        }
        if self.init_needs_producer_id(expected) {
            let fresh = fresh_producer_id.ok_or(ResponseError::CoordinatorNotAvailable)?;
            self.last_epoch = expected.map(|_| self.epoch);
            self.previous_producer_id = Some(self.producer_id);
            self.producer_id = fresh;
            self.epoch = 0;
        } else {
            match expected {
                // The answer was lost: it gets the same again.
                Some((_, epoch)) if epoch != self.epoch => {
                    if self.last_epoch != Some(epoch) {
                        return Err(ResponseError::ProducerFenced);
                    }
                }
                _ => {
                    self.last_epoch = expected.map(|_| self.epoch);
                    self.epoch += 1;
                }
            }
        }
        self.state = State::Empty;
        self.timeout_ms = timeout_ms;
        self.start_ms = None;
        self.updated_ms = now_ms;
        self.client_version = 0;
        Ok(Some(self.identity()))
    }

    /// Whether the caller may act for this transaction now.
    fn check_owner(&self, (id, epoch): Identity) -> Result<(), ResponseError> {
        if id != self.producer_id {
            Err(ResponseError::InvalidProducerIdMapping)
        } else if epoch != self.epoch {
            Err(ResponseError::ProducerFenced)
        } else if self.is_ending() {
            Err(ResponseError::ConcurrentTransactions)
        } else {
            Ok(())
        }
    }

    /// Whether `partition` is part of the caller's transaction (KIP-890, old clients).
    ///
    /// # Errors
    /// `TRANSACTION_ABORTABLE` when it is not.
    pub fn verify(&self, owner: Identity, partition: &TopicPartition) -> Result<(), ResponseError> {
        self.check_owner(owner)?;
        if self.state == State::Ongoing && self.partitions.contains(partition) {
            Ok(())
        } else {
            Err(ResponseError::TransactionAbortable)
        }
    }

    /// Adds partitions; a transaction begins with the first. `Ok(false)`: all of them are known.
    ///
    /// # Errors
    /// What the caller is told.
    pub fn add(
        &mut self,
        owner: Identity,
        partitions: Vec<TopicPartition>,
        now_ms: i64,
    ) -> Result<bool, ResponseError> {
        self.check_owner(owner)?;
        if self.state != State::Ongoing {
            self.state = State::Ongoing;
            self.start_ms = Some(now_ms);
            self.partitions.clear();
        } else if partitions.iter().all(|p| self.partitions.contains(p)) {
            return Ok(false);
        }
        self.partitions.extend(partitions);
        self.updated_ms = now_ms;
        Ok(true)
    }

    /// Decides about an EndTxn; [`Transaction::end`] carries it out.
    ///
    /// # Errors
    /// What the client is told.
    pub fn check_end(
        &self,
        (id, epoch): Identity,
        commit: bool,
        version: i16,
        has_fresh_id: bool,
    ) -> Result<Ending, ResponseError> {
        if version < VERSION_2 {
            return self.check_end_old((id, epoch), commit);
        }
        // A client that repeats itself names the epoch before.
        let overflown =
            self.previous_producer_id == Some(id) && epoch >= EPOCH_LAST && self.epoch == 0;
        let bumped = id == self.producer_id && epoch.checked_add(1) == Some(self.epoch);
        let repeated = overflown || bumped;
        if id != self.producer_id && !overflown {
            return Err(ResponseError::InvalidProducerIdMapping);
        }
        let current = epoch == self.epoch && !overflown;
        let valid = match self.state {
            State::Ongoing | State::Empty => current,
            State::PrepareCommit | State::PrepareAbort => bumped,
            State::CompleteCommit | State::CompleteAbort => current || repeated,
        };
        if !valid {
            return Err(ResponseError::ProducerFenced);
        }
        let begin = || {
            if self.is_exhausted() && !has_fresh_id {
                Ok(Ending::NeedProducerId)
            } else {
                Ok(Ending::Begin)
            }
        };
        match (self.state, commit) {
            (State::Ongoing, _) => begin(),
            (State::PrepareCommit, true) | (State::PrepareAbort, false) => {
                Err(ResponseError::ConcurrentTransactions)
            }
            (State::CompleteCommit, true) | (State::CompleteAbort, false) if repeated => {
                Ok(Ending::Done(self.identity()))
            }
            // An abort of nothing: a client that does not know whether anything has begun.
            (State::Empty | State::CompleteCommit | State::CompleteAbort, false) if !repeated => {
                begin()
            }
            _ => Err(ResponseError::InvalidTxnState),
        }
    }

    fn check_end_old(&self, owner: Identity, commit: bool) -> Result<Ending, ResponseError> {
        if owner.0 != self.producer_id {
            return Err(ResponseError::InvalidProducerIdMapping);
        }
        if owner.1 != self.epoch {
            return Err(ResponseError::ProducerFenced);
        }
        match (self.state, commit) {
            (State::Ongoing, _) => Ok(Ending::Begin),
            (State::CompleteCommit, true) | (State::CompleteAbort, false) => {
                Ok(Ending::Done(self.identity()))
            }
            (State::PrepareCommit, true) | (State::PrepareAbort, false) => {
                Err(ResponseError::ConcurrentTransactions)
            }
            _ => Err(ResponseError::InvalidTxnState),
        }
    }

    /// The decision: from here on the transaction ends this way. Gives what the client goes on with.
    pub fn end(
        &mut self,
        commit: bool,
        version: i16,
        fresh_producer_id: Option<i64>,
        now_ms: i64,
    ) -> Identity {
        if self.state != State::Ongoing {
            self.partitions.clear();
            self.start_ms = Some(now_ms);
        }
        if version >= VERSION_2 {
            if self.is_exhausted() {
                self.next_producer_id = fresh_producer_id;
            }
            self.last_epoch = Some(self.epoch);
            self.epoch += 1;
        }
        self.prepare(commit, version, now_ms);
        match self.next_producer_id {
            Some(next) => (next, 0),
            None => self.identity(),
        }
    }

    /// Aborts a transaction under way and fences its owner: the markers carry an epoch nobody has.
    pub fn fence(&mut self, now_ms: i64) {
        self.last_epoch = None;
        // By two, so that the owner's own EndTxn is not taken for a repetition. There is always room
        // for one: clients get no epoch after `EPOCH_LAST`.
        self.epoch = self.epoch.saturating_add(2);
        self.prepare(false, VERSION_2, now_ms);
    }

    fn prepare(&mut self, commit: bool, version: i16, now_ms: i64) {
        self.state = if commit {
            State::PrepareCommit
        } else {
            State::PrepareAbort
        };
        self.client_version = version;
        self.updated_ms = now_ms;
    }

    /// All markers are written.
    pub fn complete(&mut self, now_ms: i64) {
        self.state = match self.state {
            State::PrepareCommit => State::CompleteCommit,
            _ => State::CompleteAbort,
        };
        self.partitions.clear();
        self.updated_ms = now_ms;
        if let Some(next) = self.next_producer_id.take() {
            self.previous_producer_id = Some(self.producer_id);
            self.producer_id = next;
            self.last_epoch = Some(self.epoch);
            self.epoch = 0;
        }
    }
}

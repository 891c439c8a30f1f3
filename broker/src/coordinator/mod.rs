//! Coordinators: replicated state machines over the partitions of compacted internal topics.
//!
//! Consumer groups live in `__consumer_offsets`, transactions in `__transaction_state`. Whoever leads a
//! partition of such a topic coordinates the groups (transactional ids) whose keys fall on it: its
//! *shard*. This is the runtime all kinds of coordinators share.
//!
//! **A kind of coordinator is one implementation of [`Shard`]**, a plain synchronous state machine
//! without I/O, so that property tests and simulations run the real one. Its life:
//!
//! 1. `task` notices that this broker leads the partition and is ready, makes an empty shard, and
//!    `load` gives it every committed record of the partition, in order ([`Shard::replay`],
//!    [`Shard::replay_marker`]; of a key only the last may be left, as the topic is compacted), then
//!    calls [`Shard::loaded`]. Requests that come meanwhile get [`Unavailable::Loading`].
//! 2. Requests go through [`Coordinator::call`] into a bounded queue. In one *turn* the task takes what
//!    is queued and gives it to [`Shard::handle`], or calls [`Shard::tick`] when
//!    [`Shard::next_deadline`] has passed. Both change the state in memory at once, and note in
//!    [`Effects`] what is to be written and what is to be answered. An operation may keep its [`Token`]
//!    and be answered in a later turn (a parked JoinGroup).
//! 3. All plain records of one turn become one record batch. Turns are pipelined: the next begins while
//!    the batches of earlier ones are under way. *Answers leave in order, and only when everything
//!    written before them is committed*, so nobody sees a state that could still be lost.
//!    [`Effects::answer_as_leader`] is for reads whose staleness would matter: with nothing under way
//!    they wait until a majority has confirmed that this broker still leads.
//! 4. When any write fails, or leadership or its epoch changes, the whole shard is thrown away, every
//!    caller that still waits gets [`Unavailable::NotCoordinator`] (clients look up the coordinator and
//!    try again), and if this broker still leads it loads anew. So a shard never undoes anything.
//!
//! Each batch is *fenced*: it takes effect only at the offset and in the leader epoch that it was made
//! for (`Partition::propose_fenced`). So a shard's batches are in the log without a gap and without
//! anybody else's between them, or the shard is gone. Therefore **nothing else may append to these
//! partitions**: transaction markers for them go through the shard ([`Effects::write_marker`]).
//!
//! # How others plug in
//! * Transactions: `impl Shard for TransactionShard`, a field `Coordinator<TransactionShard>` in `Broker`,
//!   started in `RunningBroker::start` beside `groups`. What a shard wants done elsewhere (markers to
//!   other brokers) it answers to itself: the handler that called it does the I/O and calls it again.
//! * KIP-848: in the same shard as classic groups, since both share `__consumer_offsets` and its
//!   offsets: a module beside `group/classic`, further variants of `group::Request` and `group::Answer`.
//! * Committed offsets are `group/offsets.rs`, for both protocols, with the pending offsets of
//!   transactions.

mod batches;
mod codec;
pub mod group;
mod load;
mod runtime;
mod task;
mod timers;
pub mod topic;
pub mod transaction;

pub use codec::{Malformed, Reader, Writer};
pub use runtime::{Coordinator, Unavailable};
pub use timers::Timers;

use crate::metadata::MetadataImage;
use bytes::Bytes;
use std::sync::Arc;
use tidelog_storage::batch::TransactionMark;

/// Names one request until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What a shard may know of the world in one turn.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Milliseconds since 1970: for what is written down.
    pub now_ms: i64,
    /// Milliseconds of a clock that never goes back: for deadlines.
    pub clock_ms: i64,
    /// In which this broker leads the partition.
    pub leader_epoch: i32,
    pub image: Arc<MetadataImage>,
}

/// A record of the partition, while loading.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: &'a [u8],
    /// `None`: a tombstone.
    pub value: Option<&'a [u8]>,
    /// Producer id and epoch of the transaction it was written in, if any.
    pub transaction: Option<(i64, i16)>,
}

/// The end of a transaction in this partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
    pub commit: bool,
}

/// One kind of coordinator: decides about requests from its state in memory, which its records can
/// build again. See the module's text for its life.
pub trait Shard: Send + 'static {
    type Request: Send + 'static;
    type Answer: Send + 'static;

    /// Takes over a committed record while loading. Keys of unknown versions or types are skipped.
    ///
    /// # Errors
    /// When a record of a known type cannot be read: it is skipped with a log line.
    fn replay(&mut self, record: &Record<'_>) -> Result<(), Malformed>;

    /// Takes over the end of a transaction while loading.
    fn replay_marker(&mut self, marker: &Marker);

    /// All is replayed. Timers begin here.
    fn loaded(&mut self, turn: &Turn, effects: &mut Effects<Self::Answer>);

    /// Decides about one request.
    fn handle(
        &mut self,
        turn: &Turn,
        token: Token,
        request: Self::Request,
        effects: &mut Effects<Self::Answer>,
    );

    /// Does what is due at `turn.clock_ms`.
    fn tick(&mut self, turn: &Turn, effects: &mut Effects<Self::Answer>);

    /// When (`clock_ms`) [`Shard::tick`] wants to be called next.
    fn next_deadline(&self) -> Option<i64>;

    /// Topics may have been deleted or changed: called in a turn of its own after each change of
    /// `turn.image`, and once after loading.
    fn metadata_changed(&mut self, turn: &Turn, effects: &mut Effects<Self::Answer>);
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    pub key: Bytes,
    /// `None`: a tombstone.
    pub value: Option<Bytes>,
}

/// Records that become one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Record(NewRecord),
    /// Part of a transaction: visible when its marker commits it.
    Transactional(TransactionMark, Vec<NewRecord>),
    Marker(Marker),
}

/// What a turn wants done, in order.
#[derive(Debug)]
pub struct Effects<A> {
    writes: Vec<Write>,
    answers: Vec<(Token, A)>,
    confirm: bool,
}

impl<A> Default for Effects<A> {
    fn default() -> Self {
        Effects {
            writes: Vec::new(),
            answers: Vec::new(),
            confirm: false,
        }
    }
}

impl<A> Effects<A> {
    /// Writes a record, in the same batch as the other plain records of this turn next to it.
    pub fn write(&mut self, record: NewRecord) {
        self.writes.push(Write::Record(record));
    }

    /// Writes records as part of a transaction.
    pub fn write_transactional(
        &mut self,
        producer_id: i64,
        producer_epoch: i16,
        records: Vec<NewRecord>,
    ) {
        if records.is_empty() {
            return;
        }
        let mark = TransactionMark {
            producer_id,
            producer_epoch,
            control: false,
        };
        self.writes.push(Write::Transactional(mark, records));
    }

    /// Ends a transaction in this partition.
    pub fn write_marker(&mut self, marker: Marker) {
        self.writes.push(Write::Marker(marker));
    }

    /// Answers a request once all that is written before, in this turn too, is committed.
    pub fn answer(&mut self, token: Token, answer: A) {
        self.answers.push((token, answer));
    }

    /// As [`Effects::answer`], and never with the state of a leader that has been replaced.
    pub fn answer_as_leader(&mut self, token: Token, answer: A) {
        self.confirm = true;
        self.answer(token, answer);
    }

    /// What is to be written, for tests and simulations.
    pub fn take_writes(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.writes)
    }

    /// What is to be answered, for tests and simulations.
    pub fn take_answers(&mut self) -> Vec<(Token, A)> {
        std::mem::take(&mut self.answers)
    }

    fn write_bytes(&self) -> usize {
        let record = |r: &NewRecord| r.key.len() + r.value.as_ref().map_or(0, Bytes::len) + 16;
        self.writes
            .iter()
            .map(|w| match w {
                Write::Record(r) => record(r),
                Write::Transactional(_, records) => records.iter().map(record).sum(),
                Write::Marker(_) => 32,
            })
            .sum()
    }
}

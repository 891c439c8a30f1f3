//! Transactions: records of several partitions, and offsets of a group, that become visible
//! together or not at all.
//!
//! [`Transactional`] is shared by the producer and its sending task: who it is to the coordinator,
//! and how far the open transaction has come. In the first version of transactions (TV1) the
//! coordinator is told of each partition before anything is written to it, and a producer keeps its
//! epoch; in the second (TV2, KIP-890) writing itself says so, and every end brings a new epoch.

use super::{Delivery, Inner};
use crate::batch::ProducerMark;
use crate::cluster::{Cluster, Lane};
use crate::consumer::Committer;
use crate::error::{Error, ErrorCode, Result};
use crate::group::coordinator::{Coordinator, Kind};
use crate::record::Record;
use crate::topic_partition::TopicPartition;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse, EndTxnRequest, EndTxnResponse, InitProducerIdRequest,
    InitProducerIdResponse, ProducerId, TopicName, TransactionalId, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

const FEATURE: &str = "transaction.version";
/// Later versions are for brokers among themselves.
const ADD_PARTITIONS_VERSION_MAX: i16 = 3;
/// The last versions that leave adding partitions and offsets to the client.
const END_FIRST_MAX: i16 = 4;
const COMMIT_OFFSETS_FIRST_MAX: i16 = 4;

/// A transactional id and what is known of it.
#[derive(Debug)]
pub(super) struct Transactional {
    coordinator: Coordinator,
    timeout: Duration,
    /// Held while a transaction is open: there is one at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Held while the coordinator is told of partitions: a transaction must not be ended meanwhile,
    /// for what arrives later would open another one.
    adding: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    mark: ProducerMark,
    /// The sending task has not taken `mark` over yet.
    mark_is_new: bool,
    /// Transactions of the second version.
    second: bool,
    /// Counts transactions, so that what comes late is not taken for the next one's.
    number: u64,
    /// Everything that waits is given up.
    discarding: bool,
    /// The coordinator may know of the transaction, so it must be ended.
    begun: bool,
    /// Partitions the coordinator knows of (TV1).
    added: BTreeSet<TopicPartition>,
    /// Why the open transaction can only be aborted.
    failed: Option<String>,
    /// How the last transaction ended is not known: ask before the next one begins.
    unsure: bool,
    /// Why nothing can be done any more.
    fenced: Option<ErrorCode>,
}

impl Transactional {
    /// Takes over from any earlier producer with this id, ending what it left open.
    pub(super) async fn begin_anew(
        cluster: Cluster,
        id: &str,
        timeout: Duration,
    ) -> Result<Transactional> {
        let transactional = Transactional {
            coordinator: Coordinator::new(cluster, Kind::Transaction, id),
            timeout,
            turn: Arc::default(),
            adding: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                mark: ProducerMark::NONE,
                mark_is_new: false,
                second: false,
                number: 0,
                discarding: false,
                begun: false,
                added: BTreeSet::new(),
                failed: None,
                unsure: false,
                fenced: None,
            }),
        };
        transactional.init().await?;
        Ok(transactional)
    }

    fn id(&self) -> TransactionalId {
        TransactionalId(self.coordinator.key())
    }

    pub(super) fn is_second(&self) -> bool {
        self.state.lock().second
    }

    pub(super) fn wire_id(&self) -> TransactionalId {
        self.id()
    }

    /// A new producer id or epoch to number batches from 0 under.
    pub(super) fn take_new_mark(&self) -> Option<ProducerMark> {
        let mut state = self.state.lock();
        std::mem::take(&mut state.mark_is_new).then_some(state.mark)
    }

    pub(super) fn is_discarding(&self) -> bool {
        self.state.lock().discarding
    }

    /// Notes that something of the transaction is on its way to a broker.
    pub(super) fn note_begun(&self) {
        self.state.lock().begun = true;
    }

    /// The open transaction can only be aborted.
    pub(super) fn fail(&self, error: &Error) {
        let mut state = self.state.lock();
        state.failed.get_or_insert_with(|| error.to_string());
    }

    /// Whether records may go to this partition, or the coordinator has to be told first.
    pub(super) fn knows(&self, place: &TopicPartition) -> bool {
        let state = self.state.lock();
        state.second || state.added.contains(place)
    }

    fn set_mark(&self, id: ProducerId, epoch: i16) {
        let mut state = self.state.lock();
        state.mark = ProducerMark {
            id: id.0,
            epoch,
            sequence: 0,
            transactional: true,
        };
        state.mark_is_new = true;
    }

    /// Producer id and epoch as requests carry them.
    fn producer(&self) -> (ProducerId, i16) {
        let mark = self.state.lock().mark;
        (ProducerId(mark.id), mark.epoch)
    }

    /// What an error of the coordinator means.
    fn judge(&self, error: Error) -> Error {
        match error.code() {
            Some(code @ (ErrorCode::PRODUCER_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH)) => {
                self.state.lock().fenced = Some(code);
                self.fenced(code)
            }
            _ => error,
        }
    }

    fn fenced(&self, code: ErrorCode) -> Error {
        Error::Fenced {
            what: format!("transactional id {:?}", self.coordinator.name()),
            code,
        }
    }

    /// Gets a producer id and epoch; the one that it has, if any, shows that nobody else took over.
    async fn init(&self) -> Result<()> {
        let (id, epoch) = self.producer();
        let build = |version: i16| {
            let mut request = InitProducerIdRequest::default()
                .with_transactional_id(Some(self.id()))
                .with_transaction_timeout_ms(millis(self.timeout))
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1);
            if version >= 3 {
                request.producer_id = id;
                request.producer_epoch = epoch;
            }
            request
        };
        let check = |response: &InitProducerIdResponse| {
            let what = format!("begin as transactional id {:?}", self.coordinator.name());
            Error::check(what, response.error_code, None)
        };
        let asked = self
            .coordinator
            .call("get a producer id", i16::MAX, build, check);
        let response = asked.await.map_err(|error| self.judge(error))?;
        self.set_mark(response.producer_id, response.producer_epoch);
        self.look_at_version().await
    }

    async fn look_at_version(&self) -> Result<()> {
        let deadline = Instant::now() + self.coordinator.cluster.config().request_timeout;
        let mut retry = self
            .coordinator
            .cluster
            .retry("ask for the version of transactions");
        loop {
            match self.coordinator.connection(Lane::Main, deadline).await {
                Ok(connection) => {
                    let level = connection.feature(FEATURE).unwrap_or(0);
                    self.state.lock().second = level >= 2;
                    return Ok(());
                }
                Err(error) => self.coordinator.pause(error, &mut retry).await?,
            }
        }
    }

    /// Waits for the transaction before, then opens one.
    async fn begin(&self) -> Result<OwnedMutexGuard<()>> {
        let turn = self.turn.clone().lock_owned().await;
        let (fenced, unsure) = {
            let state = self.state.lock();
            (state.fenced, state.unsure)
        };
        if let Some(code) = fenced {
            return Err(self.fenced(code));
        }
        if unsure {
            self.init().await?;
        }
        let mut state = self.state.lock();
        state.unsure = false;
        state.number += 1;
        state.discarding = false;
        state.begun = false;
        state.failed = None;
        state.added.clear();
        drop(state);
        Ok(turn)
    }

    fn check_open(&self) -> Result<()> {
        match &self.state.lock().failed {
            Some(reason) => Err(Error::TransactionFailed {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.state.lock().number
    }

    /// Tells the coordinator of partitions of transaction `number` (TV1).
    pub(super) async fn add_partitions(
        &self,
        number: u64,
        places: Vec<TopicPartition>,
    ) -> Result<()> {
        let _adding = self.adding.lock().await;
        if self.is_discarding() || self.number() != number {
            return Ok(());
        }
        self.note_begun();
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for place in &places {
            topics
                .entry(&place.topic)
                .or_default()
                .push(place.partition);
        }
        let (id, epoch) = self.producer();
        let build = |_: i16| {
            let topics = topics.iter().map(|(name, partitions)| {
                AddPartitionsToTxnTopic::default()
                    .with_name(TopicName(StrBytes::from_string((*name).to_owned())))
                    .with_partitions(partitions.clone())
            });
            AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(self.id())
                .with_v3_and_below_producer_id(id)
                .with_v3_and_below_producer_epoch(epoch)
                .with_v3_and_below_topics(topics.collect())
        };
        let check = |response: &AddPartitionsToTxnResponse| {
            let topics = response.results_by_topic_v3_and_below.iter();
            let mut results = topics.flat_map(|topic| &topic.results_by_partition);
            results.try_for_each(|result| {
                let what = "add a partition to the transaction";
                Error::check(what, result.partition_error_code, None)
            })
        };
        let told = self.coordinator.call(
            "add partitions to the transaction",
            ADD_PARTITIONS_VERSION_MAX,
            build,
            check,
        );
        told.await.map_err(|error| self.judge(error))?;
        self.state.lock().added.extend(places);
        Ok(())
    }

    async fn send_offsets(
        &self,
        committer: &Committer,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<()> {
        self.note_begun();
        let group = &committer.group;
        let (id, epoch) = self.producer();
        let second = self.is_second();
        if !second {
            let build = |_: i16| {
                AddOffsetsToTxnRequest::default()
                    .with_transactional_id(self.id())
                    .with_producer_id(id)
                    .with_producer_epoch(epoch)
                    .with_group_id(group.id())
            };
            let check = |response: &AddOffsetsToTxnResponse| {
                Error::check("add offsets to the transaction", response.error_code, None)
            };
            let what = "add offsets to the transaction";
            let told = self.coordinator.call(what, i16::MAX, build, check);
            told.await.map_err(|error| self.judge(error))?;
        }
        let (member_id, generation) = group.member();
        let build = |version: i16| {
            let mut request = TxnOffsetCommitRequest::default()
                .with_transactional_id(self.id())
                .with_group_id(group.id())
                .with_producer_id(id)
                .with_producer_epoch(epoch)
                .with_topics(offset_topics(offsets));
            if version >= 3 {
                request.member_id = member_id.clone();
                request.generation_id = generation;
                request.group_instance_id = group.instance();
            }
            request
        };
        let version_max = if second {
            i16::MAX
        } else {
            COMMIT_OFFSETS_FIRST_MAX
        };
        let sent = group.coordinator.call(
            "commit offsets in the transaction",
            version_max,
            build,
            check_offsets,
        );
        let sent = sent.await.map_err(|error| self.judge(error));
        sent.map_err(|error| group.as_rebalanced(error))?;
        Ok(())
    }

    async fn end(&self, committed: bool) -> Result<()> {
        let (id, epoch) = self.producer();
        let second = self.is_second();
        let build = |_: i16| {
            EndTxnRequest::default()
                .with_transactional_id(self.id())
                .with_producer_id(id)
                .with_producer_epoch(epoch)
                .with_committed(committed)
        };
        let what = if committed {
            "commit the transaction"
        } else {
            "abort the transaction"
        };
        let check = |response: &EndTxnResponse| {
            let done = !committed && ErrorCode(response.error_code) == ErrorCode::INVALID_TXN_STATE;
            // There is nothing to abort: it did not come that far, or its time was over.
            let code = if done { 0 } else { response.error_code };
            Error::check(what, code, None)
        };
        let version_max = if second { i16::MAX } else { END_FIRST_MAX };
        let ended = self.coordinator.call(what, version_max, build, check);
        let response = ended.await.map_err(|error| self.judge(error))?;
        if second && response.producer_id.0 >= 0 {
            self.set_mark(response.producer_id, response.producer_epoch);
        } else if !committed {
            // Batches that were given up have left gaps in the numbers of this epoch.
            self.init().await?;
        }
        Ok(())
    }

    async fn commit(&self) -> Result<()> {
        if !self.state.lock().begun {
            return Ok(());
        }
        self.end(true).await.map_err(|error| match error {
            Error::Fenced { .. } | Error::Broker { .. } => error,
            error => {
                self.state.lock().unsure = true;
                Error::TransactionUncertain {
                    reason: error.to_string(),
                }
            }
        })
    }

    async fn abort(&self) -> Result<()> {
        let _adding = self.adding.lock().await;
        if !self.state.lock().begun {
            return Ok(());
        }
        let ended = self.end(false).await;
        if ended.is_err() {
            self.state.lock().unsure = true;
        }
        ended
    }
}

fn millis(time: Duration) -> i32 {
    time.as_millis().try_into().unwrap_or(i32::MAX)
}

fn offset_topics(offsets: &BTreeMap<TopicPartition, i64>) -> Vec<TxnOffsetCommitRequestTopic> {
    let mut topics: BTreeMap<&str, Vec<TxnOffsetCommitRequestPartition>> = BTreeMap::new();
    for (place, &offset) in offsets {
        topics.entry(&place.topic).or_default().push(
            TxnOffsetCommitRequestPartition::default()
                .with_partition_index(place.partition)
                .with_committed_offset(offset)
                .with_committed_metadata(Some(StrBytes::from_static_str(""))),
        );
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        TxnOffsetCommitRequestTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_owned())))
            .with_partitions(partitions)
    });
    topics.collect()
}

fn check_offsets(response: &TxnOffsetCommitResponse) -> Result<()> {
    let mut partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.try_for_each(|partition| {
        let what = "commit offsets in the transaction";
        Error::check(what, partition.error_code, None)
    })
}

/// An open transaction of a [`Producer`](crate::Producer). Dropping it aborts it: then nothing that
/// was sent in it is ever seen by consumers that read committed records.
///
/// ```no_run
/// # async fn example() -> tidelog_client::Result<()> {
/// use tidelog_client::{ClientConfig, Producer, ProducerConfig, Record};
///
/// let config = ProducerConfig::default().with_transactional_id("transfers");
/// let producer = Producer::new(ClientConfig::new("localhost:9092"), config).await?;
/// let transaction = producer.begin().await?;
/// transaction.send(Record::new("debits", "a:-5")).await?;
/// transaction.send(Record::new("credits", "b:+5")).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction {
    inner: Arc<Inner>,
    transactional: Arc<Transactional>,
    runtime: Handle,
    /// None once it is ended.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Transaction {
    pub(super) async fn begin(inner: Arc<Inner>) -> Result<Transaction> {
        let transactional = inner.transactional()?.clone();
        let turn = transactional.begin().await?;
        inner.accumulator.wake.notify_one();
        Ok(Transaction {
            inner,
            transactional,
            runtime: Handle::current(),
            turn: Some(turn),
        })
    }

    /// Sends a record in this transaction. [`Transaction::commit`] waits for it.
    ///
    /// # Errors
    /// As [`Producer::send`](crate::Producer::send); [`Error::TransactionFailed`] after anything of
    /// the transaction has failed.
    pub async fn send(&self, record: Record) -> Result<Delivery> {
        self.transactional.check_open()?;
        self.inner.send(record).await
    }

    /// Makes the offsets of the next records to read part of this transaction: they are committed
    /// for the group if, and only if, it is. Take them from
    /// [`Consumer::positions`](crate::Consumer::positions), and switch automatic commits off.
    ///
    /// # Errors
    /// [`Error::Rebalanced`] when the group has given a partition to another member. After any
    /// error the transaction can only be aborted.
    pub async fn send_offsets(
        &self,
        group: &Committer,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<()> {
        self.transactional.check_open()?;
        if offsets.is_empty() {
            return Ok(());
        }
        let sent = self.transactional.send_offsets(group, offsets).await;
        if let Err(error) = &sent {
            self.transactional.fail(error);
        }
        sent
    }

    /// Waits until everything is written, then makes all of it visible at once.
    ///
    /// # Errors
    /// [`Error::TransactionFailed`] when anything of it had failed; it is aborted then.
    /// [`Error::Fenced`] when another producer took over. [`Error::TransactionUncertain`] when the
    /// coordinator did not answer in time: the transaction is then either committed or aborted as
    /// a whole, and which of the two is settled before the next one begins.
    pub async fn commit(mut self) -> Result<()> {
        let written = self.inner.flush().await;
        if let Err(error) = &written {
            self.transactional.fail(error);
        }
        if let Err(failed) = self.transactional.check_open() {
            let turn = self.turn.take();
            abort(&self.inner, &self.transactional).await?;
            drop(turn);
            return Err(failed);
        }
        let turn = self.turn.take();
        let committed = self.transactional.commit().await;
        self.inner.accumulator.wake.notify_one();
        drop(turn);
        committed
    }

    /// Gives up everything sent in this transaction, and waits until that is done.
    ///
    /// # Errors
    /// [`Error::Fenced`] when another producer took over, which has aborted it; [`Error::Timeout`]
    /// when the coordinator did not answer: the transaction is then aborted before the next one
    /// begins, or when its time is over.
    pub async fn abort(mut self) -> Result<()> {
        let turn = self.turn.take();
        let aborted = abort(&self.inner, &self.transactional).await;
        drop(turn);
        aborted
    }
}

async fn abort(inner: &Arc<Inner>, transactional: &Transactional) -> Result<()> {
    transactional.state.lock().discarding = true;
    // What became of the records does not matter any more.
    let _ = inner.flush().await;
    let aborted = transactional.abort().await;
    inner.accumulator.wake.notify_one();
    aborted
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else {
            return;
        };
        let (inner, transactional) = (self.inner.clone(), self.transactional.clone());
        // The next transaction waits for its turn, so this task is waited for.
        self.runtime.spawn(async move {
            if let Err(error) = abort(&inner, &transactional).await {
                tracing::warn!("aborting a transaction: {error}");
            }
            drop(turn);
        });
    }
}

//! Transactional batches wait here until their transaction's coordinator has been asked (KIP-890).
//!
//! A batch that goes on with a transaction is proposed at once, like any other. The first one in a
//! partition waits for the coordinator's answer, and those of the same producer and partition that
//! come meanwhile queue up behind it, so that they are proposed in the order in which they came. The
//! partition's state machine has the last word: it accepts a batch only if no marker of the producer
//! has come since the question was asked.

use crate::broker::Broker;
use crate::coordinator::transaction::remote::{self, Retry};
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::{GroupId, Partition, Proposal};
use tidelog_storage::batch::BatchHeader;
use tidelog_storage::log::TxnStanding;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Longest a batch waits, whatever the client's timeout.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Confirmed transactions remembered until their first batch is applied; a lost one is asked again.
const CONFIRMED_MAX: usize = 10_000;
/// First Produce version whose clients leave it to the leader to add the partition.
const ADDS_IMPLICITLY: i16 = 12;
/// First Produce version whose clients know TRANSACTION_ABORTABLE.
const KNOWS_ABORTABLE: i16 = 11;

/// A batch on its way: proposed, or waiting.
pub enum Admitted {
    Proposed(Proposal),
    Waiting(oneshot::Receiver<Result<Proposal, ResponseError>>),
}

type Key = (GroupId, i64);
type Reply = oneshot::Sender<Result<Proposal, ResponseError>>;

/// What is known of a producer in a partition where none of its transactions is open.
struct Entry {
    epoch: i16,
    /// What the partition said before the coordinator was asked.
    last_marker: Option<i64>,
    /// `None` once the coordinator has agreed.
    waiting: Option<Vec<(Bytes, Reply)>>,
}

/// All producers that are being asked about.
#[derive(Default)]
pub struct Verifier {
    entries: Mutex<HashMap<Key, Entry>>,
}

/// The transaction a Produce request belongs to, and the partitions to be asked about.
pub struct Question {
    pub transactional_id: String,
    pub version: i16,
    pub timeout: Duration,
    /// `transaction.partition.verification.enable`
    verifies: bool,
    asked: Vec<Asked>,
}

struct Asked {
    partition: Arc<Partition>,
    topic: String,
    producer: (i64, i16),
}

impl Question {
    pub fn new(
        transactional_id: String,
        version: i16,
        timeout: Duration,
        verifies: bool,
    ) -> Question {
        Question {
            transactional_id,
            version,
            timeout: timeout.min(WAIT_MAX),
            verifies,
            asked: Vec::new(),
        }
    }
}

impl Verifier {
    /// Takes a transactional batch; what has to be asked is added to `question`. Does not wait.
    pub fn admit(
        &self,
        partition: &Arc<Partition>,
        header: &BatchHeader,
        batch: Bytes,
        question: &mut Question,
    ) -> Result<Admitted, ResponseError> {
        let (id, epoch) = (header.producer_id, header.producer_epoch);
        let key = (partition.spec().group, id);
        let mut entries = self.entries.lock();
        if let Some(waiting) = entries.get_mut(&key).and_then(|e| {
            let same = e.epoch == epoch;
            e.waiting.as_mut().map(|waiting| same.then_some(waiting))
        }) {
            // Of another epoch: it comes again when this one is settled.
            let waiting = waiting.ok_or(ResponseError::NotEnoughReplicas)?;
            let (reply, admitted) = oneshot::channel();
            waiting.push((batch, reply));
            return Ok(Admitted::Waiting(admitted));
        }
        match partition.log().transaction_standing(id, epoch) {
            TxnStanding::Open => {
                entries.remove(&key);
                Ok(Admitted::Proposed(partition.propose(batch)))
            }
            TxnStanding::Unverified { last_marker } => {
                // Those that add implicitly are asked about in any case: it is how they are added.
                let trusted = !question.verifies && question.version < ADDS_IMPLICITLY;
                let confirmed = trusted
                    || entries
                        .get(&key)
                        .is_some_and(|e| (e.epoch, e.last_marker) == (epoch, last_marker));
                if confirmed {
                    let proposal = partition.propose_verified(batch, last_marker);
                    return Ok(Admitted::Proposed(proposal));
                }
                let (reply, admitted) = oneshot::channel();
                let entry = Entry {
                    epoch,
                    last_marker,
                    waiting: Some(vec![(batch, reply)]),
                };
                entries.insert(key, entry);
                question.asked.push(Asked {
                    partition: partition.clone(),
                    topic: partition.spec().topic.clone(),
                    producer: (id, epoch),
                });
                Ok(Admitted::Waiting(admitted))
            }
        }
    }

    /// Proposes what waits for the answer, or refuses it. With `bumped` epochs (transaction version 2)
    /// the epoch alone tells transactions apart, and the marker of the one before may have come while
    /// the coordinator was asked.
    fn settle(&self, asked: &Asked, bumped: bool, outcome: Result<(), ResponseError>) {
        let key = (asked.partition.spec().group, asked.producer.0);
        let mut entries = self.entries.lock();
        if outcome.is_ok() && entries.len() > CONFIRMED_MAX {
            entries.retain(|_, e| e.waiting.is_some());
        }
        let Some(entry) = entries.get_mut(&key) else {
            return;
        };
        let (id, epoch) = asked.producer;
        if bumped
            && let TxnStanding::Unverified { last_marker } =
                asked.partition.log().transaction_standing(id, epoch)
        {
            entry.last_marker = last_marker;
        }
        let last_marker = entry.last_marker;
        // Under the lock, so that nothing that comes now overtakes them.
        for (batch, reply) in entry.waiting.take().into_iter().flatten() {
            let result = outcome.map(|()| asked.partition.propose_verified(batch, last_marker));
            let _ = reply.send(result);
        }
        if outcome.is_err() {
            entries.remove(&key);
        }
    }
}

/// Asks the coordinator about everything in `question`. Ends within the question's timeout.
pub async fn ask(broker: Arc<Broker>, question: Question) {
    let deadline = Instant::now() + question.timeout;
    let mut by_producer: HashMap<(i64, i16), Vec<Asked>> = HashMap::new();
    for asked in question.asked {
        by_producer.entry(asked.producer).or_default().push(asked);
    }
    let verify_only = question.version < ADDS_IMPLICITLY;
    for (producer, mut left) in by_producer {
        let mut retry = Retry::until(deadline);
        while !left.is_empty() {
            let partitions = left
                .iter()
                .map(|a| (a.topic.clone(), a.partition.spec().partition))
                .collect();
            let id = &question.transactional_id;
            let outcomes = remote::add(&broker, id, producer, partitions, verify_only).await;
            let passing = outcomes
                .iter()
                .filter_map(|o| o.err())
                .find(|e| remote::is_passing(*e));
            let again = match passing {
                Some(error) => retry.after(error).await,
                None => false,
            };
            let mut still = Vec::new();
            for (asked, outcome) in left.into_iter().zip(outcomes) {
                if again && outcome.is_err_and(remote::is_passing) {
                    still.push(asked);
                } else {
                    let outcome = outcome.map_err(|error| told(error, question.version));
                    broker.verifier.settle(&asked, !verify_only, outcome);
                }
            }
            left = still;
        }
    }
}

impl Question {
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }
}

/// What a producer is told; as in Kafka's `ReplicaManager`.
fn told(error: ResponseError, version: i16) -> ResponseError {
    match error {
        ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
        ResponseError::TransactionAbortable if version < KNOWS_ABORTABLE => {
            ResponseError::InvalidTxnState
        }
        // All clients send again after this one, and look for no other leader.
        error if remote::is_passing(error) => ResponseError::NotEnoughReplicas,
        error => error,
    }
}

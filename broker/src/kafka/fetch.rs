//! Fetch (versions 4 to 18): long poll, size limits, leader epochs, follower fetch by rack. Sessions
//! are in [`super::fetch_session`].
//!
//! The log holds committed batches only, so any replica may serve a consumer (KIP-392), and nothing
//! has to be clamped to a high watermark.

use super::blocking::blocking;
use super::dispatch::Head;
use super::fetch_encode::{FetchAnswer, PartitionAnswer, encode};
use super::fetch_session::Asked;
use super::reply::Reply;
use super::{Found, RequestContext, find_partition, find_topic};
use crate::broker::Broker;
use crate::metadata::{BrokerMeta, MetadataImage, Topic};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::FetchRequest;
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::BrokerId;
use tidelog_storage::error::StorageError;
use tidelog_storage::log::PartitionLog;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Longest a fetch waits, whatever the client asks for.
const WAIT_MAX_MS: i32 = 60_000;
/// Records in one answer at most, whatever the client asks for, as Kafka's `fetch.max.bytes`; a single
/// batch may be larger.
const RESPONSE_MAX_BYTES: i32 = 55 << 20;
/// A reader further behind than this reads pages that may not be in memory.
const COLD_BYTES: u64 = 64 * 1024 * 1024;

const READ_COMMITTED: i8 = 1;

pub async fn handle(
    context: RequestContext,
    head: Head,
    request: FetchRequest,
) -> anyhow::Result<Option<Reply>> {
    let broker = &context.broker;
    let sessions = &broker.fetch_sessions;
    let fetch = match sessions.begin(&request, head.version, std::time::Instant::now()) {
        Ok(fetch) => fetch,
        Err(error) => {
            let answer = FetchAnswer {
                error_code: error.code(),
                ..FetchAnswer::default()
            };
            return encode(head, answer).map(Some);
        }
    };
    let wait = request.max_wait_ms.clamp(0, WAIT_MAX_MS);
    let deadline = Instant::now() + Duration::from_millis(wait as u64);
    let waiter = Notify::new();
    let mut waiter = Arc::new(waiter);
    loop {
        let image = broker.metadata.load_full();
        let mut pass = Pass::new(broker, &image, &request, head.version);
        pass.read_all(&fetch.asked, &waiter);
        let enough = pass.bytes >= request.min_bytes.max(0) as usize || fetch.asked.is_empty();
        if enough || pass.answer_now || Instant::now() >= deadline {
            let now = std::time::Instant::now();
            let mut answer = sessions.finish(fetch, pass.answers, now);
            answer.endpoints = pass.endpoints;
            return encode(head, answer).map(Some);
        }
        let _ = tokio::time::timeout_at(deadline, waiter.notified()).await;
        // A fresh waiter: registrations of the old one die with it.
        waiter = Arc::new(Notify::new());
    }
}

/// One look at all partitions of a request.
struct Pass<'a> {
    broker: &'a Broker,
    image: &'a MetadataImage,
    request: &'a FetchRequest,
    version: i16,
    /// In the order of what was asked.
    answers: Vec<PartitionAnswer>,
    endpoints: Vec<BrokerMeta>,
    max_bytes: usize,
    bytes: usize,
    /// There is something the client has to know at once: an error, or a better replica.
    answer_now: bool,
}

impl<'a> Pass<'a> {
    fn new(
        broker: &'a Broker,
        image: &'a MetadataImage,
        request: &'a FetchRequest,
        version: i16,
    ) -> Self {
        Pass {
            broker,
            image,
            request,
            version,
            answers: Vec::new(),
            endpoints: Vec::new(),
            max_bytes: request.max_bytes.clamp(0, RESPONSE_MAX_BYTES) as usize,
            bytes: 0,
            answer_now: false,
        }
    }

    fn read_all(&mut self, asked: &[Asked], waiter: &Arc<Notify>) {
        let mut last: Option<(&Asked, Result<Arc<Topic>, ResponseError>)> = None;
        self.answers.reserve(asked.len());
        for partition in asked {
            // Neighbours are of one topic mostly.
            let topic = match &last {
                Some((of, topic))
                    if of.topic_id == partition.topic_id && of.topic == partition.topic =>
                {
                    topic.clone()
                }
                _ => find_topic(self.image, &partition.topic, partition.topic_id),
            };
            let answer = match &topic {
                Ok(topic) => self.read(topic, partition, waiter),
                Err(error) => self.failed(partition.partition, *error),
            };
            self.answers.push(answer);
            last = Some((partition, topic));
        }
    }

    fn failed(&mut self, index: i32, error: ResponseError) -> PartitionAnswer {
        self.answer_now = true;
        PartitionAnswer::failed(index, error)
    }

    fn read(&mut self, topic: &Topic, asked: &Asked, waiter: &Arc<Notify>) -> PartitionAnswer {
        let index = asked.partition;
        let found = match find_partition(self.broker, topic, index, asked.current_leader_epoch) {
            Ok(found) => found,
            Err(error) => {
                let mut failed = self.failed(index, error);
                if error == ResponseError::NotLeaderOrFollower
                    || error == ResponseError::FencedLeaderEpoch
                {
                    self.tell_leader(topic, index, &mut failed);
                }
                return failed;
            }
        };
        // Before the read, so that nothing that comes after it is missed.
        found.partition.notify_on_change(waiter);
        if let Some(replica) = self.preferred_replica(&found) {
            self.answer_now = true;
            let log = found.partition.log();
            let ends = log.readable_ends();
            return PartitionAnswer {
                index,
                high_watermark: ends.high_watermark,
                last_stable_offset: ends.last_stable_offset,
                log_start_offset: log.log_start_offset(),
                preferred_read_replica: replica.0,
                ..PartitionAnswer::default()
            };
        }
        self.read_log(index, asked, &found)
    }

    fn read_log(&mut self, index: i32, asked: &Asked, found: &Found) -> PartitionAnswer {
        let log = found.partition.log();
        let ends = log.readable_ends();
        let mut answer = PartitionAnswer {
            index,
            high_watermark: ends.high_watermark,
            last_stable_offset: ends.last_stable_offset,
            log_start_offset: log.log_start_offset(),
            ..PartitionAnswer::default()
        };
        // KIP-595: the client's last epoch tells whether its log and ours have parted.
        if self.version >= 12 && asked.last_fetched_epoch >= 0 {
            let ours = log.epoch_end_offset(asked.last_fetched_epoch, found.epoch);
            match ours {
                Some((epoch, end))
                    if epoch < asked.last_fetched_epoch || end < asked.fetch_offset =>
                {
                    answer.diverging = Some((epoch, end));
                    self.answer_now = true;
                    return answer;
                }
                Some(_) => {}
                // Older than all we know.
                None => return self.failed(index, ResponseError::OffsetOutOfRange),
            }
        }
        let committed = self.request.isolation_level == READ_COMMITTED;
        let upper = if committed {
            answer.last_stable_offset
        } else {
            answer.high_watermark
        };
        let whole_left = self.max_bytes.saturating_sub(self.bytes);
        let max_bytes = whole_left.min(asked.max_bytes.max(0) as usize);
        let first = self.bytes == 0;
        if !found.leads {
            // A consumer of this rack: what comes now is for it to read.
            log.set_read(true);
        }
        let read = || log.read(asked.fetch_offset, upper, max_bytes, first);
        // Every byte is looked at, for its checksum. Pages that may have to come from the disk must not hold up
        // a worker.
        let read = if is_cold(log, asked.fetch_offset, upper) {
            blocking(read)
        } else {
            read()
        };
        let read = read.and_then(|read| {
            if committed {
                let until = read.next_offset;
                let aborted = log.aborted_transactions(asked.fetch_offset, until)?;
                let listed = aborted.iter().map(|a| (a.producer_id, a.first_offset));
                answer.aborted = Some(listed.collect());
            }
            Ok(read)
        });
        match read {
            Ok(read) => {
                self.bytes += read.bytes;
                answer.records = read.slices;
            }
            Err(StorageError::OffsetOutOfRange { .. }) => {
                self.answer_now = true;
                // A follower may not have what the leader has told the client of: not an answer to
                // reset offsets on.
                answer.error_code = if !found.leads && asked.fetch_offset > answer.high_watermark {
                    ResponseError::OffsetNotAvailable.code()
                } else {
                    ResponseError::OffsetOutOfRange.code()
                };
            }
            Err(error) => {
                tracing::error!("fetch: {error}");
                if matches!(error, StorageError::Corrupt { .. }) {
                    found.partition.mend(asked.fetch_offset);
                }
                self.answer_now = true;
                answer.error_code = ResponseError::KafkaStorageError.code();
            }
        }
        answer
    }

    /// A replica in the client's rack, when this one is the leader and is not there itself.
    fn preferred_replica(&self, found: &Found) -> Option<BrokerId> {
        let rack = self.request.rack_id.as_str();
        if self.version < 11 || rack.is_empty() || !found.leads {
            return None;
        }
        let in_rack = |id: &BrokerId| {
            self.image.brokers.get(id).and_then(|b| b.rack.as_deref()) == Some(rack)
        };
        if in_rack(&self.broker.id) {
            return None;
        }
        found.partition.in_sync_replicas().into_iter().find(in_rack)
    }

    fn tell_leader(&mut self, topic: &Topic, index: i32, answer: &mut PartitionAnswer) {
        let leader = usize::try_from(index)
            .ok()
            .and_then(|i| topic.partitions.get(i))
            .and_then(|p| self.broker.node.leader_of(p.group));
        if let Some(leader) = leader {
            answer.current_leader = Some((leader.leader.0, leader.epoch));
            if let Some(broker) = self.image.brokers.get(&leader.leader)
                && !self.endpoints.iter().any(|b| b.id == broker.id)
            {
                self.endpoints.push(broker.clone());
            }
        }
    }
}

/// Whether what lies between the two may have to come from the disk.
fn is_cold(log: &PartitionLog, from: i64, upper: i64) -> bool {
    from < upper && (log.bytes_behind(from) > COLD_BYTES || log.may_have_left_cache(from))
}

//! Fetch (versions 4 to 18): long poll, size limits, leader epochs, follower fetch by rack.
//!
//! The log holds committed batches only, so any replica may serve a consumer (KIP-392), and nothing
//! has to be clamped to a high watermark.

use super::dispatch::Head;
use super::fetch_encode::{FetchAnswer, PartitionAnswer, TopicAnswer, encode};
use super::reply::Reply;
use super::{Found, RequestContext, find_partition, find_topic};
use crate::broker::Broker;
use crate::metadata::{MetadataImage, Topic};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest};
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::BrokerId;
use tidelog_storage::error::StorageError;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Longest a fetch waits, whatever the client asks for.
const WAIT_MAX_MS: i32 = 60_000;
/// A reader further behind than this reads pages that may not be in memory.
const COLD_BYTES: u64 = 64 * 1024 * 1024;

const READ_COMMITTED: i8 = 1;

pub async fn handle(
    context: RequestContext,
    head: Head,
    request: FetchRequest,
) -> anyhow::Result<Option<Reply>> {
    let broker = &context.broker;
    if request.session_id != 0 {
        // Sessions are declined when they are asked for, so nobody can have one.
        let answer = FetchAnswer {
            error_code: ResponseError::FetchSessionIdNotFound.code(),
            ..FetchAnswer::default()
        };
        return encode(head, answer).map(Some);
    }
    let wait = request.max_wait_ms.clamp(0, WAIT_MAX_MS);
    let deadline = Instant::now() + Duration::from_millis(wait as u64);
    let waiter = Notify::new();
    let mut waiter = Arc::new(waiter);
    loop {
        let image = broker.metadata.load_full();
        let mut pass = Pass::new(broker, &image, &request, head.version);
        pass.read_all(&waiter);
        if pass.cold {
            // Those pages may have to come from the disk, which must not hold up a worker.
            pass.touch_cold().await;
        }
        let enough = pass.bytes >= request.min_bytes.max(0) as usize;
        if enough || pass.errors || Instant::now() >= deadline {
            return encode(head, pass.answer).map(Some);
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
    answer: FetchAnswer,
    bytes: usize,
    errors: bool,
    cold: bool,
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
            answer: FetchAnswer::default(),
            bytes: 0,
            errors: false,
            cold: false,
        }
    }

    fn read_all(&mut self, waiter: &Arc<Notify>) {
        for asked in &self.request.topics {
            let topic = find_topic(self.image, &asked.topic, asked.topic_id);
            let partitions = asked
                .partitions
                .iter()
                .map(|p| match &topic {
                    Ok(topic) => self.read(topic, p, waiter),
                    Err(error) => self.failed(p.partition, *error),
                })
                .collect();
            self.answer.topics.push(TopicAnswer {
                name: asked.topic.clone(),
                id: asked.topic_id,
                partitions,
            });
        }
    }

    fn failed(&mut self, index: i32, error: ResponseError) -> PartitionAnswer {
        self.errors = true;
        PartitionAnswer::failed(index, error)
    }

    fn read(
        &mut self,
        topic: &Topic,
        asked: &FetchPartition,
        waiter: &Arc<Notify>,
    ) -> PartitionAnswer {
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
            let log = found.partition.log();
            return PartitionAnswer {
                index,
                high_watermark: log.log_end_offset(),
                last_stable_offset: log.last_stable_offset(),
                log_start_offset: log.log_start_offset(),
                preferred_read_replica: replica.0,
                ..PartitionAnswer::default()
            };
        }
        self.read_log(index, asked, &found)
    }

    fn read_log(&mut self, index: i32, asked: &FetchPartition, found: &Found) -> PartitionAnswer {
        let log = found.partition.log();
        let mut answer = PartitionAnswer {
            index,
            high_watermark: log.log_end_offset(),
            last_stable_offset: log.last_stable_offset(),
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
                    self.errors = true;
                    return answer;
                }
                _ => {}
            }
        }
        let upper = if self.request.isolation_level == READ_COMMITTED {
            answer.last_stable_offset
        } else {
            answer.high_watermark
        };
        let whole_left = (self.request.max_bytes.max(0) as usize).saturating_sub(self.bytes);
        let max_bytes = whole_left.min(asked.partition_max_bytes.max(0) as usize);
        let first = self.bytes == 0;
        match log.read(asked.fetch_offset, upper, max_bytes, first) {
            Ok(read) => {
                self.bytes += read.bytes;
                self.cold |= read.bytes > 0 && log.bytes_behind(asked.fetch_offset) > COLD_BYTES;
                answer.records = read.slices;
            }
            Err(StorageError::OffsetOutOfRange { .. }) => {
                self.errors = true;
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
                self.errors = true;
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
                && !self.answer.endpoints.iter().any(|b| b.id == broker.id)
            {
                self.answer.endpoints.push(broker.clone());
            }
        }
    }

    /// Reads one byte of each page on a thread that may wait for the disk.
    async fn touch_cold(&self) {
        let slices: Vec<bytes::Bytes> = self
            .answer
            .topics
            .iter()
            .flat_map(|t| &t.partitions)
            .flat_map(|p| p.records.iter().cloned())
            .collect();
        let touched = tokio::task::spawn_blocking(move || {
            const PAGE: usize = 4096;
            slices
                .iter()
                .flat_map(|s| s.iter().step_by(PAGE))
                .fold(0_u8, |sum, byte| sum ^ byte)
        });
        std::hint::black_box(touched.await.unwrap_or(0));
    }
}

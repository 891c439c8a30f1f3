//! One Fetch request to one leader, and what it answers for each partition.

use super::{ConsumerConfig, Isolation};
use crate::batch::{FetchedBatch, skip_aborted, split_batches};
use crate::cluster::{Cluster, Lane};
use crate::error::{Error, Result};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

/// From this version on topics are named by their id.
const FIRST_VERSION_BY_ID: i16 = 13;
/// From this version on the leader epoch is in the request.
const FIRST_VERSION_WITH_EPOCH: i16 = 9;

/// What to fetch of one partition.
#[derive(Debug)]
pub(super) struct Target {
    /// Of the partition in the fetcher.
    pub id: u64,
    pub topic: Arc<str>,
    pub topic_id: Uuid,
    pub partition: i32,
    pub leader_epoch: i32,
    pub offset: i64,
}

/// What a partition has from the asked offset on.
#[derive(Debug)]
pub(super) struct Answer {
    /// The topic that the broker answered for; nil when it was asked by name.
    pub topic_id: Uuid,
    pub batches: VecDeque<FetchedBatch>,
    pub high_watermark: i64,
    /// The end for who reads committed records only.
    pub last_stable_offset: i64,
}

#[derive(Debug)]
pub(super) struct FetchDone {
    pub broker: i32,
    /// What was asked to be the most bytes of the answer.
    pub reserved_bytes: usize,
    /// The partition's id, the offset asked for, and the answer.
    pub answers: Vec<(u64, i64, Result<Answer>)>,
}

pub(super) async fn fetch(
    cluster: Cluster,
    config: ConsumerConfig,
    broker: i32,
    bytes_max: usize,
    targets: Vec<Target>,
) -> FetchDone {
    let answers = match try_fetch(&cluster, &config, broker, bytes_max, &targets).await {
        Ok(response) => read_answers(&targets, response, &config),
        Err(error) => {
            let failed = targets.iter();
            failed
                .map(|t| (t.id, t.offset, Err(error.clone())))
                .collect()
        }
    };
    FetchDone {
        broker,
        reserved_bytes: bytes_max,
        answers,
    }
}

async fn try_fetch(
    cluster: &Cluster,
    config: &ConsumerConfig,
    broker: i32,
    bytes_max: usize,
    targets: &[Target],
) -> Result<FetchResponse> {
    let connection = cluster.broker(broker, Lane::Fetch).await?;
    let has_ids = targets.iter().all(|target| !target.topic_id.is_nil());
    let highest = if has_ids {
        i16::MAX
    } else {
        FIRST_VERSION_BY_ID - 1
    };
    let version = connection.version::<FetchRequest>(highest)?;
    let mut topics: Vec<FetchTopic> = Vec::new();
    let mut place: HashMap<&Arc<str>, usize> = HashMap::new();
    for target in targets {
        let at = *place.entry(&target.topic).or_insert_with(|| {
            let topic = if version >= FIRST_VERSION_BY_ID {
                FetchTopic::default().with_topic_id(target.topic_id)
            } else {
                let name = StrBytes::from_string(target.topic.to_string());
                FetchTopic::default().with_topic(TopicName(name))
            };
            topics.push(topic);
            topics.len() - 1
        });
        let mut partition = FetchPartition::default()
            .with_partition(target.partition)
            .with_fetch_offset(target.offset)
            .with_partition_max_bytes(to_i32(config.partition_bytes_max));
        if version >= FIRST_VERSION_WITH_EPOCH {
            partition.current_leader_epoch = target.leader_epoch;
        }
        topics[at].partitions.push(partition);
    }
    let request = FetchRequest::default()
        .with_max_wait_ms(to_i32(config.wait_max.as_millis() as usize))
        .with_min_bytes(to_i32(config.bytes_min))
        .with_max_bytes(to_i32(bytes_max))
        .with_isolation_level(config.isolation.level())
        .with_session_epoch(-1)
        .with_topics(topics);
    let limit = config.wait_max + cluster.config().request_timeout;
    let response = connection.send(version, &request, limit).await?;
    Error::check("fetch", response.error_code, None)?;
    Ok(response)
}

fn to_i32(bytes: usize) -> i32 {
    bytes.try_into().unwrap_or(i32::MAX)
}

fn read_answers(
    targets: &[Target],
    response: FetchResponse,
    config: &ConsumerConfig,
) -> Vec<(u64, i64, Result<Answer>)> {
    let mut by_id = HashMap::new();
    let mut by_name = HashMap::new();
    for topic in response.responses {
        for data in topic.partitions {
            if topic.topic_id.is_nil() {
                by_name.insert((topic.topic.0.to_string(), data.partition_index), data);
            } else {
                by_id.insert((topic.topic_id, data.partition_index), data);
            }
        }
    }
    let mut answers = Vec::with_capacity(targets.len());
    for target in targets {
        let data = by_id.remove(&(target.topic_id, target.partition));
        let data = data.map(|data| (target.topic_id, data)).or_else(|| {
            let named = by_name.remove(&(target.topic.to_string(), target.partition));
            named.map(|data| (Uuid::nil(), data))
        });
        // A broker leaves out what has nothing new only in fetch sessions, which this does not use.
        if let Some((topic_id, data)) = data {
            let answer = read_answer(target, topic_id, data, config);
            answers.push((target.id, target.offset, answer));
        }
    }
    answers
}

fn read_answer(
    target: &Target,
    topic_id: Uuid,
    data: PartitionData,
    config: &ConsumerConfig,
) -> Result<Answer> {
    let what = || {
        let (topic, partition) = (&target.topic, target.partition);
        format!("fetch {topic}-{partition} from offset {}", target.offset)
    };
    Error::check(what(), data.error_code, None)?;
    let records = data.records.unwrap_or_default();
    let bytes = records.len();
    let mut batches = split_batches(records).map_err(|damaged| Error::DamagedBatch {
        topic: target.topic.to_string(),
        partition: target.partition,
        offset: damaged.offset,
        reason: damaged.reason,
    })?;
    if batches.is_empty() && bytes > 0 {
        return Err(Error::RecordTooLarge {
            bytes,
            limit: config.partition_bytes_max,
            setting: "partition_bytes_max",
        });
    }
    if config.isolation == Isolation::ReadCommitted {
        let aborted = data.aborted_transactions.unwrap_or_default().into_iter();
        let aborted = aborted.map(|a| (a.producer_id.0, a.first_offset));
        skip_aborted(&mut batches, aborted.collect());
    }
    // The first batch may begin before the offset, and in a compacted partition after it.
    let wanted = batches
        .into_iter()
        .filter(|b| b.last_offset >= target.offset);
    Ok(Answer {
        topic_id,
        batches: wanted.collect(),
        high_watermark: data.high_watermark,
        last_stable_offset: data.last_stable_offset,
    })
}

//! One Produce request: batches of several partitions to one broker, and the answer for each.

use super::ProducerConfig;
use super::accumulator::Written;
use super::slot::Batch;
use super::transaction::Transactional;
use crate::connection::Connection;
use crate::error::{Error, ErrorCode, Result};
use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// From this version on topics are named by their id.
const FIRST_VERSION_BY_ID: i16 = 13;
/// Later versions add the partition to the transaction by themselves (TV2).
const LAST_VERSION_OF_FIRST: i16 = 11;
/// How long after the broker's own time limit an answer is still awaited.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// One batch in a request.
#[derive(Debug)]
pub(super) struct Part {
    pub topic: Arc<str>,
    pub topic_id: Uuid,
    pub partition: i32,
    pub bytes: Bytes,
    pub batch: Batch,
}

/// What became of one batch of a request.
pub(super) type Answered = Vec<(Batch, Result<Written>)>;

/// Queues the request at once; the future resolves with its answers.
pub(super) fn send(
    connection: &Connection,
    parts: Vec<Part>,
    config: &ProducerConfig,
    transactional: Option<&Transactional>,
    limit: Duration,
) -> impl Future<Output = Answered> + Send + use<> {
    let submitted = submit(connection, &parts, config, transactional, limit);
    let connection = connection.clone();
    async move {
        match submitted {
            Err(error) => all_failed(parts, &error),
            Ok(Submitted::Unanswered(written)) => {
                match tokio::time::timeout(limit, written).await {
                    Ok(Ok(())) => parts
                        .into_iter()
                        .map(|part| (part.batch, Ok(Written::default())))
                        .collect(),
                    _ => all_failed(parts, &connection.closed()),
                }
            }
            Ok(Submitted::Answered(reply)) => match reply.wait(limit + ANSWER_GRACE).await {
                Ok(response) => assign(parts, response, &connection),
                Err(error) => all_failed(parts, &error),
            },
        }
    }
}

enum Submitted {
    Unanswered(tokio::sync::oneshot::Receiver<()>),
    Answered(crate::connection::Reply<ProduceRequest>),
}

fn submit(
    connection: &Connection,
    parts: &[Part],
    config: &ProducerConfig,
    transactional: Option<&Transactional>,
    limit: Duration,
) -> Result<Submitted> {
    let has_ids = parts.iter().all(|part| !part.topic_id.is_nil());
    let highest = if has_ids {
        i16::MAX
    } else {
        FIRST_VERSION_BY_ID - 1
    };
    let highest = match transactional {
        Some(transactional) if !transactional.is_second() => highest.min(LAST_VERSION_OF_FIRST),
        _ => highest,
    };
    let version = connection.version::<ProduceRequest>(highest)?;
    let mut topics: HashMap<&Arc<str>, TopicProduceData> = HashMap::new();
    for part in parts {
        let topic = topics.entry(&part.topic).or_insert_with(|| {
            if version >= FIRST_VERSION_BY_ID {
                TopicProduceData::default().with_topic_id(part.topic_id)
            } else {
                let name = StrBytes::from_string(part.topic.to_string());
                TopicProduceData::default().with_name(TopicName(name))
            }
        });
        topic.partition_data.push(
            PartitionProduceData::default()
                .with_index(part.partition)
                .with_records(Some(part.bytes.clone())),
        );
    }
    let request = ProduceRequest::default()
        .with_transactional_id(transactional.map(Transactional::wire_id))
        .with_acks(config.acks.code())
        .with_timeout_ms(limit.as_millis().try_into().unwrap_or(i32::MAX))
        .with_topic_data(topics.into_values().collect());
    if config.acks == super::Acks::None {
        let written = connection.submit_unanswered(version, &request)?;
        return Ok(Submitted::Unanswered(written));
    }
    Ok(Submitted::Answered(connection.submit(version, &request)?))
}

fn all_failed(parts: Vec<Part>, error: &Error) -> Answered {
    let failed = parts.into_iter();
    failed
        .map(|part| (part.batch, Err(error.clone())))
        .collect()
}

fn assign(parts: Vec<Part>, response: ProduceResponse, connection: &Connection) -> Answered {
    let mut by_id = HashMap::new();
    let mut by_name = HashMap::new();
    for topic in response.responses {
        for answer in topic.partition_responses {
            if topic.topic_id.is_nil() {
                let name = topic.name.0.to_string();
                by_name.insert((name, answer.index), answer);
            } else {
                by_id.insert((topic.topic_id, answer.index), answer);
            }
        }
    }
    let mut answered = Vec::with_capacity(parts.len());
    for part in parts {
        let answer = by_id.remove(&(part.topic_id, part.partition));
        let answer = answer.map(|answer| (part.topic_id, answer)).or_else(|| {
            let named = by_name.remove(&(part.topic.to_string(), part.partition));
            named.map(|answer| (Uuid::nil(), answer))
        });
        let result = match answer {
            Some((topic_id, answer)) => read_answer(&part, topic_id, &answer),
            None => Err(Error::Connection {
                address: connection.address().clone(),
                reason: format!("no answer for {}-{}", part.topic, part.partition),
            }),
        };
        answered.push((part.batch, result));
    }
    answered
}

fn read_answer(part: &Part, topic_id: Uuid, answer: &PartitionProduceResponse) -> Result<Written> {
    match ErrorCode::of(answer.error_code) {
        None => Ok(Written {
            topic_id,
            base_offset: (answer.base_offset >= 0).then_some(answer.base_offset),
        }),
        // Written by an earlier attempt, too long ago for the broker to know where.
        Some(ErrorCode::DUPLICATE_SEQUENCE_NUMBER) => Ok(Written {
            topic_id,
            base_offset: None,
        }),
        Some(code) => Err(Error::Broker {
            what: format!("produce to {}-{}", part.topic, part.partition),
            code,
            message: answer.error_message.as_ref().map(ToString::to_string),
        }),
    }
}

//! Produce (versions 3 to 13): each batch becomes a Raft proposal; the answer waits for a majority.
//! Transactional batches go through [`super::produce_verify`].

use super::dispatch::{Answer, Head};
use super::produce_verify::{self, Admitted, Question};
use super::recompress;
use super::{RequestContext, find_replica, find_topic, text};
use crate::broker::{Broker, now_ms};
use crate::config::TopicConfig;
use crate::coordinator::topic::is_internal;
use crate::metadata::{MetadataImage, Topic};
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
    ProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, ProduceResponse as Response};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::{Appended, Partition, ProposeError, Role};
use tidelog_storage::batch::{self, BatchError, BatchHeader};
use tidelog_storage::log::ProducerRejection;

/// Why a partition's records were refused.
struct Refusal {
    error: ResponseError,
    message: Option<String>,
}

impl From<ResponseError> for Refusal {
    fn from(error: ResponseError) -> Self {
        Refusal {
            error,
            message: None,
        }
    }
}

fn refuse(error: ResponseError, message: impl Into<String>) -> Refusal {
    Refusal {
        error,
        message: Some(message.into()),
    }
}

/// A partition's batch on its way.
struct Proposed {
    index: i32,
    append_time_ms: i64,
    outcome: Result<Admitted, Refusal>,
}

struct ProposedTopic {
    name: kafka_protocol::messages::TopicName,
    topic: Option<Arc<Topic>>,
    id: uuid::Uuid,
    partitions: Vec<Proposed>,
}

/// Proposes everything in the order it came, then answers when all is decided.
pub fn start(context: &RequestContext, head: Head, request: ProduceRequest) -> Answer {
    let broker = context.broker.clone();
    let image = broker.metadata.load_full();
    let acks = request.acks;
    let timeout = Duration::from_millis(request.timeout_ms.max(1) as u64);
    let transactional_id = request.transactional_id.as_ref().map(|id| id.to_string());
    let verifies = broker
        .config
        .flag("transaction.partition.verification.enable");
    let mut question =
        transactional_id.map(|id| Question::new(id, head.version, timeout, verifies));
    let topics: Vec<ProposedTopic> = request
        .topic_data
        .into_iter()
        .map(|data| {
            let topic = find_topic(&image, &data.name, data.topic_id);
            let config = topic
                .as_ref()
                .ok()
                .map(|t| TopicConfig::resolve(&t.configs, &broker.config, &image));
            let partitions = data
                .partition_data
                .into_iter()
                .map(|p| {
                    let checked = match (&topic, &config) {
                        _ if !matches!(acks, -1..=1) => {
                            Err(ResponseError::InvalidRequiredAcks.into())
                        }
                        (Ok(topic), _) if is_internal(&topic.name) => Err(refuse(
                            ResponseError::InvalidTopicException,
                            format!("Cannot append to internal topic {}", topic.name),
                        )),
                        (Ok(topic), Some(config))
                            if acks == -1 && lacks_replicas(&broker, topic, p.index, config) =>
                        {
                            Err(ResponseError::NotEnoughReplicas.into())
                        }
                        (Ok(topic), Some(config)) => Ok((topic, config)),
                        (Err(error), _) => Err((*error).into()),
                        (Ok(_), None) => Err(ResponseError::UnknownTopicOrPartition.into()),
                    };
                    propose(&broker, checked, p, question.as_mut())
                })
                .collect();
            ProposedTopic {
                name: data.name,
                topic: topic.ok(),
                id: data.topic_id,
                partitions,
            }
        })
        .collect();
    if let Some(question) = question.filter(|q| !q.is_empty()) {
        // Ends by its own timeout; the answer below waits for it.
        tokio::spawn(produce_verify::ask(broker.clone(), question));
    }
    if acks == 0 {
        // The proposals go on by themselves; the client expects no answer.
        return Box::pin(std::future::ready(Ok(None)));
    }
    Box::pin(async move {
        let response = answer(&broker, topics, timeout).await;
        head.encode(&response).map(Some)
    })
}

/// Whether `min.insync.replicas` wants more replicas than are in sync now. A majority always has what
/// is acknowledged, so that only a higher number can be missed.
fn lacks_replicas(broker: &Broker, topic: &Topic, index: i32, config: &TopicConfig) -> bool {
    let partition = usize::try_from(index)
        .ok()
        .and_then(|i| topic.partitions.get(i));
    let Some(partition) = partition else {
        return false;
    };
    if config.min_insync_replicas <= partition.least_replicas() / 2 + 1 {
        return false;
    }
    // Whoever does not lead answers so.
    broker
        .node
        .partition(partition.group)
        .is_some_and(|replica| {
            matches!(replica.role(), Role::Leader { .. })
                && replica.in_sync_replicas().len() < config.min_insync_replicas
        })
}

fn propose(
    broker: &Broker,
    checked: Result<(&Arc<Topic>, &TopicConfig), Refusal>,
    data: PartitionProduceData,
    question: Option<&mut Question>,
) -> Proposed {
    let mut append_time_ms = -1;
    let outcome = checked.and_then(|(topic, config)| {
        let (partition, ready) = find_elected(broker, topic, data.index)?;
        if !broker.node.disk_has_room() {
            return Err(refuse(
                ResponseError::KafkaStorageError,
                "the disk of this broker is nearly full",
            ));
        }
        let records = data
            .records
            .ok_or_else(|| refuse(ResponseError::InvalidRecord, "no records"))?;
        let header = batch::validate_produced(&records, config.max_message_bytes)
            .map_err(|e| refuse(code(&e), e.to_string()))?;
        check_contents(&records, &header, config)?;
        let records = recompress::to_codec(records, &header, config.compression)
            .map_err(|e| refuse(code(&e), e.to_string()))?;
        let records = if config.log_append_time {
            append_time_ms = now_ms();
            let mut stamped = BytesMut::from(&records[..]);
            batch::set_log_append_time(&mut stamped, append_time_ms);
            stamped.freeze()
        } else {
            records
        };
        if !header.is_transactional() {
            return Ok(Admitted::Proposed(partition.propose(records)));
        }
        // What the transaction may do here is asked of the log.
        if !ready {
            return Err(ResponseError::NotLeaderOrFollower.into());
        }
        let question = question.ok_or_else(|| {
            refuse(
                ResponseError::TransactionalIdAuthorizationFailed,
                "a transactional batch without a transactional id",
            )
        })?;
        let verifier = &broker.verifier;
        Ok(verifier.admit(&partition, &header, records, question)?)
    });
    Proposed {
        index: data.index,
        append_time_ms,
        outcome,
    }
}

/// The replica that leads here, and whether it is ready. It takes batches as soon as it is elected: order and
/// repetitions are judged when they are applied, behind all that is in its log already.
fn find_elected(
    broker: &Broker,
    topic: &Topic,
    index: i32,
) -> Result<(Arc<Partition>, bool), ResponseError> {
    let partition = find_replica(broker, topic, index)?;
    match partition.role() {
        Role::Leader { ready, .. } => Ok((partition, ready)),
        Role::Follower { .. } => Err(ResponseError::NotLeaderOrFollower),
    }
}

fn code(error: &BatchError) -> ResponseError {
    match error {
        BatchError::Corrupt(_) => ResponseError::CorruptMessage,
        BatchError::Invalid(_) => ResponseError::InvalidRecord,
        BatchError::TooLarge { .. } => ResponseError::MessageTooLarge,
        BatchError::Magic(_) => ResponseError::UnsupportedForMessageFormat,
        BatchError::Compression(_) => ResponseError::UnsupportedCompressionType,
    }
}

fn check_contents(
    records: &Bytes,
    header: &BatchHeader,
    config: &TopicConfig,
) -> Result<(), Refusal> {
    if !config.log_append_time {
        let now = now_ms();
        let ahead = header.max_timestamp.saturating_sub(now);
        let behind = now.saturating_sub(header.base_timestamp);
        if ahead > config.timestamp_after_max_ms
            || (header.base_timestamp >= 0 && behind > config.timestamp_before_max_ms)
        {
            return Err(refuse(
                ResponseError::InvalidTimestamp,
                format!(
                    "timestamp {} is too far from the broker's clock",
                    header.max_timestamp
                ),
            ));
        }
    }
    if config.compact {
        let mut keyless = false;
        batch::for_each_record(records, |record| {
            keyless |= record.key.is_none();
            !keyless
        })
        .map_err(|e| refuse(code(&e), e.to_string()))?;
        if keyless {
            return Err(refuse(
                ResponseError::InvalidRecord,
                "Compacted topic cannot accept message without key.",
            ));
        }
    }
    Ok(())
}

async fn answer(broker: &Broker, topics: Vec<ProposedTopic>, timeout: Duration) -> Response {
    let image = broker.metadata.load_full();
    let mut leaders = BTreeSet::new();
    let mut responses = Vec::with_capacity(topics.len());
    for topic in topics {
        let results = join_all(topic.partitions.into_iter().map(|p| settle(p, timeout))).await;
        let mut partitions = Vec::with_capacity(results.len());
        for mut response in results {
            if response.error_code == ResponseError::NotLeaderOrFollower.code()
                && let Some(known) = current_leader(broker, topic.topic.as_deref(), response.index)
            {
                leaders.insert(known.leader_id.0);
                response.current_leader = known;
            }
            partitions.push(response);
        }
        responses.push(
            TopicProduceResponse::default()
                .with_name(topic.name)
                .with_topic_id(topic.id)
                .with_partition_responses(partitions),
        );
    }
    ProduceResponse::default()
        .with_responses(responses)
        .with_node_endpoints(endpoints(&image, &leaders))
}

fn current_leader(broker: &Broker, topic: Option<&Topic>, index: i32) -> Option<LeaderIdAndEpoch> {
    let partition = topic?.partitions.get(usize::try_from(index).ok()?)?;
    let leader = broker.node.leader_of(partition.group)?;
    Some(
        LeaderIdAndEpoch::default()
            .with_leader_id(BrokerId(leader.leader.0))
            .with_leader_epoch(leader.epoch),
    )
}

fn endpoints(image: &MetadataImage, leaders: &BTreeSet<i32>) -> Vec<NodeEndpoint> {
    leaders
        .iter()
        .filter_map(|id| image.brokers.get(&tidelog_replication::BrokerId(*id)))
        .map(|b| {
            NodeEndpoint::default()
                .with_node_id(BrokerId(b.id.0))
                .with_host(text(b.host.clone()))
                .with_port(i32::from(b.port))
                .with_rack(b.rack.clone().map(text))
        })
        .collect()
}

async fn settle(proposed: Proposed, timeout: Duration) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default()
        .with_index(proposed.index)
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1);
    let refusal = match proposed.outcome {
        Ok(admitted) => match tokio::time::timeout(timeout, decided(admitted)).await {
            Ok(Ok(appended)) => {
                return response
                    .with_base_offset(appended.base_offset)
                    .with_log_append_time_ms(proposed.append_time_ms)
                    .with_log_start_offset(appended.log_start_offset);
            }
            Ok(Err(refusal)) => refusal,
            Err(_) => ResponseError::RequestTimedOut.into(),
        },
        Err(refusal) => refusal,
    };
    let errors = if refusal.error == ResponseError::InvalidRecord {
        vec![
            BatchIndexAndErrorMessage::default()
                .with_batch_index(0)
                .with_batch_index_error_message(refusal.message.clone().map(text)),
        ]
    } else {
        Vec::new()
    };
    response
        .with_error_code(refusal.error.code())
        .with_error_message(refusal.message.map(text))
        .with_record_errors(errors)
}

async fn decided(admitted: Admitted) -> Result<Appended, Refusal> {
    let proposal = match admitted {
        Admitted::Proposed(proposal) => proposal,
        Admitted::Waiting(admitted) => {
            let lost = |_| Refusal::from(ResponseError::NotEnoughReplicas);
            admitted.await.map_err(lost)?.map_err(|error| {
                refuse(error, "the coordinator does not confirm the transaction")
            })?
        }
    };
    proposal.await.map_err(proposal_refusal)
}

fn proposal_refusal(error: ProposeError) -> Refusal {
    match error {
        ProposeError::NotLeader { .. } | ProposeError::OutcomeUnknown | ProposeError::Stopped => {
            ResponseError::NotLeaderOrFollower.into()
        }
        ProposeError::Timeout => ResponseError::RequestTimedOut.into(),
        ProposeError::Storage(reason) => refuse(ResponseError::KafkaStorageError, reason),
        ProposeError::Rejected(rejection) => match rejection {
            ProducerRejection::OutOfOrderSequence { expected, got } => refuse(
                ResponseError::OutOfOrderSequenceNumber,
                format!("sequence {got} where {expected} is due"),
            ),
            ProducerRejection::StaleEpoch { current, got } => refuse(
                ResponseError::InvalidProducerEpoch,
                format!("producer epoch {got}, the current one is {current}"),
            ),
            ProducerRejection::InvalidTxnState => refuse(
                ResponseError::InvalidTxnState,
                "the record is not part of a transaction that is under way",
            ),
            // Answers a marker, which no producer sends.
            ProducerRejection::CoordinatorFenced { .. } => {
                ResponseError::TransactionCoordinatorFenced.into()
            }
        },
    }
}

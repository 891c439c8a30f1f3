//! ElectLeaders (versions 0 to 2): preferred leaders. An unclean election never happens here.

use super::{RequestContext, text};
use crate::peer_calls::{Outcome, TopicIndex};
use crate::preferred;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use std::collections::BTreeMap;
use std::time::Duration;

/// Kafka's `ElectionType`; version 0 knows only the first.
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;
/// Longest an election is waited for, whatever the client asks for.
const WAIT_MAX_MS: i32 = 60_000;

pub async fn handle(
    context: &RequestContext,
    request: ElectLeadersRequest,
    _version: i16,
) -> ElectLeadersResponse {
    if !matches!(request.election_type, PREFERRED | UNCLEAN) {
        return ElectLeadersResponse::default()
            .with_error_code(ResponseError::InvalidRequest.code());
    }
    let all = request.topic_partitions.is_none();
    let asked = partitions(context, &request);
    let outcomes = if request.election_type == UNCLEAN {
        asked.iter().map(|p| unclean(context, p)).collect()
    } else {
        let limit = Duration::from_millis(request.timeout_ms.clamp(0, WAIT_MAX_MS) as u64);
        preferred::elect(&context.broker, &asked, limit).await
    };
    let mut by_topic: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for (partition, outcome) in asked.into_iter().zip(outcomes) {
        // Who asks for all wants to know of those where something was to be done.
        if all && outcome == Err(ResponseError::ElectionNotNeeded) {
            continue;
        }
        let results = by_topic.entry(partition.topic).or_default();
        results.push(result(partition.partition, outcome));
    }
    ElectLeadersResponse::default().with_replica_election_results(
        by_topic
            .into_iter()
            .map(|(topic, results)| {
                ReplicaElectionResult::default()
                    .with_topic(TopicName(text(topic)))
                    .with_partition_result(results)
            })
            .collect(),
    )
}

/// The partitions a request names, or all there are.
fn partitions(context: &RequestContext, request: &ElectLeadersRequest) -> Vec<TopicIndex> {
    let one = |topic: &str, partition| TopicIndex {
        topic: topic.to_owned(),
        partition,
    };
    match &request.topic_partitions {
        Some(topics) => topics
            .iter()
            .flat_map(|t| t.partitions.iter().map(move |p| one(&t.topic, *p)))
            .collect(),
        None => {
            let image = context.broker.metadata.load();
            let topics = image.topics.values();
            topics
                .flat_map(|t| (0..t.partitions.len()).map(move |p| one(&t.name, p as i32)))
                .collect()
        }
    }
}

/// With a leader there is nothing to do; without one, whatever could lead might lack acknowledged
/// records.
fn unclean(context: &RequestContext, asked: &TopicIndex) -> Outcome {
    let image = context.broker.metadata.load();
    let meta = image
        .topic(&asked.topic)
        .and_then(|topic| topic.partitions.get(usize::try_from(asked.partition).ok()?))
        .ok_or(ResponseError::UnknownTopicOrPartition)?;
    Err(match context.broker.node.leader_of(meta.group) {
        Some(_) => ResponseError::ElectionNotNeeded,
        None => ResponseError::EligibleLeadersNotAvailable,
    })
}

fn result(partition: i32, outcome: Outcome) -> PartitionResult {
    let result = PartitionResult::default().with_partition_id(partition);
    let Err(error) = outcome else { return result };
    let message = match error {
        ResponseError::UnknownTopicOrPartition => "No such topic or partition.",
        ResponseError::ElectionNotNeeded => "Leader election not needed for topic partition.",
        ResponseError::PreferredLeaderNotAvailable => {
            "The preferred replica is not alive, or has not caught up."
        }
        ResponseError::EligibleLeadersNotAvailable => {
            "A majority of the replicas is needed: an unclean election is never held."
        }
        _ => "The preferred replica does not lead yet.",
    };
    result
        .with_error_code(error.code())
        .with_error_message(Some(text(message)))
}

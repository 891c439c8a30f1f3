//! How request handlers change metadata: check, propose, wait.

use super::command::{
    AllocateProducerIds, AlterConfigs, AlterGroupConfigs, AlterReassignments, Command,
    ConfigChange, CreatePartitions, DeleteTopic, Envelope, ReassignmentChange, Refusal, Replicas,
    Reply, TopicRecord, UnregisterBroker, ids_of,
};
use super::image::Topic;
use super::placement::place;
use super::version;
use crate::broker::Broker;
use crate::config::topic::check_topic_settings;
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidelog_replication::{BrokerId, ProposeError};
use uuid::Uuid;

/// An error for a client: Kafka's code and a text.
#[derive(Debug, Clone)]
pub struct Refused {
    pub error: ResponseError,
    pub message: String,
}

impl Refused {
    pub fn new(error: ResponseError, message: impl Into<String>) -> Refused {
        Refused {
            error,
            message: message.into(),
        }
    }
}

/// A topic to be created, as a client asks for it.
#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    pub name: String,
    /// None: `num.partitions`.
    pub partitions: Option<i32>,
    /// None: `default.replication.factor`.
    pub replication_factor: Option<i16>,
    /// Replicas of each partition in order; overrides the two above.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
    pub configs: BTreeMap<String, String>,
}

/// How long a refusal may wait for what the metadata leader knows.
pub const CATCH_UP_LIMIT: Duration = Duration::from_secs(5);

/// What `attempt`, which begins with the metadata here, comes to. A refusal that depends on them is only given once
/// they are those of the metadata leader, as Kafka's controller would give it: this broker may not have heard yet
/// that a topic is gone, that one is there, or that a name stands for another one.
pub async fn judged_by_current<T, F: Future<Output = Result<T, Refused>>>(
    broker: &Broker,
    attempt: impl Fn() -> F,
) -> Result<T, Refused> {
    let refused = match attempt().await {
        Err(refused) if depends_on_metadata(refused.error) => refused,
        done => return done,
    };
    match broker.node.catch_up_with_metadata(CATCH_UP_LIMIT).await {
        Ok(()) => attempt().await,
        Err(_) => Err(Refused::new(
            ResponseError::NotController,
            format!(
                "The controller could not be asked whether this is still so; try again. {}",
                refused.message
            ),
        )),
    }
}

fn depends_on_metadata(error: ResponseError) -> bool {
    matches!(
        error,
        ResponseError::TopicAlreadyExists
            | ResponseError::UnknownTopicOrPartition
            | ResponseError::UnknownTopicId
            | ResponseError::InvalidPartitions
            | ResponseError::InvalidReplicationFactor
            | ResponseError::InvalidReplicaAssignment
    )
}

/// Proposes a command and turns a refusal into an error for the client.
pub async fn propose(broker: &Broker, command: Command) -> Result<Reply, Refused> {
    // Checked when it is applied as well; but brokers that do not know it cannot even take it.
    version::check(&broker.metadata.load(), &command)
        .map_err(|missing| Refused::new(ResponseError::UnsupportedVersion, missing))?;
    propose_as(broker, Envelope::of(command)).await
}

/// As [`propose`], for a command that may be used whatever the version in use.
pub async fn propose_as(broker: &Broker, envelope: Envelope) -> Result<Reply, Refused> {
    let versioned = envelope.version > version::FIRST;
    let reply = broker
        .node
        .propose_metadata(Bytes::from(envelope.encode_to_vec()), versioned)
        .await
        .map_err(|error| match error {
            ProposeError::NotLeader { .. } => Refused::new(
                ResponseError::NotController,
                "the metadata group has no leader at the moment",
            ),
            other => Refused::new(ResponseError::RequestTimedOut, other.to_string()),
        })?;
    let reply = Reply::decode(&reply[..]).map_err(|e| {
        Refused::new(
            ResponseError::UnknownServerError,
            format!("metadata reply: {e}"),
        )
    })?;
    match refused_as(reply.refusal()) {
        None => Ok(reply),
        Some(error) => Err(Refused::new(error, reply.message)),
    }
}

fn refused_as(refusal: Refusal) -> Option<ResponseError> {
    Some(match refusal {
        Refusal::None => return None,
        Refusal::TopicAlreadyExists => ResponseError::TopicAlreadyExists,
        Refusal::UnknownTopic => ResponseError::UnknownTopicOrPartition,
        Refusal::InvalidTopic => ResponseError::InvalidTopicException,
        Refusal::InvalidPartitions => ResponseError::InvalidPartitions,
        Refusal::DuplicateBroker | Refusal::ClusterMismatch => {
            ResponseError::DuplicateBrokerRegistration
        }
        Refusal::UnsupportedVersion => ResponseError::UnsupportedVersion,
        Refusal::InvalidReplicaAssignment => ResponseError::InvalidReplicaAssignment,
        Refusal::InvalidReplicationFactor => ResponseError::InvalidReplicationFactor,
        Refusal::NoReassignmentInProgress => ResponseError::NoReassignmentInProgress,
        Refusal::UnknownBroker => ResponseError::BrokerIdNotRegistered,
        Refusal::BrokerInUse => ResponseError::InvalidRequest,
        Refusal::InvalidFeatureLevel => ResponseError::InvalidUpdateVersion,
        Refusal::UnsupportedFeature => ResponseError::UnsupportedVersion,
    })
}

/// Begins, changes or, with an empty target, cancels moves of partitions; the outcome of each.
pub async fn alter_reassignments(
    broker: &Broker,
    changes: Vec<ReassignmentChange>,
    factor_may_change: bool,
) -> Result<Vec<Result<(), Refused>>, Refused> {
    let command = Command::AlterReassignments(AlterReassignments {
        changes,
        factor_may_change,
    });
    let reply = propose(broker, command).await?;
    let outcomes = reply.outcomes.into_iter().map(|outcome| {
        let error = refused_as(outcome.refusal());
        error.map_or(Ok(()), |error| Err(Refused::new(error, outcome.message)))
    });
    Ok(outcomes.collect())
}

/// Forgets a broker that has no replicas; its process ends, and its id is never used again.
pub async fn unregister_broker(broker: &Broker, id: BrokerId) -> Result<(), Refused> {
    let command = Command::UnregisterBroker(UnregisterBroker { id: id.0 });
    propose(broker, command).await.map(|_| ())
}

/// Kafka's rules for topic names (`Topic.validate`).
pub fn check_topic_name(name: &str) -> Result<(), Refused> {
    let reason = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > 249 {
        format!("the length of '{name}' is longer than the max allowed length 249")
    } else if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    {
        format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        )
    } else {
        return Ok(());
    };
    Err(Refused::new(
        ResponseError::InvalidTopicException,
        format!("Topic name is invalid: {reason}"),
    ))
}

/// Checks a new topic and places its replicas, without creating it.
pub fn plan_topic(broker: &Broker, new: &NewTopic) -> Result<TopicRecord, Refused> {
    check_topic_name(&new.name)?;
    check_topic_settings(&new.configs)
        .map_err(|reason| Refused::new(ResponseError::InvalidConfig, reason))?;
    let image = broker.metadata.load();
    if image.topics.contains_key(&new.name) {
        return Err(Refused::new(
            ResponseError::TopicAlreadyExists,
            format!("Topic '{}' already exists.", new.name),
        ));
    }
    let sets = match &new.assignments {
        Some(sets) => {
            check_assignments(&image.brokers.keys().copied().collect::<Vec<_>>(), sets)?;
            sets.clone()
        }
        None => {
            let count = new
                .partitions
                .unwrap_or(broker.config.int("num.partitions") as i32);
            check_count(broker, count)?;
            let factor = new
                .replication_factor
                .unwrap_or(broker.config.int("default.replication.factor") as i16);
            let factor = usize::try_from(factor).unwrap_or(0);
            place(&image, count as usize, factor)
                .map_err(|m| Refused::new(ResponseError::InvalidReplicationFactor, m))?
        }
    };
    Ok(TopicRecord {
        name: new.name.clone(),
        id: Uuid::new_v4().as_bytes().to_vec(),
        partitions: sets.iter().map(|s| replicas(s)).collect(),
        configs: new.configs.clone(),
        first_sequences: false,
    })
}

fn replicas(set: &[BrokerId]) -> Replicas {
    Replicas {
        brokers: ids_of(set),
        ..Replicas::default()
    }
}

fn check_count(broker: &Broker, count: i32) -> Result<(), Refused> {
    let most = broker.config.int("max.topic.partitions");
    if count < 1 {
        return Err(Refused::new(
            ResponseError::InvalidPartitions,
            "Number of partitions was set to an invalid non-positive value.",
        ));
    }
    if i64::from(count) > most {
        return Err(Refused::new(
            ResponseError::InvalidPartitions,
            format!("{count} partitions are more than max.topic.partitions = {most}"),
        ));
    }
    Ok(())
}

fn check_assignments(brokers: &[BrokerId], sets: &[Vec<BrokerId>]) -> Result<(), Refused> {
    let invalid = |m: String| Refused::new(ResponseError::InvalidReplicaAssignment, m);
    let size = sets.first().map_or(0, Vec::len);
    for (partition, set) in sets.iter().enumerate() {
        if set.is_empty() || set.len() != size {
            return Err(invalid(format!(
                "partition {partition} has {} replicas, partition 0 has {size}",
                set.len()
            )));
        }
        for (i, id) in set.iter().enumerate() {
            if !brokers.contains(id) {
                return Err(invalid(format!("broker {id} is not registered")));
            }
            if set[..i].contains(id) {
                return Err(invalid(format!(
                    "partition {partition} names broker {id} twice"
                )));
            }
        }
    }
    Ok(())
}

/// Creates a topic and waits, up to `limit`, until its partitions have leaders.
pub async fn create_topic(
    broker: &Broker,
    new: &NewTopic,
    limit: Duration,
) -> Result<Arc<Topic>, Refused> {
    let record = judged_by_current(broker, async || plan_topic(broker, new)).await?;
    propose(broker, Command::CreateTopic(record)).await?;
    let topic = broker.metadata.load().topic(&new.name).cloned();
    let topic = topic.ok_or_else(|| {
        Refused::new(
            ResponseError::UnknownTopicOrPartition,
            "the topic was deleted again",
        )
    })?;
    wait_for_leaders(broker, &topic, 0, limit).await;
    Ok(topic)
}

/// Waits until the partitions from `first` on have leaders. A creation is committed whether or not
/// this succeeds: clients retry on LEADER_NOT_AVAILABLE.
async fn wait_for_leaders(broker: &Broker, topic: &Topic, first: usize, limit: Duration) {
    let deadline = Instant::now() + limit;
    let mut changes = broker.node.watch_leaders();
    loop {
        changes.borrow_and_update();
        let all = topic.partitions[first..]
            .iter()
            .all(|p| broker.node.leader_of(p.group).is_some());
        let left = deadline.saturating_duration_since(Instant::now());
        if all || left.is_zero() {
            return;
        }
        let _ = tokio::time::timeout(left.min(Duration::from_millis(200)), changes.changed()).await;
    }
}

/// Deletes a topic.
pub async fn delete_topic(broker: &Broker, id: Uuid) -> Result<(), Refused> {
    let command = Command::DeleteTopic(DeleteTopic {
        id: id.as_bytes().to_vec(),
    });
    propose(broker, command).await.map(|_| ())
}

/// Checks a topic that is to have `count` partitions, and places the replicas of those that are new.
fn plan_partitions(
    broker: &Broker,
    name: &str,
    count: i32,
    assignments: Option<&[Vec<BrokerId>]>,
) -> Result<(Arc<Topic>, Vec<Vec<BrokerId>>), Refused> {
    let image = broker.metadata.load_full();
    let topic = image.topic(name).cloned().ok_or_else(|| {
        Refused::new(
            ResponseError::UnknownTopicOrPartition,
            format!("The topic '{name}' does not exist."),
        )
    })?;
    let present = topic.partitions.len();
    check_count(broker, count)?;
    let wanted = count as usize;
    if wanted <= present {
        return Err(Refused::new(
            ResponseError::InvalidPartitions,
            format!(
                "Topic currently has {present} partitions, which is not lower than the requested {wanted}."
            ),
        ));
    }
    let new = wanted - present;
    let sets = match assignments {
        Some(sets) => {
            if sets.len() != new {
                return Err(Refused::new(
                    ResponseError::InvalidReplicaAssignment,
                    format!(
                        "{new} partitions are added, {} assignments are given",
                        sets.len()
                    ),
                ));
            }
            check_assignments(&image.brokers.keys().copied().collect::<Vec<_>>(), sets)?;
            sets.to_vec()
        }
        None => {
            let factor = topic.partitions.first().map_or(1, |p| p.replicas.len());
            place(&image, new, factor)
                .map_err(|m| Refused::new(ResponseError::InvalidReplicationFactor, m))?
        }
    };
    Ok((topic, sets))
}

/// Grows a topic to `count` partitions; with `validate_only` only says whether it could.
pub async fn create_partitions(
    broker: &Broker,
    name: &str,
    count: i32,
    assignments: Option<Vec<Vec<BrokerId>>>,
    validate_only: bool,
    limit: Duration,
) -> Result<(), Refused> {
    let attempt = || async {
        let (topic, sets) = plan_partitions(broker, name, count, assignments.as_deref())?;
        let present = topic.partitions.len();
        let command = Command::CreatePartitions(CreatePartitions {
            topic_id: topic.id.as_bytes().to_vec(),
            from_count: present as u32,
            partitions: sets.iter().map(|s| replicas(s)).collect(),
        });
        if !validate_only {
            propose(broker, command).await?;
        }
        Ok(present)
    };
    let present = judged_by_current(broker, attempt).await?;
    if validate_only {
        return Ok(());
    }
    if let Some(grown) = broker.metadata.load().topic(name).cloned() {
        wait_for_leaders(broker, &grown, present, limit).await;
    }
    Ok(())
}

/// Changes configs of a topic, a broker, or all brokers.
pub async fn alter_configs(
    broker: &Broker,
    topic: Option<String>,
    of_broker: Option<BrokerId>,
    changes: Vec<(String, Option<String>)>,
) -> Result<(), Refused> {
    let command = Command::AlterConfigs(AlterConfigs {
        topic,
        broker: of_broker.map(|b| b.0),
        changes: changes
            .into_iter()
            .map(|(name, value)| ConfigChange { name, value })
            .collect(),
    });
    propose(broker, command).await.map(|_| ())
}

/// Sets or, with `None`, takes back configs of a consumer group.
pub async fn alter_group_configs(
    broker: &Broker,
    group: String,
    changes: Vec<(String, Option<String>)>,
) -> Result<(), Refused> {
    let command = Command::AlterGroupConfigs(AlterGroupConfigs {
        group,
        changes: changes
            .into_iter()
            .map(|(name, value)| ConfigChange { name, value })
            .collect(),
    });
    propose(broker, command).await.map(|_| ())
}

/// Producer ids this broker may hand out.
#[derive(Default)]
pub struct ProducerIds {
    block: tokio::sync::Mutex<std::ops::Range<i64>>,
}

impl ProducerIds {
    const BLOCK: u32 = 1000;

    /// A producer id never given out before.
    pub async fn next(&self, broker: &Broker) -> Result<i64, Refused> {
        let mut block = self.block.lock().await;
        if block.is_empty() {
            let command = Command::AllocateProducerIds(AllocateProducerIds { count: Self::BLOCK });
            let reply = propose(broker, command).await?;
            *block = reply.first_producer_id..reply.first_producer_id + i64::from(Self::BLOCK);
        }
        let id = block.start;
        block.start += 1;
        Ok(id)
    }
}

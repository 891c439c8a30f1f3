//! Administration: topics here, brokers that leave in `brokers`, settings in `configs`, elections of leaders in
//! `elections`, feature levels in `features`, consumer groups in `groups`, what brokers hold of partitions in
//! `partitions`, the metadata quorum in `quorum`, partitions that move in `reassignments`, transactions in
//! `transactions`.

mod brokers;
mod configs;
mod elections;
mod features;
mod groups;
mod partitions;
mod quorum;
mod reassignments;
mod transactions;

pub use brokers::ApiRange;
pub use elections::Election;
pub use features::Feature;
pub use groups::{GroupDescription, GroupListing, GroupMember};
pub use partitions::{PartitionProducer, ReplicaOnDisk};
pub use quorum::{MetadataQuorum, QuorumReplica};
pub use reassignments::Reassignment;
pub use transactions::{TransactionDescription, TransactionFilters, TransactionListing};

pub use configs::{ConfigChange, ConfigEntry, ConfigResource, ConfigSource};

use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::connection::Connection;
use crate::consumer::Isolation;
use crate::error::{Error, Result};
use crate::metadata::{BrokerInfo, TopicInfo};
use crate::offsets::{self, StartPosition};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use std::sync::Arc;
use tokio::time::Instant;

/// From this version on topics to delete are listed as states, before as names.
const FIRST_DELETE_BY_STATE: i16 = 6;

/// A topic to create.
#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    /// 1 to 249 characters of `a-z A-Z 0-9 . _ -`, neither `.` nor `..`.
    pub name: String,
    /// None: the cluster's `num.partitions`.
    pub partitions: Option<i32>,
    /// None: the cluster's `default.replication.factor`.
    pub replication_factor: Option<i16>,
    /// Names and values of the topic's own settings.
    pub configs: Vec<(String, String)>,
    /// Brokers of each partition, the preferred leader first; excludes the two counts.
    pub assignments: Vec<Vec<i32>>,
}

/// The cluster and its brokers.
#[derive(Debug, Clone)]
pub struct ClusterInfo {
    /// Chosen when the cluster was formed; the same for ever.
    pub id: String,
    /// The broker that carries out changes of topics; None during an election. Brokers of Apache
    /// Kafka in KRaft mode name any of them, and each passes changes on.
    pub controller: Option<i32>,
    /// The brokers that are up, by id.
    pub brokers: Vec<BrokerInfo>,
}

/// Administers a cluster. Every call has the client's call timeout as its deadline.
#[derive(Debug, Clone)]
pub struct Admin {
    cluster: Cluster,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

impl Admin {
    /// # Errors
    /// [`Error::NoBroker`] when no bootstrap address answers.
    pub async fn new(client: ClientConfig) -> Result<Admin> {
        let cluster = Cluster::connect(client).await?;
        Ok(Admin { cluster })
    }

    /// Creates a topic, or only checks whether it could be.
    ///
    /// # Errors
    /// What the broker says against it, such as `TopicAlreadyExists`; after a lost connection that
    /// may be the echo of an attempt that succeeded.
    pub async fn create_topic(&self, topic: &NewTopic, validate_only: bool) -> Result<()> {
        let assignments = topic
            .assignments
            .iter()
            .enumerate()
            .map(|(index, brokers)| {
                CreatableReplicaAssignment::default()
                    .with_partition_index(index as i32)
                    .with_broker_ids(brokers.iter().copied().map(BrokerId).collect())
            });
        let configs = topic.configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
        });
        let creatable = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(topic.partitions.unwrap_or(-1))
            .with_replication_factor(topic.replication_factor.unwrap_or(-1))
            .with_assignments(assignments.collect())
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![creatable])
            .with_timeout_ms(self.broker_timeout_ms())
            .with_validate_only(validate_only);
        self.ask_controller("create the topic", &request, |connection, response| {
            let result = response.topics.first();
            let result = result.ok_or_else(|| left_out(connection, &topic.name))?;
            let what = format!("create topic {:?}", topic.name);
            Error::check(what, result.error_code, result.error_message.as_deref())
        })
        .await
    }

    /// Deletes topics with all their records.
    ///
    /// A broker that was asked and did not answer may do it late: [`Admin::delete_topic_by_id`] cannot hit
    /// a topic that has got the name meanwhile.
    ///
    /// # Errors
    /// The outer one when no broker could be asked; one for each topic otherwise.
    pub async fn delete_topics(&self, names: &[String]) -> Result<Vec<(String, Result<()>)>> {
        let states = names.iter().map(|name| {
            let name = Some(topic_name(name));
            DeleteTopicState::default().with_name(name)
        });
        let states: Vec<_> = states.collect();
        let mut retry = self.cluster.retry("delete the topics");
        loop {
            let error = match self.try_delete(&states, retry.deadline()).await {
                Ok(results) => {
                    let again = results.iter().find_map(|(_, result)| {
                        let error = result.as_ref().err()?;
                        error.is_transient().then(|| error.clone())
                    });
                    match again {
                        Some(error) if results.len() == 1 => error,
                        _ => return Ok(results),
                    }
                }
                Err(error) => error,
            };
            retry.pause(error).await?;
            self.look_again().await;
        }
    }

    /// Deletes the topic that has this id, and no other one that may have its name by now.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`] when there is no topic with that id (any more); [`Error::Unsupported`] when the
    /// broker is too old to be told ids (before Kafka 2.8).
    pub async fn delete_topic_by_id(&self, id: [u8; 16]) -> Result<()> {
        let id = uuid::Uuid::from_bytes(id);
        let states = [DeleteTopicState::default().with_topic_id(id)];
        let mut retry = self.cluster.retry("delete the topic");
        loop {
            let deleted = self.try_delete(&states, retry.deadline()).await;
            let deleted =
                deleted.map(|each| each.into_iter().next().map_or(Ok(()), |(_, one)| one));
            let error = match deleted {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if error.is_unknown_topic() => {
                    return Err(as_unknown_topic(error, &id.to_string()));
                }
                Ok(Err(error)) | Err(error) => error,
            };
            retry.pause(error).await?;
            self.look_again().await;
        }
    }

    /// Asks once for topics to be deleted.
    async fn try_delete(
        &self,
        states: &[DeleteTopicState],
        deadline: Instant,
    ) -> Result<Vec<(String, Result<()>)>> {
        let connection = self.cluster.controller().await?;
        let version = connection.version::<DeleteTopicsRequest>(i16::MAX)?;
        let mut request = DeleteTopicsRequest::default().with_timeout_ms(self.broker_timeout_ms());
        if version >= FIRST_DELETE_BY_STATE {
            request.topics = states.to_vec();
        } else {
            let names: Option<Vec<_>> = states.iter().map(|state| state.name.clone()).collect();
            request.topic_names = names.ok_or_else(|| Error::Unsupported {
                address: connection.address().clone(),
                api: DeleteTopicsRequest::KEY,
            })?;
        }
        let response = self.cluster.send(&connection, &request, deadline).await?;
        let results = response.responses.into_iter().map(|result| {
            let name = result.name.map(|n| n.0.to_string()).unwrap_or_default();
            let what = format!("delete topic {name:?}");
            let message = result.error_message.as_deref();
            let checked = Error::check(what, result.error_code, message);
            let checked = checked.map_err(|error| as_unknown_topic(error, &name));
            (name, checked)
        });
        Ok(results.collect())
    }

    /// Every topic, by name.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn list_topics(&self) -> Result<Vec<Arc<TopicInfo>>> {
        self.cluster.all_topics().await
    }

    /// One topic with its partitions.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`] when it does not exist.
    pub async fn describe_topic(&self, name: &str) -> Result<Arc<TopicInfo>> {
        self.cluster.topic_now(name).await
    }

    /// Gives a topic more partitions, up to `total`.
    ///
    /// # Errors
    /// What the broker says against it.
    pub async fn add_partitions(&self, topic: &str, total: i32) -> Result<()> {
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![
                CreatePartitionsTopic::default()
                    .with_name(topic_name(topic))
                    .with_count(total)
                    .with_assignments(None),
            ])
            .with_timeout_ms(self.broker_timeout_ms());
        self.ask_controller("add partitions", &request, |connection, response| {
            let result = response.results.first();
            let result = result.ok_or_else(|| left_out(connection, topic))?;
            let what = format!("add partitions to topic {topic:?}");
            let added = Error::check(what, result.error_code, result.error_message.as_deref());
            match added.map_err(|error| as_unknown_topic(error, topic)) {
                Err(error @ Error::UnknownTopic { .. }) => Ok(Err(error)),
                added => added.map(Ok),
            }
        })
        .await?
    }

    /// The cluster as one broker sees it.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn describe_cluster(&self) -> Result<ClusterInfo> {
        let mut retry = self.cluster.retry("describe the cluster");
        let response = loop {
            let attempt = async {
                let connection = self.cluster.any().await?;
                let request = DescribeClusterRequest::default();
                let deadline = retry.deadline();
                let response = self.cluster.send(&connection, &request, deadline).await?;
                let message = response.error_message.as_deref();
                Error::check("describe the cluster", response.error_code, message)?;
                Ok(response)
            };
            match attempt.await {
                Ok(response) => break response,
                Err(error) => retry.pause(error).await?,
            }
        };
        let brokers = response.brokers.into_iter().map(|broker| BrokerInfo {
            id: broker.broker_id.0,
            host: broker.host.to_string(),
            port: broker.port.try_into().unwrap_or(0),
            rack: broker.rack.map(|rack| rack.to_string()),
        });
        let mut brokers: Vec<_> = brokers.collect();
        brokers.sort_by_key(|broker| broker.id);
        Ok(ClusterInfo {
            id: response.cluster_id.to_string(),
            controller: (response.controller_id.0 >= 0).then_some(response.controller_id.0),
            brokers,
        })
    }

    /// The offset of each place: topic, partition, and what is asked for.
    ///
    /// # Errors
    /// When one cannot be found before the call's deadline.
    pub async fn offsets(
        &self,
        places: impl IntoIterator<Item = (String, i32, StartPosition)>,
    ) -> Result<Vec<(String, i32, i64)>> {
        let places = places.into_iter().map(|(topic, p, at)| ((topic, p), at));
        let found = offsets::find(&self.cluster, places.collect(), Isolation::default()).await?;
        Ok(found.into_iter().map(|((t, p), o)| (t, p, o)).collect())
    }

    fn broker_timeout_ms(&self) -> i32 {
        let limit = self.cluster.config().request_timeout;
        limit.as_millis().try_into().unwrap_or(i32::MAX)
    }

    /// Asks the controller, and again while there is no answer, or `read` finds an error in it that may pass.
    async fn ask_controller<R: Request, T>(
        &self,
        what: &'static str,
        request: &R,
        read: impl Fn(&Connection, R::Response) -> Result<T>,
    ) -> Result<T> {
        let mut retry = self.cluster.retry(what);
        loop {
            let attempt = async {
                let connection = self.cluster.controller().await?;
                let sent = self.cluster.send(&connection, request, retry.deadline());
                read(&connection, sent.await?)
            };
            match attempt.await {
                Ok(done) => return Ok(done),
                Err(error) => retry.pause(error).await?,
            }
            self.look_again().await;
        }
    }

    /// Learns the controller anew; the attempt that follows tells why, should this fail.
    async fn look_again(&self) {
        let _ = self.cluster.refresh().await;
    }
}

/// The controller knows every topic: that it does not is an answer, not a reason to ask again.
fn as_unknown_topic(error: Error, topic: &str) -> Error {
    match error.code() {
        Some(code) if code.is_unknown_topic() => Error::UnknownTopic {
            topic: topic.to_owned(),
        },
        _ => error,
    }
}

fn left_out(connection: &crate::connection::Connection, name: &str) -> Error {
    Error::Malformed {
        address: connection.address().clone(),
        reason: format!("{name:?} is not in the answer"),
    }
}

//! All brokers of a cluster: the cached view of it, and a connection to each broker as needed.

use crate::config::ClientConfig;
use crate::connection::Connection;
use crate::error::{Error, ErrorCode, Result};
use crate::metadata::{Metadata, PartitionInfo, TopicInfo};
use crate::retry::Retry;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::time::Instant;

/// What a connection is for. A broker answers the requests of one connection in order, so a long
/// poll must not stand before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Main,
    Fetch,
    /// Joining a group waits for its other members.
    Group,
    /// Metadata: a broker that hangs is found out by asking another, not by waiting in its queue.
    Metadata,
}

type Opening = Shared<BoxFuture<'static, Result<Connection>>>;

/// A handle; clones share connections and view.
#[derive(Clone)]
pub(crate) struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    metadata: RwLock<Arc<Metadata>>,
    connections: Mutex<HashMap<(String, Lane), Opening>>,
    /// Topics someone asked for: a refresh asks for these again.
    wanted: Mutex<HashSet<String>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bootstrap = &self.inner.config.bootstrap;
        f.debug_struct("Cluster")
            .field("bootstrap", bootstrap)
            .finish_non_exhaustive()
    }
}

/// Which topics a metadata request asks for.
enum Ask<'a> {
    /// Brokers only.
    None,
    All,
    Some(&'a [String]),
}

impl Cluster {
    /// Learns the cluster from the first bootstrap address that answers.
    ///
    /// # Errors
    /// [`Error::NoBroker`] at once when none does: whoever starts a client wants to know.
    pub(crate) async fn connect(config: ClientConfig) -> Result<Cluster> {
        config.check()?;
        let cluster = Cluster {
            inner: Arc::new(Inner {
                config,
                metadata: RwLock::new(Arc::new(Metadata::empty())),
                connections: Mutex::default(),
                wanted: Mutex::default(),
            }),
        };
        cluster.ask(Ask::None, false).await?;
        Ok(cluster)
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    pub(crate) fn metadata(&self) -> Arc<Metadata> {
        self.inner.metadata.read().clone()
    }

    pub(crate) fn retry(&self, what: &'static str) -> Retry {
        Retry::new(what, &self.inner.config)
    }

    /// The topic as a broker knows it now.
    pub(crate) async fn topic_now(&self, name: &str) -> Result<Arc<TopicInfo>> {
        {
            let mut metadata = self.inner.metadata.write();
            Arc::make_mut(&mut metadata).topics.remove(name);
        }
        self.topic(name, false).await
    }

    /// The topic as cached, fetched first if it is not or the view is old.
    pub(crate) async fn topic(&self, name: &str, create: bool) -> Result<Arc<TopicInfo>> {
        if let Some(topic) = self.cached_topic(name) {
            return Ok(topic);
        }
        let mut retry = self.retry("look up the topic");
        loop {
            let names = [name.to_owned()];
            let tried = self.ask(Ask::Some(&names), create).await;
            let error = match tried {
                Ok(errors) => match (self.metadata().topics.get(name), errors.get(name)) {
                    (Some(topic), _) if !topic.partitions.is_empty() => return Ok(topic.clone()),
                    (_, Some(code)) if !code.is_unknown_topic() => {
                        Error::broker(format!("topic {name:?}"), *code)
                    }
                    _ => Error::UnknownTopic {
                        topic: name.to_owned(),
                    },
                },
                Err(error) => error,
            };
            retry.pause(error).await?;
        }
    }

    /// Those of the topics that exist, as a broker knows them now.
    pub(crate) async fn existing_topics(&self, names: &[String]) -> Result<Vec<Arc<TopicInfo>>> {
        self.ask(Ask::Some(names), false).await?;
        let metadata = self.metadata();
        let found = names.iter().filter_map(|name| metadata.topics.get(name));
        Ok(found.cloned().collect())
    }

    /// None when the topic or the whole view should be fetched anew.
    pub(crate) fn cached_topic(&self, name: &str) -> Option<Arc<TopicInfo>> {
        let metadata = self.inner.metadata.read();
        if metadata.fetched_at.elapsed() > self.inner.config.metadata_age_max {
            return None;
        }
        metadata.topics.get(name).cloned()
    }

    /// Fetches the view anew, with every topic asked for so far.
    pub(crate) async fn refresh(&self) -> Result<HashMap<String, ErrorCode>> {
        let names: Vec<String> = self.inner.wanted.lock().iter().cloned().collect();
        let ask = if names.is_empty() {
            Ask::None
        } else {
            Ask::Some(&names)
        };
        self.ask(ask, false).await
    }

    /// Every topic of the cluster, by name.
    pub(crate) async fn all_topics(&self) -> Result<Vec<Arc<TopicInfo>>> {
        self.ask(Ask::All, false).await?;
        let mut topics: Vec<_> = self.metadata().topics.values().cloned().collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// The partition and the broker that leads it.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`] when the topic is not in the cached view.
    pub(crate) fn leader(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<(Arc<TopicInfo>, PartitionInfo, i32)> {
        let info = self.metadata().topics.get(topic).cloned();
        let info = info.ok_or_else(|| Error::UnknownTopic {
            topic: topic.to_owned(),
        })?;
        let found = info
            .partition(partition)
            .ok_or_else(|| Error::UnknownPartition {
                topic: topic.to_owned(),
                partition,
                count: info.partitions.len(),
            })?
            .clone();
        let leader = found.leader.ok_or_else(|| Error::NoLeader {
            topic: topic.to_owned(),
            partition,
        })?;
        Ok((info, found, leader))
    }

    /// A connection to broker `id`.
    pub(crate) async fn broker(&self, id: i32, lane: Lane) -> Result<Connection> {
        let address = self.metadata().brokers.get(&id).map(|b| b.address());
        let address = address.ok_or_else(|| Error::Connection {
            address: format!("broker {id}").into(),
            reason: "the cluster does not list it".to_owned(),
        })?;
        self.connection(address, lane).await
    }

    /// A connection to any broker, tried in turn: those connected, those known, those to start from.
    pub(crate) async fn any(&self) -> Result<Connection> {
        self.any_of(Lane::Main).await
    }

    async fn any_of(&self, lane: Lane) -> Result<Connection> {
        let mut last = "no address is configured".to_owned();
        let addresses = self.addresses(lane);
        for address in &addresses {
            match self.connection(address.clone(), lane).await {
                Ok(connection) => return Ok(connection),
                Err(Error::Connection { reason, .. }) => last = reason,
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoBroker {
            addresses: addresses.join(", "),
            last,
        })
    }

    /// The controller, or any broker when none is known (each passes on what the controller does).
    pub(crate) async fn controller(&self) -> Result<Connection> {
        match self.metadata().controller {
            Some(id) => match self.broker(id, Lane::Main).await {
                Ok(connection) => Ok(connection),
                Err(_) => self.any().await,
            },
            None => self.any().await,
        }
    }

    /// Sends `request` in the highest shared version to `connection` under the call's deadline.
    pub(crate) async fn send<R: Request>(
        &self,
        connection: &Connection,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Response> {
        let version = connection.version::<R>(i16::MAX)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = self.inner.config.request_timeout.min(left);
        connection.send(version, request, limit).await
    }

    fn addresses(&self, lane: Lane) -> Vec<String> {
        let metadata = self.metadata();
        let known = metadata.brokers.values().map(|b| b.address());
        let mut addresses: Vec<String> = Vec::new();
        for address in known.chain(self.inner.config.bootstrap.iter().cloned()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let connections = self.inner.connections.lock();
        addresses.sort_by_key(|address| {
            let opened = connections.get(&(address.clone(), lane));
            !opened.is_some_and(|o| matches!(o.peek(), Some(Ok(c)) if !c.is_closed()))
        });
        addresses
    }

    async fn connection(&self, address: String, lane: Lane) -> Result<Connection> {
        let opening = {
            let mut connections = self.inner.connections.lock();
            let current = connections.get(&(address.clone(), lane));
            let usable = current.filter(|opening| match opening.peek() {
                Some(Ok(connection)) => !connection.is_closed(),
                Some(Err(_)) => false,
                None => true,
            });
            match usable {
                Some(opening) => opening.clone(),
                None => {
                    let config = self.inner.config.clone();
                    let to = address.clone();
                    let open = async move { Connection::open(&to, &config).await };
                    let opening = open.boxed().shared();
                    connections.insert((address, lane), opening.clone());
                    opening
                }
            }
        };
        opening.await
    }

    /// Asks brokers in turn until one answers, and merges the answer into the view.
    async fn ask(&self, ask: Ask<'_>, create: bool) -> Result<HashMap<String, ErrorCode>> {
        let mut last = None;
        for _ in 0..self.addresses(Lane::Metadata).len().max(1) {
            let connection = self.any_of(Lane::Metadata).await?;
            let deadline = Instant::now() + self.inner.config.metadata_timeout;
            match self.ask_one(&connection, &ask, create, deadline).await {
                Ok(response) => return Ok(self.learn(response, &ask)),
                Err(error @ Error::Connection { .. }) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::NoBroker {
            addresses: self.inner.config.bootstrap.join(", "),
            last: "none left to ask".to_owned(),
        }))
    }

    async fn ask_one(
        &self,
        connection: &Connection,
        ask: &Ask<'_>,
        create: bool,
        deadline: Instant,
    ) -> Result<MetadataResponse> {
        let names: Option<&[String]> = match ask {
            Ask::None => Some(&[]),
            Ask::All => None,
            Ask::Some(names) => Some(names),
        };
        let topics = names.map(|names| {
            let topics = names.iter().map(|name| {
                let name = TopicName(StrBytes::from_string(name.clone()));
                MetadataRequestTopic::default().with_name(Some(name))
            });
            topics.collect()
        });
        let request = MetadataRequest::default()
            .with_topics(topics)
            .with_allow_auto_topic_creation(create);
        self.send(connection, &request, deadline).await
    }

    fn learn(&self, response: MetadataResponse, ask: &Ask<'_>) -> HashMap<String, ErrorCode> {
        if let Ask::Some(names) = ask {
            let mut wanted = self.inner.wanted.lock();
            wanted.extend(names.iter().cloned());
        }
        let mut metadata = self.inner.metadata.write();
        // A broker that has only just started may not know the others yet.
        if response.brokers.is_empty() && !metadata.brokers.is_empty() {
            return HashMap::new();
        }
        let (merged, errors) = metadata.merge(response, matches!(ask, Ask::All));
        *metadata = Arc::new(merged);
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_without_a_port_are_refused_before_any_connection() {
        for bad in ["", "localhost", "localhost:", "localhost:0", "a:1,b:70000"] {
            let error = Cluster::connect(ClientConfig::new(bad)).await.unwrap_err();
            assert!(matches!(error, Error::Config { .. }), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn a_cluster_that_nobody_serves_is_reported_at_once() {
        // Bound and closed again: nobody listens there.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let error = Cluster::connect(ClientConfig::new(&address))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NoBroker { .. }), "{error}");
        assert!(error.to_string().contains(&address));
    }
}

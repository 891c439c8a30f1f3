//! Settings of topics, brokers and groups.

use super::{Admin, as_unknown_topic, left_out, text};
use crate::cluster::Lane;
use crate::connection::Connection;
use crate::error::{Error, Result};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    DescribeConfigsRequest, IncrementalAlterConfigsRequest, ListConfigResourcesRequest,
};
use kafka_protocol::protocol::Request;
use std::fmt;

/// Before this version ListConfigResources knows client metrics only.
const FIRST_LIST_OF_ALL_KINDS: i16 = 1;

/// What has settings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ConfigResource {
    /// A topic, by its name.
    Topic(String),
    /// A broker, by its id; it answers for its own settings itself.
    Broker(i32),
    /// The defaults of all brokers, as they are changed while brokers run.
    AllBrokers,
    /// The levels of a broker's loggers, by the broker's id (Kafka's `BROKER_LOGGER`, KIP-412).
    BrokerLogger(i32),
    /// A subscription to metrics of clients, by its name (KIP-714).
    ClientMetrics(String),
    /// A group, by its id (KIP-848).
    Group(String),
}

impl ConfigResource {
    /// None for kinds of resources that this client has no name for.
    fn of(kind: i8, name: &str) -> Option<ConfigResource> {
        Some(match kind {
            2 => ConfigResource::Topic(name.to_owned()),
            4 if name.is_empty() => ConfigResource::AllBrokers,
            4 => ConfigResource::Broker(name.parse().ok()?),
            8 => ConfigResource::BrokerLogger(name.parse().ok()?),
            16 => ConfigResource::ClientMetrics(name.to_owned()),
            32 => ConfigResource::Group(name.to_owned()),
            _ => return None,
        })
    }

    fn kind(&self) -> i8 {
        match self {
            ConfigResource::Topic(_) => 2,
            ConfigResource::Broker(_) | ConfigResource::AllBrokers => 4,
            ConfigResource::BrokerLogger(_) => 8,
            ConfigResource::ClientMetrics(_) => 16,
            ConfigResource::Group(_) => 32,
        }
    }

    fn as_unknown(&self, error: Error) -> Error {
        match self {
            ConfigResource::Topic(name) => as_unknown_topic(error, name),
            _ => error,
        }
    }

    fn name(&self) -> String {
        match self {
            ConfigResource::Topic(name)
            | ConfigResource::ClientMetrics(name)
            | ConfigResource::Group(name) => name.clone(),
            ConfigResource::Broker(id) | ConfigResource::BrokerLogger(id) => id.to_string(),
            ConfigResource::AllBrokers => String::new(),
        }
    }
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigResource::Topic(name) => write!(f, "topic {name:?}"),
            ConfigResource::Broker(id) => write!(f, "broker {id}"),
            ConfigResource::AllBrokers => f.write_str("all brokers"),
            ConfigResource::BrokerLogger(id) => write!(f, "loggers of broker {id}"),
            ConfigResource::ClientMetrics(name) => write!(f, "client metrics {name:?}"),
            ConfigResource::Group(name) => write!(f, "group {name:?}"),
        }
    }
}

/// Where a value comes from, by Kafka's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigSource {
    /// Set on the topic itself (Kafka's `DYNAMIC_TOPIC_CONFIG`).
    Topic,
    /// Set on this broker while it runs.
    DynamicBroker,
    /// Set on all brokers while they run.
    DynamicDefaultBroker,
    /// From the file or command line the broker was started with.
    StaticBroker,
    /// Nobody has set it.
    Default,
    /// Set on the group itself.
    Group,
    /// An id this client has no name for, such as 7, a client metrics subscription.
    Other(i8),
}

impl ConfigSource {
    fn of(id: i8) -> ConfigSource {
        match id {
            1 => ConfigSource::Topic,
            2 => ConfigSource::DynamicBroker,
            3 => ConfigSource::DynamicDefaultBroker,
            4 => ConfigSource::StaticBroker,
            5 => ConfigSource::Default,
            8 => ConfigSource::Group,
            other => ConfigSource::Other(other),
        }
    }
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigSource::Topic => f.write_str("topic"),
            ConfigSource::DynamicBroker => f.write_str("broker, changed while running"),
            ConfigSource::DynamicDefaultBroker => f.write_str("all brokers, changed while running"),
            ConfigSource::StaticBroker => f.write_str("broker"),
            ConfigSource::Default => f.write_str("default"),
            ConfigSource::Group => f.write_str("group"),
            ConfigSource::Other(id) => write!(f, "source {id}"),
        }
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Kafka's name of the setting, such as `retention.ms`.
    pub name: String,
    /// None for what is kept secret.
    pub value: Option<String>,
    /// Who has set the value that holds.
    pub source: ConfigSource,
    /// Whether only a restart of the broker changes it.
    pub read_only: bool,
    /// Whether it is a secret; its value is None then.
    pub sensitive: bool,
}

/// One change; other settings stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// The setting's name and the value it gets, as text in Kafka's own form.
    Set(String, String),
    /// Back to the default.
    Delete(String),
}

impl Admin {
    /// The settings of a topic or broker, by name.
    ///
    /// # Errors
    /// What the broker says against it.
    pub async fn describe_configs(&self, of: &ConfigResource) -> Result<Vec<ConfigEntry>> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(of.kind())
            .with_resource_name(text(&of.name()))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let mut retry = self.cluster.retry("describe the settings");
        loop {
            let attempt = async {
                let connection = self.broker_for(of).await?;
                let deadline = retry.deadline();
                let response = self.cluster.send(&connection, &request, deadline).await?;
                let result = response.results.into_iter().next();
                let result = result.ok_or_else(|| left_out(&connection, &of.name()))?;
                let message = result.error_message.as_deref();
                Error::check(format!("settings of {of}"), result.error_code, message)?;
                Ok(result.configs)
            };
            let error = match attempt.await {
                Ok(configs) => {
                    let entries = configs.into_iter().map(|config| ConfigEntry {
                        name: config.name.to_string(),
                        value: config.value.map(|value| value.to_string()),
                        source: ConfigSource::of(config.config_source),
                        read_only: config.read_only,
                        sensitive: config.is_sensitive,
                    });
                    let mut entries: Vec<_> = entries.collect();
                    entries.sort_by(|a, b| a.name.cmp(&b.name));
                    return Ok(entries);
                }
                Err(error) => error,
            };
            retry.pause(error).await?;
            self.look_again().await;
        }
    }

    /// Changes settings of a topic or broker, all or none.
    ///
    /// # Errors
    /// What the broker says against it.
    pub async fn alter_configs(
        &self,
        of: &ConfigResource,
        changes: &[ConfigChange],
        validate_only: bool,
    ) -> Result<()> {
        let configs = changes.iter().map(|change| match change {
            ConfigChange::Set(name, value) => AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(0)
                .with_value(Some(text(value))),
            ConfigChange::Delete(name) => AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(1)
                .with_value(None),
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(of.kind())
            .with_resource_name(text(&of.name()))
            .with_configs(configs.collect());
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(vec![resource])
            .with_validate_only(validate_only);
        let mut retry = self.cluster.retry("alter the settings");
        loop {
            let attempt = async {
                let connection = self.broker_for(of).await?;
                let deadline = retry.deadline();
                let response = self.cluster.send(&connection, &request, deadline).await?;
                let result = response.responses.first();
                let result = result.ok_or_else(|| left_out(&connection, &of.name()))?;
                let what = format!("alter the settings of {of}");
                Error::check(what, result.error_code, result.error_message.as_deref())
            };
            let Err(error) = attempt.await else {
                return Ok(());
            };
            let error = of.as_unknown(error);
            if matches!(error, Error::UnknownTopic { .. }) {
                return Err(error);
            }
            retry.pause(error).await?;
            self.look_again().await;
        }
    }

    /// Everything that has settings or could have: each topic and broker, and those groups and
    /// metrics subscriptions for which some are set. In order of kind, then name (KIP-1142).
    ///
    /// # Errors
    /// [`Error::Unsupported`] from brokers older than Apache Kafka 4.1.
    pub async fn list_config_resources(&self) -> Result<Vec<ConfigResource>> {
        let request = ListConfigResourcesRequest::default();
        let mut retry = self.cluster.retry("list what has settings");
        let response = loop {
            let attempt = async {
                let connection = self.cluster.any().await?;
                let version = connection.version::<ListConfigResourcesRequest>(i16::MAX)?;
                if version < FIRST_LIST_OF_ALL_KINDS {
                    return Err(Error::Unsupported {
                        address: connection.address().clone(),
                        api: ListConfigResourcesRequest::KEY,
                    });
                }
                let deadline = retry.deadline();
                let response = self.cluster.send(&connection, &request, deadline).await?;
                Error::check("list what has settings", response.error_code, None)?;
                Ok(response)
            };
            match attempt.await {
                Ok(response) => break response,
                Err(error) => retry.pause(error).await?,
            }
            self.look_again().await;
        };
        let found = response.config_resources.iter();
        let found = found.filter_map(|r| ConfigResource::of(r.resource_type, &r.resource_name));
        let mut found: Vec<_> = found.collect();
        found.sort();
        Ok(found)
    }

    /// A broker answers for its own settings itself.
    async fn broker_for(&self, of: &ConfigResource) -> Result<Connection> {
        match of {
            ConfigResource::Broker(id) | ConfigResource::BrokerLogger(id) => {
                self.cluster.broker(*id, Lane::Main).await
            }
            _ => self.cluster.controller().await,
        }
    }
}

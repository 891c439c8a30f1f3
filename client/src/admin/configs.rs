//! Settings of topics, brokers and groups.

use super::{Admin, as_unknown_topic, left_out, text};
use crate::cluster::Lane;
use crate::connection::Connection;
use crate::error::{Error, Result};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use std::fmt;

/// What has settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic, by its name.
    Topic(String),
    /// A broker, by its id; it answers for its own settings itself.
    Broker(i32),
    /// The defaults of all brokers, as they are changed while brokers run.
    AllBrokers,
    /// A consumer group.
    Group(String),
}

impl ConfigResource {
    fn kind(&self) -> i8 {
        match self {
            ConfigResource::Topic(_) => 2,
            ConfigResource::Broker(_) | ConfigResource::AllBrokers => 4,
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
            ConfigResource::Topic(name) | ConfigResource::Group(name) => name.clone(),
            ConfigResource::Broker(id) => id.to_string(),
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

    /// A broker answers for its own settings itself.
    async fn broker_for(&self, of: &ConfigResource) -> Result<Connection> {
        match of {
            ConfigResource::Topic(_) | ConfigResource::AllBrokers | ConfigResource::Group(_) => {
                self.cluster.controller().await
            }
            ConfigResource::Broker(id) => self.cluster.broker(*id, Lane::Main).await,
        }
    }
}

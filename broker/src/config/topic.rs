//! A topic's effective settings.

use super::BrokerConfig;
use super::table::{TOPIC, TopicSetting, check, nearest, topic_setting};
use crate::metadata::MetadataImage;
use std::collections::BTreeMap;
use tidelog_replication::BrokerId;
use tidelog_storage::log::LogConfig;

/// Typed settings of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    pub compact: bool,
    pub delete: bool,
    pub retention_ms: i64,
    pub retention_bytes: i64,
    pub max_message_bytes: usize,
    pub log_append_time: bool,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub log: LogConfig,
}

impl TopicConfig {
    /// The topic's own settings over the broker's dynamic ones over its static ones.
    pub fn resolve(
        own: &BTreeMap<String, String>,
        broker: &BrokerConfig,
        image: &MetadataImage,
    ) -> TopicConfig {
        let text = |name: &str| -> String {
            topic_setting(name).map_or(String::new(), |s| effective(s, own, broker, image).0)
        };
        let int = |name: &str| text(name).trim().parse::<i64>().unwrap_or(0);
        let policy = text("cleanup.policy");
        TopicConfig {
            compact: policy.contains("compact"),
            delete: policy.contains("delete"),
            retention_ms: int("retention.ms"),
            retention_bytes: int("retention.bytes"),
            max_message_bytes: int("max.message.bytes") as usize,
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: int("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: int("message.timestamp.after.max.ms"),
            log: LogConfig {
                segment_bytes: int("segment.bytes") as u64,
                segment_ms: int("segment.ms"),
                index_interval_bytes: int("index.interval.bytes") as u32,
                producer_id_expiration_ms: broker.int("producer.id.expiration.ms"),
            },
        }
    }
}

/// Which layer an effective topic setting comes from, as DescribeConfigs reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicSource {
    Topic,
    DynamicBroker,
    DynamicDefaultBroker,
    StaticBroker,
    Default,
}

/// Effective value of one topic setting.
pub fn effective(
    setting: &TopicSetting,
    own: &BTreeMap<String, String>,
    broker: &BrokerConfig,
    image: &MetadataImage,
) -> (String, TopicSource) {
    if let Some(value) = own.get(setting.name) {
        return (value.clone(), TopicSource::Topic);
    }
    let Some(name) = setting.broker else {
        return (setting.default.to_owned(), TopicSource::Default);
    };
    let dynamic = |id: Option<BrokerId>| {
        image
            .broker_configs
            .get(&id)
            .and_then(|configs| configs.get(name))
            .cloned()
    };
    if let Some(value) = dynamic(Some(broker.broker_id())) {
        return (value, TopicSource::DynamicBroker);
    }
    if let Some(value) = dynamic(None) {
        return (value, TopicSource::DynamicDefaultBroker);
    }
    if broker.source(name) == &super::Source::Default {
        (setting.default.to_owned(), TopicSource::Default)
    } else {
        (broker.text(name).to_owned(), TopicSource::StaticBroker)
    }
}

/// Checks explicit topic settings; the reason names the nearest right one.
pub fn check_topic_settings(settings: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in settings {
        let Some(setting) = topic_setting(name) else {
            let hint = nearest(name, TOPIC.iter().map(|s| s.name))
                .map_or(String::new(), |n| format!("; did you mean {n}?"));
            return Err(format!("Unknown topic config name: {name}{hint}"));
        };
        check(setting.kind, value).map_err(|reason| {
            format!("Invalid value {value} for configuration {name}: {reason}")
        })?;
    }
    Ok(())
}

//! A topic's effective settings.

use super::BrokerConfig;
use super::check::{check, nearest, topic_setting};
use super::table::{COARSER, TOPIC, TopicSetting};
use crate::metadata::MetadataImage;
use std::collections::BTreeMap;
use tidelog_replication::BrokerId;
use tidelog_storage::compression::Compression;
use tidelog_storage::log::LogConfig;

/// Typed settings of one topic.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    pub compact: bool,
    pub delete: bool,
    pub retention_ms: i64,
    pub retention_bytes: i64,
    pub max_message_bytes: usize,
    pub log_append_time: bool,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    /// The codec batches are stored in; `None`: as they come.
    pub compression: Option<Compression>,
    pub min_insync_replicas: usize,
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
        let compact = policy.contains("compact");
        TopicConfig {
            compact,
            delete: policy.contains("delete"),
            retention_ms: int("retention.ms"),
            retention_bytes: int("retention.bytes"),
            max_message_bytes: int("max.message.bytes") as usize,
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: int("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: int("message.timestamp.after.max.ms"),
            compression: codec(&text("compression.type")),
            min_insync_replicas: int("min.insync.replicas") as usize,
            log: LogConfig {
                segment_bytes: int("segment.bytes") as u64,
                segment_ms: int("segment.ms"),
                index_interval_bytes: int("index.interval.bytes") as u32,
                producer_id_expiration_ms: broker.int("producer.id.expiration.ms"),
                segment_jitter_ms: int("segment.jitter.ms"),
                compact,
                delete_retention_ms: int("delete.retention.ms"),
                min_compaction_lag_ms: int("min.compaction.lag.ms"),
                max_compaction_lag_ms: int("max.compaction.lag.ms"),
                min_cleanable_dirty_ratio: text("min.cleanable.dirty.ratio")
                    .trim()
                    .parse()
                    .unwrap_or(0.5),
            },
        }
    }
}

/// The codec `compression.type` names; `None` for `producer`.
fn codec(name: &str) -> Option<Compression> {
    Some(match name {
        "uncompressed" => Compression::None,
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        _ => return None,
    })
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
    match static_value(name, broker) {
        Some(value) => (value, TopicSource::StaticBroker),
        None => (setting.default.to_owned(), TopicSource::Default),
    }
}

/// A broker setting as it is in force on this broker now.
pub fn broker_value(name: &str, broker: &BrokerConfig, image: &MetadataImage) -> String {
    let dynamic = |id: Option<BrokerId>| image.broker_configs.get(&id)?.get(name).cloned();
    dynamic(Some(broker.broker_id()))
        .or_else(|| dynamic(None))
        .unwrap_or_else(|| broker.text(name).to_owned())
}

/// What the broker's own settings say, in the unit of `name`.
fn static_value(name: &str, broker: &BrokerConfig) -> Option<String> {
    let is_set = |name: &str| broker.source(name) != &super::Source::Default;
    if is_set(name) {
        return Some(broker.text(name).to_owned());
    }
    let (_, coarser) = COARSER.iter().find(|(finest, _)| *finest == name)?;
    let (name, unit_ms) = coarser.iter().find(|(name, _)| is_set(name))?;
    let value = broker.int(name);
    // −1 is no limit in any unit.
    let in_ms = if value < 0 {
        value
    } else {
        value.saturating_mul(*unit_ms)
    };
    Some(in_ms.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn broker(settings: &[(&str, &str)]) -> BrokerConfig {
        let mut config = BrokerConfig::default();
        for (name, value) in settings {
            config.put(name, value, Source::Set).expect("a setting");
        }
        config
    }

    fn resolve(own: &[(&str, &str)], settings: &[(&str, &str)]) -> TopicConfig {
        let own = own.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        TopicConfig::resolve(&own.collect(), &broker(settings), &MetadataImage::default())
    }

    #[test]
    fn the_finest_unit_that_is_set_counts() {
        let retention = |settings: &[(&str, &str)]| resolve(&[], settings).retention_ms;
        assert_eq!(retention(&[]), 604_800_000);
        assert_eq!(retention(&[("log.retention.hours", "2")]), 7_200_000);
        assert_eq!(retention(&[("log.retention.hours", "-1")]), -1);
        let minutes = [("log.retention.hours", "2"), ("log.retention.minutes", "3")];
        assert_eq!(retention(&minutes), 180_000);
        let ms = [("log.retention.ms", "4"), ("log.retention.minutes", "3")];
        assert_eq!(retention(&ms), 4);
        let rolls = [("log.roll.hours", "1"), ("log.roll.jitter.hours", "2")];
        let log = resolve(&[], &rolls).log;
        assert_eq!(
            (log.segment_ms, log.segment_jitter_ms),
            (3_600_000, 7_200_000)
        );
    }

    #[test]
    fn a_topic_goes_before_its_broker() {
        let settings = [
            ("log.cleanup.policy", "compact"),
            ("log.cleaner.min.compaction.lag.ms", "5"),
            ("log.cleaner.max.compaction.lag.ms", "6"),
            ("log.cleaner.delete.retention.ms", "7"),
            ("log.cleaner.min.cleanable.ratio", "0.25"),
            ("log.message.timestamp.before.max.ms", "8"),
            ("log.message.timestamp.after.max.ms", "9"),
            ("compression.type", "lz4"),
        ];
        let config = resolve(&[], &settings);
        assert!(config.compact && !config.delete && config.log.compact);
        assert_eq!(config.log.min_compaction_lag_ms, 5);
        assert_eq!(config.log.max_compaction_lag_ms, 6);
        assert_eq!(config.log.delete_retention_ms, 7);
        assert_eq!(config.log.min_cleanable_dirty_ratio, 0.25);
        assert_eq!(
            (
                config.timestamp_before_max_ms,
                config.timestamp_after_max_ms
            ),
            (8, 9)
        );
        assert_eq!(config.compression, Some(Compression::Lz4));
        let own = [
            ("cleanup.policy", "compact,delete"),
            ("min.compaction.lag.ms", "1"),
            ("compression.type", "producer"),
        ];
        let config = resolve(&own, &settings);
        assert!(config.compact && config.delete);
        assert_eq!(config.log.min_compaction_lag_ms, 1);
        assert_eq!(config.compression, None);
    }
}

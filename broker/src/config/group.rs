//! A consumer group's effective settings.

use super::BrokerConfig;
use super::check::{check, group_setting, nearest};
use super::table::GROUP;
use super::topic::effective;
use crate::coordinator::group::consumer::assignor::Assignor;
use crate::coordinator::group::consumer::settings::{ConsumerGroupSettings, MigrationPolicy};
use crate::metadata::MetadataImage;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Group settings with bounds: name of the group's setting and of the broker's default, minimum and
/// maximum.
const BOUNDED: [(&str, &str, &str, &str); 2] = [
    (
        "consumer.heartbeat.interval.ms",
        "group.consumer.heartbeat.interval.ms",
        "group.consumer.min.heartbeat.interval.ms",
        "group.consumer.max.heartbeat.interval.ms",
    ),
    (
        "consumer.session.timeout.ms",
        "group.consumer.session.timeout.ms",
        "group.consumer.min.session.timeout.ms",
        "group.consumer.max.session.timeout.ms",
    ),
];

fn bounds(broker: &BrokerConfig, name: &str) -> Option<RangeInclusive<i64>> {
    let (_, _, min, max) = BOUNDED.iter().find(|(group, ..)| *group == name)?;
    Some(broker.int(min)..=broker.int(max))
}

/// Checks the broker's own values against its bounds.
///
/// # Errors
/// The setting and what is wrong with it.
pub fn check_bounds(broker: &BrokerConfig) -> Result<(), (&'static str, String)> {
    for (_, name, min, max) in BOUNDED {
        if broker.int(min) > broker.int(max) {
            return Err((min, format!("is above {max} = {}", broker.int(max))));
        }
        if !(broker.int(min)..=broker.int(max)).contains(&broker.int(name)) {
            return Err((name, format!("must be between {min} and {max}")));
        }
    }
    let (heartbeat, session) = (BOUNDED[0].1, BOUNDED[1].1);
    if broker.int(heartbeat) >= broker.int(session) {
        return Err((heartbeat, format!("must be below {session}")));
    }
    Ok(())
}

/// Checks what a group's own settings would be, all together.
///
/// # Errors
/// Why they cannot be; unknown names with the nearest right one.
pub fn check_group_settings(
    own: &BTreeMap<String, String>,
    broker: &BrokerConfig,
    image: &MetadataImage,
) -> Result<(), String> {
    for (name, value) in own {
        let Some(setting) = group_setting(name) else {
            let hint = nearest(name, GROUP.iter().map(|s| s.name))
                .map_or(String::new(), |n| format!("; did you mean {n}?"));
            return Err(format!("Unknown group config name: {name}{hint}"));
        };
        let invalid =
            |reason: String| format!("Invalid value {value} for configuration {name}: {reason}");
        check(setting.kind, value).map_err(invalid)?;
        let number: i64 = value.trim().parse().unwrap_or(0);
        if let Some(bounds) = bounds(broker, name)
            && !bounds.contains(&number)
        {
            return Err(invalid(format!(
                "must be between {} and {}",
                bounds.start(),
                bounds.end()
            )));
        }
    }
    let settings = resolve_with(own, broker, image);
    if settings.heartbeat_interval_ms >= settings.session_timeout_ms {
        return Err(
            "consumer.heartbeat.interval.ms must be below consumer.session.timeout.ms".to_owned(),
        );
    }
    Ok(())
}

/// The group's own settings over the broker's. Kept within the bounds, which may have become narrower
/// since they were set.
pub fn resolve(group: &str, broker: &BrokerConfig, image: &MetadataImage) -> ConsumerGroupSettings {
    let nothing = BTreeMap::new();
    let own = image.group_configs.get(group).unwrap_or(&nothing);
    resolve_with(own, broker, image)
}

fn resolve_with(
    own: &BTreeMap<String, String>,
    broker: &BrokerConfig,
    image: &MetadataImage,
) -> ConsumerGroupSettings {
    let milliseconds = |name: &str| {
        let text =
            group_setting(name).map_or(String::new(), |s| effective(s, own, broker, image).0);
        let value: i64 = text.trim().parse().unwrap_or(0);
        bounds(broker, name).map_or(value, |b| value.clamp(*b.start(), *b.end())) as i32
    };
    ConsumerGroupSettings {
        session_timeout_ms: milliseconds("consumer.session.timeout.ms"),
        heartbeat_interval_ms: milliseconds("consumer.heartbeat.interval.ms"),
        max_size: broker.int("group.consumer.max.size") as usize,
        assignors: broker
            .text("group.consumer.assignors")
            .split(',')
            .filter_map(|name| Assignor::named(name.trim()))
            .collect(),
        migration: MigrationPolicy::of(broker.text("group.consumer.migration.policy")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn a_groups_own_settings_win_within_the_brokers_bounds() {
        let broker = BrokerConfig::default();
        let mut image = MetadataImage::default();
        assert_eq!(
            resolve("g", &broker, &image),
            ConsumerGroupSettings::default()
        );
        let set = own(&[("consumer.session.timeout.ms", "50000")]);
        assert_eq!(check_group_settings(&set, &broker, &image), Ok(()));
        image.group_configs.insert("g".to_owned(), set);
        assert_eq!(resolve("g", &broker, &image).session_timeout_ms, 50_000);
        let far = own(&[("consumer.session.timeout.ms", "90000")]);
        assert!(check_group_settings(&far, &broker, &image).is_err());
        image.group_configs.insert("g".to_owned(), far);
        assert_eq!(resolve("g", &broker, &image).session_timeout_ms, 60_000);
    }

    #[test]
    fn unknown_names_are_refused_with_a_hint() {
        let set = own(&[("consumer.session.timeout", "50000")]);
        let refused =
            check_group_settings(&set, &BrokerConfig::default(), &MetadataImage::default());
        assert!(refused.unwrap_err().contains("consumer.session.timeout.ms"));
    }
}

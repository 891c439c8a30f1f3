//! Settings of consumer groups.

use super::{COUNT, TopicSetting, topic};

/// Settings of consumer groups, by name.
pub const GROUP: &[TopicSetting] = &[
    topic(
        "consumer.heartbeat.interval.ms",
        COUNT,
        "5000",
        "group.consumer.heartbeat.interval.ms",
        "how often members send heartbeats",
    ),
    topic(
        "consumer.session.timeout.ms",
        COUNT,
        "45000",
        "group.consumer.session.timeout.ms",
        "a member silent for this long is removed",
    ),
];

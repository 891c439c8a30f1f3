//! Settings of consumer groups.

use super::assignor::Assignor;

/// Which way a group may change its protocol while it has members (KIP-848).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationPolicy {
    Disabled,
    Upgrade,
    Downgrade,
    Bidirectional,
}

impl MigrationPolicy {
    /// `group.consumer.migration.policy`; unknown words count as disabled.
    pub fn of(word: &str) -> MigrationPolicy {
        match word.to_ascii_lowercase().as_str() {
            "bidirectional" => MigrationPolicy::Bidirectional,
            "upgrade" => MigrationPolicy::Upgrade,
            "downgrade" => MigrationPolicy::Downgrade,
            _ => MigrationPolicy::Disabled,
        }
    }

    pub fn allows_upgrade(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Upgrade)
    }

    pub fn allows_downgrade(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Downgrade)
    }
}

/// What holds for one group: the broker's settings and the group's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerGroupSettings {
    /// A member silent for this long is removed.
    pub session_timeout_ms: i32,
    /// Members are told to send heartbeats this often.
    pub heartbeat_interval_ms: i32,
    pub max_size: usize,
    /// Those that may be asked for; the first is used when nobody asks.
    pub assignors: Vec<Assignor>,
    pub migration: MigrationPolicy,
}

impl Default for ConsumerGroupSettings {
    fn default() -> Self {
        ConsumerGroupSettings {
            session_timeout_ms: 45_000,
            heartbeat_interval_ms: 5_000,
            max_size: i32::MAX as usize,
            assignors: Assignor::ALL.to_vec(),
            migration: MigrationPolicy::Bidirectional,
        }
    }
}

//! How records are fetched, and how a group is joined.

use crate::error::{Error, Result};
use crate::group::Assignor;
use std::time::Duration;

/// Where to begin when a group has committed nothing for a partition, or when the position is not,
/// or no longer, in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffsetReset {
    /// [`Consumer::next`](crate::Consumer::next) fails.
    Fail,
    /// At the first record that is kept, so that nothing is left out.
    #[default]
    Earliest,
    /// After the last record.
    Latest,
}

/// Which records of transactions are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All, also those of transactions that are still open or were aborted.
    #[default]
    ReadUncommitted,
    /// Those of committed transactions, and those written without one.
    ReadCommitted,
}

impl Isolation {
    pub(crate) fn level(self) -> i8 {
        match self {
            Isolation::ReadUncommitted => 0,
            Isolation::ReadCommitted => 1,
        }
    }
}

/// Who decides which member of a group reads what.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupProtocol {
    /// A member, by one of these assignors: the first that every member of the group has.
    Classic {
        /// In order of preference. Partitions are kept through a rebalance only when all of them
        /// are cooperative; else everything is given back first, as older members expect.
        assignors: Vec<Assignor>,
    },
    /// The broker (KIP-848): no member waits for another.
    Consumer {
        /// The broker's assignor (`uniform` or `range`); None: its default.
        assignor: Option<String>,
    },
}

/// How to be a member of a consumer group.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupConfig {
    /// The group's name.
    pub group_id: String,
    /// A name that stays with this member through restarts: within the session timeout it gets the
    /// same partitions back without a rebalance (KIP-345).
    pub instance_id: Option<String>,
    /// Who assigns.
    pub protocol: GroupProtocol,
    /// Without a heartbeat for so long the group gives the member's partitions to others. With
    /// [`GroupProtocol::Consumer`] the broker's setting holds.
    pub session_timeout: Duration,
    /// Between heartbeats; a third of the session timeout or less. With
    /// [`GroupProtocol::Consumer`] the broker's setting holds.
    pub heartbeat_interval: Duration,
    /// The longest time between two calls of [`Consumer::next`](crate::Consumer::next); afterwards
    /// the member leaves the group, and joins it again at the next call.
    pub max_poll_interval: Duration,
    /// How often to commit what was handed out before the last call of
    /// [`Consumer::next`](crate::Consumer::next); None: only by
    /// [`Consumer::commit`](crate::Consumer::commit).
    pub auto_commit: Option<Duration>,
}

impl GroupConfig {
    /// A member of `group_id` in the classic protocol, with the cooperative sticky assignor,
    /// committing every five seconds.
    pub fn new(group_id: impl Into<String>) -> GroupConfig {
        GroupConfig {
            group_id: group_id.into(),
            instance_id: None,
            protocol: GroupProtocol::Classic {
                assignors: vec![Assignor::CooperativeSticky],
            },
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(300),
            auto_commit: Some(Duration::from_secs(5)),
        }
    }

    /// Sets [`GroupConfig::instance_id`].
    #[must_use]
    pub fn with_instance_id(mut self, id: impl Into<String>) -> GroupConfig {
        self.instance_id = Some(id.into());
        self
    }

    /// Sets [`GroupConfig::protocol`].
    #[must_use]
    pub fn with_protocol(mut self, protocol: GroupProtocol) -> GroupConfig {
        self.protocol = protocol;
        self
    }

    /// The classic protocol with these assignors, in order of preference.
    #[must_use]
    pub fn with_assignors(self, assignors: impl Into<Vec<Assignor>>) -> GroupConfig {
        self.with_protocol(GroupProtocol::Classic {
            assignors: assignors.into(),
        })
    }

    /// The broker assigns (KIP-848), by its default assignor.
    #[must_use]
    pub fn assigned_by_broker(self) -> GroupConfig {
        self.with_protocol(GroupProtocol::Consumer { assignor: None })
    }

    /// Sets [`GroupConfig::session_timeout`], and the heartbeat interval to a third of it if it is
    /// longer than that.
    #[must_use]
    pub fn with_session_timeout(mut self, timeout: Duration) -> GroupConfig {
        self.session_timeout = timeout;
        self.heartbeat_interval = self.heartbeat_interval.min(timeout / 3);
        self
    }

    /// Sets [`GroupConfig::max_poll_interval`].
    #[must_use]
    pub fn with_max_poll_interval(mut self, interval: Duration) -> GroupConfig {
        self.max_poll_interval = interval;
        self
    }

    /// Sets [`GroupConfig::auto_commit`].
    #[must_use]
    pub fn with_auto_commit(mut self, every: Option<Duration>) -> GroupConfig {
        self.auto_commit = every;
        self
    }

    fn check(&self) -> Result<()> {
        let bad = |setting, reason: &str| {
            Err(Error::Config {
                setting,
                reason: reason.to_owned(),
            })
        };
        if self.group_id.is_empty() {
            return bad("group_id", "must not be empty");
        }
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval > self.session_timeout {
            return bad(
                "heartbeat_interval",
                "must be more than 0 and at most the session timeout",
            );
        }
        match &self.protocol {
            GroupProtocol::Classic { assignors } if assignors.is_empty() => {
                bad("assignors", "names none")
            }
            _ => Ok(()),
        }
    }
}

/// How records are fetched.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConsumerConfig {
    /// How long a broker may wait for `bytes_min`.
    pub wait_max: Duration,
    /// How many bytes an answer should have, else the broker waits for more.
    pub bytes_min: usize,
    /// Of one answer; exceeded only by a single larger batch.
    pub bytes_max: usize,
    /// Of one partition in an answer.
    pub partition_bytes_max: usize,
    /// Fetched and not handed out yet, over all brokers, as compressed on the wire; exceeded only
    /// by a single larger batch a broker.
    pub prefetch_bytes_max: usize,
    /// A batch that becomes larger than this when decompressed is refused.
    pub decompressed_batch_bytes_max: usize,
    /// Where to begin without a usable offset.
    pub offset_reset: OffsetReset,
    /// Which records of transactions to read.
    pub isolation: Isolation,
    /// The group to be a member of, for [`Consumer::subscribe`](crate::Consumer::subscribe) and for
    /// committing.
    pub group: Option<GroupConfig>,
}

impl Default for ConsumerConfig {
    fn default() -> ConsumerConfig {
        ConsumerConfig {
            wait_max: Duration::from_millis(500),
            bytes_min: 1,
            bytes_max: 16 << 20,
            partition_bytes_max: 4 << 20,
            prefetch_bytes_max: 48 << 20,
            decompressed_batch_bytes_max: 256 << 20,
            offset_reset: OffsetReset::default(),
            isolation: Isolation::default(),
            group: None,
        }
    }
}

impl ConsumerConfig {
    /// Defaults, as a member of this group.
    pub fn group(group: GroupConfig) -> ConsumerConfig {
        ConsumerConfig::default().with_group(group)
    }

    /// Sets [`ConsumerConfig::group`].
    #[must_use]
    pub fn with_group(mut self, group: GroupConfig) -> ConsumerConfig {
        self.group = Some(group);
        self
    }

    /// Sets [`ConsumerConfig::offset_reset`].
    #[must_use]
    pub fn with_offset_reset(mut self, reset: OffsetReset) -> ConsumerConfig {
        self.offset_reset = reset;
        self
    }

    /// Sets [`ConsumerConfig::isolation`].
    #[must_use]
    pub fn with_isolation(mut self, isolation: Isolation) -> ConsumerConfig {
        self.isolation = isolation;
        self
    }

    /// Sets [`ConsumerConfig::wait_max`].
    #[must_use]
    pub fn with_wait_max(mut self, wait: Duration) -> ConsumerConfig {
        self.wait_max = wait;
        self
    }

    /// Sets [`ConsumerConfig::bytes_max`], of one answer.
    #[must_use]
    pub fn with_bytes_max(mut self, bytes: usize) -> ConsumerConfig {
        self.bytes_max = bytes;
        self
    }

    /// Sets [`ConsumerConfig::prefetch_bytes_max`].
    #[must_use]
    pub fn with_prefetch_bytes_max(mut self, bytes: usize) -> ConsumerConfig {
        self.prefetch_bytes_max = bytes;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (setting, bytes) in [
            ("bytes_max", self.bytes_max),
            ("partition_bytes_max", self.partition_bytes_max),
            ("prefetch_bytes_max", self.prefetch_bytes_max),
        ] {
            if bytes == 0 {
                let reason = "must be more than 0".to_owned();
                return Err(Error::Config { setting, reason });
            }
        }
        self.group.as_ref().map_or(Ok(()), GroupConfig::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let setting = |config: ConsumerConfig| match config.check() {
            Err(Error::Config { setting, .. }) => setting,
            other => panic!("{other:?}"),
        };
        let group = || GroupConfig::new("g");
        let of = ConsumerConfig::group;
        of(group()).check().unwrap();
        assert_eq!(setting(of(GroupConfig::new(""))), "group_id");
        assert_eq!(setting(of(group().with_assignors([]))), "assignors");
        let mut slow = group();
        slow.heartbeat_interval = Duration::from_secs(60);
        assert_eq!(setting(of(slow)), "heartbeat_interval");
        let quick = group().with_session_timeout(Duration::from_secs(6));
        assert_eq!(quick.heartbeat_interval, Duration::from_secs(2));
        let none = ConsumerConfig::default().with_prefetch_bytes_max(0);
        assert_eq!(setting(none), "prefetch_bytes_max");
    }
}

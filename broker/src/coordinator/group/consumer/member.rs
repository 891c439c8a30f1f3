//! A member of a consumer group, as its records have it.

use super::partitions::{Held, Partitions};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Epoch of a member that joins anew.
pub const JOINING: i32 = 0;
/// Epoch in a heartbeat of a member that leaves.
pub const LEAVING: i32 = -1;
/// Epoch of a static member that leaves to come back.
pub const LEAVING_STATIC: i32 = -2;

/// How far a member has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Holds what its epoch's target assignment says.
    Stable,
    /// Has been asked to give partitions up and still holds some of them.
    UnrevokedPartitions,
    /// Waits for partitions that other members still hold.
    UnreleasedPartitions,
    /// Written by a newer version.
    Unknown,
}

impl MemberState {
    /// Kafka's `MemberState` ids.
    pub fn code(self) -> i8 {
        match self {
            MemberState::Stable => 0,
            MemberState::UnrevokedPartitions => 1,
            MemberState::UnreleasedPartitions => 2,
            MemberState::Unknown => 127,
        }
    }

    pub fn of(code: i8) -> MemberState {
        match code {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Unknown,
        }
    }
}

/// What a member that speaks the classic protocol brought along (KIP-848, online migration).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassicMember {
    pub session_timeout_ms: i32,
    /// Assignors it knows, in its order of preference, each with its serialised subscription.
    pub protocols: Vec<(String, Bytes)>,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberMetadata {
    pub instance_id: Option<String>,
    pub rack_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub topics: BTreeSet<String>,
    /// `None` or empty: no pattern.
    pub regex: Option<String>,
    /// How long it may take to give partitions up; −1 until it has said so.
    pub rebalance_timeout_ms: i32,
    /// The server-side assignor it would like.
    pub assignor: Option<String>,
    /// `None`: it speaks the next protocol.
    pub classic: Option<ClassicMember>,
}

impl Default for MemberMetadata {
    fn default() -> Self {
        MemberMetadata {
            instance_id: None,
            rack_id: None,
            client_id: String::new(),
            client_host: String::new(),
            topics: BTreeSet::new(),
            regex: None,
            rebalance_timeout_ms: -1,
            assignor: None,
            classic: None,
        }
    }
}

impl MemberMetadata {
    /// The pattern it is subscribed to, if any.
    pub fn pattern(&self) -> Option<&str> {
        self.regex.as_deref().filter(|r| !r.is_empty())
    }
}

/// What a member holds, and at which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentAssignment {
    pub epoch: i32,
    /// A heartbeat with this one is taken too: the answer that raised it may have been lost.
    pub previous_epoch: i32,
    pub state: MemberState,
    pub assigned: Held,
    /// To be given up: not assigned to anybody else before.
    pub revoking: Held,
}

impl Default for CurrentAssignment {
    fn default() -> Self {
        CurrentAssignment {
            epoch: JOINING,
            previous_epoch: LEAVING,
            state: MemberState::Stable,
            assigned: Held::new(),
            revoking: Held::new(),
        }
    }
}

impl CurrentAssignment {
    /// The assigned partitions without their epochs.
    pub fn partitions(&self) -> Partitions {
        self.assigned
            .iter()
            .map(|(topic, held)| (*topic, held.keys().copied().collect()))
            .collect()
    }

    /// Whether all of `owned`, as a client reports it, is assigned.
    pub fn covers(&self, owned: &Partitions) -> bool {
        owned.iter().all(|(topic, partitions)| {
            partitions.is_empty()
                || self
                    .assigned
                    .get(topic)
                    .is_some_and(|held| partitions.iter().all(|p| held.contains_key(p)))
        })
    }
}

/// A member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    pub metadata: MemberMetadata,
    pub current: CurrentAssignment,
}

impl Member {
    pub fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.current.state == MemberState::Stable && self.current.epoch == epoch
    }
}

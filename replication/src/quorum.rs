//! The metadata group as its leader sees it: who votes, who only learns, and how far each is.
//!
//! Kafka's KRaft tells the same by DescribeQuorum (`LeaderState.ReplicaState`): when a replica last
//! answered, and the last time it was known to have all that the leader had.

use crate::group::Group;
use crate::ids::BrokerId;
use crate::node::Node;
use crate::transport::network::broker_of;
use crate::types::{LogId, TypeConfig};
use openraft::async_runtime::{Instant as _, WatchReceiver};
use openraft::type_config::alias::InstantOf;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// One replica of the metadata group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumReplica {
    pub broker: BrokerId,
    /// One past the last log index it is known to have; `None` before it has answered this leader.
    pub log_end: Option<u64>,
    /// When it last answered this leader, in milliseconds since 1970.
    pub heard_ms: Option<i64>,
    /// The last time it was known to have all that the leader had, in milliseconds since 1970.
    pub caught_up_ms: Option<i64>,
}

/// The metadata group at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    pub leader: BrokerId,
    pub epoch: i32,
    /// One past the last log index that is committed.
    pub high_watermark: u64,
    /// In order of their ids.
    pub voters: Vec<QuorumReplica>,
    pub observers: Vec<QuorumReplica>,
}

/// What the leader remembers of one replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    acked_ms: i64,
    /// The leader's log end at that time.
    end_then: u64,
    caught_up_ms: Option<i64>,
}

impl Progress {
    /// The replica answered at `now_ms` that its log ends at `log_end`; the leader's at `leader_end`.
    /// By Kafka's rule (`LeaderState.ReplicaState.updateFollowerState`): who has now what the leader
    /// had at the answer before was caught up at that time.
    fn answered(&mut self, now_ms: i64, log_end: u64, leader_end: u64) {
        if log_end >= leader_end {
            self.caught_up_ms = Some(now_ms);
        } else if self.end_then > 0 && log_end >= self.end_then {
            self.caught_up_ms = self.caught_up_ms.max(Some(self.acked_ms));
        }
        self.acked_ms = self.acked_ms.max(now_ms);
        self.end_then = leader_end;
    }
}

/// Progress of the replicas while this broker leads the metadata group.
#[derive(Default)]
pub struct QuorumTimes {
    /// The epoch they are from.
    epoch: i32,
    replicas: BTreeMap<BrokerId, (AckedAt, Progress)>,
}

type AckedAt = InstantOf<TypeConfig>;

/// What the metrics of a leader say of one replica.
struct Acknowledged {
    log_end: u64,
    at: Option<AckedAt>,
}

/// Notes the answers of the group's replicas, until `stop`.
pub async fn watch_answers(
    group: Arc<Group>,
    times: Arc<Mutex<QuorumTimes>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut metrics = group.raft.data_metrics();
    loop {
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|s| *s) => return,
        }
        note(&group, &times);
    }
}

fn note(group: &Group, times: &Mutex<QuorumTimes>) {
    let (_, epoch) = group.leader();
    let (leader_end, now_ms) = (group.log_end(), now_ms());
    let mut times = times.lock();
    if times.epoch != epoch {
        *times = QuorumTimes {
            epoch,
            ..QuorumTimes::default()
        };
    }
    for (broker, acknowledged) in acknowledged(group) {
        let Some(at) = acknowledged.at else {
            continue;
        };
        let known = times.replicas.get(&broker).copied();
        let mut progress = match known {
            Some((last, _)) if last >= at => continue,
            Some((_, progress)) => progress,
            None => Progress::default(),
        };
        let at_ms = now_ms - at.elapsed().as_millis() as i64;
        progress.answered(at_ms, acknowledged.log_end, leader_end);
        times.replicas.insert(broker, (at, progress));
    }
}

/// What each replica but this one has said last; empty where this one does not lead.
fn acknowledged(group: &Group) -> BTreeMap<BrokerId, Acknowledged> {
    let metrics = group.raft.data_metrics();
    let metrics = metrics.borrow_watched();
    let Some(replication) = &metrics.replication else {
        return BTreeMap::new();
    };
    let one = |(node, matched): (&u64, &Option<LogId>)| {
        let times = metrics.heartbeat.as_ref();
        let at = times.and_then(|times| times.get(node).copied().flatten());
        let acknowledged = Acknowledged {
            log_end: matched.as_ref().map_or(0, |id| id.index + 1),
            at: at.map(|at| *at),
        };
        (broker_of(*node), acknowledged)
    };
    replication.iter().map(one).collect()
}

impl Node {
    /// The metadata group, if this broker leads it and a majority still follows.
    pub async fn quorum(&self) -> Option<Quorum> {
        let group = self.metadata_group();
        let (_, epoch) = group.leader();
        // Also makes an idle group's replicas answer.
        if !group.confirm_leader(epoch).await {
            return None;
        }
        note(group, self.quorum_times());
        let seen = acknowledged(group);
        let (me, now_ms) = (self.broker(), now_ms());
        let times = self.quorum_times().lock();
        let replica = |broker: BrokerId| {
            if broker == me {
                return QuorumReplica {
                    broker,
                    log_end: Some(group.log_end()),
                    heard_ms: Some(now_ms),
                    caught_up_ms: Some(now_ms),
                };
            }
            let progress = times.replicas.get(&broker).map(|(_, progress)| progress);
            let seen = seen.get(&broker).filter(|seen| seen.at.is_some());
            QuorumReplica {
                broker,
                log_end: seen.map(|seen| seen.log_end),
                heard_ms: progress.map(|p| p.acked_ms),
                caught_up_ms: progress.and_then(|p| p.caught_up_ms),
            }
        };
        let members = group.members();
        let voters: BTreeSet<BrokerId> = members.configs.into_iter().flatten().collect();
        Some(Quorum {
            leader: me,
            epoch,
            high_watermark: group.committed_end(),
            voters: voters.into_iter().map(replica).collect(),
            observers: members.learners.into_iter().map(replica).collect(),
        })
    }
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_millis() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_was_caught_up_when_it_has_what_the_leader_had_then() {
        let mut progress = Progress::default();
        progress.answered(1_000, 3, 10);
        assert_eq!(progress.caught_up_ms, None);
        // All of now.
        progress.answered(2_000, 10, 10);
        assert_eq!(progress.caught_up_ms, Some(2_000));
        // Not all of now, but all of the answer before.
        progress.answered(3_000, 12, 20);
        assert_eq!(progress.caught_up_ms, Some(2_000));
        progress.answered(4_000, 20, 30);
        assert_eq!(progress.caught_up_ms, Some(3_000));
        // Neither.
        progress.answered(5_000, 25, 40);
        assert_eq!(progress.caught_up_ms, Some(3_000));
        assert_eq!(progress.acked_ms, 5_000);
    }
}

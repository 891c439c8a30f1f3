//! Gives leadership of partitions to their preferred replicas, wherever their leaders are.

use crate::broker::Broker;
use crate::metadata::MetadataImage;
use crate::peer_calls::{self, ElectPreferred, Outcome, PeerCall, TopicIndex};
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tidelog_replication::{BrokerId, GroupId, NotElected};

/// What the answer of a leader may take beyond the time its replicas have to catch up.
const CALL_LIMIT: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What is to be done about one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: Kafka's word for why.
    Refused(ResponseError),
    /// `leader` hands over to `preferred`.
    HandOver {
        group: GroupId,
        leader: BrokerId,
        preferred: BrokerId,
    },
}

/// Decides about one partition by Kafka's rules (`ReplicationControlManager.electLeader`).
pub fn plan(
    image: &MetadataImage,
    topic: &str,
    partition: i32,
    leader_of: impl Fn(GroupId) -> Option<BrokerId>,
    is_alive: impl Fn(BrokerId) -> bool,
) -> Step {
    let found = image.topic(topic).and_then(|topic| {
        let index = usize::try_from(partition).ok()?;
        topic.partitions.get(index)
    });
    let Some(meta) = found else {
        return Step::Refused(ResponseError::UnknownTopicOrPartition);
    };
    let leader = leader_of(meta.group);
    match (leader, meta.replicas.first().copied()) {
        (Some(leader), Some(preferred)) if leader == preferred => {
            Step::Refused(ResponseError::ElectionNotNeeded)
        }
        (Some(leader), Some(preferred)) if is_alive(preferred) => Step::HandOver {
            group: meta.group,
            leader,
            preferred,
        },
        // Without a leader the group is electing one by itself, and a majority may be missing.
        _ => Step::Refused(ResponseError::PreferredLeaderNotAvailable),
    }
}

/// Elects the preferred leaders of `partitions`, and waits up to `limit` until they lead; the outcome
/// of each, in order.
pub async fn elect(broker: &Broker, partitions: &[TopicIndex], limit: Duration) -> Vec<Outcome> {
    let deadline = Instant::now() + limit;
    let image = broker.metadata.load_full();
    let mut alive = broker.node.alive_brokers();
    let in_maintenance = image.in_maintenance();
    alive.retain(|id| !in_maintenance.contains(id));
    let leader_of = |group| broker.node.leader_of(group).map(|info| info.leader);
    let steps: Vec<Step> = partitions
        .iter()
        .map(|asked| {
            let is_alive = |id| alive.contains(&id);
            plan(&image, &asked.topic, asked.partition, leader_of, is_alive)
        })
        .collect();
    let mut by_leader: BTreeMap<BrokerId, Vec<usize>> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        if let Step::HandOver { leader, .. } = step {
            by_leader.entry(*leader).or_default().push(at);
        }
    }
    let mut outcomes: Vec<Outcome> = steps
        .iter()
        .map(|step| match step {
            Step::Refused(error) => Err(*error),
            Step::HandOver { .. } => Ok(()),
        })
        .collect();
    let asked = by_leader.into_iter().map(|(leader, indexes)| async move {
        let asked = indexes.iter().map(|at| partitions[*at].clone()).collect();
        let answers = ask(broker, leader, asked, limit).await;
        indexes.into_iter().zip(answers)
    });
    for (at, outcome) in join_all(asked).await.into_iter().flatten() {
        outcomes[at] = outcome;
    }
    wait_until_they_lead(broker, &steps, &mut outcomes, deadline).await;
    outcomes
}

async fn ask(
    broker: &Broker,
    leader: BrokerId,
    partitions: Vec<TopicIndex>,
    limit: Duration,
) -> Vec<Outcome> {
    let count = partitions.len();
    let elect = ElectPreferred {
        partitions,
        limit_ms: limit.as_millis() as u32,
    };
    if leader == broker.id {
        return hand_over_here(broker, elect).await;
    }
    let call = PeerCall::ElectPreferred(elect);
    peer_calls::call(broker, leader, call, count, limit + CALL_LIMIT)
        .await
        // The leader may be dying: another attempt finds the next one.
        .unwrap_or_else(|_| vec![Err(ResponseError::PreferredLeaderNotAvailable); count])
}

/// As the leader of all of them.
pub async fn hand_over_here(broker: &Broker, elect: ElectPreferred) -> Vec<Outcome> {
    let limit = Duration::from_millis(u64::from(elect.limit_ms));
    let image = broker.metadata.load_full();
    let one = |asked: TopicIndex| {
        let found = image.topic(&asked.topic).and_then(|topic| {
            let index = usize::try_from(asked.partition).ok()?;
            let meta = topic.partitions.get(index)?;
            Some((meta.group, meta.replicas.first().copied()?))
        });
        async move {
            let (group, preferred) = found.ok_or(ResponseError::UnknownTopicOrPartition)?;
            match broker.node.elect(group, preferred, limit).await {
                Ok(()) => Ok(()),
                Err(NotElected::NotLeader) => Err(ResponseError::NotLeaderOrFollower),
                Err(NotElected::NotAvailable) => Err(ResponseError::PreferredLeaderNotAvailable),
            }
        }
    };
    join_all(elect.partitions.into_iter().map(one)).await
}

/// Handed over is not yet taken: what has not been taken in time is an error.
async fn wait_until_they_lead(
    broker: &Broker,
    steps: &[Step],
    outcomes: &mut [Outcome],
    deadline: Instant,
) {
    let mut changes = broker.node.watch_leaders();
    loop {
        changes.borrow_and_update();
        let left = deadline.saturating_duration_since(Instant::now());
        let mut waits = false;
        for (step, outcome) in steps.iter().zip(outcomes.iter_mut()) {
            if let (
                Step::HandOver {
                    group, preferred, ..
                },
                Ok(()) | Err(ResponseError::NotLeaderOrFollower),
            ) = (step, &*outcome)
            {
                let leads = broker
                    .node
                    .leader_of(*group)
                    .is_some_and(|info| info.leader == *preferred);
                if leads {
                    *outcome = Ok(());
                } else if left.is_zero() {
                    *outcome = Err(ResponseError::RequestTimedOut);
                } else {
                    waits = true;
                }
            }
        }
        if !waits {
            return;
        }
        let _ = tokio::time::timeout(left.min(LOOK_INTERVAL), changes.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::image::{PartitionMeta, Topic};
    use std::sync::Arc;

    fn planned(leader: Option<i32>, alive: &[i32], partition: i32) -> Step {
        let mut image = MetadataImage::default();
        let topic = Topic {
            name: "t".to_owned(),
            id: uuid::Uuid::nil(),
            partitions: vec![PartitionMeta::new(
                GroupId(7),
                vec![BrokerId(1), BrokerId(2)],
            )],
            configs: BTreeMap::new(),
            first_sequences: false,
        };
        image.topics.insert("t".to_owned(), Arc::new(topic));
        let leader = leader.map(BrokerId);
        plan(
            &image,
            "t",
            partition,
            |_| leader,
            |id| alive.contains(&id.0),
        )
    }

    #[test]
    fn only_a_living_preferred_replica_that_does_not_lead_is_elected() {
        let refused = |error| Step::Refused(error);
        assert_eq!(
            planned(Some(2), &[1, 2], 0),
            Step::HandOver {
                group: GroupId(7),
                leader: BrokerId(2),
                preferred: BrokerId(1),
            }
        );
        let not_needed = refused(ResponseError::ElectionNotNeeded);
        assert_eq!(planned(Some(1), &[1, 2], 0), not_needed);
        let not_there = refused(ResponseError::PreferredLeaderNotAvailable);
        assert_eq!(planned(Some(2), &[2], 0), not_there);
        assert_eq!(planned(None, &[1, 2], 0), not_there);
        let unknown = refused(ResponseError::UnknownTopicOrPartition);
        assert_eq!(planned(Some(2), &[1, 2], 1), unknown);
        assert_eq!(planned(Some(2), &[1, 2], -1), unknown);
    }
}

//! Keeps replicas where they should be: off brokers that are decommissioned or dead for long, and, after a
//! broker has joined, evenly on all. The leader of the metadata group plans ([`plan`]) and asks for the moves
//! as any client could; [`crate::metadata::members`] carries them out.
//!
//! What is asked for is in the metadata, so a new leader goes on where the last one stopped.

mod load;
mod plan;
mod sizes;

use crate::broker::Broker;
use crate::config::broker_value;
use crate::metadata::MetadataImage;
use crate::metadata::changes::{alter_reassignments, propose};
use crate::metadata::command::{Command, FinishSpread, ReassignmentChange, ids_of};
use plan::{Move, Picture};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidelog_replication::BrokerId;
use tokio::sync::watch;

pub use sizes::{GroupSize, here as sizes_here};

/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Partitions that move at the same time.
const MOVES_MAX: usize = 32;
/// Moves in one command.
const CHANGES_MAX: usize = 1000;
/// A warning about replicas that nobody can take is not repeated sooner.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// What one leader of the metadata group has seen since it leads.
#[derive(Default)]
struct Watch {
    /// Since when each broker that is silent has been.
    silent: HashMap<BrokerId, Instant>,
    /// What was there when a plan had nothing to ask for: until that changes no other will have.
    settled: Option<Seen>,
    warned: Option<Instant>,
}

/// What a plan depends on, but for sizes.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    applied_index: u64,
    alive: BTreeSet<BrokerId>,
    leaving: BTreeSet<BrokerId>,
}

/// Plans and asks, while this broker leads the metadata group, until `stop`.
pub async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let mut seen = Watch::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(broker.node.next_beat(LOOK_INTERVAL)) => {}
            _ = stop.wait_for(|s| *s) => return,
        }
        if broker.node.metadata_leader() == Some(broker.id) && broker.node.metadata_is_current() {
            look(&broker, &mut seen).await;
        } else {
            seen = Watch::default();
        }
    }
}

async fn look(broker: &Broker, seen: &mut Watch) {
    let image = broker.metadata.load_full();
    let alive: BTreeSet<BrokerId> = broker.node.alive_brokers().into_iter().collect();
    let dead_ms = setting(broker, &image, "broker.dead.timeout.ms");
    let dead = seen.dead(
        &image,
        &alive,
        Duration::from_millis(dead_ms),
        Instant::now(),
    );
    let leaving: BTreeSet<BrokerId> = image.leaving().union(&dead).copied().collect();
    let stays = |id: &&BrokerId| !leaving.contains(*id);
    let all_there = image
        .brokers
        .keys()
        .filter(stays)
        .all(|id| alive.contains(id));
    let enabled = broker_value("balance.enable", &broker.config, &image) == "true";
    let spread = image.spread.filter(|_| enabled && all_there);
    if spread.is_none() && !holds_any(&image, &leaving) {
        return;
    }
    let now = Seen {
        applied_index: image.applied_index,
        alive: alive.clone(),
        leaving: leaving.clone(),
    };
    if seen.settled.as_ref() == Some(&now) {
        return;
    }
    let taking = image
        .brokers
        .keys()
        .filter(stays)
        .filter(|id| alive.contains(id));
    let picture = Picture {
        takers: taking.copied().collect(),
        leaving,
        bytes: sizes::of_all(broker, &alive).await,
        spread: spread.is_some(),
        image: &image,
    };
    let plan = plan::plan(&picture, MOVES_MAX);
    if plan.stuck > 0 && seen.may_warn() {
        tracing::warn!(
            "{} replicas are to leave brokers {:?}, and no other broker can take them: add a broker, or lower the \
             replication factor",
            plan.stuck,
            ids_of(&picture.leaving.iter().copied().collect::<Vec<_>>())
        );
    }
    // What is asked for, and what ends, changes the metadata.
    seen.settled = Some(now).filter(|_| plan.moves.is_empty() && !(spread.is_some() && plan.even));
    if !plan.moves.is_empty() {
        begin(broker, plan.moves).await;
    } else if let Some(id) = spread.filter(|_| plan.even) {
        let done = Command::FinishSpread(FinishSpread { id });
        match propose(broker, done).await {
            Ok(_) => tracing::info!("replicas and leaders are even"),
            Err(refused) => tracing::debug!("spread not finished: {}", refused.message),
        }
    }
}

async fn begin(broker: &Broker, moves: Vec<Move>) {
    let changes: Vec<ReassignmentChange> = moves
        .into_iter()
        .take(CHANGES_MAX)
        .map(|one| ReassignmentChange {
            topic_id: one.topic_id.as_bytes().to_vec(),
            partition: one.partition,
            target: ids_of(&one.target),
        })
        .collect();
    let count = changes.len();
    match alter_reassignments(broker, changes, false).await {
        Ok(outcomes) => {
            let refused = outcomes.into_iter().filter_map(Result::err).next();
            match refused {
                // The next look has newer metadata.
                Some(refused) => tracing::debug!("a move was refused: {}", refused.message),
                None => tracing::info!(
                    "{count} partitions move to other brokers, or prefer another leader"
                ),
            }
        }
        Err(refused) => tracing::debug!("moves were not asked for: {}", refused.message),
    }
}

fn holds_any(image: &MetadataImage, leaving: &BTreeSet<BrokerId>) -> bool {
    if leaving.is_empty() {
        return false;
    }
    let mut partitions = image.topics.values().flat_map(|t| &t.partitions);
    partitions.any(|p| p.target().iter().any(|b| leaving.contains(b)))
}

fn setting(broker: &Broker, image: &MetadataImage, name: &str) -> u64 {
    let value = broker_value(name, &broker.config, image);
    value.parse().unwrap_or(u64::MAX)
}

impl Watch {
    /// Registered brokers that have been silent for `limit`.
    fn dead(
        &mut self,
        image: &MetadataImage,
        alive: &BTreeSet<BrokerId>,
        limit: Duration,
        now: Instant,
    ) -> BTreeSet<BrokerId> {
        let registered = |id: &BrokerId| image.brokers.contains_key(id);
        self.silent
            .retain(|id, _| !alive.contains(id) && registered(id));
        let silent = image.brokers.keys().filter(|id| !alive.contains(id));
        let since = silent.map(|id| (*id, *self.silent.entry(*id).or_insert(now)));
        let dead = since.filter(|(_, since)| now.duration_since(*since) >= limit);
        dead.map(|(id, _)| id).collect()
    }

    fn may_warn(&mut self) -> bool {
        let now = Instant::now();
        let due = self
            .warned
            .is_none_or(|last| now.duration_since(last) >= WARN_INTERVAL);
        if due {
            self.warned = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::RegisterBroker;

    #[test]
    fn only_a_broker_that_was_silent_for_long_is_dead() {
        let mut image = MetadataImage::default();
        for id in 1..=2 {
            let registered = RegisterBroker {
                id,
                ..RegisterBroker::default()
            };
            image.brokers.insert(BrokerId(id), registered.meta());
        }
        let mut seen = Watch::default();
        let both = BTreeSet::from([BrokerId(1), BrokerId(2)]);
        let one = BTreeSet::from([BrokerId(1)]);
        let none = BTreeSet::new();
        let limit = Duration::from_secs(10);
        let start = Instant::now();
        let mut dead = |alive: &BTreeSet<BrokerId>, at: u64| {
            seen.dead(&image, alive, limit, start + Duration::from_secs(at))
        };
        assert_eq!(dead(&both, 0), none);
        assert_eq!(dead(&one, 1), none);
        assert_eq!(dead(&one, 10), none);
        assert_eq!(dead(&one, 11), BTreeSet::from([BrokerId(2)]));
        // It was back for a moment: its silence begins anew.
        assert_eq!(dead(&both, 12), none);
        assert_eq!(dead(&one, 13), none);
        assert_eq!(dead(&one, 22), none);
        assert_eq!(dead(&one, 23), BTreeSet::from([BrokerId(2)]));
    }
}

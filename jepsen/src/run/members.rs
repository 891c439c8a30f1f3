//! Moves replicas, empties brokers and takes leadership from them, while other faults strike.
//!
//! What is asked for may be lost with the broker that was asked: nobody insists before the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidelog_client::{Admin, ConfigChange, ConfigResource, TopicPartition};
use tokio::time::{Instant, sleep, timeout};

use super::Run;
use super::random::Random;

/// How long one thing that is asked for may take.
const ASK_LIMIT: Duration = Duration::from_secs(3);
/// After the last healing all moves must have ended by then.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);
const DRAIN: &str = "broker.decommission";
const MAINTENANCE: &str = "broker.maintenance";
const REPLICAS_MIN: u64 = 2;
const REPLICAS_MAX: u64 = 4;

/// What was asked for and is to be taken back.
pub struct Members {
    /// Partitions that may move.
    partitions: Vec<TopicPartition>,
    set: BTreeSet<(i32, &'static str)>,
}

impl Members {
    /// Of topics with their numbers of partitions.
    #[must_use]
    pub fn new(topics: &[(&str, i32)]) -> Self {
        let partitions = topics
            .iter()
            .flat_map(|(topic, count)| (0..*count).map(|p| TopicPartition::new(*topic, p)));
        Self {
            partitions: partitions.collect(),
            set: BTreeSet::new(),
        }
    }

    /// Begins moves of a third of the partitions to some of the brokers that are there, and cancels others.
    pub async fn move_some(&self, run: &Run, seed: u64, here: &[i32]) {
        let mut random = Random::new(seed);
        let mut targets = BTreeMap::new();
        for partition in &self.partitions {
            let target = match random.between(0, 6) {
                0 | 1 => Some(target(&mut random, here)),
                2 => None,
                _ => continue,
            };
            targets.insert(partition.clone(), target);
        }
        let ask = async {
            let admin = Admin::new(run.client()).await?;
            admin.alter_reassignments(&targets).await
        };
        // Whoever is asked may be dead, and what is to be cancelled may not move.
        let _ = timeout(ASK_LIMIT, ask).await;
    }

    pub async fn drain(&mut self, run: &Run, broker: i32) {
        self.set(run, broker, DRAIN).await;
    }

    pub async fn maintain(&mut self, run: &Run, broker: i32) {
        self.set(run, broker, MAINTENANCE).await;
    }

    async fn set(&mut self, run: &Run, broker: i32, setting: &'static str) {
        // Even an answer that never came may have changed it.
        self.set.insert((broker, setting));
        let change = ConfigChange::Set(setting.to_owned(), "true".to_owned());
        let _ = timeout(ASK_LIMIT, alter(run, broker, change)).await;
    }

    /// Takes back what was set; what cannot be reached is kept for the next time.
    pub async fn undo(&mut self, run: &Run) {
        for (broker, setting) in std::mem::take(&mut self.set) {
            let change = ConfigChange::Delete(setting.to_owned());
            let undone = timeout(ASK_LIMIT, alter(run, broker, change)).await;
            if !matches!(undone, Ok(Ok(()))) {
                self.set.insert((broker, setting));
            }
        }
    }

    /// Waits until nothing moves and all is taken back.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn settle(&mut self, run: &Run) -> Result<()> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let mut quiet = 0;
        while quiet < 3 {
            self.undo(run).await;
            let moving = async {
                let admin = Admin::new(run.client()).await?;
                anyhow::Ok(admin.list_reassignments(None).await?)
            };
            let moving = timeout(ASK_LIMIT, moving).await;
            let left = match &moving {
                Ok(Ok(moving)) => format!("{moving:?}"),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".to_owned(),
            };
            let done =
                matches!(&moving, Ok(Ok(moving)) if moving.is_empty()) && self.set.is_empty();
            quiet = if done { quiet + 1 } else { 0 };
            ensure!(Instant::now() < deadline, "not ended in time: {left}");
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}

fn target(random: &mut Random, here: &[i32]) -> Vec<i32> {
    let most = REPLICAS_MAX.min(here.len() as u64);
    let count = random.between(REPLICAS_MIN, most + 1) as usize;
    let mut target: Vec<i32> = Vec::new();
    while target.len() < count {
        let broker = random.pick(here);
        if !target.contains(&broker) {
            target.push(broker);
        }
    }
    target
}

async fn alter(run: &Run, broker: i32, change: ConfigChange) -> Result<()> {
    let admin = Admin::new(run.client()).await?;
    let resource = ConfigResource::Broker(broker);
    let altered = admin.alter_configs(&resource, &[change], false).await;
    altered.with_context(|| format!("settings of broker {broker}"))
}

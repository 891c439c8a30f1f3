//! What each broker holds.

use std::collections::{BTreeMap, BTreeSet};
use tidelog_replication::BrokerId;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub replicas: usize,
    pub bytes: u64,
    /// Partitions that prefer this broker as their leader.
    pub leads: usize,
}

/// The loads of the brokers that are counted; those of others are left out.
#[derive(Debug, Clone)]
pub struct Loads(BTreeMap<BrokerId, Load>);

impl Loads {
    pub fn new(brokers: &BTreeSet<BrokerId>) -> Loads {
        Loads(brokers.iter().map(|b| (*b, Load::default())).collect())
    }

    pub fn brokers(&self) -> impl Iterator<Item = BrokerId> {
        self.0.keys().copied()
    }

    pub fn of(&self, broker: BrokerId) -> Load {
        self.0.get(&broker).copied().unwrap_or_default()
    }

    pub fn add(&mut self, replicas: &[BrokerId], bytes: u64) {
        for (place, broker) in replicas.iter().enumerate() {
            if let Some(load) = self.0.get_mut(broker) {
                load.replicas += 1;
                load.bytes += bytes;
                load.leads += usize::from(place == 0);
            }
        }
    }

    pub fn remove(&mut self, replicas: &[BrokerId], bytes: u64) {
        for (place, broker) in replicas.iter().enumerate() {
            if let Some(load) = self.0.get_mut(broker) {
                load.replicas -= 1;
                load.bytes -= bytes;
                load.leads -= usize::from(place == 0);
            }
        }
    }

    /// Brokers by one side of their load, the smallest first.
    pub fn sorted_by(&self, side: impl Fn(&Load) -> u64) -> Vec<(BrokerId, Load)> {
        let mut all: Vec<(BrokerId, Load)> = self.0.iter().map(|(b, load)| (*b, *load)).collect();
        all.sort_by_key(|(_, load)| side(load));
        all
    }
}

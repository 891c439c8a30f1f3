//! Notices that this broker is the one that does not belong here.
//!
//! A broker whose data folder was wiped, or is another cluster's, is refused by all the others for
//! ever. It must not look as if it were only waiting for them: it ends, and says why.

use super::Identity;
use crate::ids::BrokerId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use tidelog_proto::peer::refused::Kind;
use tokio::sync::watch;

pub struct Refusals {
    /// Of this broker, by those who refuse it for good.
    by: Mutex<BTreeMap<BrokerId, (Kind, String)>>,
    /// What was last told of each broker that was refused here.
    told: Mutex<HashMap<i32, String>>,
    verdict: watch::Sender<Option<String>>,
    /// First brokers of the cluster, this one included.
    brokers: usize,
}

impl Refusals {
    pub fn new(identity: &Identity) -> Refusals {
        Refusals {
            by: Mutex::default(),
            told: Mutex::default(),
            verdict: watch::Sender::new(None),
            brokers: identity.seeds.split(',').count(),
        }
    }

    pub fn verdict(&self) -> watch::Receiver<Option<String>> {
        self.verdict.subscribe()
    }

    /// A connection with `peer` was accepted by both.
    pub fn welcomed(&self, peer: BrokerId) {
        self.by.lock().remove(&peer);
    }

    /// This broker refuses `peer`. That says nothing against itself, unless the two are of different clusters.
    pub fn refusing(&self, peer: BrokerId, kind: Kind, reason: &str) {
        if kind == Kind::OtherCluster {
            self.refused_by(peer, kind, reason);
        }
    }

    /// `peer` refuses this broker, or is of another cluster. One of many may itself be wrong: only a
    /// majority decides. In a cluster of two the one that knows the other's registration does, but
    /// nobody can tell whose cluster is the right one.
    pub fn refused_by(&self, peer: BrokerId, kind: Kind, reason: &str) {
        let majority = self.brokers / 2 + 1;
        let needed = match kind {
            Kind::Other => return,
            Kind::LostData | Kind::Unregistered | Kind::TooOld => {
                majority.min(self.brokers - 1).max(1)
            }
            Kind::OtherCluster => majority,
        };
        let mut by = self.by.lock();
        by.insert(peer, (kind, reason.to_owned()));
        let same: Vec<String> = by
            .iter()
            .filter(|(_, (k, _))| *k == kind)
            .map(|(id, _)| id.to_string())
            .collect();
        if same.len() < needed {
            return;
        }
        let remedy = match kind {
            Kind::LostData => {
                "start it with its own data.dir; \"When a disk is replaced\" in docs/operations.md \
                 tells what to do when that is lost"
            }
            Kind::Unregistered => {
                "the cluster goes on without it; to bring the machine back, start it with an empty data.dir \
                 under a new broker.id"
            }
            Kind::TooOld => "\"Upgrades\" in docs/operations.md tells how builds are changed",
            _ => "check data.dir and seed.brokers of this broker",
        };
        let verdict = format!(
            "{reason} (refused by or refusing broker {}): {remedy}",
            same.join(", ")
        );
        self.verdict.send_replace(Some(verdict));
    }

    /// Whether refusing `peer` for this reason is news: it tries again several times a second.
    pub fn is_news(&self, peer: i32, reason: &str) -> bool {
        let mut told = self.told.lock();
        if told.get(&peer).is_some_and(|t| t == reason) {
            return false;
        }
        told.insert(peer, reason.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals(seeds: &str) -> Refusals {
        Refusals::new(&Identity {
            broker: BrokerId(2),
            incarnation: 0,
            seeds: seeds.to_owned(),
            address: String::new(),
            metadata_version: 1,
        })
    }

    #[test]
    fn one_broker_alone_does_not_decide() {
        for kind in [
            Kind::LostData,
            Kind::Unregistered,
            Kind::TooOld,
            Kind::OtherCluster,
        ] {
            let of = refusals("1@a:1,2@b:1,3@c:1");
            of.refused_by(BrokerId(1), kind, "so");
            of.refused_by(BrokerId(1), kind, "so");
            assert!(of.verdict().borrow().is_none());
            of.welcomed(BrokerId(1));
            of.refused_by(BrokerId(3), kind, "so");
            assert!(of.verdict().borrow().is_none());
            of.refused_by(BrokerId(1), kind, "so");
            assert!(
                of.verdict()
                    .borrow()
                    .as_ref()
                    .is_some_and(|v| v.contains("1, 3"))
            );
        }
    }

    #[test]
    fn whoever_refuses_the_lost_is_not_lost_itself() {
        let of = refusals("1@a:1,2@b:1,3@c:1");
        for kind in [Kind::LostData, Kind::Unregistered, Kind::TooOld] {
            of.refusing(BrokerId(1), kind, "so");
            of.refusing(BrokerId(3), kind, "so");
            assert!(of.verdict().borrow().is_none(), "{kind:?}");
        }
        of.refusing(BrokerId(1), Kind::OtherCluster, "so");
        of.refusing(BrokerId(3), Kind::OtherCluster, "so");
        assert!(of.verdict().borrow().is_some());
    }

    #[test]
    fn of_two_the_one_that_lost_its_data_is_wrong() {
        let of = refusals("1@a:1,2@b:1");
        of.refused_by(BrokerId(1), Kind::OtherCluster, "so");
        of.refused_by(BrokerId(1), Kind::Other, "so");
        assert!(of.verdict().borrow().is_none());
        of.refused_by(BrokerId(1), Kind::LostData, "so");
        assert!(of.verdict().borrow().is_some());
    }
}

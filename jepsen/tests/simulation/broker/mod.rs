//! Whole brokers, and the clients and checkers of `tidelog-jepsen`: coordinators, transactions, groups,
//! compaction, topics that come and go, moves of replicas. One run: brokers and clients, faults for a
//! while, then peace, in which everything must come to rest and be found as it was acknowledged.

mod clients;
mod cluster;

use crate::entropy::Random;
use crate::faults::Faults;
use crate::run::{self, Run};
use crate::world::{CLIENTS, Options, Report, name};
use clients::Phase;
use cluster::Cluster;
use std::time::Duration;

/// Topics are there, after so long.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// Appends are acknowledged again so long after healing. A client may have learnt not to hurry.
const RECOVERY_LIMIT: Duration = Duration::from_secs(15);
/// Moves have ended, clients are answered and have read everything so long after that.
const END_LIMIT: Duration = Duration::from_secs(240);
/// And then all replicas have the same.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// Does one run.
///
/// # Errors
/// What must not have been.
pub fn run(options: &Options) -> Result<Report, Vec<String>> {
    let mut random = Random::new(options.seed, 1);
    let brokers = if random.one_in(3) { 5 } else { 3 };
    let workloads = cluster::workloads(&mut random);
    let mut hosts = run::hosts(options, brokers, &mut random);
    let cluster = Cluster::new(options, brokers, hosts.machines.clone(), workloads);
    for broker in 1..=brokers {
        let cluster = cluster.clone();
        hosts.sim.host(name(broker), move || {
            cluster::run_broker(cluster.clone(), broker)
        });
    }
    let (clients, links) = (cluster.clone(), hosts.links.clone());
    hosts.sim.host(name(CLIENTS), move || {
        clients::run(clients.clone(), links.clone())
    });
    let mut run = Run::new(hosts, cluster);
    let done = run.faults_and_peace(random);
    run.report(done)
}

impl Run<'_, Cluster> {
    fn faults_and_peace(&mut self, mut random: Random) -> Result<(), String> {
        self.until("topics are there", BEGIN_LIMIT, |cluster| {
            cluster.phase() == Phase::Working
        })?;
        let begin = self.hosts.sim.elapsed() + random.millis(500, 3_000);
        let end = begin + random.millis(3_000, 12_000);
        self.go_on(begin)?;
        let mut faults = Faults::new(random);
        while self.hosts.sim.elapsed() < end {
            faults.at(self);
            self.step()?;
        }
        faults.end(self);
        self.note("healed");
        self.cluster.heal();
        self.until(
            "every partition takes appends again",
            RECOVERY_LIMIT,
            |cluster| cluster.has_recovered(),
        )?;
        let metadata = self.cluster.newest_metadata();
        self.until("all brokers know the topics", SETTLE_LIMIT, |cluster| {
            cluster.know(metadata)
        })?;
        self.cluster.set_phase(Phase::Ending);
        self.until("clients have read everything", END_LIMIT, |cluster| {
            cluster.phase() == Phase::Ended
        })?;
        self.until("all replicas have the same", SETTLE_LIMIT, |cluster| {
            cluster.is_settled()
        })?;
        self.cluster.check();
        self.count_traffic();
        Ok(())
    }
}

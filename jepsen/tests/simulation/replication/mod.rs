//! Replication alone: brokers with replicas of a few partitions, and clients that propose to them. One
//! run: brokers and clients, faults for a while, then peace, in which everything must come to rest
//! and be found as it was acknowledged.

mod clients;
mod cluster;

use crate::entropy::Random;
use crate::faults::Faults;
use crate::run::{self, Run};
use crate::world::{Options, RECOVERY_LIMIT, Report, name};
use cluster::Cluster;

/// Does one run.
///
/// # Errors
/// What must not have been.
pub fn run(options: &Options) -> Result<Report, Vec<String>> {
    let mut random = Random::new(options.seed, 1);
    let brokers = if random.one_in(3) { 5 } else { 3 };
    let mut hosts = run::hosts(options, brokers, &mut random);
    let cluster = Cluster::new(options, brokers, hosts.machines.clone());
    for broker in 1..=brokers {
        let cluster = cluster.clone();
        hosts.sim.host(name(broker), move || {
            cluster::run_broker(cluster.clone(), broker)
        });
    }
    let mut run = Run::new(hosts, cluster);
    let done = run.faults_and_peace(random);
    run.report(done)
}

impl Run<'_, Cluster> {
    fn faults_and_peace(&mut self, mut random: Random) -> Result<(), String> {
        let begin = random.millis(500, 3_000);
        let end = begin + random.millis(3_000, 10_000);
        self.go_on(begin)?;
        let mut faults = Faults::new(random);
        while self.hosts.sim.elapsed() < end {
            faults.at(self);
            self.step()?;
        }
        faults.end(self);
        self.note("healed");

        let before = self.cluster.clients.acknowledged();
        self.until(
            "every partition takes writes again",
            RECOVERY_LIMIT,
            |cluster| {
                let groups = cluster.clients.acknowledged();
                let more = |(group, count)| before.get(group).is_none_or(|b| b < count);
                groups.len() == cluster.groups() && groups.iter().all(more)
            },
        )?;
        self.cluster.clients.stop();
        self.until("all replicas have the same", RECOVERY_LIMIT, |cluster| {
            let applied = cluster.metadata();
            let mut values = applied.values();
            let first = values.next();
            cluster.clients.are_done()
                && cluster.is_settled()
                && values.all(|other| Some(other) == first)
        })?;
        self.cluster.check_logs();
        self.count_traffic();
        Ok(())
    }
}

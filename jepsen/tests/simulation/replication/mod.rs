//! Replication alone: brokers with replicas of a few partitions, and clients that propose to them. One
//! run: brokers and clients, faults for a while, then peace, in which everything must come to rest
//! and be found as it was acknowledged.

mod clients;
mod cluster;

use crate::entropy::{self, Random};
use crate::faults::Faults;
use crate::network::Links;
use crate::world::{self, Hosts, Options, PANICKED, RECOVERY_LIMIT, Report, TICK, World, name};
use cluster::Cluster;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidelog_replication::BrokerId;

const OBSERVE_EVERY: u32 = 5;

/// A run, step by step.
struct Run<'a> {
    hosts: Hosts<'a>,
    cluster: Arc<Cluster>,
    steps: u32,
}

/// Does one run.
///
/// # Errors
/// What must not have been.
pub fn run(options: &Options) -> Result<Report, Vec<String>> {
    let mut random = Random::new(options.seed, 1);
    let brokers = if random.one_in(3) { 5 } else { 3 };
    let links = Arc::new(Links::default());
    let machines = world::machines(options, brokers, &links);
    let cluster = Cluster::new(options, brokers, machines.clone());
    let mut sim = world::sim(&mut random);
    for broker in 1..=brokers {
        let cluster = cluster.clone();
        sim.host(name(broker), move || {
            cluster::run_broker(cluster.clone(), broker)
        });
    }
    let mut run = Run {
        hosts: Hosts {
            sim,
            brokers,
            links,
            machines,
        },
        cluster,
        steps: 0,
    };
    let done = run.faults_and_peace(random);
    let cluster = &run.cluster;
    let mut history = cluster.history.lock();
    if let Err(error) = done {
        history.fail(error);
    }
    if history.violations.is_empty() {
        Ok(Report {
            fingerprint: history.fingerprint(),
            acknowledged: history.acknowledged,
            simulated: run.hosts.sim.elapsed(),
        })
    } else {
        Err(std::mem::take(&mut history.violations))
    }
}

impl Run<'_> {
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
        self.until("every partition takes writes again", |cluster| {
            let groups = cluster.clients.acknowledged();
            let more = |(group, count)| before.get(group).is_none_or(|b| b < count);
            groups.len() == cluster.groups() && groups.iter().all(more)
        })?;
        self.cluster.clients.stop();
        self.until("all replicas have the same", |cluster| {
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

    fn go_on(&mut self, until: Duration) -> Result<(), String> {
        while self.hosts.sim.elapsed() < until {
            self.step()?;
        }
        Ok(())
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Cluster) -> bool) -> Result<(), String> {
        let limit = self.hosts.sim.elapsed() + RECOVERY_LIMIT;
        while !condition(&self.cluster) {
            if self.hosts.sim.elapsed() > limit {
                let state = self.cluster.state();
                return Err(format!(
                    "{RECOVERY_LIMIT:?} are not enough: {what}\n{state}"
                ));
            }
            self.go_on(self.hosts.sim.elapsed() + TICK * 50)?;
        }
        self.note(what);
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        entropy::set_time(self.hosts.sim.elapsed());
        self.cluster
            .history
            .lock()
            .set_now(self.hosts.sim.elapsed());
        self.hosts
            .sim
            .step()
            .map_err(|e| format!("a broker stopped: {e}"))?;
        self.steps += 1;
        if self.steps.is_multiple_of(OBSERVE_EVERY) {
            cluster::observe(&self.cluster);
        }
        if self.steps.is_multiple_of(1000) {
            self.count_traffic();
        }
        if PANICKED.load(Ordering::Relaxed) {
            return Err("a panic".to_owned());
        }
        if self.cluster.history.lock().violations.is_empty() {
            Ok(())
        } else {
            Err("stopped there".to_owned())
        }
    }

    /// Notes what every broker has sent and written: two runs that differ anywhere differ here soon.
    fn count_traffic(&self) {
        let running = self.cluster.running.lock();
        let counts: BTreeMap<_, _> = running
            .iter()
            .map(|(broker, running)| {
                let metrics = running.node.metrics();
                let journal = metrics.journal;
                (
                    *broker,
                    [metrics.peer_bytes_out, metrics.peer_bytes_in, journal.syncs],
                )
            })
            .collect();
        drop(running);
        self.note(&format!("bytes sent, received, syncs: {counts:?}"));
    }
}

impl<'a> World<'a> for Run<'a> {
    fn hosts(&mut self) -> &mut Hosts<'a> {
        &mut self.hosts
    }

    fn has_clients(&self) -> bool {
        false
    }

    fn note(&self, event: &str) {
        self.cluster.history.lock().note(event);
    }

    fn crash(&mut self, broker: usize) {
        self.note(&format!("{broker} crashes"));
        let id = BrokerId(broker as i32);
        self.cluster.running.lock().remove(&broker);
        self.hosts.sim.crash(name(broker));
        self.cluster.clients.broker_gone(broker);
        self.cluster.history.lock().gone(id);
    }

    fn start(&mut self, broker: usize) {
        self.note(&format!("{broker} starts"));
        self.hosts.sim.bounce(name(broker));
    }

    fn begin_move(&mut self, random: &mut Random) {
        let mut brokers: Vec<BrokerId> = (1..=self.cluster.brokers as i32).map(BrokerId).collect();
        while brokers.len() > 3 {
            brokers.remove(random.below(brokers.len()));
        }
        let first = random.below(3);
        brokers.rotate_left(first);
        let mut placements = self.cluster.placements.lock();
        let at = random.below(placements.len());
        let placement = &mut placements[at];
        if placement.target.is_none() && placement.replicas != brokers {
            let event = format!("{}: moves to {brokers:?}", placement.group.0);
            self.cluster.history.lock().note(&event);
            placement.target = Some(brokers);
        }
    }
}

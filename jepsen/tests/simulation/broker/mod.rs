//! Whole brokers, and the clients and checkers of `tidelog-jepsen`: coordinators, transactions, groups,
//! compaction, topics that come and go, moves of replicas. One run: brokers and clients, faults for a
//! while, then peace, in which everything must come to rest and be found as it was acknowledged.

mod clients;
mod cluster;

use crate::entropy::{self, Random};
use crate::faults::Faults;
use crate::network::Links;
use crate::world::{self, CLIENTS, Hosts, Options, PANICKED, Report, TICK, World, id, name};
use clients::Phase;
use cluster::Cluster;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const OBSERVE_EVERY: u32 = 5;
/// Topics are there, after so long.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// Appends are acknowledged again so long after healing. A client may have learnt not to hurry.
const RECOVERY_LIMIT: Duration = Duration::from_secs(15);
/// Moves have ended, clients are answered and have read everything so long after that.
const END_LIMIT: Duration = Duration::from_secs(240);
/// And then all replicas have the same.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

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
    let cluster = Cluster::new(options, brokers, machines.clone(), &mut random);
    let mut sim = world::sim(&mut random);
    for broker in 1..=brokers {
        let cluster = cluster.clone();
        sim.host(name(broker), move || {
            cluster::run_broker(cluster.clone(), broker)
        });
    }
    let (clients, client_links) = (cluster.clone(), links.clone());
    sim.host(name(CLIENTS), move || {
        clients::run(clients.clone(), client_links.clone())
    });
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
            acknowledged: cluster.acknowledged(),
            simulated: run.hosts.sim.elapsed(),
        })
    } else {
        Err(std::mem::take(&mut history.violations))
    }
}

impl Run<'_> {
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

    fn go_on(&mut self, until: Duration) -> Result<(), String> {
        while self.hosts.sim.elapsed() < until {
            self.step()?;
        }
        Ok(())
    }

    fn until(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Cluster) -> bool,
    ) -> Result<(), String> {
        let until = self.hosts.sim.elapsed() + limit;
        while !condition(&self.cluster) {
            if self.hosts.sim.elapsed() > until {
                let state = self.cluster.state();
                return Err(format!("{limit:?} are not enough: {what}\n{state}"));
            }
            self.go_on(self.hosts.sim.elapsed() + TICK * 50)?;
        }
        self.note(what);
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let now = self.hosts.sim.elapsed();
        entropy::set_time(now);
        self.cluster.history.lock().set_now(now);
        self.hosts
            .sim
            .step()
            .map_err(|e| format!("a broker stopped: {e}"))?;
        self.steps += 1;
        if self.steps.is_multiple_of(OBSERVE_EVERY) {
            self.cluster.observe();
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
        let counts = self.cluster.traffic();
        self.note(&format!("bytes sent, received, syncs: {counts:?}"));
    }
}

impl<'a> World<'a> for Run<'a> {
    fn hosts(&mut self) -> &mut Hosts<'a> {
        &mut self.hosts
    }

    fn has_clients(&self) -> bool {
        true
    }

    fn note(&self, event: &str) {
        self.cluster.history.lock().note(event);
    }

    fn crash(&mut self, broker: usize) {
        self.note(&format!("{broker} crashes"));
        self.cluster.gone(broker);
        self.hosts.sim.crash(name(broker));
        self.cluster.history.lock().gone(id(broker));
    }

    fn start(&mut self, broker: usize) {
        self.note(&format!("{broker} starts"));
        self.hosts.sim.bounce(name(broker));
    }

    fn begin_move(&mut self, random: &mut Random) {
        self.note("replicas are to move");
        self.cluster.ask_for_moves(random.next());
    }
}

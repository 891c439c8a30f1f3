//! One run: brokers and clients, faults for a while, then peace, in which everything must come to rest
//! and be found as it was acknowledged.

use crate::cluster::{self, Cluster, RECOVERY_LIMIT, name};
use crate::entropy::Random;
use crate::faults::Faults;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidelog_replication::BrokerId;
use turmoil::Sim;

const TICK: Duration = Duration::from_millis(1);
const OBSERVE_EVERY: u32 = 5;

/// Set by the panic hook: tokio would catch a task's panic and go on.
pub static PANICKED: AtomicBool = AtomicBool::new(false);

pub struct Options {
    pub seed: u64,
    pub dir: PathBuf,
    /// Every event is printed.
    pub show: bool,
    /// Disks say that they have synced before they have.
    pub lying_disks: bool,
}

/// What a run that went well did.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    pub fingerprint: u64,
    pub acknowledged: u64,
    pub simulated: Duration,
}

/// A run, step by step.
pub struct Run<'a> {
    pub sim: Sim<'a>,
    pub cluster: Arc<Cluster>,
    steps: u32,
}

/// Does one run.
///
/// # Errors
/// What must not have been.
pub fn run(options: &Options) -> Result<Report, Vec<String>> {
    let mut random = Random::new(options.seed, 1);
    let brokers = if random.one_in(3) { 5 } else { 3 };
    let cluster = Cluster::new(options, brokers);
    let mut sim = turmoil::Builder::new()
        .rng_seed(random.next())
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::ZERO)
        .max_message_latency(random.millis(1, 4))
        .tcp_capacity(1 << 14)
        .enable_random_order()
        .build();
    for broker in 1..=brokers {
        let cluster = cluster.clone();
        sim.host(name(broker), move || {
            cluster::run_broker(cluster.clone(), broker)
        });
    }
    let mut run = Run {
        sim,
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
            simulated: run.sim.elapsed(),
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
        while self.sim.elapsed() < end {
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
        while self.sim.elapsed() < until {
            self.step()?;
        }
        Ok(())
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Cluster) -> bool) -> Result<(), String> {
        let limit = self.sim.elapsed() + RECOVERY_LIMIT;
        while !condition(&self.cluster) {
            if self.sim.elapsed() > limit {
                let state = self.cluster.state();
                return Err(format!(
                    "{RECOVERY_LIMIT:?} are not enough: {what}\n{state}"
                ));
            }
            self.go_on(self.sim.elapsed() + TICK * 50)?;
        }
        self.note(what);
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.cluster.history.lock().set_now(self.sim.elapsed());
        self.sim
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

    pub fn note(&self, event: &str) {
        self.cluster.history.lock().note(event);
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

    /// Stops a broker where it is.
    pub fn crash(&mut self, broker: usize) {
        self.note(&format!("{broker} crashes"));
        let id = BrokerId(broker as i32);
        self.cluster.running.lock().remove(&broker);
        self.sim.crash(name(broker));
        self.cluster.clients.broker_gone(broker);
        self.cluster.history.lock().gone(id);
    }

    pub fn start(&mut self, broker: usize) {
        self.note(&format!("{broker} starts"));
        self.sim.bounce(name(broker));
    }
}

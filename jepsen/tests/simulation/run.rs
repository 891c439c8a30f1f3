//! One run, step by step: simulated hosts, and brokers whose history is watched.

use crate::entropy::{self, Random};
use crate::history::History;
use crate::network::Links;
use crate::world::{self, Hosts, Options, PANICKED, Report, TICK, id, name};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidelog_replication::Node;

const OBSERVE_EVERY: u32 = 5;

/// The brokers of a run, and what outlives their crashes.
pub trait Cluster {
    /// Whether clients are on a host of their own.
    const HAS_CLIENTS: bool;

    fn history(&self) -> &Mutex<History>;
    /// The nodes that run.
    fn nodes(&self) -> BTreeMap<usize, Arc<Node>>;
    /// Where every replica stands, for people.
    fn state(&self) -> String;
    /// Values that clients were told are written.
    fn acknowledged(&self) -> u64;
    /// The broker has been crashed.
    fn gone(&self, broker: usize);
    /// Sends some replicas elsewhere, or changes who holds them in another way.
    fn change_members(&self, random: &mut Random);
    /// Takes back what is to be taken back of that.
    fn restore_members(&self) {}

    /// Looks at all running brokers.
    fn observe(&self) {
        let nodes = self.nodes();
        let mut history = self.history().lock();
        for (broker, node) in &nodes {
            world::observe(&mut history, *broker, node);
        }
    }
}

pub struct Run<'a, C> {
    pub hosts: Hosts<'a>,
    pub cluster: Arc<C>,
    steps: u32,
}

impl<'a, C: Cluster> Run<'a, C> {
    pub fn new(hosts: Hosts<'a>, cluster: Arc<C>) -> Run<'a, C> {
        Run {
            hosts,
            cluster,
            steps: 0,
        }
    }

    /// What came of it, after it was `done`.
    ///
    /// # Errors
    /// What must not have been.
    pub fn report(&self, done: Result<(), String>) -> Result<Report, Vec<String>> {
        let mut history = self.cluster.history().lock();
        if let Err(error) = done {
            history.fail(error);
        }
        if history.violations.is_empty() {
            drop(history);
            let acknowledged = self.cluster.acknowledged();
            Ok(Report {
                fingerprint: self.cluster.history().lock().fingerprint(),
                acknowledged,
                simulated: self.hosts.sim.elapsed(),
            })
        } else {
            Err(std::mem::take(&mut history.violations))
        }
    }

    pub fn go_on(&mut self, until: Duration) -> Result<(), String> {
        while self.hosts.sim.elapsed() < until {
            self.step()?;
        }
        Ok(())
    }

    pub fn until(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&C) -> bool,
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

    pub fn step(&mut self) -> Result<(), String> {
        let now = self.hosts.sim.elapsed();
        entropy::set_time(now);
        self.cluster.history().lock().set_now(now);
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
        if self.cluster.history().lock().violations.is_empty() {
            Ok(())
        } else {
            Err("stopped there".to_owned())
        }
    }

    pub fn note(&self, event: &str) {
        self.cluster.history().lock().note(event);
    }

    /// Notes what every broker has sent and written: two runs that differ anywhere differ here soon.
    pub fn count_traffic(&self) {
        let nodes = self.cluster.nodes();
        let counts = nodes.iter().map(|(broker, node)| {
            let metrics = node.metrics();
            let syncs = metrics.journal.syncs;
            (
                *broker,
                [metrics.peer_bytes_out, metrics.peer_bytes_in, syncs],
            )
        });
        let counts: BTreeMap<_, _> = counts.collect();
        self.note(&format!("bytes sent, received, syncs: {counts:?}"));
    }

    /// Stops a broker where it is.
    pub fn crash(&mut self, broker: usize) {
        self.note(&format!("{broker} crashes"));
        self.cluster.gone(broker);
        self.hosts.sim.crash(name(broker));
        self.cluster.history().lock().gone(id(broker));
    }

    pub fn start(&mut self, broker: usize) {
        self.note(&format!("{broker} starts"));
        self.hosts.sim.bounce(name(broker));
    }
}

/// Hosts for so many brokers, not started yet.
pub fn hosts<'a>(options: &Options, brokers: usize, random: &mut Random) -> Hosts<'a> {
    let links = Arc::new(Links::default());
    Hosts {
        sim: world::sim(random),
        brokers,
        machines: world::machines(options, brokers, &links),
        links,
    }
}

//! Which faults come when, as the seed says.

use crate::cluster::{Cluster, name};
use crate::entropy::Random;
use crate::run::Run;
use std::time::Duration;
use tidelog_replication::BrokerId;

/// How a fault ends.
enum End {
    /// Links to and from the broker, or between two.
    Mend(usize, Option<usize>),
    Start(usize),
    Fast(usize),
    Latency,
}

pub struct Faults {
    random: Random,
    next: Duration,
    ends: Vec<(Duration, End)>,
    /// Brokers that are down.
    down: Vec<usize>,
    /// The longest time a message usually takes.
    latency: Duration,
}

impl Faults {
    pub fn new(mut random: Random) -> Faults {
        let latency = random.millis(1, 4);
        Faults {
            random,
            next: Duration::ZERO,
            ends: Vec::new(),
            down: Vec::new(),
            latency,
        }
    }

    /// Begins and ends what is due.
    pub fn at(&mut self, run: &mut Run<'_>) {
        let now = run.sim.elapsed();
        let (due, later) = std::mem::take(&mut self.ends)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.ends = later;
        for (_, end) in due {
            self.finish(run, &end);
        }
        if self.next <= now {
            self.begin(run);
            self.next = now + self.random.millis(50, 1_200);
        }
    }

    /// Ends all faults.
    pub fn end(&mut self, run: &mut Run<'_>) {
        for (_, end) in std::mem::take(&mut self.ends) {
            self.finish(run, &end);
        }
    }

    fn finish(&mut self, run: &mut Run<'_>, end: &End) {
        match end {
            End::Mend(broker, other) => {
                run.note(&format!("mended: {broker} and {other:?}"));
                run.cluster.links.mend(|from, to| {
                    let with = |b| from == b || to == b;
                    with(*broker) && other.is_none_or(with)
                });
            }
            End::Start(broker) => {
                self.down.retain(|b| b != broker);
                run.start(*broker);
            }
            End::Fast(broker) => run.cluster.machines[broker].set_slowness(1),
            End::Latency => {
                let latency = self.latency;
                run.sim.set_max_message_latency(latency);
            }
        }
    }

    fn begin(&mut self, run: &mut Run<'_>) {
        let brokers = run.cluster.brokers;
        let one = 1 + self.random.below(brokers);
        let other = 1 + (one + self.random.below(brokers - 1)) % brokers;
        let now = run.sim.elapsed();
        let until = now + self.random.millis(20, 2_500);
        match self.random.below(10) {
            0 => {
                run.note(&format!("nothing passes from {one} to {other}"));
                run.cluster.links.cut(one, other);
                self.ends.push((until, End::Mend(one, Some(other))));
            }
            1 => {
                run.note(&format!("nothing passes between {one} and {other}"));
                run.cluster.links.cut(one, other);
                run.cluster.links.cut(other, one);
                self.ends.push((until, End::Mend(one, Some(other))));
            }
            2 | 3 => {
                isolate(run, one);
                self.ends.push((until, End::Mend(one, None)));
            }
            4 => {
                let times = self.random.between(5, 200);
                run.note(&format!("the disk of {one} is {times} times slower"));
                run.cluster.machines[&one].set_slowness(times);
                self.ends.push((until, End::Fast(one)));
            }
            5 => {
                let latency = self.random.millis(10, 150);
                run.note(&format!("messages take up to {latency:?}"));
                run.sim.set_max_message_latency(latency);
                self.ends.push((until, End::Latency));
            }
            6 => {
                for broker in 1..=brokers {
                    self.crash(run, broker);
                }
            }
            7 if brokers == 5 => self.begin_move(&run.cluster),
            _ => self.crash(run, one),
        }
    }

    /// Half of the crashes are heard by the others at once; after the rest there is only silence.
    fn crash(&mut self, run: &mut Run<'_>, broker: usize) {
        if self.down.contains(&broker) {
            return;
        }
        let until = run.sim.elapsed() + self.random.millis(10, 2_500);
        if self.random.one_in(2) {
            isolate(run, broker);
            self.ends.push((until, End::Mend(broker, None)));
        }
        self.down.push(broker);
        run.crash(broker);
        self.ends.push((until, End::Start(broker)));
    }

    /// Sends a partition's replicas elsewhere, unless it is on its way already.
    fn begin_move(&mut self, cluster: &Cluster) {
        let mut brokers: Vec<BrokerId> = (1..=cluster.brokers as i32).map(BrokerId).collect();
        while brokers.len() > 3 {
            brokers.remove(self.random.below(brokers.len()));
        }
        let first = self.random.below(3);
        brokers.rotate_left(first);
        let mut placements = cluster.placements.lock();
        let at = self.random.below(placements.len());
        let placement = &mut placements[at];
        if placement.target.is_none() && placement.replicas != brokers {
            let event = format!("{}: moves to {brokers:?}", placement.group.0);
            cluster.history.lock().note(&event);
            placement.target = Some(brokers);
        }
    }
}

fn isolate(run: &Run<'_>, broker: usize) {
    run.note(&format!("{} is alone", name(broker)));
    for other in (1..=run.cluster.brokers).filter(|b| *b != broker) {
        run.cluster.links.cut(broker, other);
        run.cluster.links.cut(other, broker);
    }
}

//! Which faults come when, as the seed says.

use crate::entropy::Random;
use crate::run::{Cluster, Run};
use crate::world::{CLIENTS, name};
use std::time::Duration;

/// How a fault ends.
enum End {
    /// Links to and from the broker, or between two.
    Mend(usize, Option<usize>),
    Start(usize),
    Fast(usize),
    Latency,
    Members,
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
    pub fn at<C: Cluster>(&mut self, run: &mut Run<'_, C>) {
        let now = run.hosts.sim.elapsed();
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
    pub fn end<C: Cluster>(&mut self, run: &mut Run<'_, C>) {
        for (_, end) in std::mem::take(&mut self.ends) {
            self.finish(run, &end);
        }
    }

    fn finish<C: Cluster>(&mut self, run: &mut Run<'_, C>, end: &End) {
        match end {
            End::Mend(broker, other) => {
                run.note(&format!("mended: {broker} and {other:?}"));
                run.hosts.links.mend(|from, to| {
                    let with = |b| from == b || to == b;
                    with(*broker) && other.is_none_or(with)
                });
            }
            End::Start(broker) => {
                self.down.retain(|b| b != broker);
                run.start(*broker);
            }
            End::Fast(broker) => run.hosts.machines[broker].set_slowness(1),
            End::Members => run.cluster.restore_members(),
            End::Latency => {
                let latency = self.latency;
                run.hosts.sim.set_max_message_latency(latency);
            }
        }
    }

    fn begin<C: Cluster>(&mut self, run: &mut Run<'_, C>) {
        let brokers = run.hosts.brokers;
        let one = 1 + self.random.below(brokers);
        let other = match C::HAS_CLIENTS && self.random.one_in(4) {
            true => CLIENTS,
            false => 1 + (one + self.random.below(brokers - 1)) % brokers,
        };
        let now = run.hosts.sim.elapsed();
        let until = now + self.random.millis(20, 2_500);
        match self.random.below(10) {
            0 => {
                run.note(&format!("nothing passes from {one} to {other}"));
                run.hosts.links.cut(one, other);
                self.ends.push((until, End::Mend(one, Some(other))));
            }
            1 => {
                run.note(&format!("nothing passes between {one} and {other}"));
                run.hosts.links.cut(one, other);
                run.hosts.links.cut(other, one);
                self.ends.push((until, End::Mend(one, Some(other))));
            }
            2 | 3 => {
                let from_clients = C::HAS_CLIENTS && self.random.one_in(2);
                isolate(run, one, from_clients);
                self.ends.push((until, End::Mend(one, None)));
            }
            4 => {
                let times = self.random.between(5, 200);
                run.note(&format!("the disk of {one} is {times} times slower"));
                run.hosts.machines[&one].set_slowness(times);
                self.ends.push((until, End::Fast(one)));
            }
            5 => {
                let latency = self.random.millis(10, 150);
                run.note(&format!("messages take up to {latency:?}"));
                run.hosts.sim.set_max_message_latency(latency);
                self.ends.push((until, End::Latency));
            }
            6 => {
                for broker in 1..=brokers {
                    self.crash(run, broker);
                }
            }
            7 if brokers == 5 => {
                run.cluster.change_members(&mut self.random);
                self.ends.push((until, End::Members));
            }
            _ => self.crash(run, one),
        }
    }

    /// Half of the crashes are heard by the others at once; after the rest there is only silence.
    fn crash<C: Cluster>(&mut self, run: &mut Run<'_, C>, broker: usize) {
        if self.down.contains(&broker) {
            return;
        }
        let until = run.hosts.sim.elapsed() + self.random.millis(10, 2_500);
        if self.random.one_in(2) {
            isolate(run, broker, C::HAS_CLIENTS);
            self.ends.push((until, End::Mend(broker, None)));
        }
        self.down.push(broker);
        run.crash(broker);
        self.ends.push((until, End::Start(broker)));
    }
}

fn isolate<C: Cluster>(run: &mut Run<'_, C>, broker: usize, from_clients: bool) {
    run.note(&format!(
        "{} is alone; from clients, too: {from_clients}",
        name(broker)
    ));
    let hosts = &run.hosts;
    let others = (1..=hosts.brokers).filter(|b| *b != broker);
    for other in others.chain(from_clients.then_some(CLIENTS)) {
        hosts.links.cut(broker, other);
        hosts.links.cut(other, broker);
    }
}

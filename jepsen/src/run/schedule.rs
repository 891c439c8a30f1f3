//! Which faults strike when: a pure function of the seed.

use std::collections::BTreeSet;
use std::fmt;

use super::network::Host;
use super::random::Random;

/// Which brokers a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    One(i32),
    /// Whoever leads partition 0 when it strikes.
    Leader,
    /// All but this one.
    AllBut(i32),
    All,
}

/// Which ways between hosts are cut. Clients reach everybody unless it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// This broker from the other brokers.
    Isolate(Who),
    /// This broker from the others and from clients.
    Alone(Who),
    /// The other two from each other.
    Bridge(i32),
    /// Nothing from the first reaches the second.
    OneWay(i32, i32),
    /// This one hears no other broker.
    Deaf(Who),
    /// No other broker hears this one.
    Mute(Who),
    /// Clients from this broker.
    Clients(Who),
    /// Every broker from every other.
    Shattered,
}

/// Something that goes wrong, until it is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill(Who),
    Pause(Who),
    /// A clean stop; started again at once.
    Restart(Who),
    Cut(Cut),
    /// What this broker sends goes through a narrow link.
    Slow(Who),
    /// Delayed, lost, doubled and reordered frames.
    Lossy(Who),
    /// kill -9, and what was not synced is lost.
    PowerLoss(Who),
    /// Writes and syncs fail.
    DiskError(Who),
    /// No room is left.
    DiskFull(Who),
    /// Writes and syncs wait.
    DiskStall(Who),
    /// Writes and syncs wait again and again, for a moment.
    DiskSlow(Who),
    /// kill -9, and files that are no longer written are damaged before the start.
    Damage(Who),
    /// The wall clock is off by this many seconds, until healed.
    Clock(Who, i64),
    /// Partitions move to other brokers, with more or fewer replicas; some moves are cancelled. The number says
    /// which and where.
    Move(u64),
    /// Everything is moved away from this broker, until healed.
    Drain(i32),
    /// This broker is to lead nothing, until healed.
    Maintenance(i32),
    /// The last broker joins, and stays.
    Join,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// The kinds of faults a run may be limited to.
pub const KINDS: [&str; 17] = [
    "kill",
    "pause",
    "restart",
    "partition",
    "slow",
    "lossy",
    "power-loss",
    "disk-error",
    "disk-full",
    "disk-stall",
    "disk-slow",
    "damage",
    "clock",
    "move",
    "drain",
    "maintenance",
    "join",
];

/// Those that change who holds what; with any of them there are five brokers, the last of which joins.
pub const MEMBER_KINDS: [&str; 4] = ["move", "drain", "maintenance", "join"];

/// Those that need a disk of its own for each broker.
pub const DISK_KINDS: [&str; 5] = [
    "power-loss",
    "disk-error",
    "disk-full",
    "disk-stall",
    "disk-slow",
];

/// How far clocks go wrong, in seconds. A day would be enough for producers to be forgotten, as it should be.
const CLOCKS: [i64; 6] = [-3_600, -70, -2, 2, 70, 3_600];

/// Quiet, then faults, then healed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub quiet_ms: u64,
    pub faults: Vec<Fault>,
    pub lasting_ms: u64,
}

/// As many steps as fit, of the kinds allowed.
#[must_use]
pub fn plan(seed: u64, millis: u64, brokers: i32, kinds: &BTreeSet<String>) -> Vec<Step> {
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let mut random = Random::new(seed);
    let mut steps = Vec::new();
    let mut at_ms = 0;
    let damaged = 1 + (seed % brokers as u64) as i32;
    while !kinds.is_empty() {
        let count = if random.between(0, 4) == 0 { 2 } else { 1 };
        let faults = (0..count).map(|_| {
            let kind = random.pick(&kinds);
            fault(&mut random, kind, brokers, damaged)
        });
        let step = Step {
            faults: faults.collect(),
            quiet_ms: random.between(3_000, 8_000),
            lasting_ms: random.between(1_000, 9_000),
        };
        at_ms += step.quiet_ms + step.lasting_ms;
        if at_ms > millis {
            break;
        }
        steps.push(step);
    }
    steps
}

fn fault(random: &mut Random, kind: &str, brokers: i32, damaged: i32) -> Fault {
    let mut broker = || random.between(1, brokers as u64 + 1) as i32;
    let (one, other) = (broker(), broker());
    let few = random.pick(&[Who::One(one), Who::Leader]);
    let any = random.pick(&[Who::One(one), Who::Leader, Who::AllBut(one), Who::All]);
    match kind {
        "kill" => Fault::Kill(any),
        "pause" => Fault::Pause(any),
        "restart" => Fault::Restart(few),
        "slow" => Fault::Slow(few),
        "lossy" => Fault::Lossy(any),
        "power-loss" => Fault::PowerLoss(any),
        "disk-error" => Fault::DiskError(few),
        "disk-full" => Fault::DiskFull(any),
        "disk-stall" => Fault::DiskStall(few),
        "disk-slow" => Fault::DiskSlow(any),
        // Always the same one of a run: what it has is given back by the others.
        "damage" => Fault::Damage(Who::One(damaged)),
        "clock" => Fault::Clock(any, random.pick(&CLOCKS)),
        "move" => Fault::Move(random.number()),
        "drain" => Fault::Drain(one),
        "maintenance" => Fault::Maintenance(one),
        "join" => Fault::Join,
        _ => Fault::Cut(random.pick(&[
            Cut::Isolate(few),
            Cut::Isolate(few),
            Cut::Alone(few),
            Cut::Bridge(one),
            Cut::OneWay(
                one,
                if one == other {
                    one % brokers + 1
                } else {
                    other
                },
            ),
            Cut::Deaf(few),
            Cut::Mute(few),
            Cut::Clients(few),
            Cut::Shattered,
        ])),
    }
}

impl Cut {
    /// The one-way cuts it is made of; `chosen` resolves who is meant.
    pub fn ways(self, brokers: i32, chosen: impl Fn(Who) -> Vec<i32>) -> Vec<(Host, Host)> {
        let others = |id: i32| (1..=brokers).filter(move |other| *other != id);
        let mut ways = Vec::new();
        let mut add = |from: Host, to: Host| ways.push((from, to));
        match self {
            Cut::Isolate(who) | Cut::Alone(who) | Cut::Deaf(who) | Cut::Mute(who) => {
                for id in chosen(who) {
                    for other in others(id) {
                        if !matches!(self, Cut::Deaf(_)) {
                            add(Host::Broker(id), Host::Broker(other));
                        }
                        if !matches!(self, Cut::Mute(_)) {
                            add(Host::Broker(other), Host::Broker(id));
                        }
                    }
                    if matches!(self, Cut::Alone(_)) {
                        add(Host::Broker(id), Host::Clients);
                        add(Host::Clients, Host::Broker(id));
                    }
                }
            }
            Cut::Bridge(middle) => {
                for one in others(middle) {
                    for other in others(middle).filter(|other| *other != one) {
                        add(Host::Broker(one), Host::Broker(other));
                    }
                }
            }
            Cut::OneWay(from, to) => add(Host::Broker(from), Host::Broker(to)),
            Cut::Clients(who) => {
                for id in chosen(who) {
                    add(Host::Broker(id), Host::Clients);
                    add(Host::Clients, Host::Broker(id));
                }
            }
            Cut::Shattered => {
                for one in 1..=brokers {
                    for other in others(one) {
                        add(Host::Broker(one), Host::Broker(other));
                    }
                }
            }
        }
        ways
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> BTreeSet<String> {
        KINDS.iter().map(|kind| (*kind).to_owned()).collect()
    }

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        let one = plan(7, 120_000, 3, &all());
        assert_eq!(one, plan(7, 120_000, 3, &all()));
        assert_ne!(one, plan(8, 120_000, 3, &all()));
        assert!(one.len() > 4, "{one:?}");
    }

    #[test]
    fn only_the_kinds_asked_for() {
        let kinds = BTreeSet::from(["kill".to_owned()]);
        let faults = plan(1, 600_000, 3, &kinds)
            .into_iter()
            .flat_map(|s| s.faults);
        assert!(faults.into_iter().all(|f| matches!(f, Fault::Kill(_))));
        assert_eq!(plan(1, 600_000, 3, &BTreeSet::new()), []);
    }

    #[test]
    fn one_broker_alone_is_damaged() {
        let kinds = BTreeSet::from(["damage".to_owned()]);
        let faults = plan(5, 600_000, 3, &kinds)
            .into_iter()
            .flat_map(|s| s.faults);
        let damaged: Vec<Fault> = faults.collect();
        assert!(damaged.len() > 10);
        assert!(damaged.iter().all(|f| *f == Fault::Damage(Who::One(3))));
    }

    #[test]
    fn a_bridge_cuts_the_other_two_both_ways() {
        let ways = Cut::Bridge(2).ways(3, |_| Vec::new());
        let b = Host::Broker;
        assert_eq!(ways, [(b(1), b(3)), (b(3), b(1))]);
    }

    #[test]
    fn deaf_is_one_way() {
        let ways = Cut::Deaf(Who::Leader).ways(3, |_| vec![1]);
        let b = Host::Broker;
        assert_eq!(ways, [(b(2), b(1)), (b(3), b(1))]);
    }
}

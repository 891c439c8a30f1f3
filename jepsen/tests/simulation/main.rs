//! Deterministic simulation: several brokers in one thread, with the network, the disks and the time in
//! the hands of a seed. docs/jepsen.md says how to run many seeds, and one again.
//!
//! The rooms: `replication` is a run of replication alone; `broker` one of whole brokers, with the
//! clients and the checkers of `tidelog-jepsen`. They share `run`, a run's steps; `world`, its hosts; `faults`, what
//! goes wrong when; `history`, what replicas must not show. `machine` and `network` stand for a
//! broker's machine, `entropy` makes everything random, and the time, follow from the seed. `processes`
//! gives each run a process of its own.

mod broker;
mod entropy;
mod faults;
mod history;
mod machine;
mod network;
mod processes;
mod replication;
mod run;
mod world;

use processes::{Ended, Environment, Of, number, run_in_process, run_many};

/// `SIMULATION_SEEDS` many from `SIMULATION_SEED` on.
#[test]
fn seeds_hold() {
    many_hold(Of::Replication, 6);
}

/// As [`seeds_hold`].
#[test]
fn seeds_of_brokers_hold() {
    many_hold(Of::Brokers, 2);
}

fn many_hold(of: Of, usually: u64) {
    let first = number("SIMULATION_SEED").unwrap_or(1);
    let seeds = number("SIMULATION_SEEDS").unwrap_or(usually);
    let failed = run_many(of, first, seeds);
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
}

#[test]
fn a_seed_replays_exactly() {
    replays_exactly(Of::Replication);
}

#[test]
fn a_seed_of_brokers_replays_exactly() {
    replays_exactly(Of::Brokers);
}

fn replays_exactly(of: Of) {
    let run = |seed| match run_in_process(of, seed, &Environment::default()) {
        Ended::Well(report) => report,
        Ended::Badly(output) => panic!("seed {seed}: {output}"),
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first.fingerprint, run(2).fingerprint);
}

/// What the simulation is for must not escape it.
#[test]
fn disks_that_lie_about_their_syncs_are_noticed() {
    let lying = Environment { lying_disks: true };
    // A record that was there, or acknowledged, and is not.
    let told = ["was seen", "was acknowledged at", "Acknowledged"];
    let noticed = |seed| match run_in_process(Of::Replication, seed, &lying) {
        Ended::Well(_) => false,
        Ended::Badly(output) => told.iter().any(|told| output.contains(told)),
    };
    assert!((1..=20).any(noticed), "20 seeds are not enough");
}

/// Nor those who read what they were told is written.
#[test]
fn clients_notice_disks_that_lie_about_their_syncs() {
    let lying = Environment { lying_disks: true };
    let told = ["was seen", "LostWrite", "Unseen", "InconsistentOffsets"];
    let noticed = |seed| match run_in_process(Of::Brokers, seed, &lying) {
        Ended::Well(_) => false,
        Ended::Badly(output) => told.iter().any(|told| output.contains(told)),
    };
    assert!((1..=20).any(noticed), "20 seeds are not enough");
}

/// The process of one run; [`processes`] starts it.
#[test]
#[ignore = "started by the others, for one seed"]
fn one_run() {
    processes::run_here();
}

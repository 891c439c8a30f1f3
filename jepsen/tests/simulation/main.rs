//! Deterministic simulation: several brokers' replication in one thread, with the network, the disks
//! and the time in the hands of a seed. docs/jepsen.md says how to run many seeds, and one again.
//!
//! The rooms: `run` is one run from its begin to its checks; `cluster` the brokers and their
//! partitions, `clients` who writes to them, `faults` what goes wrong when; `history` says what must
//! not be. `machine` and `network` stand for a broker's machine, `entropy` makes everything random
//! follow from the seed. `processes` gives each run a process of its own.

mod clients;
mod cluster;
mod entropy;
mod faults;
mod history;
mod machine;
mod network;
mod processes;
mod run;

use processes::{Ended, Environment, number, run_in_process, run_many};

/// `SIMULATION_SEEDS` many from `SIMULATION_SEED` on.
#[test]
fn seeds_hold() {
    let first = number("SIMULATION_SEED").unwrap_or(1);
    let seeds = number("SIMULATION_SEEDS").unwrap_or(6);
    let failed = run_many(first, seeds);
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
}

#[test]
fn a_seed_replays_exactly() {
    let run = |seed| match run_in_process(seed, &Environment::default()) {
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
    let noticed = |seed| match run_in_process(seed, &lying) {
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

//! `tidelog-jepsen run`: faults against a cluster of real brokers, judged.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use tidelog_jepsen::run::peer::Peer;
use tidelog_jepsen::run::{self, Options, WORKLOADS, schedule};
use tokio::signal::unix::{SignalKind, signal};

/// Partition-failure tests of a Tidelog cluster.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start brokers, let clients work and faults strike, heal, read everything, judge
    Run(Run),
}

#[derive(Args)]
struct Run {
    /// How long faults strike
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The same seed gives the same schedule of faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Any of append, txn, group, large, transfers, churn, many
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "append,txn,group,transfers,churn"
    )]
    workload: Vec<String>,
    /// Any of kill, pause, restart, partition, slow, lossy, power-loss, disk-error, disk-full,
    /// disk-stall, disk-slow, damage, clock, move, drain, maintenance, join; or none
    #[arg(long, value_delimiter = ',', default_values = schedule::KINDS)]
    faults: Vec<String>,
    /// Whose brokers: tidelog, or kafka from the jars in the folder that KAFKA_LIBS names
    #[arg(long, default_value = "tidelog", value_parser = ["tidelog", "kafka"])]
    peer: String,
    /// The broker's binary
    #[arg(long, env = "TIDELOG_BIN", default_value = "target/debug/tidelog")]
    binary: PathBuf,
    /// Where reports, logs and data go; default: target/jepsen/seed-N
    #[arg(long)]
    out: Option<PathBuf>,
    /// Partitions of each topic
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Partitions of the topic of the workload `many`
    #[arg(long, default_value_t = 1_000)]
    many_partitions: i32,
    /// Appends must be acknowledged again this long after healing
    #[arg(long, default_value_t = 5_000)]
    recovery_limit_ms: u64,
}

fn known(given: Vec<String>, all: &[&str], what: &str) -> Result<BTreeSet<String>> {
    let given: BTreeSet<String> = given.into_iter().filter(|name| name != "none").collect();
    for name in &given {
        ensure!(
            all.contains(&name.as_str()),
            "{what} {name:?}: there are {all:?}"
        );
    }
    Ok(given)
}

async fn run(args: Run) -> Result<bool> {
    let peer = if args.peer == "kafka" {
        Peer::kafka()?
    } else {
        let binary = args.binary.canonicalize();
        let binary = binary.with_context(|| {
            format!(
                "no {}: cargo build -p tidelog, or --binary",
                args.binary.display()
            )
        })?;
        Peer::Tidelog { binary }
    };
    let out = args.out.unwrap_or_else(|| {
        format!(
            "target/jepsen/{}seed-{}",
            if args.peer == "kafka" { "kafka-" } else { "" },
            args.seed
        )
        .into()
    });
    if out.exists() {
        std::fs::remove_dir_all(&out).context("remove an earlier report")?;
    }
    std::fs::create_dir_all(&out)?;
    let options = Options {
        seed: args.seed,
        duration: Duration::from_secs_f64(args.minutes * 60.0),
        workloads: known(args.workload, &WORKLOADS, "workload")?,
        faults: known(args.faults, &schedule::KINDS, "fault")?,
        peer,
        dir: out.canonicalize()?,
        partitions: args.partitions,
        many_partitions: args.many_partitions,
        recovery_limit: Duration::from_millis(args.recovery_limit_ms),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Dropping the run ends its brokers and removes its namespaces.
    let verdict = tokio::select! {
        verdict = run::run(options) => verdict?,
        _ = terminate.recv() => anyhow::bail!("terminated"),
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
    };
    println!("report: {}", out.join("report.html").display());
    print!("{verdict}");
    Ok(verdict.is_valid())
}

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    run::disk::in_own_mounts();
    let runtime = tokio::runtime::Runtime::new().map_err(anyhow::Error::from);
    match runtime.and_then(|runtime| runtime.block_on(run(args))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            println!("verdict: NOT RUN");
            ExitCode::from(2)
        }
    }
}

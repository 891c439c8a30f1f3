//! A process for each run: counters that a process keeps for itself begin anew, and what aborts a
//! broker aborts one run.

use crate::entropy;
use crate::world::{Options, PANICKED, Report};
use crate::{broker, replication};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A run takes some seconds, more with a debug build. Tasks that wake each other without end keep simulated time where it is.
const LIMIT: Duration = Duration::from_secs(300);
const REPORT: &str = "simulation report: ";

/// What is simulated.
#[derive(Clone, Copy)]
pub enum Of {
    Replication,
    Brokers,
}

impl Of {
    const ALL: [Of; 2] = [Of::Replication, Of::Brokers];

    fn name(self) -> &'static str {
        match self {
            Of::Replication => "replication",
            Of::Brokers => "brokers",
        }
    }

    /// The test that runs many seeds.
    fn test(self) -> &'static str {
        match self {
            Of::Replication => "seeds_hold",
            Of::Brokers => "seeds_of_brokers_hold",
        }
    }
}

/// How a run ended.
pub enum Ended {
    Well(Report),
    /// What it has printed.
    Badly(String),
}

/// What a run is told besides its seed.
#[derive(Default)]
pub struct Environment {
    pub lying_disks: bool,
}

/// A number in the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
    )
}

/// Runs seeds at once on all cores; gives those that failed.
pub fn run_many(of: Of, first: u64, seeds: u64) -> Vec<u64> {
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let totals = Mutex::new((0, Duration::ZERO));
    let began = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            match run_in_process(of, seed, &Environment::default()) {
                Ended::Well(report) => {
                    let mut totals = totals.lock().expect("no panic");
                    totals.0 += report.acknowledged;
                    totals.1 += report.simulated;
                }
                Ended::Badly(output) => {
                    println!(
                        "seed {seed} failed:\n{output}\nReplay: SIMULATION_SEED={seed} SIMULATION_SEEDS=1 \
                         SIMULATION_SHOW=1 cargo test --workspace --test simulation {} -- --exact --nocapture",
                        of.test()
                    );
                    failed.lock().expect("no panic").push(seed);
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let (acknowledged, simulated) = *totals.lock().expect("no panic");
    let took = began.elapsed();
    println!(
        "{}: {seeds} runs from seed {first} on: {acknowledged} acknowledged, {:.0} s simulated in {:.1} s, \
         {:.0} runs an hour",
        of.name(),
        simulated.as_secs_f64(),
        took.as_secs_f64(),
        seeds as f64 * 3600.0 / took.as_secs_f64()
    );
    failed.into_inner().expect("no panic")
}

/// Does one run in a process of its own.
pub fn run_in_process(of: Of, seed: u64, environment: &Environment) -> Ended {
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new(program)
        .args(["--exact", "one_run", "--ignored", "--nocapture"])
        .env("SIMULATION_OF", of.name())
        .env("SIMULATION_SEED", seed.to_string())
        .env(
            "SIMULATION_LYING_DISKS",
            u64::from(environment.lying_disks).to_string(),
        )
        .stderr(Stdio::inherit())
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout);
    if number("SIMULATION_SHOW").is_some() {
        println!("{text}");
    }
    let report = text.lines().find_map(|l| l.split(REPORT).nth(1));
    match report.and_then(parse) {
        Some(report) if output.status.success() => Ended::Well(report),
        _ => Ended::Badly(format!("{text}{}", output.status)),
    }
}

fn parse(report: &str) -> Option<Report> {
    let mut numbers = report.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Report {
        fingerprint: next()?,
        acknowledged: next()?,
        simulated: Duration::from_millis(next()?),
    })
}

/// Does the run that the environment says, and prints what [`run_in_process`] reads.
pub fn run_here() {
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let dir = dir.expect("a folder");
    let kept = std::env::var_os("SIMULATION_DIR").map(PathBuf::from);
    let options = Options {
        seed: number("SIMULATION_SEED").expect("SIMULATION_SEED is set"),
        dir: kept.clone().unwrap_or_else(|| dir.path().to_owned()),
        keeps_history: kept.is_some(),
        show: number("SIMULATION_SHOW").is_some(),
        lying_disks: number("SIMULATION_LYING_DISKS") == Some(1),
    };
    let wanted = std::env::var("SIMULATION_OF").unwrap_or_default();
    let of = Of::ALL.into_iter().find(|of| of.name() == wanted);
    let of = of.expect("SIMULATION_OF is set");
    if let Ok(filter) = std::env::var("SIMULATION_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .init();
    }
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, Ordering::Relaxed);
        println!("{panic}\n{}", std::backtrace::Backtrace::force_capture());
    }));
    std::thread::spawn(|| {
        std::thread::sleep(LIMIT);
        println!("no end after {LIMIT:?}: does simulated time stand still?");
        std::process::exit(1);
    });
    // A new thread has not asked for anything random yet.
    let thread = std::thread::spawn(move || {
        entropy::seed_thread(options.seed);
        match of {
            Of::Replication => replication::run(&options),
            Of::Brokers => broker::run(&options),
        }
    });
    match thread.join() {
        Ok(Ok(report)) => println!(
            "{REPORT}{} {} {}",
            report.fingerprint,
            report.acknowledged,
            report.simulated.as_millis()
        ),
        Ok(Err(violations)) => {
            println!("{}", violations.join("\n"));
            std::process::exit(1);
        }
        Err(_) => std::process::exit(1),
    }
}

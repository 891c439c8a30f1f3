//! `tidelog dev` as a user runs it, and what `tidelog start` refuses.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tidelog_tests::dev::{Dev, free_base_port, kafka, run};
use tidelog_tests::{load, read, topics};

use super::RECOVERY_LIMIT;

/// From start to the ready line; only a release build is held to it.
const READY_MAX: Duration = Duration::from_secs(3);

/// A folder for a dev cluster, and the arguments that lead to it.
struct Place {
    dir: TempDir,
    port: u16,
}

impl Place {
    fn new() -> Result<Self> {
        Ok(Self {
            dir: TempDir::with_prefix("tidelog-dev-")?,
            port: free_base_port()?,
        })
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn start(&self, more: &[&str]) -> Result<Dev> {
        self.start_at(self.port, more)
    }

    fn start_at(&self, port: u16, more: &[&str]) -> Result<Dev> {
        let (data, port) = (self.data(), port.to_string());
        let data = data.display().to_string();
        let mut args = vec!["--data", &data, "--base-port", &port];
        args.extend(more);
        let number = fs::read_dir(self.dir.path())?.count();
        Dev::start(&args, &self.dir.path().join(format!("out-{number}")))
    }

    fn ready_line(&self) -> String {
        let all: Vec<String> = (0..3).map(|n| kafka(self.port, n).to_string()).collect();
        format!("ready: bootstrap {}\n", all.join(","))
    }

    fn pid(&self, broker: u32) -> Result<Pid> {
        let path = self.data().join(format!("{broker}/broker.pid"));
        let pid = fs::read_to_string(path)?.trim().parse()?;
        Ok(Pid::from_raw(pid).expect("no process has the number 0"))
    }
}

fn files_in(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_serves_stops_cleanly_and_starts_again_with_its_data() -> Result<()> {
    let place = Place::new()?;
    let began = Instant::now();
    let mut dev = place.start(&[])?;
    dev.prints(&place.ready_line(), RECOVERY_LIMIT).await?;
    let took = began.elapsed();
    println!("ready after {took:?}");
    ensure!(
        cfg!(debug_assertions) || took <= READY_MAX,
        "ready after {took:?}"
    );
    let printed = dev.printed();
    ensure!(
        printed.contains("kcat -P") && printed.contains("tidelog produce"),
        "{printed}"
    );
    for broker in 1..=3 {
        test_kill_process(place.pid(broker)?)?;
        let log = fs::read_to_string(place.data().join(format!("{broker}/broker.log")))?;
        ensure!(
            log.contains("listens for clients"),
            "log of broker {broker}: {log}"
        );
    }
    let topic = "kept";
    let client = load::connect(&kafka(place.port, 0).to_string()).await?;
    topics::ask_for(&client, topic, 1, 3).await?;
    let producer = load::producer(&client).await?;
    for n in 0..100 {
        let record = krafka::Record::new(topic, n.to_string()).partition(0);
        let told = producer.enqueue(record).await?.await?;
        ensure!(told.offset == n, "offset {} for record {n}", told.offset);
    }
    producer.close().await?;

    let pids = [place.pid(1)?, place.pid(2)?, place.pid(3)?];
    let status = dev.stop().await?;
    ensure!(status.success(), "stopped with {status}: {}", dev.printed());
    for pid in pids {
        ensure!(
            test_kill_process(pid).is_err(),
            "a broker outlives `tidelog dev`"
        );
    }
    let mut dev = place.start(&[])?;
    dev.prints(&place.ready_line(), RECOVERY_LIMIT).await?;
    for n in 0..3 {
        let records = read::read_replica(kafka(place.port, n), topic, 0, 100).await?;
        let expected: Vec<(i64, u64)> = (0..100_i64).map(|n| (n, n.unsigned_abs())).collect();
        ensure!(records == expected, "broker {} has other records", n + 1);
    }
    dev.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_told_and_nothing_is_made() -> Result<()> {
    let place = Place::new()?;
    for offset in [0, 101, 202] {
        let taken = place.port + offset;
        let _listener = TcpListener::bind(("127.0.0.1", taken))?;
        let mut dev = place.start(&[])?;
        let status = dev.end(RECOVERY_LIMIT).await?;
        let printed = dev.printed();
        ensure!(
            !status.success() && printed.contains(&format!("port {taken} ")),
            "{printed}"
        );
        ensure!(!place.data().exists(), "a folder was made all the same");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_dev_or_another_count_leaves_the_first_alone() -> Result<()> {
    let place = Place::new()?;
    let mut first = place.start(&[])?;
    first.prints(&place.ready_line(), RECOVERY_LIMIT).await?;
    let before = files_in(&place.data());
    let mut second = place.start_at(free_base_port()?, &[])?;
    let status = second.end(RECOVERY_LIMIT).await?;
    let printed = second.printed();
    ensure!(
        !status.success() && printed.contains("in use by another"),
        "{printed}"
    );
    ensure!(
        files_in(&place.data()) == before,
        "the second one made files"
    );

    // A broker that dies is told of, and the others go on.
    kill_process(place.pid(2)?, Signal::KILL)?;
    first.prints("broker 2 ended", RECOVERY_LIMIT).await?;
    ensure!(
        first.printed().contains("tidelog start --config"),
        "{}",
        first.printed()
    );
    for broker in [1, 3] {
        test_kill_process(place.pid(broker)?)?;
    }
    first.stop().await?;

    let mut fewer = place.start(&["--brokers", "2"])?;
    let status = fewer.end(RECOVERY_LIMIT).await?;
    let printed = fewer.printed();
    ensure!(
        !status.success() && printed.contains("--brokers 3"),
        "{printed}"
    );
    Ok(())
}

/// The message of a run that has to fail.
fn refusal(output: &Output) -> Result<String> {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it started");
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_stop_the_start_and_name_the_right_ones() -> Result<()> {
    let dir = TempDir::with_prefix("tidelog-settings-")?;
    let data = format!("data.dir={}", dir.path().join("data").display());
    for (setting, wanted) in [
        ("log.segment.byte=1048576", "log.segment.bytes"),
        ("borker.id=1", "broker.id"),
        ("journal.direct.io=perhaps", "journal.direct.io"),
        ("journal.file.bytes=12", "journal.file.bytes"),
        ("broker.id=-5", "broker.id"),
    ] {
        let told = refusal(&run(&["start", "--set", &data, "--set", setting])?)?;
        ensure!(told.contains(wanted), "{setting}: {told}");
        ensure!(
            !dir.path().join("data").exists(),
            "{setting}: data was made"
        );
    }
    let config = dir.path().join("broker.toml");
    fs::write(&config, "retention.msec = 5\n")?;
    let config = config.display().to_string();
    let told = refusal(&run(&["start", "--config", &config, "--set", &data])?)?;
    ensure!(told.contains("retention"), "{told}");
    Ok(())
}

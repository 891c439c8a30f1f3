//! The files of `deploy/` fit the binary: no setting in them is misspelled, refused or ignored.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tidelog_tests::{Cluster, cluster, wait};

use super::RECOVERY_LIMIT;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The binary with just these variables.
fn run(args: &[&str], environment: &BTreeMap<String, String>) -> Result<Output> {
    let mut command = Command::new(cluster::binary()?);
    command.args(args).env_clear().envs(environment);
    command.stdin(Stdio::null()).output().context("run tidelog")
}

fn succeeded(output: &Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    Ok(String::from_utf8(output.stdout.clone())?)
}

/// Effective settings that come from the environment, by their variables.
fn from_environment(environment: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let shown = succeeded(&run(&["config", "show", "--output", "json"], environment)?)?;
    let mut found = BTreeMap::new();
    for line in shown.lines() {
        let setting: Value = serde_json::from_str(line)?;
        let source = setting["source"].as_str().unwrap_or_default();
        if let Some(variable) = source.strip_prefix("environment ") {
            let value = setting["value"].as_str().unwrap_or_default();
            found.insert(variable.to_owned(), value.to_owned());
        }
    }
    Ok(found)
}

/// Not settings of a broker: its log, and what compose puts into addresses.
const NOT_SETTINGS: [&str; 2] = ["TIDELOG_LOG", "TIDELOG_HOST"];

/// `NAME: "value"` and `NAME=value` of a file, for variables of brokers.
fn variables(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let line = line
            .trim()
            .trim_start_matches("ENV ")
            .trim_end_matches('\\');
        let split = line.split_once(": ").or_else(|| line.split_once('='));
        let Some((name, value)) = split else { continue };
        if name.starts_with("TIDELOG_") && !NOT_SETTINGS.contains(&name) {
            let value = value.trim().trim_matches('"');
            let value = value.replace("${TIDELOG_HOST:-127.0.0.1}", "127.0.0.1");
            found.insert(name.to_owned(), value);
        }
    }
    found
}

#[test]
fn the_hosts_files_are_three_brokers_of_one_cluster() -> Result<()> {
    let mut seen = BTreeSet::new();
    for n in 1..=3 {
        let file = deploy().join(format!("hosts/broker-{n}.toml"));
        let file = file.to_str().context("path")?;
        let said = succeeded(&run(&["config", "check", file], &BTreeMap::new())?)?;
        ensure!(
            said.trim_end().ends_with(&format!(": broker {n}")),
            "{said}"
        );
        let args = ["config", "show", "--config", file, "--output", "json"];
        let shown = succeeded(&run(&args, &BTreeMap::new())?)?;
        let lines = shown.lines().map(serde_json::from_str::<Value>);
        let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
        let value = |name: &str| {
            let setting = lines.iter().find(|s| s["name"] == name);
            setting.and_then(|s| s["value"].as_str()).map(str::to_owned)
        };
        let seeds = value("seed.brokers").context("seed.brokers")?;
        seen.insert(seeds.clone());
        let own = value("advertised.listeners").context("advertised.listeners")?;
        let host = own.split(':').next().context("host")?.to_owned();
        ensure!(seeds.contains(&format!("{n}@{host}:9192")), "{seeds} {own}");
    }
    ensure!(seen.len() == 1, "different seed.brokers: {seen:?}");
    Ok(())
}

#[test]
fn a_file_that_no_broker_would_start_with_fails_the_check() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("broker.toml");
    std::fs::write(&file, "broker.id = 1\nnum.partition = 6\n")?;
    let file = file.to_str().context("path")?;
    let output = run(&["config", "check", file], &BTreeMap::new())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "{output:?}");
    ensure!(said.contains("did you mean \"num.partitions\""), "{said}");
    Ok(())
}

/// Compose gives each service its own variables beside those of all and of the image.
#[test]
fn the_containers_variables_are_settings() -> Result<()> {
    let image = variables(&std::fs::read_to_string(
        deploy().join("container/Dockerfile"),
    )?);
    ensure!(image.len() == 4, "{image:?}");
    let compose = std::fs::read_to_string(deploy().join("container/compose.yaml"))?;
    let (shared, services) = compose.split_once("\nservices:").context("services")?;
    let shared = variables(shared);
    let services: Vec<&str> = services.split("\n  broker-").skip(1).collect();
    ensure!(services.len() == 3 && shared.len() >= 2, "{shared:?}");
    for (service, n) in services.into_iter().zip(1..) {
        let mut all = image.clone();
        all.extend(shared.clone());
        all.extend(variables(service));
        ensure!(
            all.get("TIDELOG_BROKER_ID") == Some(&n.to_string()),
            "{all:?}"
        );
        ensure!(from_environment(&all)? == all);
    }
    Ok(())
}

/// What the chart makes of its values are settings as well.
#[test]
fn the_charts_variables_are_settings() -> Result<()> {
    let chart = deploy().join("helm/tidelog");
    let template = std::fs::read_to_string(chart.join("templates/statefulset.yaml"))?;
    let values = std::fs::read_to_string(chart.join("values.yaml"))?;
    let mut names: BTreeSet<String> = template
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- name: TIDELOG_"))
        .filter(|name| !name.contains('{') && *name != "LOG")
        .map(|name| format!("TIDELOG_{name}"))
        .collect();
    ensure!(names.len() == 7, "{names:?}");
    let (_, settings) = values.split_once("\nsettings:\n").context("settings")?;
    let settings: BTreeMap<String, String> = settings
        .lines()
        .map_while(|line| line.strip_prefix("  ")?.split_once(": "))
        .map(|(name, value)| {
            let name = format!("TIDELOG_{}", name.to_uppercase().replace('.', "_"));
            (name, value.trim_matches('"').to_owned())
        })
        .collect();
    ensure!(settings.len() >= 2, "{settings:?}");
    names.extend(settings.keys().cloned());
    let mut environment = settings;
    for (name, value) in [
        ("BROKER_ID", "0"),
        (
            "ADVERTISED_LISTENERS",
            "tidelog-0.tidelog-brokers.logs.svc.cluster.local:9092",
        ),
        ("SEED_BROKERS", "0@a:9192,1@b:9192,2@c:9192"),
        ("DATA_DIR", "/var/lib/tidelog/data"),
        ("LISTENERS", "0.0.0.0:9092"),
        ("PEER_LISTENER", "0.0.0.0:9192"),
        ("HTTP_LISTENER", "0.0.0.0:9292"),
    ] {
        environment.insert(format!("TIDELOG_{name}"), value.to_owned());
    }
    let found = from_environment(&environment)?;
    let missing: Vec<_> = names.iter().filter(|n| !found.contains_key(*n)).collect();
    ensure!(missing.is_empty(), "not settings: {missing:?}");
    Ok(())
}

/// Runs a tool that may not be on this machine; none when it is not.
fn tool(name: &str, args: &[&str]) -> Result<Option<Output>> {
    match Command::new(name).args(args).stdin(Stdio::null()).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: there is no {name} on this machine");
            Ok(None)
        }
        other => Ok(Some(other?)),
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() -> Result<()> {
    let unit = std::fs::read_to_string(deploy().join("systemd/tidelog.service"))?;
    let binary = cluster::binary()?.to_str().context("path")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("tidelog.service");
    std::fs::write(&path, unit.replace("/usr/local/bin/tidelog", binary))?;
    let path = path.to_str().context("path")?;
    if let Some(output) = tool("systemd-analyze", &["verify", "--man=no", path])? {
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && said.is_empty(), "{said}");
    }
    Ok(())
}

#[test]
fn helm_finds_nothing_wrong_with_the_chart() -> Result<()> {
    let chart = deploy().join("helm/tidelog");
    let chart = chart.to_str().context("path")?;
    if let Some(output) = tool("helm", &["lint", "--strict", chart])? {
        succeeded(&output)?;
    }
    let args = [
        "template",
        "logs",
        chart,
        "--namespace",
        "prod",
        "--kube-version",
        "1.31.0",
    ];
    let Some(output) = tool("helm", &args)? else {
        return Ok(());
    };
    let made = succeeded(&output)?;
    let seeds = "0@logs-tidelog-0.logs-tidelog-brokers.prod.svc.cluster.local:9192,1@";
    for expected in [
        seeds,
        "kind: PodDisruptionBudget",
        "name: TIDELOG_NUM_PARTITIONS",
    ] {
        ensure!(made.contains(expected), "{expected} is not in\n{made}");
    }
    Ok(())
}

/// What containers ask for their health.
#[tokio::test(flavor = "multi_thread")]
async fn health_is_that_of_the_endpoint() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let file = cluster.broker(1).config_path.clone();
    let file = file.to_str().context("path")?;
    let none = BTreeMap::new();
    let alive = ["health", "--config", file];
    let ready = ["health", "--ready", "--config", file];
    ensure!(succeeded(&run(&alive, &none)?)? == "alive\n");
    ensure!(succeeded(&run(&ready, &none)?)? == "ready\n");
    for id in 1..=3 {
        cluster.broker_mut(id).kill()?;
    }
    ensure!(!run(&alive, &none)?.status.success());
    // Alone it answers, but is not ready.
    cluster.start_one(1)?;
    wait::until("an answer", RECOVERY_LIMIT, async || {
        Ok(run(&alive, &none)?.status.success().then_some(()))
    })
    .await?;
    let output = run(&ready, &none)?;
    ensure!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("answers 503"), "{said}");
    Ok(())
}

//! The command line against running brokers: groups, settings of brokers, the bench.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tidelog_client::{Consumer, GroupConfig};
use tidelog_tests::client_suite::ground::{member, topic, write};
use tidelog_tests::{Cluster, ClusterOptions, dev};

/// What a command prints that must succeed.
pub(super) fn run(bootstrap: &str, args: &[&str]) -> Result<String> {
    let mut all = args.to_vec();
    all.extend(["--bootstrap", bootstrap]);
    let output = dev::run(&all)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

pub(super) fn json(bootstrap: &str, args: &[&str]) -> Result<Vec<Value>> {
    let mut all = args.to_vec();
    all.extend(["--output", "json"]);
    let lines = run(bootstrap, &all)?;
    lines
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// What a command says that must fail.
pub(super) fn refused(bootstrap: &str, args: &[&str]) -> Result<String> {
    let mut all = args.to_vec();
    all.extend(["--bootstrap", bootstrap]);
    let output = dev::run(&all)?;
    ensure!(!output.status.success(), "{args:?} succeeded");
    Ok(String::from_utf8(output.stderr)?)
}

async fn one_broker() -> Result<Cluster> {
    Cluster::start_with(ClusterOptions {
        brokers: 1,
        settings: vec![("group.initial.rebalance.delay.ms".into(), "0".into())],
        ..ClusterOptions::default()
    })
    .await
}

async fn reader(bootstrap: &str, topic: &str) -> Result<Consumer> {
    let group = GroupConfig::new("billing").with_auto_commit(None);
    let mut reader = member(bootstrap, group).await?;
    reader.subscribe([topic]).await?;
    Ok(reader)
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_listed_described_reset_and_deleted() -> Result<()> {
    let cluster = one_broker().await?;
    let bootstrap = cluster.bootstrap();
    let topic = topic(&bootstrap, "orders", 1).await?;
    write(&bootstrap, &topic, 1, 0..10).await?;
    let mut consumer = reader(&bootstrap, &topic).await?;
    for _ in 0..4 {
        consumer.next_record().await?;
    }
    consumer.commit().await?;

    let listed = json(&bootstrap, &["group", "list"])?;
    ensure!(
        listed.len() == 1 && listed[0]["group"] == "billing",
        "{listed:?}"
    );
    let described = json(&bootstrap, &["group", "describe", "billing"])?;
    let described = described.first().context("nothing described")?;
    ensure!(
        described["state"] == "Stable" && described["lag"] == 6,
        "{described}"
    );
    let partition = &described["partitions"][0];
    ensure!(
        partition["committed"] == 4 && partition["end"] == 10,
        "{described}"
    );
    ensure!(
        partition["member"] == described["members"][0]["member"],
        "{described}"
    );

    let reset = [
        "group",
        "reset-offsets",
        "billing",
        "--topic",
        &topic,
        "--to",
        "-3",
    ];
    let execute = [&reset[..], &["--execute"]].concat();
    let error = refused(&bootstrap, &execute)?;
    ensure!(error.contains("has members"), "{error}");
    let error = refused(&bootstrap, &["group", "delete", "billing"])?;
    ensure!(error.contains("has members"), "{error}");
    consumer.close().await?;

    let shown = run(&bootstrap, &reset)?;
    ensure!(shown.contains("nothing is changed yet"), "{shown}");
    let committed = || json(&bootstrap, &["group", "describe", "billing"]);
    ensure!(committed()?[0]["partitions"][0]["committed"] == 4);
    let done = json(&bootstrap, &execute)?;
    ensure!(
        done[0]["from"] == 4 && done[0]["to"] == 1 && done[0]["executed"] == true,
        "{done:?}"
    );
    let mut consumer = reader(&bootstrap, &topic).await?;
    ensure!(consumer.next_record().await?.offset == 1);
    consumer.close().await?;
    for (to, expected) in [("latest", 10), ("earliest", 0), ("+99", 10), ("1h", 0)] {
        let all = [
            "group",
            "reset-offsets",
            "billing",
            "--all-topics",
            "--to",
            to,
            "--execute",
        ];
        ensure!(json(&bootstrap, &all)?[0]["to"] == expected, "{to}");
    }

    run(&bootstrap, &["group", "delete", "billing"])?;
    ensure!(json(&bootstrap, &["group", "list"])?.is_empty());
    let error = refused(&bootstrap, &["group", "describe", "billing"])?;
    ensure!(error.contains("does not exist"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_offsets_are_deleted_and_the_disk_is_shown() -> Result<()> {
    let cluster = one_broker().await?;
    let at = cluster.bootstrap();
    let topic = topic(&at, "orders", 2).await?;
    write(&at, &topic, 2, 0..20).await?;
    let disk = json(&at, &["broker", "disk", "1"])?;
    let mine: Vec<&Value> = disk.iter().filter(|r| r["topic"] == *topic).collect();
    ensure!(
        mine.len() == 2 && mine[0]["partition"] == 0 && mine[1]["partition"] == 1,
        "{disk:?}"
    );
    for replica in mine {
        let bytes = replica["bytes"].as_i64().context("bytes")?;
        ensure!(bytes > 0 && replica["lag_records"] == 0, "{replica}");
    }
    for command in ["disk", "describe"] {
        let error = refused(&at, &["broker", command, "7"])?;
        ensure!(error.contains("tidelog broker list"), "{error}");
    }

    let delete = ["topic", "delete-records", &topic, "--before"];
    let some = [&delete[..], &["4", "--partition", "1"]].concat();
    let deleted = json(&at, &some)?;
    ensure!(
        deleted.len() == 1 && deleted[0]["partition"] == 1 && deleted[0]["start_offset"] == 4,
        "{deleted:?}"
    );
    let all = json(&at, &[&delete[..], &["end"]].concat())?;
    ensure!(
        all.len() == 2 && all.iter().all(|p| p["start_offset"] == 10),
        "{all:?}"
    );
    let error = refused(&at, &[&delete[..], &["11"]].concat())?;
    ensure!(error.contains("OffsetOutOfRange"), "{error}");
    ensure!(run(&at, &["consume", &topic])?.is_empty());

    write(&at, &topic, 2, 20..24).await?;
    let mut consumer = reader(&at, &topic).await?;
    for _ in 0..4 {
        consumer.next_record().await?;
    }
    consumer.commit().await?;
    let delete = ["group", "delete-offsets", "billing", "--topic"];
    let second = format!("{topic}:1");
    let of_one = [&delete[..], &[&second]].concat();
    let error = refused(&at, &of_one)?;
    ensure!(error.contains("has members"), "{error}");
    consumer.close().await?;
    let deleted = json(&at, &of_one)?;
    ensure!(
        deleted.len() == 1 && deleted[0]["partition"] == 1 && deleted[0]["deleted"] == true,
        "{deleted:?}"
    );
    let left = json(&at, &["group", "describe", "billing"])?;
    let left = left[0]["partitions"].as_array().context("partitions")?;
    ensure!(left.len() == 1 && left[0]["partition"] == 0, "{left:?}");
    let error = refused(&at, &of_one)?;
    ensure!(error.contains("has committed nothing there"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_shown_and_the_bench_sums_up() -> Result<()> {
    let cluster = one_broker().await?;
    let bootstrap = cluster.bootstrap();
    let brokers = json(&bootstrap, &["broker", "list"])?;
    ensure!(
        brokers.len() == 1 && brokers[0]["controller"] == true,
        "{brokers:?}"
    );
    let settings = json(&bootstrap, &["broker", "describe", "1"])?;
    ensure!(!settings.is_empty(), "a broker without settings");
    let bench = [
        "bench",
        "--records",
        "2000",
        "--record-bytes",
        "100",
        "--partitions",
        "2",
    ];
    let sum = json(&bootstrap, &bench)?;
    let sum = sum.first().context("no summary")?;
    ensure!(
        sum["records"] == 2000 && sum["write"]["latency_ms"]["p50"].is_f64(),
        "{sum}"
    );
    ensure!(
        sum["read"]["records_per_second"].as_f64() > Some(0.0),
        "{sum}"
    );
    let topics = run(&bootstrap, &["topic", "list"])?;
    ensure!(!topics.contains("bench"), "left behind: {topics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_all_brokers_and_of_groups_are_changed() -> Result<()> {
    let cluster = one_broker().await?;
    let at = cluster.bootstrap();
    let value = |settings: &[Value], name: &str| {
        let found = settings.iter().find(|s| s["name"] == name);
        found.map_or(Value::Null, |s| s["value"].clone())
    };
    let size = "message.max.bytes";
    run(
        &at,
        &[
            "broker",
            "alter",
            "all",
            "--set",
            "message.max.bytes=1500000",
        ],
    )?;
    for of in ["all", "1"] {
        let told = json(&at, &["broker", "describe", of])?;
        ensure!(value(&told, size) == "1500000", "{of}: {told:?}");
    }
    // A broker's own comes first.
    run(
        &at,
        &["broker", "alter", "1", "--set", "message.max.bytes=1600000"],
    )?;
    let told = json(&at, &["broker", "describe", "1"])?;
    ensure!(value(&told, size) == "1600000", "{told:?}");
    let all = json(&at, &["broker", "alter", "all", "--delete", size])?;
    ensure!(
        all[0]["broker"] == "all" && all[0]["done"] == "altered",
        "{all:?}"
    );
    ensure!(json(&at, &["broker", "describe", "all"])?.is_empty());
    let wrong = refused(&at, &["broker", "alter", "some", "--set", "a=b"])?;
    ensure!(
        wrong.contains("neither the id of a broker nor all"),
        "{wrong}"
    );

    let session = "consumer.session.timeout.ms";
    let set = [
        "group",
        "alter",
        "billing",
        "--set",
        "consumer.session.timeout.ms=50000",
    ];
    let dry = run(&at, &[&set[..], &["--dry-run"]].concat())?;
    ensure!(dry == "could alter group billing\n", "{dry}");
    ensure!(json(&at, &["group", "settings", "billing"])?.is_empty());
    run(&at, &set)?;
    let told = json(&at, &["group", "settings", "billing"])?;
    ensure!(
        told.len() == 1 && value(&told, session) == "50000",
        "{told:?}"
    );
    let all = json(&at, &["group", "settings", "billing", "--all"])?;
    ensure!(all.len() > 1, "{all:?}");
    let wrong = refused(
        &at,
        &[
            "group",
            "alter",
            "billing",
            "--set",
            "consumer.session.timeout.ms=1",
        ],
    )?;
    ensure!(wrong.contains(session), "{wrong}");
    let none = refused(&at, &["group", "alter", "billing"])?;
    ensure!(none.contains("give --set or --delete"), "{none}");

    let apis = json(&at, &["broker", "versions", "1"])?;
    let produce = apis.first().context("no API")?;
    ensure!(
        produce["key"] == 0 && produce["api"] == "Produce" && produce["max"].as_i64() >= Some(12),
        "{produce}"
    );
    ensure!(
        apis.iter()
            .any(|api| api["api"] == "AlterPartitionReassignments")
    );
    Ok(())
}

#[test]
fn completions_and_manual_pages_know_the_commands() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = dev::run(&["completion", shell])?;
        let script = String::from_utf8(script.stdout)?;
        ensure!(script.contains("reset-offsets"), "{shell}");
    }
    let folder = TempDir::new()?;
    let path = folder.path().to_str().context("a path")?;
    ensure!(dev::run(&["man", path])?.status.success());
    let page = std::fs::read_to_string(folder.path().join("tidelog-group-reset-offsets.1"))?;
    ensure!(page.contains("execute"));
    Ok(())
}

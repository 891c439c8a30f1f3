//! `tidelog log` on the folder of a broker: beside it, after it, and after damage.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use tidelog_client::{Admin, NewTopic, Producer, ProducerConfig, Record};
use tidelog_tests::client_suite::ground::{client, topic, write};
use tidelog_tests::{Cluster, ClusterOptions, dev};

fn json(args: &[&str]) -> Result<Vec<Value>> {
    let output = run(args)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {errors}");
    lines(&output)
}

fn run(args: &[&str]) -> Result<Output> {
    let mut all = args.to_vec();
    all.extend(["--output", "json"]);
    dev::run(&all)
}

fn lines(output: &Output) -> Result<Vec<Value>> {
    let text = std::str::from_utf8(&output.stdout)?;
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().context("JSON lines")
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_listed_dumped_and_verified() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions {
        brokers: 1,
        ..ClusterOptions::default()
    })
    .await?;
    let bootstrap = cluster.bootstrap();
    let topic = topic(&bootstrap, "inspected", 1).await?;
    write(&bootstrap, &topic, 1, 0..500).await?;
    write(&bootstrap, &topic, 1, 500..1000).await?;
    cluster.broker_mut(1).kill()?;
    let data = cluster.broker(1).data_dir.clone();
    let folder = data.join("partitions").join(format!("{topic}-0"));

    // A kill keeps what was acknowledged, in the segment or in the journal.
    let report = json(&["log", "verify", path(&data)?])?;
    let report = report.first().context("no report")?;
    ensure!(report["damaged"] == 0, "{report}");
    ensure!(report["journal_files"].as_u64() >= Some(1), "{report}");
    let listed = json(&["log", "list", path(&data)?])?;
    let name = format!("{topic}-0");
    let one = listed.iter().find(|line| line["partition"] == *name);
    let one = one.context("the partition is not listed")?;
    ensure!(
        one["start_offset"] == 0 && one["end_offset"] == 1000,
        "{one}"
    );

    let dumped = json(&["log", "dump", path(&folder)?, "--records"])?;
    let records = dumped.iter().filter(|line| line["offset"].is_number());
    ensure!(records.count() == 1000, "{dumped:?}");
    let batches: Vec<&Value> = dumped
        .iter()
        .filter(|l| l["base_offset"].is_number())
        .collect();
    ensure!(batches.len() >= 2 && batches[0]["position"] == 0);
    let journal = json(&["log", "journal", path(&data)?, "--records"])?;
    let of_records = |line: &Value| line["records"].as_array().cloned().unwrap_or_default();
    let produced = journal.iter().flat_map(of_records).any(|record| {
        record["kind"]
            .as_str()
            .is_some_and(|k| k.starts_with("produce"))
    });
    ensure!(produced, "{journal:?}");

    damage(&folder.join("00000000000000000000.log"), batches[0])?;
    let output = run(&["log", "verify", path(&folder)?])?;
    ensure!(!output.status.success(), "damage was not noticed");
    let report = lines(&output)?.pop().context("no report")?;
    let finding = &report["findings"][0];
    ensure!(
        report["damaged"] == 1 && finding["damage"] == true,
        "{report}"
    );
    let place = finding["place"].as_str().context("a place")?;
    ensure!(place.ends_with("00000000000000000000.log:0"), "{report}");
    ensure!(report["batches"] == batches.len() - 1, "{report}");
    Ok(())
}

/// Each record with the header `part`, in one transaction that is then aborted.
async fn abort(bootstrap: &str, topic: &str, records: usize) -> Result<()> {
    let config = ProducerConfig::default().with_transactional_id(topic);
    let producer = Producer::new(client(bootstrap), config).await?;
    let transaction = producer.begin().await?;
    for part in 0..records {
        let record = Record::new(topic, vec![b'x'; 10_000]);
        transaction
            .send(record.with_header("part", part.to_string()))
            .await?;
    }
    producer.flush().await?;
    transaction.abort().await?;
    producer.close().await.context("close the producer")
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_aborted_transactions_are_dumped() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions {
        brokers: 1,
        ..ClusterOptions::default()
    })
    .await?;
    let bootstrap = cluster.bootstrap();
    let admin = Admin::new(client(&bootstrap)).await?;
    let new = NewTopic {
        name: "inspected".to_owned(),
        partitions: Some(1),
        configs: vec![("segment.bytes".to_owned(), (1 << 20).to_string())],
        ..NewTopic::default()
    };
    admin.create_topic(&new, false).await?;
    abort(&bootstrap, "inspected", 3).await?;
    // The segment with the marker is closed by what follows.
    abort(&bootstrap, "inspected", 300).await?;
    cluster.broker_mut(1).stop().await?;
    let folder = cluster.broker(1).data_dir.join("partitions/inspected-0");

    let first = folder.join("00000000000000000000.log");
    let dumped = json(&["log", "dump", path(&first)?, "--records"])?;
    let record = dumped.iter().find(|line| line["offset"] == 1);
    let expected = serde_json::json!([{"key": "part", "value": "1"}]);
    ensure!(
        record.is_some_and(|r| r["headers"] == expected),
        "{record:?}"
    );
    let text = dev::run(&["log", "dump", path(&first)?, "--records"])?;
    let text = String::from_utf8(text.stdout)?;
    ensure!(text.contains("header part=\"2\""), "{text}");

    let index = first.with_extension("txnindex");
    let aborted = json(&["log", "dump", path(&index)?])?;
    let aborted = aborted.first().context("an aborted transaction")?;
    ensure!(
        aborted["first_offset"] == 0
            && aborted["last_offset"] == 3
            && aborted["producer_id"].is_i64(),
        "{aborted}"
    );
    let report = json(&["log", "verify", path(&folder)?])?;
    ensure!(report[0]["damaged"] == 0, "{report:?}");
    std::fs::write(&index, [0; 33])?;
    let output = run(&["log", "verify", path(&folder)?])?;
    ensure!(!output.status.success(), "a cut index was not noticed");
    let report = lines(&output)?.pop().context("a report")?;
    let place = report["findings"][0]["place"].as_str().context("a place")?;
    ensure!(place.ends_with(".txnindex"), "{report}");
    Ok(())
}

/// Changes a byte in the middle of a batch.
fn damage(segment: &Path, batch: &Value) -> Result<()> {
    let mut bytes = std::fs::read(segment)?;
    let at = batch["bytes"].as_u64().context("bytes")? / 2;
    bytes[usize::try_from(at)?] ^= 4;
    Ok(std::fs::write(segment, bytes)?)
}

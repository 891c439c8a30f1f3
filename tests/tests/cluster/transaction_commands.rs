//! `tidelog txn` and `tidelog bench transactions` against running brokers.

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use serde_json::Value;
use tidelog_tests::txn::{TxnProducer, read_committed};
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, ClusterOptions, topics};

use super::operator_commands::{json, refused, run};
use super::transactions::{code, settled};

const TIMEOUT_MS: i32 = 60_000;

fn ids(listed: &[Value]) -> Vec<&str> {
    let ids = listed.iter().map(|t| t["transactional_id"].as_str());
    ids.flatten().collect()
}

/// What `tidelog txn list` shows with these words behind it.
fn listed(bootstrap: &str, filters: &[&str]) -> Result<Vec<Value>> {
    json(bootstrap, &[&["txn", "list"], filters].concat())
}

/// Each filter leaves out what another one lets through.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_listed_by_every_filter_described_and_aborted() -> Result<()> {
    let cluster = Cluster::start().await?;
    let at = cluster.bootstrap();
    topics::create(&cluster, "orders", 2, 3).await?;
    let mut open = TxnProducer::init(&cluster, "open", TIMEOUT_MS, false).await?;
    let mut done = TxnProducer::init(&cluster, "done", TIMEOUT_MS, false).await?;
    let empty = TxnProducer::init(&cluster, "empty", TIMEOUT_MS, false).await?;
    ensure!(done.produce(&cluster, "orders", 1, &["d"]).await?.0 == 0);
    ensure!(done.end(&cluster, true).await? == 0);
    settled(&cluster, "orders", 1).await?;
    ensure!(open.produce(&cluster, "orders", 0, &["a"]).await?.0 == 0);
    ensure!(open.produce(&cluster, "orders", 1, &["b"]).await?.0 == 0);

    ensure!(ids(&listed(&at, &[])?) == ["done", "empty", "open"]);
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--state", "Ongoing"], &["open"]),
        (
            &["--state", "Ongoing", "--state", "Empty"],
            &["empty", "open"],
        ),
        (&["--producer", &empty.producer_id.to_string()], &["empty"]),
        (&["--pattern", "(op|em).*"], &["empty", "open"]),
        // The whole id has to match.
        (&["--pattern", "pe"], &[]),
        (&["--longer-than-ms", "0"], &["open"]),
        (&["--longer-than-ms", "600000"], &[]),
        (&["--state", "Empty", "--pattern", "o.*"], &[]),
    ];
    for (filters, expected) in cases {
        let listed = listed(&at, filters)?;
        ensure!(ids(&listed) == expected, "{filters:?}: {listed:?}");
    }
    let error = refused(&at, &["txn", "list", "--state", "Sleeping"])?;
    ensure!(error.contains("Sleeping is no state"), "{error}");
    let error = refused(&at, &["txn", "list", "--pattern", "("])?;
    ensure!(error.contains("InvalidRegularExpression"), "{error}");

    let described = json(&at, &["txn", "describe", "open"])?;
    let described = described.first().context("a description")?;
    ensure!(
        described["state"] == "Ongoing"
            && described["producer_id"] == open.producer_id
            && described["timeout_ms"] == TIMEOUT_MS
            && described["started_ms"].is_number()
            && described["partitions"].as_array().map(Vec::len) == Some(2),
        "{described}"
    );
    let error = refused(&at, &["txn", "describe", "nobody"])?;
    ensure!(error.contains("TransactionalIdNotFound"), "{error}");

    let error = refused(&at, &["txn", "abort", "nobody"])?;
    ensure!(error.contains("TransactionalIdNotFound"), "{error}");
    ensure!(ids(&listed(&at, &[])?) == ["done", "empty", "open"]);
    let aborted = run(&at, &["txn", "abort", "open"])?;
    ensure!(aborted == "aborted the transaction of open\n", "{aborted}");
    for (partition, values) in [(0, &[][..]), (1, &["d"])] {
        let read = settled(&cluster, "orders", partition).await?;
        ensure!(read.values == values, "{partition}: {read:?}");
    }
    let told = open.end(&cluster, true).await?;
    ensure!(told == code(ResponseError::ProducerFenced), "{told}");
    let aborted = json(&at, &["txn", "abort", "done"])?;
    ensure!(aborted[0]["aborted"] == false, "{aborted:?}");
    Ok(())
}

/// A transaction that no coordinator knows gets in where nobody verifies it; only by the place where it begins
/// can it be ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_transaction_is_found_and_aborted() -> Result<()> {
    let cluster = Cluster::start_with(ClusterOptions {
        settings: vec![(
            "transaction.partition.verification.enable".into(),
            "false".into(),
        )],
        ..ClusterOptions::default()
    })
    .await?;
    let at = cluster.bootstrap();
    topics::create(&cluster, "hanging", 1, 3).await?;
    let mut producer = TxnProducer::init(&cluster, "unheard-of", TIMEOUT_MS, true).await?;
    let request = producer.request("hanging", 0, &["never"]);
    let leader = topics::leader_of(&cluster, "hanging", 0).await?;
    let leader = cluster.broker(leader);
    let mut wire = Wire::connect(leader.kafka).await?;
    let answer = wire.call(&request, producer.produce_version()).await?;
    let told = &answer.responses[0].partition_responses[0];
    ensure!(told.error_code == 0, "{told:?}");
    let held = read_committed(leader, "hanging", 0).await?;
    ensure!((held.last_stable_offset, held.high_watermark) == (0, 1));

    let place = ["--topic", "hanging", "--partition", "0"];
    let found = json(&at, &[&["txn", "producers"], &place[..]].concat())?;
    ensure!(found.len() == 1, "{found:?}");
    ensure!(found[0]["producer_id"] == producer.producer_id, "{found:?}");
    ensure!(found[0]["transaction_start"] == 0, "{found:?}");
    let abort = |start| [&["txn", "abort"], &place[..], &["--start-offset", start]].concat();
    let error = refused(&at, &abort("7"))?;
    ensure!(error.contains("begins at offset 7"), "{error}");
    let aborted = run(&at, &abort("0"))?;
    ensure!(aborted.contains("in hanging-0"), "{aborted}");
    let read = settled(&cluster, "hanging", 0).await?;
    ensure!(read.values.is_empty(), "{read:?}");
    ensure!(read.last_stable_offset == 2, "{read:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_commits_whole_transactions_and_sums_up() -> Result<()> {
    let cluster = Cluster::start().await?;
    let at = cluster.bootstrap();
    topics::create(&cluster, "load", 2, 3).await?;
    let bench = [
        "bench",
        "transactions",
        "--topic",
        "load",
        "--producers",
        "2",
        "--size",
        "10",
        // Too few for noise: text.
        "--record-bytes",
        "10",
        "--seconds",
        "1",
    ];
    let sum = json(&at, &bench)?;
    let sum = sum.first().context("no summary")?;
    let count = sum["transactions"].as_u64().context("a count")?;
    ensure!(count > 1, "{sum}");
    ensure!(sum["commit_ms"]["p50"].as_f64() <= sum["transaction_ms"]["max"].as_f64());
    let seconds = sum["seconds"].as_f64().context("a time")?;
    let rate = sum["records_per_second"].as_f64().context("a rate")?;
    ensure!((rate * seconds - (count * 10) as f64).abs() < 1.0, "{sum}");
    let mut records = 0;
    for partition in 0..2 {
        let read = settled(&cluster, "load", partition).await?;
        records += read.values.len() as u64;
    }
    ensure!(records == count * 10, "{records} records, {sum}");
    let without = run(&at, &["bench", "transactions", "--seconds", "1"])?;
    ensure!(without.contains("transactions/s"), "{without}");
    let left = run(&at, &["topic", "list"])?;
    ensure!(!left.contains("bench"), "left behind: {left}");
    Ok(())
}

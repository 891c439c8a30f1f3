//! `tidelog topic`, `produce`, `consume` and `cluster` as a person and a script use them.

use std::fs;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidelog_tests::{Cluster, dev, wait};

use super::RECOVERY_LIMIT;

/// Runs the binary against a cluster.
async fn run(bootstrap: &str, args: &str) -> Result<Output> {
    let args = format!("{args} --bootstrap {bootstrap}");
    tokio::task::spawn_blocking(move || dev::run(&args.split(' ').collect::<Vec<_>>())).await?
}

/// What a command that works prints.
async fn works(bootstrap: &str, args: &str) -> Result<String> {
    let output = run(bootstrap, args).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{args}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The objects it prints, one a line.
async fn objects(bootstrap: &str, args: &str) -> Result<Vec<Value>> {
    let text = works(bootstrap, &format!("{args} --output json")).await?;
    let lines = text.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .with_context(|| format!("{args}: {text}"))
}

/// What a command that fails says, with its exit code.
async fn fails(bootstrap: &str, args: &str) -> Result<(i32, String)> {
    let output = run(bootstrap, args).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{args} worked: {said}");
    ensure!(output.stdout.is_empty(), "{args} printed beside the error");
    Ok((output.status.code().context("an exit code")?, said))
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_shown_changed_and_deleted() -> Result<()> {
    let cluster = Cluster::start().await?;
    let at = cluster.bootstrap();
    works(
        &at,
        "topic create orders --partitions 3 --config retention.ms=60000",
    )
    .await?;
    let checked = "topic create checked --partitions 2 --validate-only";
    works(&at, checked).await?;
    let listed = objects(&at, "topic list").await?;
    ensure!(listed.len() == 1, "{listed:?}");
    ensure!(listed[0]["name"] == "orders" && listed[0]["partitions"] == 3);
    ensure!(listed[0]["replication_factor"] == 3, "{listed:?}");

    works(
        &at,
        "topic alter orders --partitions 4 --config segment.ms=1000",
    )
    .await?;
    works(&at, "topic alter orders --delete-config retention.ms").await?;
    let told = objects(&at, "topic describe orders").await?;
    let partitions = told[0]["partitions"].as_array().context("partitions")?;
    ensure!(partitions.len() == 4, "{told:?}");
    ensure!(
        partitions.iter().all(|p| p["leader"].is_number()),
        "{told:?}"
    );
    let configs = told[0]["configs"].as_array().context("configs")?;
    ensure!(
        configs.len() == 1 && configs[0]["name"] == "segment.ms",
        "{told:?}"
    );
    let text = works(&at, "topic describe orders").await?;
    ensure!(text.contains("segment.ms"), "{text}");

    let (code, said) = fails(&at, "topic create orders").await?;
    ensure!(code == 1 && said.contains("already exists"), "{said}");
    let (_, said) = fails(&at, "topic create a/b").await?;
    ensure!(said.contains("invalid"), "{said}");
    let (_, said) = fails(&at, "topic create odd --config retention.mss=1").await?;
    ensure!(said.contains("did you mean retention.ms?"), "{said}");
    let (code, said) = fails(&at, "topic create none --partitions 0").await?;
    ensure!(code == 2 && said.contains("--partitions"), "{code}: {said}");
    let (_, said) = fails(&at, "topic describe nothing").await?;
    ensure!(said.contains("tidelog topic create nothing"), "{said}");
    let (_, said) = fails("127.0.0.1:1", "topic list").await?;
    ensure!(
        said.contains("127.0.0.1:1") && said.contains("tidelog dev"),
        "{said}"
    );

    works(&at, "topic delete orders").await?;
    ensure!(objects(&at, "topic list").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_go_in_and_come_out_as_records() -> Result<()> {
    let cluster = Cluster::start().await?;
    let at = cluster.bootstrap();
    works(&at, "topic create lines --partitions 2").await?;
    let file = tempfile::NamedTempFile::new()?;
    let lines: String = (0..1000)
        .map(|n| format!("k{}:value {n} ünï\n", n % 7))
        .collect();
    fs::write(file.path(), &lines)?;
    let path = file.path().display();
    for (codec, header) in [("zstd", "a=1"), ("none", "b=2")] {
        let produce = format!(
            "produce lines --file {path} --key-separator : --compression {codec} --header {header}"
        );
        let done = objects(&at, &produce).await?;
        ensure!(done[0]["records"] == 1000, "{done:?}");
    }
    let records = objects(&at, "consume lines --from-beginning").await?;
    ensure!(records.len() == 2000);
    let mut first: Vec<&Value> = records
        .iter()
        .filter(|r| r["headers"][0]["key"] == "a")
        .collect();
    ensure!(first.len() == 1000 && first[0]["headers"][0]["value"] == "1");
    let number =
        |r: &Value| -> Option<u32> { r["value"].as_str()?.split(' ').nth(1)?.parse().ok() };
    first.sort_by_key(|r| number(r));
    for (n, record) in (0..1000).zip(first) {
        ensure!(record["value"] == format!("value {n} ünï"), "{record}");
        ensure!(record["key"] == format!("k{}", n % 7), "{record}");
    }
    let some = works(
        &at,
        "consume lines --partition 1 --offset -3 --max-records 2 --format %p|%k\\n",
    )
    .await?;
    ensure!(
        some.lines().count() == 2 && some.lines().all(|l| l.starts_with("1|k")),
        "{some}"
    );

    let (_, said) = fails(&at, "produce lines --file /no/such/file").await?;
    ensure!(said.contains("/no/such/file"), "{said}");
    let (code, _) = fails(&at, "produce lines --acks some").await?;
    ensure!(code == 2);
    let (_, said) = fails(&at, "consume nothing").await?;
    ensure!(said.contains("tidelog topic create nothing"), "{said}");
    let (_, said) = fails(&at, "consume lines --partition 0 --offset 999999").await?;
    ensure!(said.contains("after the end"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_of_a_dead_broker() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let at = cluster.bootstrap();
    works(&at, "topic create watched --partitions 6").await?;
    let status = objects(&at, "cluster status").await?;
    ensure!(status[0]["partitions"] == 6, "{status:?}");
    let brokers = status[0]["brokers"].as_array().context("brokers")?;
    ensure!(
        brokers.iter().all(|b| b["leaders"] == 2),
        "leaders are uneven: {status:?}"
    );
    cluster.broker_mut(3).kill()?;
    wait::until("the status tells of it", RECOVERY_LIMIT, async || {
        let status = objects(&at, "cluster status").await?;
        let behind = status[0]["partitions_under_replicated"].as_array();
        let leaderless = status[0]["partitions_without_leader"].as_array();
        let told = behind.is_some_and(|b| b.len() == 6) && leaderless.is_some_and(Vec::is_empty);
        Ok(told.then_some(()))
    })
    .await?;
    let text = works(&at, "cluster status").await?;
    ensure!(text.contains("behind"), "{text}");
    Ok(())
}

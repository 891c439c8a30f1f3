//! `tidelog cluster backup` and `restore`: what comes back is what was there.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tidelog_client::{
    Admin, ConfigResource, ConfigSource, Consumer, ConsumerConfig, Header, Isolation, NewTopic,
    Producer, ProducerConfig, Record, StartPosition, TopicPartition,
};
use tidelog_tests::client_suite::ground::client;
use tidelog_tests::{Cluster, ClusterOptions, dev};

const PARTITIONS: i32 = 3;
const TOPICS: [&str; 3] = ["orders", "payments", "old"];

/// Key, value, headers and time of a record.
type Content = (Option<Bytes>, Option<Bytes>, Vec<Header>, i64);

fn run(bootstrap: &str, args: &[&str]) -> Result<Result<String, String>> {
    let mut all = args.to_vec();
    all.extend(["--bootstrap", bootstrap]);
    let output = dev::run(&all)?;
    Ok(if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        Err(String::from_utf8(output.stderr)?)
    })
}

fn done(bootstrap: &str, args: &[&str]) -> Result<String> {
    run(bootstrap, args)?.map_err(|error| anyhow::anyhow!("{args:?}: {error}"))
}

fn refused(bootstrap: &str, args: &[&str]) -> Result<String> {
    let said = run(bootstrap, args)?;
    said.err().with_context(|| format!("{args:?} succeeded"))
}

async fn one_broker() -> Result<Cluster> {
    Cluster::start_with(ClusterOptions {
        brokers: 1,
        ..ClusterOptions::default()
    })
    .await
}

/// The record of a number: some without a key, without a value, with headers.
fn record(topic: &str, n: i32, at_ms: i64) -> Record {
    let mut record = Record::new(topic, format!("{topic} {n}"))
        .with_partition(n % PARTITIONS)
        .with_timestamp_ms(at_ms + i64::from(n));
    if n % 5 != 0 {
        record = record.with_key(vec![n as u8, 0xff]);
    }
    if n % 7 == 0 {
        record.value = None;
    }
    if n % 4 == 0 {
        record = record.with_header("trace", vec![0, n as u8]);
        record.headers.push(Header {
            key: "empty".to_owned(),
            value: None,
        });
    }
    record
}

/// Three topics: one with its broker's times, one with transactions, one that has lost its beginning.
async fn fill(bootstrap: &str) -> Result<()> {
    let admin = Admin::new(client(bootstrap)).await?;
    let configs = |topic: &str| match topic {
        "orders" => vec![
            (
                "message.timestamp.type".to_owned(),
                "LogAppendTime".to_owned(),
            ),
            ("retention.ms".to_owned(), "86400000".to_owned()),
        ],
        "payments" => vec![("cleanup.policy".to_owned(), "compact".to_owned())],
        _ => Vec::new(),
    };
    for name in TOPICS {
        let new = NewTopic {
            name: name.to_owned(),
            partitions: Some(PARTITIONS),
            configs: configs(name),
            ..NewTopic::default()
        };
        admin.create_topic(&new, false).await?;
    }
    // A day ago is kept by default, whatever the time zone.
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64 - 86_000_000;
    let producer = Producer::new(client(bootstrap), ProducerConfig::default()).await?;
    for n in 0..300 {
        producer.send(record("orders", n, at_ms)).await?;
        producer.send(record("old", n, at_ms)).await?;
    }
    producer.close().await?;
    let gone = [(0, Some(40)), (1, None)];
    let gone = gone.map(|(p, before)| (TopicPartition::new("old", p), before));
    admin.delete_records(&gone.into()).await?;

    let config = ProducerConfig::default().with_transactional_id("pay");
    let producer = Producer::new(client(bootstrap), config).await?;
    for round in 0..10 {
        let transaction = producer.begin().await?;
        for n in round * 10..round * 10 + 10 {
            let mut record = record("payments", n, at_ms);
            record.key = Some(Bytes::from(n.to_string()));
            transaction.send(record).await?;
        }
        if round % 3 == 1 {
            transaction.abort().await?;
        } else {
            transaction.commit().await?;
        }
    }

    let offsets = |all: &[(&str, i32, i64)]| {
        all.iter()
            .map(|(topic, p, offset)| (TopicPartition::new(*topic, *p), *offset))
            .collect::<BTreeMap<_, _>>()
    };
    // In a gap, at the end, before the start.
    let billing = [
        ("orders", 0, 17),
        ("payments", 0, 12),
        ("payments", 1, 30),
        ("old", 0, 55),
    ];
    admin
        .alter_group_offsets("billing", &offsets(&billing))
        .await?;
    let audit = [("orders", 2, 100), ("old", 1, 5), ("old", 2, 0)];
    admin.alter_group_offsets("audit", &offsets(&audit)).await?;
    done(
        bootstrap,
        &["broker", "alter", "1", "--set", "message.max.bytes=2097152"],
    )?;
    Ok(())
}

/// Committed records of each partition from `from` on.
async fn read(bootstrap: &str, topic: &str, partition: i32, from: i64) -> Result<Vec<Content>> {
    let config = ConsumerConfig::default().with_isolation(Isolation::ReadCommitted);
    let mut consumer = Consumer::new(client(bootstrap), config).await?;
    let ends = [(topic.to_owned(), partition, StartPosition::Latest)];
    let end = consumer.offsets(ends).await?[0].2;
    if from >= end {
        return Ok(Vec::new());
    }
    let from = StartPosition::Offset(from);
    consumer
        .assign([(topic.to_owned(), partition, from)])
        .await?;
    let mut records = Vec::new();
    loop {
        let fetched = consumer.next().await?;
        for record in fetched.records {
            let content = (
                record.key,
                record.value,
                record.headers,
                record.timestamp_ms,
            );
            records.push(content);
        }
        if fetched.next_offset >= end {
            return Ok(records);
        }
    }
}

/// All that must come back.
#[derive(Debug, PartialEq)]
struct Everything {
    records: BTreeMap<(String, i32), Vec<Content>>,
    /// What each group reads next, to the end.
    next: BTreeMap<(String, String, i32), Vec<Content>>,
    configs: BTreeMap<String, String>,
}

async fn everything(bootstrap: &str) -> Result<Everything> {
    let admin = Admin::new(client(bootstrap)).await?;
    let mut records = BTreeMap::new();
    let mut configs = BTreeMap::new();
    for topic in TOPICS {
        for p in 0..PARTITIONS {
            records.insert((topic.to_owned(), p), read(bootstrap, topic, p, 0).await?);
        }
        let resource = ConfigResource::Topic(topic.to_owned());
        for entry in admin.describe_configs(&resource).await? {
            if entry.source == ConfigSource::Topic {
                let name = format!("{topic} {}", entry.name);
                configs.insert(name, entry.value.unwrap_or_default());
            }
        }
    }
    for entry in admin.describe_configs(&ConfigResource::Broker(1)).await? {
        if entry.source == ConfigSource::DynamicBroker {
            configs.insert(entry.name, entry.value.unwrap_or_default());
        }
    }
    let mut next = BTreeMap::new();
    for group in ["audit", "billing"] {
        for (place, committed) in admin.group_offsets(group).await? {
            let rest = read(bootstrap, &place.topic, place.partition, committed.offset).await?;
            next.insert(
                (group.to_owned(), place.topic.to_string(), place.partition),
                rest,
            );
        }
    }
    Ok(Everything {
        records,
        next,
        configs,
    })
}

/// Restores a backup with one bit changed, which must be refused naming the file.
fn damaged(bootstrap: &str, folder: &Path, file: &str) -> Result<()> {
    let path = folder.join(file);
    let good = std::fs::read(&path)?;
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 0x10;
    std::fs::write(&path, bad)?;
    let said = refused(bootstrap, &["cluster", "restore", text(folder)?])?;
    ensure!(said.contains(file) && said.contains("damaged"), "{said}");
    std::fs::write(&path, good)?;
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back_whole_or_not_at_all() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path().join("monday");
    let dir = text(&folder)?;
    let before = {
        let cluster = one_broker().await?;
        let bootstrap = cluster.bootstrap();
        fill(&bootstrap).await?;
        let before = everything(&bootstrap).await?;
        let said = done(&bootstrap, &["cluster", "backup", dir])?;
        ensure!(said.contains("3 topics, 9 partitions"), "{said}");
        let said = refused(&bootstrap, &["cluster", "backup", dir])?;
        ensure!(said.contains("is not empty"), "{said}");
        let said = refused(&bootstrap, &["cluster", "restore", dir])?;
        ensure!(said.contains("already"), "{said}");
        before
    };
    let committed = before.records[&("payments".to_owned(), 0)].len();
    ensure!(
        committed > 0 && committed < 34,
        "{committed} of aborted and committed"
    );
    ensure!(before.records[&("old".to_owned(), 1)].is_empty());

    let cluster = one_broker().await?;
    let bootstrap = cluster.bootstrap();
    damaged(&bootstrap, &folder, "topic-00001/0.records")?;
    damaged(&bootstrap, &folder, "manifest.json")?;
    let said = done(&bootstrap, &["cluster", "restore", dir, "--dry-run"])?;
    ensure!(said.contains("is whole"), "{said}");
    let listed = done(&bootstrap, &["topic", "list", "--output", "json"])?;
    ensure!(listed.is_empty(), "{listed}");

    done(&bootstrap, &["cluster", "restore", dir])?;
    let after = everything(&bootstrap).await?;
    ensure!(after == before, "{before:#?}\n became\n{after:#?}");
    // Where nothing was missing, the numbers are the same.
    let admin = Admin::new(client(&bootstrap)).await?;
    let billing = admin.group_offsets("billing").await?;
    let offset = |topic: &str, p| billing[&TopicPartition::new(topic, p)].offset;
    ensure!(
        offset("orders", 0) == 17 && offset("old", 0) == 15,
        "{billing:?}"
    );

    // Some topics, into a cluster that has others.
    let some = folder.with_file_name("some");
    let some = text(&some)?;
    let args = [
        "cluster", "backup", some, "--topic", "orders", "--topic", "old",
    ];
    done(&bootstrap, &args)?;
    done(&bootstrap, &["topic", "delete", "orders", "old"])?;
    let said = refused(&bootstrap, &["cluster", "restore", some])?;
    ensure!(
        said.contains("not empty") && said.contains("payments"),
        "{said}"
    );
    for group in ["billing", "audit"] {
        done(&bootstrap, &["group", "delete", group])?;
    }
    done(&bootstrap, &["cluster", "restore", some, "--beside"])?;
    let again = everything(&bootstrap).await?;
    ensure!(again.records == before.records && again.configs == before.configs);
    Ok(())
}

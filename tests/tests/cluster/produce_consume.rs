//! Records go in and come out, unchanged, by a client nobody here wrote.

use anyhow::Result;
use krafka::consumer::AutoOffsetReset;
use krafka::{Compression, Record};
use std::time::Duration;
use tidelog_tests::{Cluster, load, topics, wait};

use super::RECOVERY_LIMIT;

const COMPRESSIONS: [(&str, Compression); 4] = [
    ("none", Compression::None),
    ("gzip", Compression::Gzip),
    ("snappy", Compression::Snappy),
    ("lz4", Compression::Lz4),
];

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_unchanged_in_every_compression() -> Result<()> {
    let cluster = Cluster::start().await?;
    for (name, compression) in COMPRESSIONS {
        let topic = format!("round-trip-{name}");
        topics::create(&cluster, &topic, 3, 3).await?;
        round_trip(&cluster, &topic, compression).await?;
    }
    Ok(())
}

async fn round_trip(cluster: &Cluster, topic: &str, compression: Compression) -> Result<()> {
    let kafka = load::connect(&cluster.bootstrap()).await?;
    let producer = kafka
        .producer()
        .idempotent(true)
        .compression(compression)
        .build()
        .await?;
    let mut handles = Vec::new();
    for n in 0..600_i32 {
        let record = Record::new(topic, format!("{{\"n\": {n}, \"text\": \"łódź {n}\"}}"))
            .partition(n % 3)
            .key(format!("key-{n}"))
            .header("n", n.to_string())
            .timestamp(1_700_000_000_000 + i64::from(n));
        handles.push(producer.enqueue(record).await?);
    }
    for (n, handle) in (0..).zip(handles) {
        assert_eq!(
            handle.await?.offset,
            n / 3,
            "acknowledged offset of record {n}"
        );
    }
    producer.close().await?;

    let consumer = kafka
        .consumer_without_group()
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .build()
        .await?;
    consumer.assign(topic, vec![0, 1, 2]).await?;
    let mut read = Vec::new();
    wait::until("600 records", RECOVERY_LIMIT, async || {
        read.extend(consumer.poll(Duration::from_millis(200)).await?);
        Ok((read.len() >= 600).then_some(()))
    })
    .await?;
    read.sort_by_key(|record| (record.offset, record.partition));
    assert_eq!(read.len(), 600);
    for (n, record) in (0..).zip(&read) {
        assert_eq!((record.partition, record.offset), (n % 3, i64::from(n / 3)));
        assert_eq!(record.key_str(), Some(format!("key-{n}").as_str()));
        assert_eq!(
            record.value_str(),
            Some(format!("{{\"n\": {n}, \"text\": \"łódź {n}\"}}").as_str())
        );
        assert_eq!(record.header_str("n"), Some(n.to_string().as_str()));
        assert_eq!(record.timestamp, 1_700_000_000_000 + i64::from(n));
    }
    Ok(())
}

//! Topics and records to check with.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tidelog_client::{
    Admin, ClientConfig, Consumer, ConsumerConfig, GroupConfig, NewTopic, Producer, ProducerConfig,
    Record,
};

/// A name nobody else uses.
#[must_use]
pub fn fresh(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = nanos.map_or(0, |t| t.as_nanos() as u64);
    format!(
        "{prefix}-{nanos:x}-{}",
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// How to reach the cluster; impatient, so that a defect is found within the limit of a check.
#[must_use]
pub fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new(bootstrap);
    config.call_timeout = Duration::from_secs(20);
    config
}

/// A new topic.
///
/// # Errors
/// When it cannot be created.
pub async fn topic(bootstrap: &str, prefix: &str, partitions: i32) -> Result<String> {
    let name = fresh(prefix);
    create(bootstrap, &name, partitions).await?;
    Ok(name)
}

/// Creates a topic of this name.
///
/// # Errors
/// When it cannot be created.
pub async fn create(bootstrap: &str, name: &str, partitions: i32) -> Result<()> {
    let admin = Admin::new(client(bootstrap)).await?;
    let new = NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        ..NewTopic::default()
    };
    admin
        .create_topic(&new, false)
        .await
        .context("create the topic")
}

/// Writes the numbers as text, spread over the partitions one by one.
///
/// # Errors
/// When one of them cannot be written.
pub async fn write(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    numbers: std::ops::Range<u32>,
) -> Result<()> {
    let producer = Producer::new(client(bootstrap), ProducerConfig::default()).await?;
    for number in numbers {
        let record = Record::new(topic, number.to_string());
        let record = record.with_partition(number as i32 % partitions);
        // What becomes of it is told by close().
        producer.send(record).await?;
    }
    producer.close().await.context("write the numbers")
}

/// A member of `group` with short sessions.
///
/// # Errors
/// When the cluster cannot be reached.
pub async fn member(bootstrap: &str, group: GroupConfig) -> Result<Consumer> {
    let group = group.with_session_timeout(Duration::from_secs(6));
    let config = ConsumerConfig::group(group).with_wait_max(Duration::from_millis(100));
    Ok(Consumer::new(client(bootstrap), config).await?)
}

/// How often each number was read.
pub type Seen = BTreeMap<u32, u32>;

/// Reads with all members in turn until `done` says so.
///
/// # Errors
/// When a member fails, or nothing satisfies `done` within half a minute.
pub async fn read_until(
    members: &mut [&mut Consumer],
    seen: &mut Seen,
    mut done: impl FnMut(&Seen, &[&mut Consumer]) -> bool,
) -> Result<()> {
    let began = Instant::now();
    while !done(seen, members) {
        if began.elapsed() > Duration::from_secs(30) {
            let assigned: Vec<_> = members.iter().map(|m| m.assignment()).collect();
            anyhow::bail!("read {} numbers; assigned: {assigned:?}", seen.len());
        }
        for member in members.iter_mut() {
            let next = tokio::time::timeout(Duration::from_millis(50), member.next()).await;
            let Ok(fetched) = next else { continue };
            for record in fetched?.records {
                let text = record.value.context("a record without a value")?;
                let number = std::str::from_utf8(&text)?.parse()?;
                *seen.entry(number).or_default() += 1;
            }
        }
    }
    Ok(())
}

//! Transactions, seen by consumers that read committed records.

use super::ground::{client, fresh, topic, write};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tidelog_client::{
    Consumer, ConsumerConfig, Error, GroupConfig, Isolation, Producer, ProducerConfig, Record,
    StartPosition,
};

async fn producer(bootstrap: &str, id: &str) -> Result<Producer> {
    let config = ProducerConfig::default().with_transactional_id(id);
    Ok(Producer::new(client(bootstrap), config).await?)
}

fn numbered(topic: &str, number: u32) -> Record {
    Record::new(topic, number.to_string()).with_partition(number as i32 % 2)
}

/// What is committed in the two partitions of `topic`, once it has ended with `last`, in any order.
async fn committed(bootstrap: &str, topic: &str, expected: usize) -> Result<Vec<u32>> {
    let config = ConsumerConfig::default()
        .with_isolation(Isolation::ReadCommitted)
        .with_wait_max(Duration::from_millis(50));
    let mut consumer = Consumer::new(client(bootstrap), config).await?;
    let places = [0, 1].map(|p| (topic, p, StartPosition::Earliest));
    consumer.assign(places).await?;
    let mut read = Vec::new();
    let mut ended = [false; 2];
    let reading = async {
        while !(ended == [true; 2] && read.len() >= expected) {
            let fetched = consumer.next().await?;
            for record in &fetched.records {
                let text = record.value.as_deref().context("no value")?;
                read.push(std::str::from_utf8(text)?.parse()?);
            }
            ended[fetched.partition as usize] = fetched.at_end();
        }
        Ok::<_, anyhow::Error>(())
    };
    let in_time = tokio::time::timeout(Duration::from_secs(15), reading).await;
    match in_time {
        Ok(done) => done?,
        Err(_) => anyhow::bail!("only {read:?} came, {expected} are expected; ended: {ended:?}"),
    }
    read.sort_unstable();
    Ok(read)
}

/// Committed ones whole and in order of their offsets, aborted and dropped ones not at all.
pub async fn a_transaction_is_seen_whole_or_not_at_all(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "transaction", 2).await?;
    let producer = producer(bootstrap, &topic).await?;
    for (first, ending) in [
        (0, "commit"),
        (10, "abort"),
        (20, "commit"),
        (30, "drop"),
        (40, "commit"),
    ] {
        let transaction = producer.begin().await?;
        for number in first..first + 10 {
            transaction.send(numbered(&topic, number)).await?;
        }
        if first >= 30 {
            // Written for certain, so that there is something to abort.
            producer.flush().await?;
        }
        match ending {
            "commit" => transaction.commit().await?,
            "abort" => transaction.abort().await?,
            _ => drop(transaction),
        }
    }
    let expected: Vec<u32> = (0..10).chain(20..30).chain(40..50).collect();
    let read = committed(bootstrap, &topic, expected.len()).await?;
    ensure!(read == expected, "{read:?}");
    Ok(())
}

/// Neither an empty transaction nor one after it is in anybody's way.
pub async fn an_empty_transaction_is_no_trouble(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "empty", 2).await?;
    let producer = producer(bootstrap, &topic).await?;
    producer.begin().await?.commit().await?;
    producer.begin().await?.abort().await?;
    let transaction = producer.begin().await?;
    transaction.send(numbered(&topic, 0)).await?;
    transaction.send(numbered(&topic, 1)).await?;
    transaction.commit().await?;
    ensure!(committed(bootstrap, &topic, 2).await? == [0, 1]);
    let outside = producer.send(numbered(&topic, 2)).await;
    ensure!(outside.is_err(), "sent outside a transaction");
    Ok(())
}

/// A second producer of the same id takes over: the first one's open transaction is aborted, and it
/// can do nothing more.
pub async fn a_newer_producer_fences_the_older(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "fence", 2).await?;
    let old = producer(bootstrap, &topic).await?;
    let open = old.begin().await?;
    let written = open.send(numbered(&topic, 1)).await?;
    old.flush().await?;
    written.await?;
    let new = producer(bootstrap, &topic).await?;
    let transaction = new.begin().await?;
    transaction.send(numbered(&topic, 2)).await?;
    transaction.send(numbered(&topic, 3)).await?;
    transaction.commit().await?;
    let error = open
        .commit()
        .await
        .err()
        .context("the older one committed")?;
    ensure!(matches!(error, Error::Fenced { .. }), "{error}");
    let error = old.begin().await.err().context("the older one went on")?;
    ensure!(matches!(error, Error::Fenced { .. }), "{error}");
    ensure!(committed(bootstrap, &topic, 2).await? == [2, 3]);
    Ok(())
}

/// Reads, writes and commits offsets in transactions; every other one is aborted at first. Each
/// number arrives once.
pub async fn reading_and_writing_is_exactly_once(bootstrap: &str) -> Result<()> {
    let input = topic(bootstrap, "eos-in", 2).await?;
    let output = topic(bootstrap, "eos-out", 2).await?;
    write(bootstrap, &input, 2, 0..100).await?;
    let producer = producer(bootstrap, &fresh("eos")).await?;
    let group = GroupConfig::new(&input).with_auto_commit(None);
    let config = ConsumerConfig::group(group)
        .with_isolation(Isolation::ReadCommitted)
        .with_wait_max(Duration::from_millis(50));
    let mut consumer = Consumer::new(client(bootstrap), config).await?;
    consumer.subscribe([input.as_str()]).await?;
    let committer = consumer.committer()?;
    let (mut done, mut round) = (0, 0);
    while done < 100 {
        let transaction = producer.begin().await?;
        let mut count = 0;
        while count < 13 && done + count < 100 {
            let record = consumer.next_record().await?;
            let value = record.value.context("no value")?;
            let copy = Record::new(output.as_str(), value).with_partition(record.partition);
            transaction.send(copy).await?;
            count += 1;
        }
        transaction
            .send_offsets(&committer, &consumer.positions())
            .await?;
        round += 1;
        if round % 2 == 0 {
            transaction.abort().await?;
            consumer.rewind().await?;
        } else {
            transaction.commit().await?;
            done += count;
        }
    }
    consumer.close().await?;
    let read = committed(bootstrap, &output, 100).await?;
    ensure!(read == (0..100).collect::<Vec<_>>(), "{read:?}");
    Ok(())
}

/// A producer that reads uncommitted records sees them at once; one that reads committed ones waits.
pub async fn an_open_transaction_hides_what_follows(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "open", 2).await?;
    let producer = producer(bootstrap, &topic).await?;
    let transaction = producer.begin().await?;
    for number in 0..10 {
        transaction.send(numbered(&topic, number)).await?;
    }
    producer.flush().await?;
    write(bootstrap, &topic, 2, 10..20).await?;
    ensure!(
        committed(bootstrap, &topic, 0).await?.is_empty(),
        "an open transaction is seen"
    );
    let mut dirty = Consumer::new(client(bootstrap), ConsumerConfig::default()).await?;
    let places = [0, 1].map(|p| (topic.as_str(), p, StartPosition::Earliest));
    dirty.assign(places).await?;
    let mut seen = 0;
    while seen < 20 {
        seen += dirty.next().await?.records.len();
    }
    transaction.abort().await?;
    ensure!(committed(bootstrap, &topic, 10).await? == (10..20).collect::<Vec<_>>());
    Ok(())
}

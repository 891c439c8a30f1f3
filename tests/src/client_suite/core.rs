//! Producing and consuming without a group.

use super::ground::{client, create, topic, write};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::BTreeSet;
use std::time::Duration;
use tidelog_client::{
    Acks, Admin, Compression, Consumer, ConsumerConfig, Error, Header, OffsetReset, Partitioner,
    Producer, ProducerConfig, Record, StartPosition, TopicPartition, partition_of_key,
};

async fn reader(bootstrap: &str, config: ConsumerConfig) -> Result<Consumer> {
    let config = config.with_wait_max(Duration::from_millis(100));
    Ok(Consumer::new(client(bootstrap), config).await?)
}

/// Key, value, null, headers in order and repeated, and the time come back as they were sent, with
/// every codec, and so does what has none of them.
pub async fn records_come_back_as_they_were_sent(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "records", 1).await?;
    let mut sent = Vec::new();
    for compression in Compression::ALL {
        let config = ProducerConfig::default().with_compression(compression);
        let producer = Producer::new(client(bootstrap), config).await?;
        let text = format!("{compression:?} ").repeat(500);
        let full = Record::new(topic.as_str(), text)
            .with_key("key")
            .with_header("a", "1")
            .with_header("b", Bytes::new())
            .with_header("a", "2")
            .with_timestamp_ms(1_700_000_000_123);
        let mut bare = Record::new(topic.as_str(), "");
        bare.value = None;
        bare.headers = vec![Header {
            key: String::new(),
            value: None,
        }];
        for record in [full, bare] {
            let at = producer.send(record.clone()).await?.await?;
            ensure!(at.offset == Some(sent.len() as i64), "{at:?}");
            sent.push(record);
        }
        producer.close().await?;
    }
    let mut consumer = reader(bootstrap, ConsumerConfig::default()).await?;
    consumer
        .assign([(topic.as_str(), 0, StartPosition::Earliest)])
        .await?;
    let records = consumer.records();
    let mut records = std::pin::pin!(records);
    for (offset, sent) in sent.iter().enumerate() {
        let read = records.next().await.context("the stream ended")??;
        ensure!((read.topic.as_ref(), read.partition) == (topic.as_str(), 0));
        ensure!(read.offset == offset as i64);
        ensure!(read.key == sent.key && read.value == sent.value && read.headers == sent.headers);
        let time = sent.timestamp_ms.unwrap_or(read.timestamp_ms);
        ensure!(read.timestamp_ms == time, "{} ms", read.timestamp_ms);
    }
    Ok(())
}

/// Much more than the buffer has room for goes through it, in order, and close() waits for all.
pub async fn a_full_buffer_waits_and_close_loses_nothing(bootstrap: &str) -> Result<()> {
    const RECORDS: u32 = 3_000;
    let topic = topic(bootstrap, "pressure", 3).await?;
    let config = ProducerConfig::default()
        .with_buffer_bytes(64 << 10)
        .with_batch_bytes(8 << 10)
        .with_linger(Duration::from_millis(200));
    let producer = Producer::new(client(bootstrap), config).await?;
    let padding = "x".repeat(500);
    for number in 0..RECORDS {
        let record = Record::new(topic.as_str(), format!("{number} {padding}"));
        producer
            .send(record.with_partition(number as i32 % 3))
            .await?;
        let buffered = producer.progress().buffered_bytes;
        ensure!(buffered <= 64 << 10, "{buffered} bytes in the buffer");
    }
    producer.close().await?;
    let config = ConsumerConfig::default().with_prefetch_bytes_max(100_000);
    let mut consumer = reader(bootstrap, config).await?;
    let places = (0..3).map(|p| (topic.as_str(), p, StartPosition::Earliest));
    consumer.assign(places).await?;
    let mut next = [0, 1, 2];
    let mut read = 0;
    let batches = consumer.batches();
    let mut batches = std::pin::pin!(batches);
    while read < RECORDS {
        let fetched = batches.next().await.context("the stream ended")??;
        for record in fetched.records {
            let value = record.value.context("no value")?;
            let number = std::str::from_utf8(&value)?
                .split(' ')
                .next()
                .unwrap_or_default();
            let expected = &mut next[record.partition as usize];
            ensure!(
                number.parse::<u32>()? == *expected,
                "{number} at {expected}"
            );
            *expected += 3;
            read += 1;
        }
    }
    Ok(())
}

/// By key as Kafka does, round robin over all, or as the caller says.
pub async fn each_partitioner_chooses_as_it_says(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "partitioner", 5).await?;
    let place = async |partitioner: Partitioner, keys: &[&str]| -> Result<Vec<i32>> {
        let config = ProducerConfig::default().with_partitioner(partitioner);
        let producer = Producer::new(client(bootstrap), config).await?;
        let mut places = Vec::new();
        for key in keys {
            let record = Record::new(topic.as_str(), "v").with_key(key.to_string());
            places.push(producer.send(record).await?.await?.partition);
        }
        producer.close().await?;
        Ok(places)
    };
    let keys = ["a", "b", "c", "d", "e", "f"];
    let by_key: Vec<_> = keys
        .iter()
        .map(|k| partition_of_key(k.as_bytes(), 5))
        .collect();
    ensure!(place(Partitioner::ByKey, &keys).await? == by_key);
    ensure!(place(Partitioner::RoundRobin, &keys).await? == [0, 1, 2, 3, 4, 0]);
    let last = Partitioner::own(|_, partitions| partitions as i32 - 1);
    ensure!(place(last, &keys).await? == [4; 6]);
    Ok(())
}

/// All acknowledgements, and topics and partitions that do not exist.
pub async fn acks_and_errors_are_told(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "acks", 1).await?;
    for acks in [Acks::None, Acks::Leader, Acks::All] {
        let config = ProducerConfig::default().with_acks(acks);
        let producer = Producer::new(client(bootstrap), config).await?;
        let at = producer
            .send(Record::new(topic.as_str(), "v"))
            .await?
            .await?;
        ensure!(
            at.offset.is_none() == (acks == Acks::None),
            "{acks:?}: {at:?}"
        );
        producer.close().await?;
    }
    let mut config = client(bootstrap);
    config.unknown_topic_timeout = Duration::from_millis(300);
    let none = ProducerConfig::default().with_create_topics(false);
    let producer = Producer::new(config, none).await?;
    let missing = producer.send(Record::new("no-such-topic", "v")).await;
    ensure!(
        matches!(missing, Err(Error::UnknownTopic { .. })),
        "{missing:?}"
    );
    let record = Record::new(topic.as_str(), "v").with_partition(1);
    let beyond = producer.send(record).await;
    ensure!(
        matches!(beyond, Err(Error::UnknownPartition { .. })),
        "{beyond:?}"
    );
    let large = Record::new(topic.as_str(), vec![0; 40 << 20]);
    let large = producer.send(large).await;
    ensure!(
        matches!(large, Err(Error::RecordTooLarge { .. })),
        "{large:?}"
    );
    Ok(())
}

/// Each policy does what it says with an offset that is not there.
pub async fn an_offset_out_of_range_is_reset_or_told(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "reset", 1).await?;
    write(bootstrap, &topic, 1, 0..10).await?;
    let start = [(topic.as_str(), 0, StartPosition::Offset(1_000))];
    let with = |reset| ConsumerConfig::default().with_offset_reset(reset);

    let mut strict = reader(bootstrap, with(OffsetReset::Fail)).await?;
    strict.assign(start).await?;
    let error = strict.next().await.err().context("it went on")?;
    ensure!(
        error.code() == Some(tidelog_client::ErrorCode::OFFSET_OUT_OF_RANGE),
        "{error}"
    );

    let mut first = reader(bootstrap, with(OffsetReset::Earliest)).await?;
    first.assign(start).await?;
    ensure!(first.next_record().await?.offset == 0);

    let mut last = reader(bootstrap, with(OffsetReset::Latest)).await?;
    last.assign(start).await?;
    let end = last.next().await?;
    ensure!(end.records.is_empty() && end.next_offset == 10, "{end:?}");
    Ok(())
}

/// Partitions and settings of topics, and the ends of partitions.
pub async fn topics_are_administered(bootstrap: &str) -> Result<()> {
    use tidelog_client::{ConfigChange, ConfigResource};
    let name = topic(bootstrap, "admin", 2).await?;
    let admin = Admin::new(client(bootstrap)).await?;
    admin.add_partitions(&name, 3).await?;
    let resource = ConfigResource::Topic(name.clone());
    let change = [ConfigChange::Set("retention.ms".into(), "123456".into())];
    admin.alter_configs(&resource, &change, false).await?;
    // News of it takes a moment to reach the broker that is asked.
    let began = std::time::Instant::now();
    loop {
        let configs = admin.describe_configs(&resource).await?;
        let retention = configs.iter().find(|c| c.name == "retention.ms");
        if retention.and_then(|c| c.value.as_deref()) == Some("123456") {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(10), "{retention:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    write(bootstrap, &name, 3, 0..9).await?;
    let places = (0..3).map(|p| (name.clone(), p, StartPosition::Latest));
    let ends = admin.offsets(places).await?;
    ensure!(
        ends.iter().map(|(_, _, end)| end).eq(&[3, 3, 3]),
        "{ends:?}"
    );
    let topics = admin.list_topics().await?;
    ensure!(
        topics
            .iter()
            .any(|t| t.name == name && t.partitions.len() == 3)
    );
    let deleted = admin.delete_topics(std::slice::from_ref(&name)).await?;
    ensure!(deleted.len() == 1 && deleted[0].1.is_ok(), "{deleted:?}");
    Ok(())
}

/// A topic that gets a deleted one's name is another one: records say which they are of, and a second deletion
/// by the first one's id does nothing to it.
pub async fn a_topic_is_told_from_an_earlier_one_of_its_name(bootstrap: &str) -> Result<()> {
    let name = topic(bootstrap, "again", 1).await?;
    let admin = Admin::new(client(bootstrap)).await?;
    let first = admin.describe_topic(&name).await?.id;
    ensure!(write_one(bootstrap, &name, "first").await? == first);
    admin.delete_topic_by_id(first).await?;
    let began = std::time::Instant::now();
    // A broker of Kafka may still remember the one that is deleted.
    while let Err(error) = create(bootstrap, &name, 1).await {
        ensure!(began.elapsed() < Duration::from_secs(15), "{error:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let second = loop {
        match admin.describe_topic(&name).await {
            Ok(topic) if topic.id != first => break topic.id,
            other => ensure!(began.elapsed() < Duration::from_secs(15), "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let again = admin.delete_topic_by_id(first).await;
    ensure!(
        matches!(again, Err(Error::UnknownTopic { .. })),
        "{again:?}"
    );
    ensure!(write_one(bootstrap, &name, "second").await? == second);
    let mut consumer = reader(bootstrap, ConsumerConfig::default()).await?;
    consumer
        .assign([(name.as_str(), 0, StartPosition::Earliest)])
        .await?;
    let fetched = consumer.next().await?;
    ensure!(fetched.topic_id == second, "{:?}", fetched.topic_id);
    ensure!(fetched.records[0].value.as_deref() == Some(b"second".as_slice()));
    Ok(())
}

/// The id of the topic that it was written to.
async fn write_one(bootstrap: &str, topic: &str, text: &'static str) -> Result<[u8; 16]> {
    let producer = Producer::new(client(bootstrap), ProducerConfig::default()).await?;
    let at = producer.send(Record::new(topic, text)).await?.await?;
    producer.close().await?;
    Ok(at.topic_id)
}

/// Deleting records moves the beginning; producers and replicas are told.
pub async fn records_are_deleted_and_replicas_shown(bootstrap: &str) -> Result<()> {
    let name = topic(bootstrap, "trimmed", 1).await?;
    write(bootstrap, &name, 1, 0..9).await?;
    let admin = Admin::new(client(bootstrap)).await?;
    let place = TopicPartition::new(name.as_str(), 0);
    let producers = admin.describe_producers(&place).await?;
    ensure!(
        producers.len() == 1 && producers[0].last_sequence.is_some(),
        "{producers:?}"
    );
    let delete = async |before: Option<i64>| {
        let asked = [(place.clone(), before)].into();
        admin.delete_records(&asked).await
    };
    let starts = delete(Some(4)).await?;
    ensure!(starts[&place] == 4, "{starts:?}");
    let error = delete(Some(10)).await.err().context("after the end")?;
    ensure!(error.code() == Some(tidelog_client::ErrorCode::OFFSET_OUT_OF_RANGE));
    let first = admin.offsets([(name.clone(), 0, StartPosition::Earliest)]);
    ensure!(first.await?[0].2 == 4);
    let starts = delete(None).await?;
    ensure!(starts[&place] == 9, "{starts:?}");
    let leader = admin.describe_topic(&name).await?.partitions[0].leader;
    let replicas = admin.describe_log_dirs(leader.context("a leader")?).await?;
    ensure!(
        replicas.iter().any(|r| r.partition == place),
        "{replicas:?}"
    );
    Ok(())
}

/// Assigning anew forgets what was fetched before, and lag goes down as records are read.
pub async fn lag_and_positions_follow_what_is_handed_out(bootstrap: &str) -> Result<()> {
    let topic = topic(bootstrap, "lag", 2).await?;
    write(bootstrap, &topic, 2, 0..20).await?;
    let mut consumer = reader(bootstrap, ConsumerConfig::default()).await?;
    consumer
        .assign([(topic.as_str(), 0, StartPosition::Earliest)])
        .await?;
    let place = TopicPartition::new(topic.as_str(), 0);
    for offset in 0..4 {
        ensure!(consumer.next_record().await?.offset == offset);
        ensure!(consumer.position(&place) == Some(offset + 1));
        ensure!(
            consumer.lag().get(&place) == Some(&(9 - offset)),
            "{:?}",
            consumer.lag()
        );
    }
    consumer
        .assign([(topic.as_str(), 1, StartPosition::Offset(8))])
        .await?;
    let read = [consumer.next_record().await?, consumer.next_record().await?];
    let read: BTreeSet<_> = read.iter().map(|r| (r.partition, r.offset)).collect();
    ensure!(read == BTreeSet::from([(1, 8), (1, 9)]), "{read:?}");
    Ok(())
}

//! `krafka` under the load. Each record's delivery is awaited.

use bytes::Bytes;
use clients::{BATCH_BYTES, BUFFER_BYTES, LINGER_MS, Load, PARTITION_FETCH_BYTES, PARTITIONS};
use futures_util::FutureExt;
use krafka::consumer::AutoOffsetReset;
use krafka::producer::Acks;
use krafka::{Kafka, Record};
use std::collections::VecDeque;
use std::time::Duration;

#[tokio::main]
async fn main() {
    let load = Load::from_args();
    let kafka = Kafka::builder(load.bootstrap.clone());
    let kafka = kafka.connect().await.expect("a cluster");
    if load.produce {
        produce(&load, &kafka).await;
    } else {
        consume(&load, &kafka).await;
    }
}

async fn produce(load: &Load, kafka: &Kafka) {
    let builder = kafka
        .producer()
        .acks(Acks::All)
        .idempotent(true)
        .linger(Duration::from_millis(LINGER_MS))
        .batch_size(BATCH_BYTES)
        .buffer_memory(BUFFER_BYTES);
    let producer = builder.build().await.expect("a producer");
    let value = Bytes::from(load.value());
    let mut waiting = VecDeque::new();
    let mut delivered = 0;
    for number in 0..load.records {
        let partition = (number % PARTITIONS as u64) as i32;
        let record = Record::new(load.topic.as_str(), value.clone()).partition(partition);
        waiting.push_back(producer.enqueue(record).await.expect("room"));
        while let Some(first) = waiting.front_mut()
            && let Some(outcome) = first.now_or_never()
        {
            let _ = outcome.expect("delivered");
            delivered += 1;
            waiting.pop_front();
        }
    }
    for delivery in waiting {
        let _ = delivery.await.expect("delivered");
        delivered += 1;
    }
    producer.close().await.expect("closed");
    load.check(delivered, load.records * load.record_bytes as u64);
}

async fn consume(load: &Load, kafka: &Kafka) {
    let builder = kafka
        .consumer_without_group()
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .enable_auto_commit(false)
        .max_partition_fetch_bytes(PARTITION_FETCH_BYTES)
        // As it is, a fetch of small records is cut into pieces of 500.
        .max_poll_records(100_000)
        .max_buffered_records(0);
    let consumer = builder.build().await.expect("a consumer");
    let all = (0..PARTITIONS).collect();
    consumer.assign(&load.topic, all).await.expect("assigned");
    let (mut records, mut bytes) = (0, 0);
    while records < load.records {
        for record in consumer
            .poll(Duration::from_secs(1))
            .await
            .expect("records")
        {
            records += 1;
            bytes += record.value.map_or(0, |value| value.len() as u64);
        }
    }
    load.check(records, bytes);
}

//! `tidelog-client` under the load. Each record's delivery is awaited, not only the end of all.

use bytes::Bytes;
use clients::{BATCH_BYTES, BUFFER_BYTES, LINGER_MS, Load, PARTITION_FETCH_BYTES, PARTITIONS};
use futures_util::FutureExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tidelog_client::{
    ClientConfig, Consumer, ConsumerConfig, Producer, ProducerConfig, Record, StartPosition,
};

#[tokio::main]
async fn main() {
    let load = Load::from_args();
    if load.produce {
        produce(&load).await;
    } else {
        consume(&load).await;
    }
}

async fn produce(load: &Load) {
    let config = ProducerConfig::default()
        .with_linger(Duration::from_millis(LINGER_MS))
        .with_batch_bytes(BATCH_BYTES)
        .with_buffer_bytes(BUFFER_BYTES);
    let client = ClientConfig::new(&load.bootstrap);
    let producer = Producer::new(client, config).await.expect("a producer");
    let topic: Arc<str> = load.topic.as_str().into();
    let value = Bytes::from(load.value());
    let mut waiting = VecDeque::new();
    let mut delivered = 0;
    for number in 0..load.records {
        let record = Record::new(topic.clone(), value.clone());
        let record = record.with_partition((number % PARTITIONS as u64) as i32);
        waiting.push_back(producer.send(record).await.expect("room"));
        while let Some(first) = waiting.front_mut()
            && let Some(outcome) = first.now_or_never()
        {
            outcome.expect("delivered");
            delivered += 1;
            waiting.pop_front();
        }
    }
    producer.flush().await.expect("all delivered");
    for delivery in waiting {
        delivery.await.expect("delivered");
        delivered += 1;
    }
    load.check(delivered, load.records * load.record_bytes as u64);
}

async fn consume(load: &Load) {
    let mut config = ConsumerConfig::default();
    config.partition_bytes_max = PARTITION_FETCH_BYTES as usize;
    let client = ClientConfig::new(&load.bootstrap);
    let mut consumer = Consumer::new(client, config).await.expect("a consumer");
    let all = (0..PARTITIONS).map(|p| (load.topic.as_str(), p, StartPosition::Earliest));
    consumer.assign(all).await.expect("assigned");
    let (mut records, mut bytes) = (0, 0);
    while records < load.records {
        for record in consumer.next().await.expect("records").records {
            records += 1;
            bytes += record.value.map_or(0, |value| value.len() as u64);
        }
    }
    load.check(records, bytes);
}

//! The `rdkafka` crate under the load: its leanest interfaces, [`BaseProducer`] with a callback for each record
//! and [`BaseConsumer`].

use clients::{BATCH_BYTES, BUFFER_BYTES, LINGER_MS, Load, PARTITION_FETCH_BYTES, PARTITIONS};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn main() {
    let load = Load::from_args();
    if load.produce {
        produce(&load);
    } else {
        consume(&load);
    }
}

struct Delivered(Arc<AtomicU64>);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, delivery: &DeliveryResult<'_>, (): ()) {
        delivery.as_ref().expect("delivered");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn produce(load: &Load) {
    let delivered = Arc::new(AtomicU64::new(0));
    let producer: ThreadedProducer<Delivered> = ClientConfig::new()
        .set("bootstrap.servers", &load.bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", LINGER_MS.to_string())
        .set("batch.size", BATCH_BYTES.to_string())
        .set("batch.num.messages", "1000000")
        .set(
            "queue.buffering.max.kbytes",
            (BUFFER_BYTES >> 10).to_string(),
        )
        .set("queue.buffering.max.messages", "10000000")
        .create_with_context(Delivered(delivered.clone()))
        .expect("a producer");
    let value = load.value();
    for number in 0..load.records {
        let partition = (number % PARTITIONS as u64) as i32;
        let mut record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&load.topic);
        record = record.payload(&value).partition(partition);
        while let Err((error, back)) = producer.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            assert_eq!(error, full);
            std::thread::sleep(Duration::from_millis(1));
            record = back;
        }
    }
    producer.flush(Duration::from_secs(60)).expect("flushed");
    let delivered = delivered.load(Ordering::Relaxed);
    load.check(delivered, load.records * load.record_bytes as u64);
}

fn consume(load: &Load) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &load.bootstrap)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set(
            "max.partition.fetch.bytes",
            PARTITION_FETCH_BYTES.to_string(),
        )
        // As the others do.
        .set(
            "check.crcs",
            std::env::var("CHECK_CRCS").unwrap_or("true".to_owned()),
        )
        .create()
        .expect("a consumer");
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(&load.topic, partition, Offset::Beginning)
            .expect("a partition");
    }
    consumer.assign(&all).expect("assigned");
    let (mut records, mut bytes) = (0, 0);
    while records < load.records {
        if let Some(record) = consumer.poll(Duration::from_secs(1)) {
            records += 1;
            bytes += record
                .expect("a record")
                .payload()
                .map_or(0, |v| v.len() as u64);
        }
    }
    load.check(records, bytes);
}

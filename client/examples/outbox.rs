//! The outbox pattern: a service writes its change and the event about it in one transaction of its
//! database; a relay moves events from there to a topic. A crash between writing an event and
//! marking it as sent repeats it, so consumers drop ids they know.
//!
//! `cargo run -p tidelog-client --example outbox -- localhost:9092`

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use tidelog_client::{
    ClientConfig, Consumer, ConsumerConfig, GroupConfig, Producer, ProducerConfig, Record,
};

/// Stands for a database table: `id, aggregate, payload, sent`.
#[derive(Default)]
pub struct OutboxTable {
    rows: BTreeMap<u64, (String, String, bool)>,
}

impl OutboxTable {
    /// In a service this is part of the transaction that changes the aggregate.
    pub fn insert(&mut self, aggregate: &str, payload: &str) {
        let id = self.rows.len() as u64 + 1;
        self.rows
            .insert(id, (aggregate.to_owned(), payload.to_owned(), false));
    }

    fn unsent(&self) -> Vec<(u64, String, String)> {
        let unsent = self.rows.iter().filter(|(_, (.., sent))| !sent);
        unsent
            .map(|(id, (key, payload, _))| (*id, key.clone(), payload.clone()))
            .collect()
    }

    fn mark_sent(&mut self, id: u64) {
        if let Some((.., sent)) = self.rows.get_mut(&id) {
            *sent = true;
        }
    }
}

/// One round of the relay. Events of one aggregate keep their order, because they share a key. With
/// `crash` it ends before it marks what it sent.
pub async fn relay(
    producer: &Producer,
    topic: &str,
    table: &mut OutboxTable,
    crash: bool,
) -> Result<(), Box<dyn Error>> {
    let mut deliveries = Vec::new();
    for (id, aggregate, payload) in table.unsent() {
        let record = Record::new(topic, payload)
            .with_key(aggregate)
            .with_header("event-id", id.to_string());
        deliveries.push((id, producer.send(record).await?));
    }
    for (id, delivery) in deliveries {
        delivery.await?;
        if !crash {
            table.mark_sent(id);
        }
    }
    Ok(())
}

/// Relays three events, the first time with a crash in between; returns what a consumer that drops
/// repeated ids sees.
pub async fn run(bootstrap: &str, topic: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let client = ClientConfig::new(bootstrap);
    let producer = Producer::new(client.clone(), ProducerConfig::default()).await?;
    let mut table = OutboxTable::default();
    for payload in ["created", "paid", "shipped"] {
        table.insert("order-1", payload);
    }
    relay(&producer, topic, &mut table, true).await?;
    relay(&producer, topic, &mut table, false).await?;
    producer.close().await?;

    let config = ConsumerConfig::group(GroupConfig::new(format!("{topic}-shipping")));
    let mut consumer = Consumer::new(client, config).await?;
    consumer.subscribe([topic]).await?;
    let mut known = HashSet::new();
    let mut seen = Vec::new();
    for _ in 0..6 {
        let record = consumer.next_record().await?;
        let id = record.headers.iter().find(|h| h.key == "event-id");
        if known.insert(id.and_then(|h| h.value.clone())) {
            let value = record.value.unwrap_or_default();
            seen.push(String::from_utf8_lossy(&value).into_owned());
        }
    }
    consumer.close().await?;
    Ok(seen)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost:9092".to_owned());
    println!("{:?}", run(&bootstrap, "orders-outbox").await?);
    Ok(())
}

//! A saga by choreography: an order is paid, then stock is reserved; when there is none, the
//! payment is given back. No step calls another: each reacts to events and writes its own, in one
//! transaction with its offsets.
//!
//! `cargo run -p tidelog-client --example saga -- localhost:9092`

use std::error::Error;
use tidelog_client::{
    ClientConfig, Consumer, ConsumerConfig, GroupConfig, Isolation, Producer, ProducerConfig,
    Record,
};

/// One service: which events it reacts to, and with which.
type React = fn(event: &str, order: &str) -> Option<&'static str>;

fn payment(event: &str, _: &str) -> Option<&'static str> {
    match event {
        "ordered" => Some("paid"),
        "out-of-stock" => Some("refunded"),
        _ => None,
    }
}

fn stock(event: &str, order: &str) -> Option<&'static str> {
    match event {
        "paid" if order.contains("rare") => Some("out-of-stock"),
        "paid" => Some("reserved"),
        _ => None,
    }
}

/// Runs a service until it has seen `count` events.
async fn serve(
    client: ClientConfig,
    topic: &str,
    name: &str,
    react: React,
    count: usize,
) -> tidelog_client::Result<()> {
    let group = GroupConfig::new(format!("{topic}-{name}")).with_auto_commit(None);
    let config = ConsumerConfig::group(group).with_isolation(Isolation::ReadCommitted);
    let mut consumer = Consumer::new(client.clone(), config).await?;
    let config = ProducerConfig::default().with_transactional_id(format!("{topic}-{name}"));
    let producer = Producer::new(client, config).await?;
    consumer.subscribe([topic]).await?;
    let committer = consumer.committer()?;
    for _ in 0..count {
        let record = consumer.next_record().await?;
        let transaction = producer.begin().await?;
        let event =
            String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        let order = record.key.unwrap_or_default();
        if let Some(answer) = react(&event, &String::from_utf8_lossy(&order)) {
            transaction
                .send(Record::new(topic, answer).with_key(order))
                .await?;
        }
        transaction
            .send_offsets(&committer, &consumer.positions())
            .await?;
        transaction.commit().await?;
    }
    consumer.close().await
}

/// One order that goes through and one that is given back; returns the events of each.
pub async fn run(bootstrap: &str, topic: &str) -> Result<[Vec<String>; 2], Box<dyn Error>> {
    let client = ClientConfig::new(bootstrap);
    let shop = Producer::new(client.clone(), ProducerConfig::default()).await?;
    for order in ["order-plain", "order-rare"] {
        shop.send(Record::new(topic, "ordered").with_key(order))
            .await?;
    }
    shop.close().await?;

    // ordered, paid, reserved; ordered, paid, out-of-stock, refunded.
    const EVENTS: usize = 7;
    let config = ConsumerConfig::group(GroupConfig::new(format!("{topic}-watch")))
        .with_isolation(Isolation::ReadCommitted);
    let mut watch = Consumer::new(client.clone(), config).await?;
    watch.subscribe([topic]).await?;
    let watching = async {
        let mut events = [Vec::new(), Vec::new()];
        for _ in 0..EVENTS {
            let record = watch.next_record().await?;
            let rare = record.key.as_deref() == Some(b"order-rare");
            let event = record.value.unwrap_or_default();
            events[usize::from(rare)].push(String::from_utf8_lossy(&event).into_owned());
        }
        watch.close().await?;
        Ok::<_, tidelog_client::Error>(events)
    };
    let (events, paid, stocked) = futures_util::join!(
        watching,
        serve(client.clone(), topic, "payment", payment, EVENTS),
        serve(client.clone(), topic, "stock", stock, EVENTS),
    );
    paid?;
    stocked?;
    Ok(events?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost:9092".to_owned());
    println!("{:?}", run(&bootstrap, "orders-saga").await?);
    Ok(())
}

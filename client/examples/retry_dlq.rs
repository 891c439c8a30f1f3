//! Handles records with retries in place and through a retry topic; what still fails goes to the
//! dead-letter topic with the reason and its original position.
//!
//! `cargo run -p tidelog-client --example retry_dlq -- localhost:9092`

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;
use tidelog_client::{
    ClientConfig, Consumer, ConsumerConfig, DeadLetters, GroupConfig, Handled, Producer,
    ProducerConfig, Record, RetryPolicy,
};

/// How often each record was tried, and the headers of the dead letter.
pub type Outcome = (BTreeMap<String, u32>, BTreeMap<String, String>);

/// Handles one record that succeeds at once, one that does at the second try, one that needs the
/// retry topic, and one that never does. The topics exist.
pub async fn run(bootstrap: &str, topic: &str) -> Result<Outcome, Box<dyn Error>> {
    let client = ClientConfig::new(bootstrap);
    let producer = Producer::new(client.clone(), ProducerConfig::default()).await?;
    for value in ["good", "second", "fourth", "never"] {
        producer.send(Record::new(topic, value)).await?;
    }
    producer.flush().await?;

    let config = ConsumerConfig::group(GroupConfig::new(format!("{topic}-handlers")));
    let consumer = Consumer::new(client.clone(), config).await?;
    let policy = RetryPolicy::fixed(Duration::from_millis(10)).with_tries(3);
    let mut letters = DeadLetters::new(consumer, producer, policy)
        .with_retry_topics([Duration::from_millis(300)]);
    letters.subscribe([topic]).await?;

    let mut tries = BTreeMap::new();
    let mut open = 4;
    while open > 0 {
        let handled = letters.next(async |record| {
            let value = record.value.as_deref().unwrap_or_default();
            let value = String::from_utf8_lossy(value).into_owned();
            let tried: &mut u32 = tries.entry(value.clone()).or_default();
            *tried += 1;
            match (value.as_str(), *tried) {
                ("good", _) | ("second", 2..) | ("fourth", 4..) => Ok(()),
                _ => Err(format!("{value} failed at try {tried}")),
            }
        });
        if handled.await? != Handled::Later {
            open -= 1;
        }
    }
    letters.close().await?;

    let config = ConsumerConfig::group(GroupConfig::new(format!("{topic}-operators")));
    let mut dead = Consumer::new(client, config).await?;
    dead.subscribe([format!("{topic}.dlq")]).await?;
    let letter = dead.next_record().await?;
    let headers = letter.headers.into_iter().map(|header| {
        let value = header.value.unwrap_or_default();
        (header.key, String::from_utf8_lossy(&value).into_owned())
    });
    Ok((tries, headers.collect()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost:9092".to_owned());
    println!("{:#?}", run(&bootstrap, "tasks").await?);
    Ok(())
}

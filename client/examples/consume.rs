//! Reads a topic from its beginning to what is its end now, without a group.
//!
//! `cargo run -p tidelog-client --example consume -- localhost:9092`

use std::collections::HashSet;
use std::error::Error;
use tidelog_client::{ClientConfig, Consumer, ConsumerConfig, StartPosition};

/// The values in `topic`, partition by partition as they come.
pub async fn run(bootstrap: &str, topic: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let client = ClientConfig::new(bootstrap);
    let mut consumer = Consumer::new(client, ConsumerConfig::default()).await?;
    let partitions = consumer.partitions(topic).await?;
    let mut open: HashSet<i32> = partitions.iter().copied().collect();
    let places = partitions
        .into_iter()
        .map(|p| (topic, p, StartPosition::Earliest));
    consumer.assign(places).await?;

    let mut values = Vec::new();
    while !open.is_empty() {
        let fetched = consumer.next().await?;
        for record in &fetched.records {
            let value = record.value.as_deref().unwrap_or_default();
            values.push(String::from_utf8_lossy(value).into_owned());
        }
        if fetched.at_end() {
            open.remove(&fetched.partition);
        }
    }
    Ok(values)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost:9092".to_owned());
    for value in run(&bootstrap, "numbers").await? {
        println!("{value}");
    }
    Ok(())
}

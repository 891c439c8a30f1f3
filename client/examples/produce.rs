//! Writes records and waits until every one of them is on disk on a majority of replicas.
//!
//! `cargo run -p tidelog-client --example produce -- localhost:9092`

use std::error::Error;
use tidelog_client::{ClientConfig, Compression, Producer, ProducerConfig, Record};

/// Writes `count` records to `topic`; returns how many were written.
pub async fn run(bootstrap: &str, topic: &str, count: u32) -> Result<u64, Box<dyn Error>> {
    let config = ProducerConfig::default().with_compression(Compression::Zstd);
    let producer = Producer::new(ClientConfig::new(bootstrap), config).await?;

    // One record, and where it was written.
    let first = Record::new(topic, "0")
        .with_key("number")
        .with_header("unit", "pieces");
    let position = producer.send(first).await?.await?;
    println!(
        "partition {}, offset {:?}",
        position.partition, position.offset
    );

    // Many, without waiting for each: send() itself waits when too much is on its way.
    for number in 1..count {
        producer
            .send(Record::new(topic, number.to_string()))
            .await?;
    }
    producer.flush().await?;
    let written = producer.progress().delivered_records;
    producer.close().await?;
    Ok(written)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost:9092".to_owned());
    let written = run(&bootstrap, "numbers", 1_000).await?;
    println!("{written} records written");
    Ok(())
}

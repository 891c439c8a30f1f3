//! Shares a topic with the other members of a group: start it twice, and each reads a part.
//!
//! `cargo run -p tidelog-client --example group -- localhost:9092`

use futures_util::StreamExt;
use std::error::Error;
use std::pin::pin;
use tidelog_client::{ClientConfig, Consumer, ConsumerConfig, GroupConfig};

/// Reads `count` records as a member of `group`; what it has read is committed when it leaves.
pub async fn run(
    bootstrap: &str,
    topic: &str,
    group: &str,
    count: usize,
) -> Result<Vec<String>, Box<dyn Error>> {
    // `.assigned_by_broker()` would let the broker assign (KIP-848).
    let config = ConsumerConfig::group(GroupConfig::new(group));
    let mut consumer = Consumer::new(ClientConfig::new(bootstrap), config).await?;
    consumer.subscribe([topic]).await?;

    let mut values = Vec::new();
    {
        let mut records = pin!(consumer.records().take(count));
        while let Some(record) = records.next().await {
            let value = record?.value.unwrap_or_default();
            values.push(String::from_utf8_lossy(&value).into_owned());
        }
    }
    // Commits the last record too, and gives the partitions to the others at once.
    consumer.close().await?;
    Ok(values)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost:9092".to_owned());
    for value in run(&bootstrap, "numbers", "readers", 100).await? {
        println!("{value}");
    }
    Ok(())
}

//! Reads numbers and writes their doubles, each exactly once whatever fails: results and offsets
//! are committed in one transaction.
//!
//! `cargo run -p tidelog-client --example exactly_once -- localhost:9092`

use std::error::Error;
use tidelog_client::{
    ClientConfig, Consumer, ConsumerConfig, GroupConfig, Isolation, Producer, ProducerConfig,
    Record,
};

/// Doubles `count` numbers from `input` into `output`, ten in a transaction.
pub async fn run(
    bootstrap: &str,
    input: &str,
    output: &str,
    count: usize,
) -> Result<(), Box<dyn Error>> {
    let client = ClientConfig::new(bootstrap);
    // The offsets are committed by the transaction, and by nothing else.
    let group = GroupConfig::new("doubler").with_auto_commit(None);
    let config = ConsumerConfig::group(group).with_isolation(Isolation::ReadCommitted);
    let mut consumer = Consumer::new(client.clone(), config).await?;
    let committer = {
        consumer.subscribe([input]).await?;
        consumer.committer()?
    };
    let config = ProducerConfig::default().with_transactional_id("doubler-1");
    let producer = Producer::new(client, config).await?;

    let mut done = 0;
    while done < count {
        // Dropped by an error below, it is aborted, and the numbers come again.
        let transaction = producer.begin().await?;
        let batch = 10.min(count - done);
        for _ in 0..batch {
            let record = consumer.next_record().await?;
            let text = String::from_utf8(record.value.unwrap_or_default().to_vec())?;
            let number: u64 = text.parse()?;
            transaction
                .send(Record::new(output, (2 * number).to_string()))
                .await?;
        }
        transaction
            .send_offsets(&committer, &consumer.positions())
            .await?;
        transaction.commit().await?;
        done += batch;
    }
    consumer.close().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost:9092".to_owned());
    run(&bootstrap, "numbers", "doubles", 100).await
}

//! Event sourcing with a compacted snapshot: state is the sum of its events. A snapshot, kept in a
//! compacted topic with the offset it reaches to, saves reading them all again.
//!
//! `cargo run -p tidelog-client --example event_sourcing -- localhost:9092`

use std::collections::BTreeMap;
use std::error::Error;
use tidelog_client::{
    Admin, ClientConfig, Consumer, ConsumerConfig, ConsumerRecord, NewTopic, Producer,
    ProducerConfig, Record, StartPosition,
};

/// Balances, and the offset of the next event to apply.
#[derive(Debug, Default, PartialEq)]
pub struct Accounts {
    pub balances: BTreeMap<String, i64>,
    pub next_offset: i64,
    /// How many events were read to get here.
    pub replayed: usize,
}

fn text(bytes: &Option<bytes::Bytes>) -> String {
    String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
}

impl Accounts {
    fn apply(&mut self, event: &ConsumerRecord) {
        let amount: i64 = text(&event.value).parse().unwrap_or(0);
        *self.balances.entry(text(&event.key)).or_default() += amount;
        self.next_offset = event.offset + 1;
        self.replayed += 1;
    }

    /// `balance@offset` under the account's name, so that compaction keeps the newest of each.
    fn snapshot(&self, topic: &str) -> Vec<Record> {
        let accounts = self.balances.iter();
        let records = accounts.map(|(name, balance)| {
            Record::new(topic, format!("{balance}@{}", self.next_offset)).with_key(name.clone())
        });
        records.collect()
    }

    fn apply_snapshot(&mut self, record: &ConsumerRecord) {
        if let Some((balance, offset)) = text(&record.value).split_once('@') {
            self.balances
                .insert(text(&record.key), balance.parse().unwrap_or(0));
            self.next_offset = self.next_offset.max(offset.parse().unwrap_or(0));
        }
    }
}

/// Everything in partition 0 of `topic` from `start` on.
async fn read(
    client: &ClientConfig,
    topic: &str,
    start: i64,
    mut each: impl FnMut(&ConsumerRecord),
) -> tidelog_client::Result<()> {
    let mut consumer = Consumer::new(client.clone(), ConsumerConfig::default()).await?;
    consumer
        .assign([(topic, 0, StartPosition::Offset(start))])
        .await?;
    loop {
        let fetched = consumer.next().await?;
        fetched.records.iter().for_each(&mut each);
        if fetched.at_end() {
            return Ok(());
        }
    }
}

/// The state now: the snapshot, then the events after it.
async fn load(
    client: &ClientConfig,
    events: &str,
    snapshots: &str,
) -> tidelog_client::Result<Accounts> {
    let mut accounts = Accounts::default();
    read(client, snapshots, 0, |record| {
        accounts.apply_snapshot(record)
    })
    .await?;
    let start = accounts.next_offset;
    read(client, events, start, |event| accounts.apply(event)).await?;
    Ok(accounts)
}

/// Writes events, a snapshot in between; returns the state as a fresh start loads it.
pub async fn run(bootstrap: &str, events: &str) -> Result<Accounts, Box<dyn Error>> {
    let client = ClientConfig::new(bootstrap);
    let snapshots = format!("{events}-snapshots");
    let admin = Admin::new(client.clone()).await?;
    for (name, policy) in [(events, "delete"), (&snapshots, "compact")] {
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: Some(1),
            configs: vec![("cleanup.policy".to_owned(), policy.to_owned())],
            ..NewTopic::default()
        };
        admin.create_topic(&topic, false).await?;
    }
    let producer = Producer::new(client.clone(), ProducerConfig::default()).await?;
    let event = |account: &str, amount: i64| {
        Record::new(events, amount.to_string()).with_key(account.to_owned())
    };
    for amount in 1..=10 {
        producer.send(event("ann", amount)).await?;
        producer.send(event("bob", -amount)).await?;
    }
    producer.flush().await?;
    for record in load(&client, events, &snapshots)
        .await?
        .snapshot(&snapshots)
    {
        producer.send(record).await?;
    }
    producer.send(event("ann", 100)).await?;
    producer.close().await?;
    Ok(load(&client, events, &snapshots).await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost:9092".to_owned());
    println!("{:?}", run(&bootstrap, "accounts").await?);
    Ok(())
}

//! Transactions one after another, by several producers at once.

use super::latencies::Latencies;
use super::topic::LoadTopic;
use super::value;
use crate::output::Target;
use anyhow::{Context, Result};
use clap::Args;
use futures_util::future::try_join_all;
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tidelog_client::{Admin, ClientConfig, Producer, ProducerConfig, Record};
use tokio::time::Instant;

#[derive(Debug, Args)]
pub struct Transactions {
    #[command(flatten)]
    topic: LoadTopic,
    /// Producers with a transactional id each
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    producers: u32,
    /// Records of a transaction, spread over the partitions
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    record_bytes: u32,
    /// How long they go on
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds before, that do not count
    #[arg(long, default_value = "0", value_name = "SECONDS")]
    warm_up: u64,
}

/// What one producer did in the time that counts.
#[derive(Debug, Default)]
struct Done {
    transactions: u64,
    /// From `begin` to the answer to `commit`.
    whole: Latencies,
    /// Of `commit`, which first waits for the records.
    commits: Latencies,
}

impl Transactions {
    pub async fn run(self, target: &Target, admin: &Admin) -> Result<()> {
        let client = target.client()?;
        let load = async |topic: &str| self.measure(&client, topic).await;
        let (mut done, seconds) = self.topic.lend(admin, load).await?;
        done.whole.sort();
        done.commits.sort();
        self.print(target, &done, seconds)
    }

    async fn measure(&self, client: &ClientConfig, topic: &str) -> Result<(Done, f64)> {
        let producers = (0..self.producers).map(|number| {
            let id = format!("tidelog-bench-{}-{number}", std::process::id());
            let config = ProducerConfig::default().with_transactional_id(id);
            Producer::new(client.clone(), config)
        });
        let producers = try_join_all(producers).await.context("make producers")?;
        let from = Instant::now() + Duration::from_secs(self.warm_up);
        let until = from + Duration::from_secs(self.seconds);
        let topic: Arc<str> = topic.into();
        let loads = producers.into_iter().map(|producer| {
            let load = Load {
                producer,
                topic: topic.clone(),
                size: self.size,
                record_bytes: self.record_bytes,
            };
            let running = tokio::spawn(load.run(from, until));
            async move { running.await? }
        });
        let mut sum = Done::default();
        for done in try_join_all(loads).await? {
            sum.transactions += done.transactions;
            sum.whole.append(done.whole);
            sum.commits.append(done.commits);
        }
        Ok((sum, from.elapsed().as_secs_f64()))
    }

    fn print(&self, target: &Target, done: &Done, seconds: f64) -> Result<()> {
        let per_second = done.transactions as f64 / seconds;
        let records_per_second = per_second * f64::from(self.size);
        let mut out = std::io::stdout().lock();
        if target.json() {
            let line = json!({
                "producers": self.producers, "size": self.size, "record_bytes": self.record_bytes,
                "seconds": seconds, "transactions": done.transactions,
                "transactions_per_second": per_second, "records_per_second": records_per_second,
                "transaction_ms": done.whole.as_json(), "commit_ms": done.commits.as_json(),
            });
            writeln!(out, "{line}")?;
            return Ok(());
        }
        writeln!(
            out,
            "{} transactions of {} records in {seconds:.2} s: {per_second:.0} transactions/s, \
             {records_per_second:.0} records/s",
            done.transactions, self.size
        )?;
        writeln!(out, "commit       {}", done.commits.summary())?;
        writeln!(out, "transaction  {}", done.whole.summary())?;
        Ok(())
    }
}

/// One producer's.
struct Load {
    producer: Producer,
    topic: Arc<str>,
    size: u32,
    record_bytes: u32,
}

impl Load {
    async fn run(self, from: Instant, until: Instant) -> Result<Done> {
        let mut done = Done::default();
        let mut noise = 0x9e37_79b9_7f4a_7c15u64;
        loop {
            let began = Instant::now();
            if began >= until {
                return Ok(done);
            }
            let transaction = self.producer.begin().await?;
            for number in 0..self.size {
                let value = value(self.record_bytes, &mut noise);
                // Keys spread them over the partitions in every transaction.
                let record = Record::new(self.topic.clone(), value).with_key(number.to_string());
                // What becomes of it is told by `commit`.
                transaction.send(record).await?;
            }
            let sent = Instant::now();
            transaction.commit().await?;
            if began >= from {
                done.transactions += 1;
                done.whole.push(began.elapsed());
                done.commits.push(sent.elapsed());
            }
        }
    }
}

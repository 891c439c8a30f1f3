//! Writes records as fast as asked for, then reads them back, and sums up.

use super::latencies::Latencies;
use super::topic::LoadTopic;
use super::value;
use crate::output::Target;
use crate::progress::ProgressLine;
use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;
use tidelog_client::{
    Admin, Compression, Consumer, ConsumerConfig, Producer, ProducerConfig, Record, StartPosition,
};
use tokio::time::{Instant, sleep_until};

/// One record in so many has its latency measured.
const SAMPLE_EVERY: u64 = 10;
const SHOW_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct Records {
    #[command(flatten)]
    topic: LoadTopic,
    #[arg(long, default_value = "100000", value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    #[arg(long, default_value = "1024", value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    record_bytes: u32,
    /// Records a second; as many as go when left out
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    #[arg(long, default_value = "none")]
    compression: Compression,
    /// Milliseconds a batch waits for more records
    #[arg(long, default_value = "5")]
    linger_ms: u64,
    /// Only write
    #[arg(long)]
    no_read: bool,
}

impl Records {
    pub async fn run(self, target: &Target, admin: &Admin) -> Result<()> {
        let load = async |topic: &str| self.measure(target, topic).await;
        let (written, read) = self.topic.lend(admin, load).await?;
        self.print(target, &written, read.as_ref())
    }

    async fn measure(&self, target: &Target, topic: &str) -> Result<(Phase, Option<Phase>)> {
        let consumer = Consumer::new(target.client()?, ConsumerConfig::default()).await?;
        // What is in the topic already is not read.
        let partitions = consumer.partitions(topic).await?;
        let ends = partitions
            .iter()
            .map(|&p| (topic.to_owned(), p, StartPosition::Latest));
        let starts = consumer.offsets(ends).await?;
        let written = self.write(target, topic).await?;
        if self.no_read {
            return Ok((written, None));
        }
        let read = self.read(consumer, starts).await?;
        Ok((written, Some(read)))
    }

    async fn write(&self, target: &Target, topic: &str) -> Result<Phase> {
        let config = ProducerConfig::default()
            .with_compression(self.compression)
            .with_linger(Duration::from_millis(self.linger_ms));
        let producer = Producer::new(target.client()?, config).await?;
        let topic: std::sync::Arc<str> = topic.into();
        let mut phase = Phase::begin("written", u64::from(self.record_bytes));
        let mut sampled = FuturesUnordered::new();
        let mut noise = 0x9e37_79b9_7f4a_7c15u64;
        for number in 0..self.records {
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(number as f64 / rate as f64);
                sleep_until(phase.began + due).await;
            }
            let began = Instant::now();
            let record = Record::new(topic.clone(), value(self.record_bytes, &mut noise));
            let delivery = producer.send(record).await?;
            if number % SAMPLE_EVERY == 0 {
                sampled.push(async move { delivery.await.map(|_| began.elapsed()) });
            }
            while let Some(Some(latency)) = futures_util::FutureExt::now_or_never(sampled.next()) {
                phase.latencies.push(latency?);
            }
            phase.show(producer.progress().delivered_records, self.records);
        }
        producer.flush().await?;
        phase.end(self.records);
        while let Some(latency) = sampled.next().await {
            phase.latencies.push(latency?);
        }
        phase.latencies.sort();
        let progress = producer.progress();
        if let Some(error) = progress.first_error {
            return Err(error).context("write the records");
        }
        Ok(phase)
    }

    async fn read(&self, mut consumer: Consumer, starts: Vec<(String, i32, i64)>) -> Result<Phase> {
        let starts = starts
            .into_iter()
            .map(|(t, p, at)| (t, p, StartPosition::Offset(at)));
        consumer.assign(starts).await?;
        let mut phase = Phase::begin("read", u64::from(self.record_bytes));
        let mut count = 0;
        while count < self.records {
            let fetched = consumer.next().await?;
            count += fetched.records.len() as u64;
            phase.show(count, self.records);
        }
        phase.end(count);
        if count > self.records {
            bail!(
                "{count} records came back of {}; others write to the topic",
                self.records
            );
        }
        Ok(phase)
    }

    fn print(&self, target: &Target, written: &Phase, read: Option<&Phase>) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if target.json() {
            let line = json!({
                "records": self.records, "record_bytes": self.record_bytes,
                "compression": self.compression.to_string(), "rate": self.rate,
                "write": written.as_json(), "read": read.map(Phase::as_json),
            });
            writeln!(out, "{line}")?;
            return Ok(());
        }
        for phase in [Some(written), read].into_iter().flatten() {
            writeln!(out, "{}", phase.summary())?;
        }
        Ok(())
    }
}

/// Writing or reading, as a whole.
struct Phase {
    what: &'static str,
    record_bytes: u64,
    began: Instant,
    shown: Option<Instant>,
    progress: ProgressLine,
    records: u64,
    seconds: f64,
    latencies: Latencies,
}

impl Phase {
    fn begin(what: &'static str, record_bytes: u64) -> Phase {
        Phase {
            what,
            record_bytes,
            began: Instant::now(),
            shown: None,
            progress: ProgressLine::new(),
            records: 0,
            seconds: 0.0,
            latencies: Latencies::default(),
        }
    }

    /// A line that is written over, for a person who watches.
    fn show(&mut self, records: u64, of: u64) {
        let last = self.shown.unwrap_or(self.began);
        if last.elapsed() < SHOW_EVERY {
            return;
        }
        self.shown = Some(Instant::now());
        let rate = records as f64 / self.began.elapsed().as_secs_f64();
        let text = format!("{}: {records} of {of} records, {rate:.0}/s", self.what);
        self.progress.show(&text);
    }

    fn end(&mut self, records: u64) {
        self.records = records;
        self.seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        self.progress.clear();
    }

    fn rate(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    fn megabytes(&self) -> f64 {
        self.rate() * self.record_bytes as f64 / 1e6
    }

    fn summary(&self) -> String {
        let mut text = format!(
            "{:<8} {} records in {:.2} s: {:.0} records/s, {:.1} MB/s",
            self.what,
            self.records,
            self.seconds,
            self.rate(),
            self.megabytes()
        );
        let latencies = self.latencies.summary();
        if !latencies.is_empty() {
            text.push_str("; acknowledged after ");
            text.push_str(&latencies);
        }
        text
    }

    fn as_json(&self) -> Value {
        json!({
            "seconds": self.seconds, "records_per_second": self.rate(),
            "megabytes_per_second": self.megabytes(),
            "latency_ms": self.latencies.as_json(),
        })
    }
}

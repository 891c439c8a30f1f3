//! `tidelog txn`: transactions.

use crate::output::{Table, Target};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write;
use std::time::Duration;
use tidelog_client::{Admin, TopicPartition, TransactionFilters};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tidelog txn list\n  tidelog txn describe transfers")]
pub struct Txn {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show transactional ids: all, or those that every filter lets through
    #[command(after_help = "Examples:\n  tidelog txn list --output json\n  \
                            tidelog txn list --state Ongoing --longer-than-ms 60000")]
    List(Filters),
    /// Show the current or last transaction of an id
    #[command(after_help = "Example:\n  tidelog txn describe transfers")]
    Describe { transactional_id: String },
    /// Show the producers that a partition knows, and where their open transactions begin
    #[command(after_help = "Example:\n  tidelog txn producers --topic orders --partition 0")]
    Producers {
        #[arg(long)]
        topic: String,
        #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
        partition: i32,
    },
    /// Abort a transaction
    ///
    /// By its transactional id: its producer is fenced, too. By topic, partition and offset where it begins:
    /// a hanging one, which no coordinator knows and which keeps readers of committed records from going on;
    /// `tidelog txn producers` shows where one begins.
    #[command(after_help = "Examples:\n  tidelog txn abort transfers\n  \
                            tidelog txn abort --topic orders --partition 0 --start-offset 1234")]
    Abort(Abort),
}

#[derive(Debug, Args)]
struct Filters {
    /// Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit or CompleteAbort; may be given several times
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// Producer id; may be given several times
    #[arg(long, value_name = "ID")]
    producer: Vec<i64>,
    /// Open for longer
    #[arg(long, value_name = "MS")]
    longer_than_ms: Option<u64>,
    /// Regular expression for the whole transactional id
    #[arg(long, value_name = "REGEX")]
    pattern: Option<String>,
}

impl Filters {
    fn for_client(self) -> TransactionFilters {
        let mut filters = TransactionFilters::default();
        filters.states = self.state;
        filters.producer_ids = self.producer;
        filters.longer_than = self.longer_than_ms.map(Duration::from_millis);
        filters.pattern = self.pattern;
        filters
    }
}

#[derive(Debug, Args)]
struct Abort {
    #[arg(required_unless_present = "topic", conflicts_with = "topic")]
    transactional_id: Option<String>,
    #[arg(long, requires = "partition")]
    topic: Option<String>,
    #[arg(long, requires = "start_offset", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    #[arg(long, requires = "topic", value_parser = clap::value_parser!(i64).range(0..))]
    start_offset: Option<i64>,
}

impl Txn {
    pub fn run(self) -> Result<()> {
        self.target
            .administer(async |admin, json| match self.command {
                Command::List(filters) => list(admin, filters, json).await,
                Command::Describe { transactional_id } => {
                    describe(admin, &transactional_id, json).await
                }
                Command::Producers { topic, partition } => {
                    let partition = TopicPartition::new(topic.as_str(), partition);
                    producers(admin, &partition, json).await
                }
                Command::Abort(abort) => abort.run(admin, json).await,
            })
    }
}

impl Abort {
    async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if let Some(id) = self.transactional_id {
            let open = admin.describe_transaction(&id).await?.state == "Ongoing";
            admin.fence_producer(&id).await?;
            if json {
                writeln!(
                    out,
                    "{}",
                    json!({ "transactional_id": id, "aborted": open })
                )?;
            } else if open {
                writeln!(out, "aborted the transaction of {id}")?;
            } else {
                writeln!(out, "{id} had no transaction open; its producer is fenced")?;
            }
            return Ok(());
        }
        let (Some(topic), Some(partition), Some(start)) =
            (self.topic, self.partition, self.start_offset)
        else {
            bail!("a transactional id, or --topic, --partition and --start-offset are needed");
        };
        let partition = TopicPartition::new(topic.as_str(), partition);
        let aborted = admin.abort_hanging(&partition, start).await;
        let producer = aborted.with_context(|| format!("abort a transaction in {partition}"))?;
        if json {
            let line = json!({
                "topic": topic, "partition": partition.partition, "start_offset": start,
                "producer_id": producer, "aborted": true,
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(
                out,
                "aborted the transaction of producer {producer} in {partition}"
            )?;
        }
        Ok(())
    }
}

async fn list(admin: &Admin, filters: Filters, json: bool) -> Result<()> {
    let transactions = admin.list_transactions(&filters.for_client()).await?;
    let mut out = std::io::stdout().lock();
    let mut table = Table::new(["TRANSACTIONAL ID", "PRODUCER", "STATE"]);
    for t in transactions {
        if json {
            let line = json!({
                "transactional_id": t.transactional_id, "producer_id": t.producer_id,
                "state": t.state,
            });
            writeln!(out, "{line}")?;
        } else {
            table.row([t.transactional_id, t.producer_id.to_string(), t.state]);
        }
    }
    if !json {
        table.print(&mut out)?;
    }
    Ok(())
}

async fn describe(admin: &Admin, id: &str, json: bool) -> Result<()> {
    let t = admin.describe_transaction(id).await?;
    let partitions: Vec<_> = t.partitions.iter().map(ToString::to_string).collect();
    let mut out = std::io::stdout().lock();
    if json {
        let line = json!({
            "transactional_id": t.transactional_id, "state": t.state,
            "producer_id": t.producer_id, "producer_epoch": t.producer_epoch,
            "timeout_ms": t.timeout_ms, "started_ms": t.started_ms, "partitions": partitions,
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    let started = t.started_ms.map_or("-".to_owned(), |at| at.to_string());
    writeln!(out, "transactional id  {}", t.transactional_id)?;
    writeln!(out, "state             {}", t.state)?;
    writeln!(
        out,
        "producer          {} epoch {}",
        t.producer_id, t.producer_epoch
    )?;
    writeln!(out, "timeout           {} ms", t.timeout_ms)?;
    writeln!(out, "started           {started}")?;
    let partitions = if partitions.is_empty() {
        "-".to_owned()
    } else {
        partitions.join(", ")
    };
    writeln!(out, "partitions        {partitions}")?;
    Ok(())
}

async fn producers(admin: &Admin, partition: &TopicPartition, json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut table = Table::new([
        "PRODUCER",
        "EPOCH",
        "LAST SEQUENCE",
        "LAST WRITE",
        "TRANSACTION START",
    ]);
    for p in admin.describe_producers(partition).await? {
        if json {
            let line = json!({
                "producer_id": p.producer_id, "producer_epoch": p.producer_epoch,
                "last_sequence": p.last_sequence, "last_timestamp_ms": p.last_timestamp_ms,
                "transaction_start": p.transaction_start,
            });
            writeln!(out, "{line}")?;
        } else {
            let or_dash = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
            table.row([
                p.producer_id.to_string(),
                p.producer_epoch.to_string(),
                or_dash(p.last_sequence.map(i64::from)),
                or_dash(p.last_timestamp_ms),
                or_dash(p.transaction_start),
            ]);
        }
    }
    if !json {
        table.print(&mut out)?;
    }
    Ok(())
}

//! `tidelog txn`: transactions.

use crate::output::{self, Table, Target};
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write;
use tidelog_client::Admin;

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
    /// Show all transactional ids
    #[command(after_help = "Example:\n  tidelog txn list --output json")]
    List,
    /// Show the current or last transaction of an id
    #[command(after_help = "Example:\n  tidelog txn describe transfers")]
    Describe { transactional_id: String },
}

impl Txn {
    pub fn run(self) -> Result<()> {
        output::run(async move {
            let admin = Admin::new(self.target.client()?).await?;
            let json = self.target.json();
            match self.command {
                Command::List => list(&admin, json).await,
                Command::Describe { transactional_id } => {
                    describe(&admin, &transactional_id, json).await
                }
            }
        })
    }
}

async fn list(admin: &Admin, json: bool) -> Result<()> {
    let transactions = admin.list_transactions().await?;
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

//! `tidelog topic`: create, list, describe, alter, move and delete topics.

mod describe;
mod elect;
mod moves;

pub use moves::moving;

use crate::output::{self, Table, Target, name_value, topic_id};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write;
use tidelog_client::{Admin, ConfigChange, ConfigResource, NewTopic, TopicInfo, TopicPartition};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidelog topic create orders --partitions 6\n  tidelog topic list"
)]
pub struct Topic {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a topic
    #[command(after_help = "Example: tidelog topic create orders --partitions 12 \
                            --config retention.ms=86400000")]
    Create(Create),
    /// List topics
    #[command(after_help = "Example:\n  tidelog topic list --output json")]
    List(List),
    /// Show topics with their partitions and settings
    #[command(after_help = "Example:\n  tidelog topic describe orders --all-configs")]
    Describe(describe::Describe),
    /// Change a topic's settings, or give it more partitions
    #[command(
        after_help = "Example: tidelog topic alter orders --config retention.ms=3600000 \
                            --delete-config cleanup.policy"
    )]
    Alter(Alter),
    /// Delete the records before an offset, or all of them
    #[command(
        name = "delete-records",
        after_help = "Examples:\n  tidelog topic delete-records orders --partition 0 --before 1000\n  \
                      tidelog topic delete-records orders --before end"
    )]
    DeleteRecords(DeleteRecords),
    /// Move partitions to other brokers, change how many replicas they have, or cancel moves
    #[command(
        after_help = "Examples:\n  tidelog topic move orders:0 --to 4,2,3 --wait 600\n  \
                      tidelog topic move orders payments --to 1,2,3,4,5 --replicas 3\n  \
                      tidelog topic move orders --cancel"
    )]
    Move(moves::Move),
    /// Let the preferred replicas lead again, or any that lives
    #[command(after_help = "Examples:\n  tidelog topic elect\n  tidelog topic elect orders:0,2")]
    Elect(elect::Elect),
    /// Delete topics with all their records
    #[command(after_help = "Example:\n  tidelog topic delete orders")]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Create {
    name: String,
    /// Default: the cluster's num.partitions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Default: the cluster's default.replication.factor
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// A setting; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_value)]
    config: Vec<(String, String)>,
    /// Only check whether it could be created
    #[arg(long)]
    validate_only: bool,
}

#[derive(Debug, Args)]
struct List {
    /// Also those the cluster made for itself
    #[arg(long)]
    internal: bool,
}

#[derive(Debug, Args)]
struct Alter {
    name: String,
    /// How many partitions it shall have in all
    #[arg(long, required_unless_present_any = ["config", "delete_config"], value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Set a setting; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_value)]
    config: Vec<(String, String)>,
    /// Give a setting its default value again; may be given several times
    #[arg(long, value_name = "NAME")]
    delete_config: Vec<String>,
}

#[derive(Debug, Args)]
struct Delete {
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
struct DeleteRecords {
    name: String,
    /// The first offset that is kept, or end
    #[arg(long, value_name = "OFFSET", value_parser = before)]
    before: Before,
    /// Of this partition only; may be given several times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
}

/// None: the end.
#[derive(Debug, Clone, Copy)]
struct Before(Option<i64>);

fn before(text: &str) -> Result<Before, String> {
    if text == "end" {
        return Ok(Before(None));
    }
    let offset = text.parse().ok().filter(|&n: &i64| n >= 0);
    let offset = offset.ok_or_else(|| "is neither an offset nor end".to_owned())?;
    Ok(Before(Some(offset)))
}

impl Topic {
    pub fn run(self) -> Result<()> {
        self.target
            .administer(async |admin, json| match self.command {
                Command::Create(create) => create.run(admin, json).await,
                Command::List(list) => list.run(admin, json).await,
                Command::Describe(describe) => describe.run(admin, json).await,
                Command::Alter(alter) => alter.run(admin, json).await,
                Command::DeleteRecords(delete) => delete.run(admin, json).await,
                Command::Move(moves) => moves.run(admin, json).await,
                Command::Elect(elect) => elect.run(admin, json).await,
                Command::Delete(delete) => delete.run(admin, json).await,
            })
    }
}

/// Prints what was done: a sentence, or an object.
fn done(json: bool, name: &str, action: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", json!({"topic": name, "done": action}))?;
    } else {
        writeln!(out, "{action} topic {name}")?;
    }
    Ok(())
}

impl Create {
    async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        let topic = NewTopic {
            name: self.name,
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs: self.config,
            assignments: Vec::new(),
        };
        admin.create_topic(&topic, self.validate_only).await?;
        let action = if self.validate_only {
            "could create"
        } else {
            "created"
        };
        done(json, &topic.name, action)
    }
}

impl List {
    async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        let topics = admin.list_topics().await?;
        let shown = topics.iter().filter(|t| self.internal || !t.internal);
        let mut out = std::io::stdout().lock();
        if json {
            for topic in shown {
                let line = json!({
                    "name": topic.name,
                    "id": topic_id(&topic.id),
                    "internal": topic.internal,
                    "partitions": topic.partitions.len(),
                    "replication_factor": replication_factor(topic),
                });
                writeln!(out, "{line}")?;
            }
            return Ok(());
        }
        let mut table = Table::new(["TOPIC", "PARTITIONS", "REPLICAS"]);
        for topic in shown {
            table.row([
                topic.name.clone(),
                topic.partitions.len().to_string(),
                replication_factor(topic).to_string(),
            ]);
        }
        Ok(table.print(&mut out)?)
    }
}

fn replication_factor(topic: &TopicInfo) -> usize {
    topic
        .partitions
        .iter()
        .map(|p| p.replicas.len())
        .max()
        .unwrap_or(0)
}

impl Alter {
    async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        if let Some(total) = self.partitions {
            admin.add_partitions(&self.name, total).await?;
        }
        let set = self
            .config
            .into_iter()
            .map(|(n, v)| ConfigChange::Set(n, v));
        let deleted = self.delete_config.into_iter().map(ConfigChange::Delete);
        let changes: Vec<_> = set.chain(deleted).collect();
        if !changes.is_empty() {
            let resource = ConfigResource::Topic(self.name.clone());
            admin.alter_configs(&resource, &changes, false).await?;
        }
        done(json, &self.name, "altered")
    }
}

impl DeleteRecords {
    async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        let topic = admin.describe_topic(&self.name).await?;
        let all = topic.partitions.iter().map(|p| p.index);
        let partitions = if self.partition.is_empty() {
            all.collect()
        } else {
            self.partition
        };
        let places = partitions
            .into_iter()
            .map(|p| (TopicPartition::new(self.name.as_str(), p), self.before.0));
        let starts = admin.delete_records(&places.collect()).await?;
        let mut out = std::io::stdout().lock();
        let mut table = Table::new(["TOPIC", "PARTITION", "START"]);
        for (place, start) in starts {
            if json {
                let line = json!({
                    "topic": &*place.topic, "partition": place.partition, "start_offset": start,
                });
                writeln!(out, "{line}")?;
            }
            let topic = place.topic.to_string();
            table.row([topic, place.partition.to_string(), start.to_string()]);
        }
        if !json {
            table.print(&mut out)?;
        }
        Ok(())
    }
}

impl Delete {
    async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        let mut failed = Vec::new();
        for (name, result) in admin.delete_topics(&self.names).await? {
            match result {
                Ok(()) => done(json, &name, "deleted")?,
                Err(error) => failed.push(output::with_remedy(error.into()).to_string()),
            }
        }
        if !failed.is_empty() {
            bail!("{}", failed.join("; "));
        }
        Ok(())
    }
}

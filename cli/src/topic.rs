//! `tidelog topic`: create, list, describe, alter and delete topics.

use crate::output::{self, Table, Target, ids, name_value, topic_id};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use tidelog_client::{
    Admin, ConfigChange, ConfigEntry, ConfigResource, ConfigSource, NewTopic, StartPosition,
    TopicInfo, TopicPartition,
};

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
    Describe(Describe),
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
struct Describe {
    #[arg(required = true)]
    names: Vec<String>,
    /// Also settings that have their default value
    #[arg(long)]
    all_configs: bool,
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
        output::run(async move {
            let admin = Admin::new(self.target.client()?).await?;
            let json = self.target.json();
            match self.command {
                Command::Create(create) => create.run(&admin, json).await,
                Command::List(list) => list.run(&admin, json).await,
                Command::Describe(describe) => describe.run(&admin, json).await,
                Command::Alter(alter) => alter.run(&admin, json).await,
                Command::DeleteRecords(delete) => delete.run(&admin, json).await,
                Command::Delete(delete) => delete.run(&admin, json).await,
            }
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

impl Describe {
    async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        for (i, name) in self.names.iter().enumerate() {
            let topic = admin.describe_topic(name).await?;
            let resource = ConfigResource::Topic(name.clone());
            let mut configs = admin.describe_configs(&resource).await?;
            configs.retain(|c| self.all_configs || c.source == ConfigSource::Topic);
            let bounds = Bounds::find(admin, &topic).await?;
            let mut out = std::io::stdout().lock();
            if json {
                writeln!(out, "{}", as_json(&topic, &configs, &bounds))?;
                continue;
            }
            if i > 0 {
                writeln!(out)?;
            }
            print_text(&mut out, &topic, &configs, &bounds)?;
        }
        Ok(())
    }
}

/// First and end offsets by partition; partitions without a leader are left out.
struct Bounds {
    start: HashMap<i32, i64>,
    end: HashMap<i32, i64>,
}

impl Bounds {
    async fn find(admin: &Admin, topic: &TopicInfo) -> Result<Bounds> {
        let led: Vec<i32> = topic
            .partitions
            .iter()
            .filter(|p| p.leader.is_some())
            .map(|p| p.index)
            .collect();
        let find = async |position: StartPosition| {
            let places = led.iter().map(|&p| (topic.name.clone(), p, position));
            let found = admin.offsets(places).await?;
            anyhow::Ok(
                found
                    .into_iter()
                    .map(|(_, p, offset)| (p, offset))
                    .collect(),
            )
        };
        Ok(Bounds {
            start: find(StartPosition::Earliest).await?,
            end: find(StartPosition::Latest).await?,
        })
    }
}

fn print_text(
    out: &mut impl Write,
    topic: &TopicInfo,
    configs: &[ConfigEntry],
    bounds: &Bounds,
) -> Result<()> {
    writeln!(out, "topic       {}", topic.name)?;
    writeln!(out, "id          {}", topic_id(&topic.id))?;
    writeln!(out, "partitions  {}", topic.partitions.len())?;
    writeln!(out, "replicas    {}", replication_factor(topic))?;
    for config in configs {
        let value = config.value.as_deref().unwrap_or("(secret)");
        writeln!(out, "{} = {value}  ({})", config.name, config.source)?;
    }
    writeln!(out)?;
    let header = [
        "PARTITION",
        "LEADER",
        "EPOCH",
        "REPLICAS",
        "IN SYNC",
        "START",
        "END",
    ];
    let mut table = Table::new(header);
    let or_none = |offset: Option<&i64>| offset.map_or("-".to_owned(), i64::to_string);
    for partition in &topic.partitions {
        table.row([
            partition.index.to_string(),
            partition
                .leader
                .map_or("none".to_owned(), |id| id.to_string()),
            partition.leader_epoch.to_string(),
            ids(&partition.replicas),
            ids(&partition.in_sync),
            or_none(bounds.start.get(&partition.index)),
            or_none(bounds.end.get(&partition.index)),
        ]);
    }
    Ok(table.print(out)?)
}

fn as_json(topic: &TopicInfo, configs: &[ConfigEntry], bounds: &Bounds) -> Value {
    let partitions = topic.partitions.iter().map(|p| {
        json!({
            "partition": p.index,
            "leader": p.leader,
            "leader_epoch": p.leader_epoch,
            "replicas": p.replicas,
            "in_sync": p.in_sync,
            "offline": p.offline,
            "start_offset": bounds.start.get(&p.index),
            "end_offset": bounds.end.get(&p.index),
        })
    });
    let configs = configs.iter().map(|c| {
        json!({
            "name": c.name,
            "value": c.value,
            "source": c.source.to_string(),
            "read_only": c.read_only,
        })
    });
    json!({
        "name": topic.name,
        "id": topic_id(&topic.id),
        "internal": topic.internal,
        "configs": configs.collect::<Vec<_>>(),
        "partitions": partitions.collect::<Vec<_>>(),
    })
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

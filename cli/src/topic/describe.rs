//! `tidelog topic describe`: partitions, their replicas and bounds, their moves, and settings.

use super::{moving, replication_factor};
use crate::output::{Table, ids, topic_id};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use tidelog_client::{
    Admin, ConfigEntry, ConfigResource, ConfigSource, Reassignment, StartPosition, TopicInfo,
    TopicPartition,
};

#[derive(Debug, Args)]
pub struct Describe {
    #[arg(required = true)]
    names: Vec<String>,
    /// Also settings that have their default value
    #[arg(long)]
    all_configs: bool,
}

impl Describe {
    pub async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        for (i, name) in self.names.iter().enumerate() {
            let topic = admin.describe_topic(name).await?;
            let resource = ConfigResource::Topic(name.clone());
            let mut configs = admin.describe_configs(&resource).await?;
            configs.retain(|c| self.all_configs || c.source == ConfigSource::Topic);
            let places = topic.partitions.iter();
            let places = places.map(|p| TopicPartition::new(name.as_str(), p.index));
            let moves = moving(admin, Some(&places.collect::<Vec<_>>())).await?;
            let bounds = Bounds::find(admin, &topic).await?;
            let mut out = std::io::stdout().lock();
            if json {
                writeln!(out, "{}", as_json(&topic, &configs, &bounds, &moves))?;
                continue;
            }
            if i > 0 {
                writeln!(out)?;
            }
            print_text(&mut out, &topic, &configs, &bounds)?;
            print_moves(&mut out, &moves)?;
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

/// Nothing when nothing moves.
fn print_moves(out: &mut impl Write, moves: &[Reassignment]) -> Result<()> {
    if moves.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(["MOVING", "FROM", "TO"]);
    for one in moves {
        let partition = one.partition.partition.to_string();
        table.row([partition, ids(&one.from()), ids(&one.to())]);
    }
    Ok(table.print(out)?)
}

fn as_json(
    topic: &TopicInfo,
    configs: &[ConfigEntry],
    bounds: &Bounds,
    moves: &[Reassignment],
) -> Value {
    let partitions = topic.partitions.iter().map(|p| {
        let moving = moves.iter().find(|m| m.partition.partition == p.index);
        json!({
            "partition": p.index,
            "leader": p.leader,
            "leader_epoch": p.leader_epoch,
            "replicas": p.replicas,
            "in_sync": p.in_sync,
            "offline": p.offline,
            "start_offset": bounds.start.get(&p.index),
            "end_offset": bounds.end.get(&p.index),
            "moving_to": moving.map(Reassignment::to),
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

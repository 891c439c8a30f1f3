//! `tidelog group`: consumer groups, how far they have come, and setting them back or forth ([`reset`]).

mod reset;

use crate::output::{Table, Target};
use crate::places::{Places, places};
use crate::settings::{self, Changes};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use reset::ResetOffsets;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use tidelog_client::{
    Admin, CommittedOffset, ConfigResource, Error, ErrorCode, GroupDescription, StartPosition,
    TopicPartition,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidelog group list\n  tidelog group describe billing\n  \
                  tidelog group reset-offsets billing --topic orders --to 2h --execute"
)]
pub struct Group {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show all groups
    #[command(after_help = "Example:\n  tidelog group list --output json")]
    List,
    /// Show a group's members, its offsets and how far it lags behind
    #[command(after_help = "Example:\n  tidelog group describe billing")]
    Describe { group: String },
    /// Set the offsets of a group that has no members; shows what would change unless --execute
    #[command(
        after_help = "Examples:\n  tidelog group reset-offsets billing --topic orders --to earliest\n  \
                      tidelog group reset-offsets billing --topic orders:0,2 --to -100 --execute\n  \
                      tidelog group reset-offsets billing --all-topics --to 2h --execute\n  \
                      tidelog group reset-offsets billing --all-topics --to 2026-11-25T13:30:00Z"
    )]
    ResetOffsets(ResetOffsets),
    /// Forget what a group has committed for topics or partitions that its members do not read
    #[command(
        name = "delete-offsets",
        after_help = "Example:\n  tidelog group delete-offsets billing --topic orders:0,1"
    )]
    DeleteOffsets {
        group: String,
        /// TOPIC or TOPIC:PARTITION,...; may be given several times
        #[arg(long, required = true, value_parser = places)]
        topic: Vec<Places>,
    },
    /// Show what a group is set to
    #[command(after_help = "Example:\n  tidelog group settings billing --all")]
    Settings {
        group: String,
        /// Also what is left at its default
        #[arg(long)]
        all: bool,
    },
    /// Change settings of a group
    #[command(
        after_help = "Example:\n  tidelog group alter billing --set consumer.session.timeout.ms=30000"
    )]
    Alter {
        group: String,
        #[command(flatten)]
        changes: Changes,
    },
    /// Delete groups that have no members, with their offsets
    #[command(after_help = "Example:\n  tidelog group delete billing")]
    Delete {
        #[arg(required = true)]
        groups: Vec<String>,
    },
}

/// The name of a state that a group has which does not exist.
const DEAD: &str = "Dead";

impl Group {
    pub fn run(self) -> Result<()> {
        self.target
            .administer(async |admin, json| match self.command {
                Command::List => list(admin, json).await,
                Command::Describe { group } => describe(admin, &group, json).await,
                Command::ResetOffsets(reset) => reset.run(admin, json).await,
                Command::DeleteOffsets { group, topic } => {
                    delete_offsets(admin, &group, &topic, json).await
                }
                Command::Settings { group, all } => {
                    settings::show(admin, &ConfigResource::Group(group), all, json).await
                }
                Command::Alter { group, changes } => {
                    let of = ConfigResource::Group(group.clone());
                    let action = changes.make(admin, &of).await?;
                    settings::done(json, "group", group, action)
                }
                Command::Delete { groups } => delete(admin, &groups, json).await,
            })
    }
}

async fn list(admin: &Admin, json: bool) -> Result<()> {
    let groups = admin.list_groups().await?;
    let mut out = std::io::stdout().lock();
    if json {
        for group in groups {
            let line = json!({
                "group": group.group_id, "state": group.state, "type": group.kind,
                "protocol_type": group.protocol_type,
            });
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    let mut table = Table::new(["GROUP", "STATE", "TYPE"]);
    for group in groups {
        table.row([group.group_id, dash(group.state), dash(group.kind)]);
    }
    Ok(table.print(&mut out)?)
}

fn dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

/// One partition of a group.
struct Progress {
    place: TopicPartition,
    committed: Option<i64>,
    end: Option<i64>,
    /// Who reads it.
    member: Option<String>,
}

impl Progress {
    fn lag(&self) -> Option<i64> {
        Some((self.end? - self.committed?).max(0))
    }
}

/// The ends of those partitions that still exist.
async fn ends(
    admin: &Admin,
    places: impl IntoIterator<Item = TopicPartition>,
    at: StartPosition,
) -> Result<BTreeMap<TopicPartition, i64>> {
    let topics = admin.list_topics().await?;
    let exists = |place: &TopicPartition| {
        let topic = topics.iter().find(|topic| *topic.name == *place.topic);
        topic.is_some_and(|topic| topic.partition(place.partition).is_some())
    };
    let places = places.into_iter().filter(exists);
    let places = places.map(|place| (place.topic.to_string(), place.partition, at));
    let found = admin.offsets(places).await?;
    let found = found.into_iter();
    Ok(found
        .map(|(t, p, end)| (TopicPartition::new(t, p), end))
        .collect())
}

async fn progress(admin: &Admin, description: &GroupDescription) -> Result<Vec<Progress>> {
    let committed = admin.group_offsets(&description.group_id).await?;
    let mut members = BTreeMap::new();
    for member in &description.members {
        let name = member.instance_id.as_ref().unwrap_or(&member.member_id);
        members.extend(member.partitions.iter().map(|p| (p.clone(), name.clone())));
    }
    let places: BTreeSet<_> = committed.keys().chain(members.keys()).cloned().collect();
    let ends = ends(admin, places.clone(), StartPosition::Latest).await?;
    let each = places.into_iter().map(|place| Progress {
        committed: committed.get(&place).map(|c: &CommittedOffset| c.offset),
        end: ends.get(&place).copied(),
        member: members.get(&place).cloned(),
        place,
    });
    Ok(each.collect())
}

async fn describe(admin: &Admin, group: &str, json: bool) -> Result<()> {
    let description = admin.describe_group(group).await?;
    let progress = progress(admin, &description).await?;
    if description.state == DEAD && progress.is_empty() {
        bail!("group {group:?} does not exist; `tidelog group list` shows those that do");
    }
    let mut out = std::io::stdout().lock();
    let lag: i64 = progress.iter().filter_map(Progress::lag).sum();
    if json {
        let members = description.members.iter().map(|m| {
            let partitions: Vec<_> = m.partitions.iter().map(ToString::to_string).collect();
            json!({
                "member": m.member_id, "instance": m.instance_id, "client": m.client_id,
                "host": m.host, "partitions": partitions,
            })
        });
        let partitions = progress.iter().map(|p| {
            json!({
                "topic": &*p.place.topic, "partition": p.place.partition,
                "committed": p.committed, "end": p.end, "lag": p.lag(), "member": p.member,
            })
        });
        let line = json!({
            "group": description.group_id, "state": description.state, "type": description.kind,
            "assignor": description.assignor, "lag": lag,
            "members": members.collect::<Vec<_>>(), "partitions": partitions.collect::<Vec<_>>(),
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    writeln!(out, "group     {}", description.group_id)?;
    writeln!(out, "state     {}", description.state)?;
    writeln!(out, "type      {}", description.kind)?;
    writeln!(out, "assignor  {}", dash(description.assignor.clone()))?;
    writeln!(out, "members   {}", description.members.len())?;
    writeln!(out, "lag       {lag}")?;
    writeln!(out)?;
    let mut table = Table::new(["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"]);
    let number = |number: Option<i64>| number.map_or("-".to_owned(), |n| n.to_string());
    for p in progress {
        table.row([
            p.place.topic.to_string(),
            p.place.partition.to_string(),
            number(p.committed),
            number(p.end),
            number(p.lag()),
            p.member.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    Ok(table.print(&mut out)?)
}

async fn delete(admin: &Admin, groups: &[String], json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for group in groups {
        admin
            .delete_group(group)
            .await
            .map_err(|e| explain(e, group))?;
        if json {
            writeln!(out, "{}", json!({ "deleted": group }))?;
        } else {
            writeln!(out, "deleted group {group}")?;
        }
    }
    Ok(())
}

async fn delete_offsets(admin: &Admin, group: &str, of: &[Places], json: bool) -> Result<()> {
    let committed = admin.group_offsets(group).await?;
    let wanted = |place: &&TopicPartition| of.iter().any(|named| named.contains(place));
    let places: Vec<TopicPartition> = committed.keys().filter(wanted).cloned().collect();
    if places.is_empty() {
        bail!(
            "group {group:?} has committed nothing there; `tidelog group describe {group}` shows \
             what it has"
        );
    }
    let deleted = admin.delete_group_offsets(group, &places).await;
    deleted.map_err(|error| explain(error, group))?;
    let mut out = std::io::stdout().lock();
    for place in places {
        if json {
            let line = json!({
                "group": group, "topic": &*place.topic, "partition": place.partition,
                "deleted": true,
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "deleted the offset of {place}")?;
        }
    }
    Ok(())
}

fn explain(error: Error, group: &str) -> anyhow::Error {
    match error.code() {
        Some(ErrorCode::NON_EMPTY_GROUP | ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC) => anyhow::anyhow!(
            "group {group:?} has members; stop them first (`tidelog group describe {group}` shows them)"
        ),
        Some(ErrorCode::GROUP_ID_NOT_FOUND) => anyhow::anyhow!(
            "group {group:?} does not exist; `tidelog group list` shows those that do"
        ),
        _ => error.into(),
    }
}

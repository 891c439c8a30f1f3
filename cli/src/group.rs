//! `tidelog group`: consumer groups, how far they have come, and setting them back or forth.

use crate::date_time;
use crate::output::{Table, Target};
use crate::places::{self, Places, places};
use crate::settings::{self, Changes};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};
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

#[derive(Debug, Args)]
struct ResetOffsets {
    group: String,
    /// TOPIC or TOPIC:PARTITION,...; may be given several times
    #[arg(long, required_unless_present = "all_topics", value_parser = places)]
    topic: Vec<Places>,
    /// Every partition the group has committed an offset for
    #[arg(long, conflicts_with = "topic")]
    all_topics: bool,
    /// earliest, latest, an offset, +N or -N from the current offset, @MILLISECONDS since 1970, a date
    /// or time such as 2026-11-25 or 2026-11-25T13:30:00+01:00 (UTC unless it says otherwise), or a
    /// time ago such as 90s, 15m, 2h or 7d
    #[arg(long, allow_hyphen_values = true, value_parser = to)]
    to: To,
    /// Change the offsets, not only show what would be changed
    #[arg(long)]
    execute: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    At(StartPosition),
    By(i64),
    /// Milliseconds.
    Ago(i64),
}

fn to(text: &str) -> Result<To, String> {
    let wrong = || {
        "is no earliest, latest, offset, +N, -N, @MILLISECONDS, YYYY-MM-DDTHH:MM:SSZ or time ago"
            .to_owned()
    };
    let number = |text: &str| {
        text.parse::<i64>()
            .ok()
            .filter(|&n| n >= 0)
            .ok_or_else(wrong)
    };
    const UNITS: [(char, i64); 4] = [
        ('s', 1_000),
        ('m', 60_000),
        ('h', 3_600_000),
        ('d', 86_400_000),
    ];
    Ok(match text {
        "earliest" => To::At(StartPosition::Earliest),
        "latest" => To::At(StartPosition::Latest),
        _ => {
            if let Some(ms) = date_time::parse_ms(text).filter(|&ms| ms >= 0) {
                return Ok(To::At(StartPosition::Timestamp(ms)));
            }
            let ago = UNITS
                .iter()
                .find_map(|&(unit, ms)| Some((text.strip_suffix(unit)?, ms)));
            if let Some((count, ms)) = ago {
                To::Ago(number(count)?.checked_mul(ms).ok_or_else(wrong)?)
            } else if let Some(more) = text.strip_prefix('+') {
                To::By(number(more)?)
            } else if let Some(less) = text.strip_prefix('-') {
                To::By(-number(less)?)
            } else if let Some(time) = text.strip_prefix('@') {
                To::At(StartPosition::Timestamp(number(time)?))
            } else {
                To::At(StartPosition::Offset(number(text)?))
            }
        }
    })
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

impl ResetOffsets {
    async fn run(&self, admin: &Admin, json: bool) -> Result<()> {
        let committed = admin.group_offsets(&self.group).await?;
        let places = self.places(admin, &committed).await?;
        if places.is_empty() {
            bail!(
                "group {:?} has committed nothing; name topics with --topic",
                self.group
            );
        }
        let first = ends(admin, places.clone(), StartPosition::Earliest).await?;
        let last = ends(admin, places.clone(), StartPosition::Latest).await?;
        let wanted = match self.to {
            To::At(at) => ends(admin, places, at).await?,
            To::Ago(ms) => ends(admin, places, StartPosition::Timestamp(now_ms() - ms)).await?,
            To::By(by) => shifted(&places, &committed, by)?,
        };
        let plan = within(&wanted, &first, &last);
        if self.execute {
            let set = admin.alter_group_offsets(&self.group, &plan).await;
            set.map_err(|error| explain(error, &self.group))?;
        }
        self.print(&plan, &committed, json)
    }

    async fn places(
        &self,
        admin: &Admin,
        committed: &BTreeMap<TopicPartition, CommittedOffset>,
    ) -> Result<BTreeSet<TopicPartition>> {
        if self.all_topics {
            return Ok(committed.keys().cloned().collect());
        }
        places::find(admin, &self.topic).await
    }

    fn print(
        &self,
        plan: &BTreeMap<TopicPartition, i64>,
        committed: &BTreeMap<TopicPartition, CommittedOffset>,
        json: bool,
    ) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let mut table = Table::new(["TOPIC", "PARTITION", "FROM", "TO"]);
        for (place, to) in plan {
            let from = committed.get(place).map(|c| c.offset);
            if json {
                let line = json!({
                    "topic": &*place.topic, "partition": place.partition, "from": from, "to": to,
                    "executed": self.execute,
                });
                writeln!(out, "{line}")?;
            }
            table.row([
                place.topic.to_string(),
                place.partition.to_string(),
                from.map_or("-".to_owned(), |from| from.to_string()),
                to.to_string(),
            ]);
        }
        if !json {
            table.print(&mut out)?;
            if !self.execute {
                writeln!(
                    out,
                    "\nnothing is changed yet; add --execute to set these offsets"
                )?;
            }
        }
        Ok(())
    }
}

fn shifted(
    places: &BTreeSet<TopicPartition>,
    committed: &BTreeMap<TopicPartition, CommittedOffset>,
    by: i64,
) -> Result<BTreeMap<TopicPartition, i64>> {
    let mut wanted = BTreeMap::new();
    for place in places {
        let Some(committed) = committed.get(place) else {
            bail!("the group has committed no offset of {place} to go on from");
        };
        wanted.insert(place.clone(), committed.offset.saturating_add(by));
    }
    Ok(wanted)
}

/// No offset before the first record that is kept, and none after the end.
fn within(
    wanted: &BTreeMap<TopicPartition, i64>,
    first: &BTreeMap<TopicPartition, i64>,
    last: &BTreeMap<TopicPartition, i64>,
) -> BTreeMap<TopicPartition, i64> {
    let within = wanted.iter().filter_map(|(place, &offset)| {
        let (first, last) = (*first.get(place)?, *last.get(place)?);
        Some((place.clone(), offset.clamp(first, last.max(first))))
    });
    within.collect()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_reset_to_is_said_in_many_ways() {
        assert_eq!(to("earliest"), Ok(To::At(StartPosition::Earliest)));
        assert_eq!(to("17"), Ok(To::At(StartPosition::Offset(17))));
        assert_eq!(to("+17"), Ok(To::By(17)));
        assert_eq!(to("-17"), Ok(To::By(-17)));
        assert_eq!(to("@17"), Ok(To::At(StartPosition::Timestamp(17))));
        let time = To::At(StartPosition::Timestamp(1_795_613_436_000));
        assert_eq!(to("2026-11-25T14:30:36+01:00"), Ok(time));
        assert_eq!(to("90s"), Ok(To::Ago(90_000)));
        assert_eq!(to("7d"), Ok(To::Ago(604_800_000)));
        for wrong in ["", "x", "--1", "@-1", "@", "h", "-2h", "99999999999999999d"] {
            to(wrong).unwrap_err();
        }
    }

    #[test]
    fn offsets_are_kept_within_what_the_partition_has() {
        let place = |p| TopicPartition::new("t", p);
        let of = |offsets: &[i64]| {
            let offsets = offsets.iter().enumerate();
            offsets
                .map(|(p, &o)| (place(p as i32), o))
                .collect::<BTreeMap<_, _>>()
        };
        let plan = within(
            &of(&[5, 50, 500, 7]),
            &of(&[10, 10, 10]),
            &of(&[90, 90, 90]),
        );
        assert_eq!(plan, of(&[10, 50, 90]));
    }
}

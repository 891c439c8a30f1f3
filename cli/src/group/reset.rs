//! `tidelog group reset-offsets`: sets a group back or forth.

use super::{ends, explain};
use crate::date_time;
use crate::output::Table;
use crate::places::{self, Places, places};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};
use tidelog_client::{Admin, CommittedOffset, StartPosition, TopicPartition};

#[derive(Debug, Args)]
pub struct ResetOffsets {
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

impl ResetOffsets {
    pub async fn run(&self, admin: &Admin, json: bool) -> Result<()> {
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

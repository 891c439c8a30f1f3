//! `tidelog topic move`: partitions to other brokers (`kafka-reassign-partitions`).

use crate::output::{Table, ids};
use crate::places::{self, Places, places};
use crate::progress::ProgressLine;
use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};
use tidelog_client::{Admin, Error, Reassignment, TopicPartition};

const LOOK_INTERVAL: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub struct Move {
    /// TOPIC or TOPIC:PARTITION,...
    #[arg(required = true, value_parser = places, value_name = "TOPIC")]
    of: Vec<Places>,
    /// Brokers of each partition, the preferred leader first
    #[arg(
        long,
        value_name = "BROKER,...",
        value_delimiter = ',',
        required_unless_present = "cancel"
    )]
    to: Vec<i32>,
    /// Of the brokers in --to, each partition gets N, beginning one further than the partition before;
    /// needed to change how many replicas there are
    #[arg(long, value_name = "N", requires = "to", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
    /// Stop moves that are under way: the partitions stay where they were
    #[arg(long, conflicts_with = "to")]
    cancel: bool,
    /// Wait for the end of the moves, so many seconds at most
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

/// The moves under way, of some partitions or of all; none in clusters that know no such thing.
pub async fn moving(
    admin: &Admin,
    of: Option<&[TopicPartition]>,
) -> Result<Vec<Reassignment>, Error> {
    match admin.list_reassignments(of).await {
        Err(Error::Unsupported { .. }) => Ok(Vec::new()),
        moving => moving,
    }
}

/// From and to which brokers each partition goes.
type Plan = BTreeMap<TopicPartition, (Vec<i32>, Vec<i32>)>;

impl Move {
    pub async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        let places = places::find(admin, &self.of).await?;
        let asked: Vec<_> = places.iter().cloned().collect();
        let under_way = admin.list_reassignments(Some(&asked)).await?;
        let plan = if self.cancel {
            if under_way.is_empty() {
                bail!("nothing moves there; `tidelog cluster status` shows what does");
            }
            let back = |one: &Reassignment| (one.partition.clone(), (one.to(), one.from()));
            under_way.iter().map(back).collect()
        } else {
            let before = replicas(admin, &places, &under_way).await?;
            plan(before, &self.to, self.replicas.map(usize::from))?
        };
        let targets = plan.iter().map(|(place, (_, to))| {
            let to = (!self.cancel).then(|| to.clone());
            (place.clone(), to)
        });
        let outcomes = admin.alter_reassignments(&targets.collect()).await?;
        let mut refused = Vec::new();
        let mut begun = Plan::new();
        for (place, way) in plan {
            match outcomes.get(&place) {
                Some(Err(error)) => refused.push(error.to_string()),
                _ => drop(begun.insert(place, way)),
            }
        }
        let mut left = BTreeSet::new();
        if !begun.is_empty() {
            let limit = Duration::from_secs(self.wait.unwrap_or(0));
            left = wait(admin, begun.keys().cloned().collect(), limit).await?;
        }
        self.print(&begun, &left, json)?;
        if !refused.is_empty() {
            bail!("{}", refused.join("; "));
        }
        if let Some(limit) = self.wait
            && !left.is_empty()
        {
            bail!(
                "{} partitions still move after {limit} s; `tidelog cluster status` shows them, \
                 `tidelog topic move ... --cancel` stops them",
                left.len()
            );
        }
        Ok(())
    }

    fn print(&self, plan: &Plan, left: &BTreeSet<TopicPartition>, json: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let mut table = Table::new(["TOPIC", "PARTITION", "FROM", "TO", "STATE"]);
        for (place, (from, to)) in plan {
            let done = !left.contains(place);
            if json {
                let line = json!({
                    "topic": &*place.topic, "partition": place.partition, "from": from, "to": to,
                    "cancelled": self.cancel, "done": done,
                });
                writeln!(out, "{line}")?;
                continue;
            }
            table.row([
                place.topic.to_string(),
                place.partition.to_string(),
                ids(from),
                ids(to),
                if done { "done" } else { "moving" }.to_owned(),
            ]);
        }
        if !json && !plan.is_empty() {
            table.print(&mut out)?;
        }
        Ok(())
    }
}

/// The replicas of each place, without those that a move under way only adds.
async fn replicas(
    admin: &Admin,
    places: &BTreeSet<TopicPartition>,
    under_way: &[Reassignment],
) -> Result<BTreeMap<TopicPartition, Vec<i32>>> {
    let topics = admin.list_topics().await?;
    let of = |place: &TopicPartition| {
        if let Some(moving) = under_way.iter().find(|m| m.partition == *place) {
            return moving.from();
        }
        let topic = topics.iter().find(|topic| *topic.name == *place.topic);
        let partition = topic.and_then(|topic| topic.partition(place.partition));
        partition.map(|p| p.replicas.clone()).unwrap_or_default()
    };
    Ok(places.iter().map(|p| (p.clone(), of(p))).collect())
}

/// # Errors
/// When a partition would have another number of replicas without that being asked for.
fn plan(
    before: BTreeMap<TopicPartition, Vec<i32>>,
    brokers: &[i32],
    replicas: Option<usize>,
) -> Result<Plan> {
    if let Some(replicas) = replicas
        && replicas > brokers.len()
    {
        bail!(
            "--replicas {replicas} are more than the {} brokers of --to",
            brokers.len()
        );
    }
    let mut plan = Plan::new();
    for (turn, (place, from)) in before.into_iter().enumerate() {
        let to = match replicas {
            Some(replicas) => {
                let from_turn = brokers.iter().cycle().skip(turn % brokers.len());
                from_turn.take(replicas).copied().collect()
            }
            None if from.len() != brokers.len() => bail!(
                "{place} has {} replicas and --to names {} brokers; --replicas {} changes that",
                from.len(),
                brokers.len(),
                brokers.len()
            ),
            None => brokers.to_vec(),
        };
        plan.insert(place, (from, to));
    }
    Ok(plan)
}

/// Waits until none of these moves; returns those that still do when the time is over.
async fn wait(
    admin: &Admin,
    places: Vec<TopicPartition>,
    limit: Duration,
) -> Result<BTreeSet<TopicPartition>> {
    let deadline = Instant::now() + limit;
    let progress = ProgressLine::new();
    loop {
        let moving = admin.list_reassignments(Some(&places)).await?;
        if moving.is_empty() || Instant::now() >= deadline {
            return Ok(moving.into_iter().map(|m| m.partition).collect());
        }
        let done = places.len() - moving.len();
        progress.show(&format!("moved: {done} of {} partitions", places.len()));
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(replicas: &[&[i32]]) -> BTreeMap<TopicPartition, Vec<i32>> {
        let places = replicas.iter().enumerate();
        places
            .map(|(p, ids)| (TopicPartition::new("t", p as i32), ids.to_vec()))
            .collect()
    }

    fn targets(plan: Plan) -> Vec<Vec<i32>> {
        plan.into_values().map(|(_, to)| to).collect()
    }

    #[test]
    fn replicas_are_spread_one_broker_further_each() {
        let of = before(&[&[1], &[1], &[1], &[1]]);
        let spread = plan(of, &[5, 6, 7], Some(2)).unwrap();
        let expected = [[5, 6], [6, 7], [7, 5], [5, 6]];
        assert_eq!(targets(spread), expected);
    }

    #[test]
    fn the_number_of_replicas_changes_only_when_asked_for() {
        let of = before(&[&[1, 2, 3]]);
        let same = plan(of.clone(), &[4, 2, 3], None).unwrap();
        assert_eq!(targets(same), [[4, 2, 3]]);
        plan(of.clone(), &[4], None).unwrap_err();
        plan(of.clone(), &[4], Some(2)).unwrap_err();
        assert_eq!(targets(plan(of, &[4], Some(1)).unwrap()), [[4]]);
    }
}

//! `tidelog cluster`: the state of the cluster.

mod backup;
mod feature;
mod quorum;

use crate::output::{Table, Target};
use crate::topic::moving;
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use tidelog_client::{Admin, ClusterInfo, PartitionInfo, Reassignment, TopicInfo};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tidelog cluster status\n  tidelog cluster quorum")]
pub struct Cluster {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show brokers, what each leads, and which replicas are behind
    #[command(after_help = "Example:\n  tidelog cluster status --profile prod --output json")]
    Status,
    /// Show which brokers vote on the metadata, and how far each is
    #[command(after_help = "Example:\n  tidelog cluster quorum")]
    Quorum,
    /// Show and set the levels of features
    #[command(subcommand)]
    Feature(feature::Feature),
    /// Copy topics with their records, settings and committed offsets into a folder
    Backup(backup::Backup),
    /// Bring a backup into a cluster without topics
    Restore(backup::Restore),
}

impl Cluster {
    pub fn run(self) -> Result<()> {
        let target = &self.target;
        target.administer(async |admin, json| match &self.command {
            Command::Status => status(admin, json).await,
            Command::Feature(feature) => feature.run(admin, json).await,
            Command::Backup(backup) => backup.run(target, admin).await,
            Command::Restore(restore) => restore.run(target, admin).await,
            Command::Quorum => quorum::show(admin, json).await,
        })
    }
}

async fn status(admin: &Admin, json: bool) -> Result<()> {
    let cluster = admin.describe_cluster().await?;
    let topics = admin.list_topics().await?;
    let moving = moving(admin, None).await?;
    let status = Status::new(&cluster, &topics, &moving);
    let mut out = std::io::stdout().lock();
    if json {
        status.print_json(&mut out)
    } else {
        status.print_text(&mut out)
    }
}

struct Status<'a> {
    cluster: &'a ClusterInfo,
    topics: usize,
    brokers: Vec<BrokerStatus>,
    partitions: usize,
    /// `TOPIC-PARTITION` of each.
    without_leader: Vec<String>,
    under_replicated: Vec<String>,
    moving: Vec<String>,
}

struct BrokerStatus {
    id: i32,
    /// None when replicas name a broker that the cluster does not list: it is down.
    address: Option<String>,
    rack: Option<String>,
    leaders: usize,
    replicas: usize,
    behind: usize,
}

impl<'a> Status<'a> {
    fn new(
        cluster: &'a ClusterInfo,
        topics: &[Arc<TopicInfo>],
        moving: &[Reassignment],
    ) -> Status<'a> {
        let partitions: Vec<(&TopicInfo, &PartitionInfo)> = topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(move |p| (&**topic, p)))
            .collect();
        let mut ids: Vec<i32> = cluster.brokers.iter().map(|broker| broker.id).collect();
        ids.extend(partitions.iter().flat_map(|(_, p)| &p.replicas));
        ids.sort_unstable();
        ids.dedup();
        let brokers = ids.into_iter().map(|id| {
            let info = cluster.brokers.iter().find(|broker| broker.id == id);
            let has = |p: &PartitionInfo| p.replicas.contains(&id);
            let count = |of: &dyn Fn(&PartitionInfo) -> bool| {
                partitions.iter().filter(|(_, p)| of(p)).count()
            };
            BrokerStatus {
                id,
                address: info.map(|broker| broker.address()),
                rack: info.and_then(|broker| broker.rack.clone()),
                leaders: count(&|p| p.leader == Some(id)),
                replicas: count(&has),
                behind: count(&|p| has(p) && !p.in_sync.contains(&id)),
            }
        });
        let named = |of: &dyn Fn(&PartitionInfo) -> bool| {
            let some = partitions.iter().filter(|(_, p)| of(p));
            some.map(|(topic, p)| format!("{}-{}", topic.name, p.index))
                .collect()
        };
        Status {
            cluster,
            topics: topics.len(),
            brokers: brokers.collect(),
            partitions: partitions.len(),
            without_leader: named(&|p| p.leader.is_none()),
            under_replicated: named(&|p| p.in_sync.len() < p.replicas.len()),
            moving: moving.iter().map(|m| m.partition.to_string()).collect(),
        }
    }

    fn print_text(&self, out: &mut impl Write) -> Result<()> {
        writeln!(out, "cluster     {}", self.cluster.id)?;
        let controller = self.cluster.controller;
        let controller = controller.map_or("none".to_owned(), |id| id.to_string());
        writeln!(out, "controller  {controller}")?;
        writeln!(out, "topics      {}", self.topics)?;
        writeln!(out, "partitions  {}", self.partitions)?;
        writeln!(out, "no leader   {}", list(&self.without_leader))?;
        writeln!(out, "behind      {}", list(&self.under_replicated))?;
        writeln!(out, "moving      {}", list(&self.moving))?;
        writeln!(out)?;
        let mut table = Table::new(["BROKER", "ADDRESS", "RACK", "LEADERS", "REPLICAS", "BEHIND"]);
        for broker in &self.brokers {
            table.row([
                broker.id.to_string(),
                broker.address.clone().unwrap_or_else(|| "down".to_owned()),
                broker.rack.clone().unwrap_or_else(|| "-".to_owned()),
                broker.leaders.to_string(),
                broker.replicas.to_string(),
                broker.behind.to_string(),
            ]);
        }
        Ok(table.print(out)?)
    }

    fn print_json(&self, out: &mut impl Write) -> Result<()> {
        let brokers = self.brokers.iter().map(|broker| {
            json!({
                "id": broker.id,
                "address": broker.address,
                "rack": broker.rack,
                "leaders": broker.leaders,
                "replicas": broker.replicas,
                "replicas_behind": broker.behind,
            })
        });
        let status = json!({
            "cluster_id": self.cluster.id,
            "controller": self.cluster.controller,
            "topics": self.topics,
            "partitions": self.partitions,
            "partitions_without_leader": self.without_leader,
            "partitions_under_replicated": self.under_replicated,
            "partitions_moving": self.moving,
            "brokers": brokers.collect::<Vec<_>>(),
        });
        Ok(writeln!(out, "{status}")?)
    }
}

/// How many, and the first few of them.
fn list(partitions: &[String]) -> String {
    const SHOWN: usize = 5;
    if partitions.is_empty() {
        return "0".to_owned();
    }
    let shown = &partitions[..partitions.len().min(SHOWN)];
    let more = if partitions.len() > SHOWN {
        ", ..."
    } else {
        ""
    };
    format!("{}: {}{more}", partitions.len(), shown.join(", "))
}

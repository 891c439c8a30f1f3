//! `tidelog broker`: the brokers and their settings.

mod decommission;
mod maintenance;

use crate::output::{Table, Target};
use crate::settings::{self, Changes};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use futures_util::future::join_all;
use serde_json::json;
use std::io::Write;
use std::time::Duration;
use tidelog_client::{Admin, ConfigResource};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidelog broker list\n  tidelog broker describe 1 --all\n  \
                        tidelog broker alter 1 --set message.max.bytes=2097152\n  \
                        tidelog broker maintenance 1 on"
)]
pub struct Broker {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the brokers of the cluster
    #[command(after_help = "Example:\n  tidelog broker list --output json")]
    List,
    /// Show what a broker is set to, or what holds for all brokers without their own
    #[command(
        after_help = "Examples:\n  tidelog broker describe 1 --all\n  tidelog broker describe all"
    )]
    Describe {
        /// The broker's id, or all
        #[arg(value_parser = which)]
        id: Which,
        /// Also what is left at its default
        #[arg(long)]
        all: bool,
    },
    /// Show the replicas on a broker's disk, and the bytes they take
    #[command(after_help = "Example:\n  tidelog broker disk 1")]
    Disk { id: i32 },
    /// Move all leadership away from a broker and keep it away, for a restart; or let it come back
    #[command(after_help = "Example:\n  tidelog broker maintenance 1 on")]
    Maintenance {
        id: i32,
        switch: maintenance::Switch,
        /// How many seconds the leaders may take to move
        #[arg(long, default_value_t = 60)]
        wait: u64,
    },
    /// Move everything a broker holds to the others, so that it can be taken out of the cluster
    #[command(after_help = "Examples:\n  tidelog broker decommission 3\n  \
                      tidelog broker decommission 3 --cancel")]
    Decommission(decommission::Decommission),
    /// Change settings of a running broker, or those that hold for all brokers without their own
    #[command(
        after_help = "Examples:\n  tidelog broker alter 1 --set message.max.bytes=2097152\n  \
                      tidelog broker alter all --set replication.throttled.rate=50000000"
    )]
    Alter {
        /// The broker's id, or all
        #[arg(value_parser = which)]
        id: Which,
        #[command(flatten)]
        changes: Changes,
    },
    /// Show which versions of each API a broker speaks
    #[command(after_help = "Example:\n  tidelog broker versions 1")]
    Versions { id: i32 },
    /// Forget a broker that was lost, or is no longer wanted; its replicas must be moved away first
    ///
    /// A broker of Tidelog that runs then ends, and its id is never taken again: start it anew with an empty
    /// folder and another id.
    #[command(after_help = "Example:\n  tidelog broker unregister 3")]
    Unregister { id: i32 },
}

/// One broker, or the defaults of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    One(i32),
    All,
}

fn which(text: &str) -> Result<Which, String> {
    if text == "all" {
        return Ok(Which::All);
    }
    let id = text.parse().ok().filter(|&id: &i32| id >= 0);
    id.map(Which::One)
        .ok_or_else(|| "is neither the id of a broker nor all".to_owned())
}

impl Which {
    /// A broker answers for itself: one that is away would only be waited for.
    async fn resource(self, admin: &Admin) -> Result<ConfigResource> {
        match self {
            Which::One(id) => {
                check_listed(admin, id).await?;
                Ok(ConfigResource::Broker(id))
            }
            Which::All => Ok(ConfigResource::AllBrokers),
        }
    }
}

impl Broker {
    pub fn run(self) -> Result<()> {
        self.target
            .administer(async |admin, json| match self.command {
                Command::List => list(admin, json).await,
                Command::Describe { id, all } => {
                    settings::show(admin, &id.resource(admin).await?, all, json).await
                }
                Command::Versions { id } => versions(admin, id, json).await,
                Command::Disk { id } => disk(admin, id, json).await,
                Command::Maintenance { id, switch, wait } => {
                    check_listed(admin, id).await?;
                    let limit = Duration::from_secs(wait);
                    maintenance::switch(admin, id, switch, limit, json).await
                }
                Command::Decommission(decommission) => decommission.run(admin, json).await,
                Command::Unregister { id } => {
                    admin.unregister_broker(id).await?;
                    settings::done(json, "broker", id, "unregistered")
                }
                Command::Alter { id, changes } => {
                    let action = changes.make(admin, &id.resource(admin).await?).await?;
                    match id {
                        Which::One(id) => settings::done(json, "broker", id, action),
                        Which::All => settings::done(json, "broker", "all", action),
                    }
                }
            })
    }
}

/// A broker answers for itself: one that is away would only be waited for.
async fn check_listed(admin: &Admin, id: i32) -> Result<()> {
    let brokers = admin.describe_cluster().await?.brokers;
    if !brokers.iter().any(|broker| broker.id == id) {
        bail!("broker {id} is not there, or down; `tidelog broker list` shows those that are up");
    }
    Ok(())
}

async fn list(admin: &Admin, json: bool) -> Result<()> {
    let cluster = admin.describe_cluster().await?;
    let states = cluster.brokers.iter();
    let states = join_all(states.map(|broker| maintenance::state(admin, broker.id))).await;
    let mut out = std::io::stdout().lock();
    let mut table = Table::new(["BROKER", "ADDRESS", "RACK", "CONTROLLER", "MAINTENANCE"]);
    for (broker, in_maintenance) in cluster.brokers.iter().zip(states) {
        let controller = cluster.controller == Some(broker.id);
        if json {
            let line = json!({
                "broker": broker.id, "address": broker.address(), "rack": broker.rack,
                "controller": controller, "maintenance": in_maintenance,
            });
            writeln!(out, "{line}")?;
        }
        table.row([
            broker.id.to_string(),
            broker.address(),
            broker.rack.clone().unwrap_or_else(|| "-".to_owned()),
            if controller { "yes" } else { "-" }.to_owned(),
            match in_maintenance {
                Some(true) => "yes",
                Some(false) => "-",
                None => "?",
            }
            .to_owned(),
        ]);
    }
    if !json {
        table.print(&mut out)?;
    }
    Ok(())
}

async fn disk(admin: &Admin, id: i32, json: bool) -> Result<()> {
    check_listed(admin, id).await?;
    let replicas = admin.describe_log_dirs(id).await?;
    let mut out = std::io::stdout().lock();
    let mut table = Table::new(["TOPIC", "PARTITION", "BYTES", "BEHIND", "FOLDER"]);
    for replica in replicas {
        let place = replica.partition;
        if json {
            let line = json!({
                "broker": id, "topic": &*place.topic, "partition": place.partition,
                "bytes": replica.bytes, "lag_records": replica.lag_records,
                "folder": replica.folder,
            });
            writeln!(out, "{line}")?;
        }
        table.row([
            place.topic.to_string(),
            place.partition.to_string(),
            replica.bytes.to_string(),
            replica.lag_records.to_string(),
            replica.folder,
        ]);
    }
    if !json {
        table.print(&mut out)?;
    }
    Ok(())
}

async fn versions(admin: &Admin, id: i32, json: bool) -> Result<()> {
    check_listed(admin, id).await?;
    let mut out = std::io::stdout().lock();
    let mut table = Table::new(["KEY", "API", "VERSIONS"]);
    for api in admin.api_versions(id).await? {
        if json {
            let line = json!({
                "broker": id, "key": api.key, "api": api.name, "min": api.min, "max": api.max,
            });
            writeln!(out, "{line}")?;
        }
        let name = api.name.unwrap_or_else(|| "?".to_owned());
        let range = format!("{}-{}", api.min, api.max);
        table.row([api.key.to_string(), name, range]);
    }
    if !json {
        table.print(&mut out)?;
    }
    Ok(())
}

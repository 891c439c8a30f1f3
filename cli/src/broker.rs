//! `tidelog broker`: the brokers and their settings.

mod decommission;
mod maintenance;

use crate::output::{Table, Target, name_value};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use futures_util::future::join_all;
use serde_json::json;
use std::io::Write;
use std::time::Duration;
use tidelog_client::{Admin, ConfigChange, ConfigResource, ConfigSource};

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
    /// Show what a broker is set to
    #[command(after_help = "Example:\n  tidelog broker describe 1 --all")]
    Describe {
        id: i32,
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
    /// Change settings of a running broker
    #[command(after_help = "Example:\n  tidelog broker alter 1 --set message.max.bytes=2097152")]
    Alter(Alter),
    /// Forget a broker that was lost, or is no longer wanted; its replicas must be moved away first
    ///
    /// A broker of Tidelog that runs then ends, and its id is never taken again: start it anew with an empty
    /// folder and another id.
    #[command(after_help = "Example:\n  tidelog broker unregister 3")]
    Unregister { id: i32 },
}

#[derive(Debug, Args)]
struct Alter {
    id: i32,
    /// Set NAME to VALUE; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_value)]
    set: Vec<(String, String)>,
    /// Back to what it was started with
    #[arg(long, value_name = "NAME")]
    delete: Vec<String>,
    /// Only check whether it could be done
    #[arg(long)]
    dry_run: bool,
}

impl Broker {
    pub fn run(self) -> Result<()> {
        self.target
            .administer(async |admin, json| match self.command {
                Command::List => list(admin, json).await,
                Command::Describe { id, all } => describe(admin, id, all, json).await,
                Command::Disk { id } => disk(admin, id, json).await,
                Command::Maintenance { id, switch, wait } => {
                    check_listed(admin, id).await?;
                    let limit = Duration::from_secs(wait);
                    maintenance::switch(admin, id, switch, limit, json).await
                }
                Command::Decommission(decommission) => decommission.run(admin, json).await,
                Command::Unregister { id } => {
                    admin.unregister_broker(id).await?;
                    done(json, id, "unregistered")
                }
                Command::Alter(alter) => alter.run(admin, json).await,
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

/// Prints what was done: a sentence, or an object.
fn done(json: bool, id: i32, action: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", json!({"broker": id, "done": action}))?;
    } else {
        writeln!(out, "{action} broker {id}")?;
    }
    Ok(())
}

impl Alter {
    async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        let set = self.set.into_iter();
        let set = set.map(|(name, value)| ConfigChange::Set(name, value));
        let delete = self.delete.into_iter().map(ConfigChange::Delete);
        let changes: Vec<_> = set.chain(delete).collect();
        if changes.is_empty() {
            bail!("nothing to change; give --set or --delete");
        }
        check_listed(admin, self.id).await?;
        let resource = ConfigResource::Broker(self.id);
        let sent = admin.alter_configs(&resource, &changes, self.dry_run);
        sent.await?;
        let action = if self.dry_run {
            "could alter"
        } else {
            "altered"
        };
        done(json, self.id, action)
    }
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

async fn describe(admin: &Admin, id: i32, all: bool, json: bool) -> Result<()> {
    check_listed(admin, id).await?;
    let entries = admin.describe_configs(&ConfigResource::Broker(id)).await?;
    let shown = entries
        .iter()
        .filter(|e| all || e.source != ConfigSource::Default);
    let mut out = std::io::stdout().lock();
    let mut table = Table::new(["SETTING", "VALUE", "FROM"]);
    for entry in shown {
        if json {
            let line = json!({
                "name": entry.name, "value": entry.value, "source": entry.source.to_string(),
                "read_only": entry.read_only, "sensitive": entry.sensitive,
            });
            writeln!(out, "{line}")?;
        }
        table.row([
            entry.name.clone(),
            entry.value.clone().unwrap_or_else(|| "-".to_owned()),
            entry.source.to_string(),
        ]);
    }
    if !json {
        table.print(&mut out)?;
    }
    Ok(())
}

//! `tidelog cluster feature`: what the whole cluster may use once all brokers know it.

use crate::output::Table;
use anyhow::Result;
use clap::Subcommand;
use serde_json::json;
use std::io::Write;
use tidelog_client::Admin;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  tidelog cluster feature list\n  \
                        tidelog cluster feature set group.version 1")]
pub enum Feature {
    /// Show the level of each feature, and what the brokers know
    #[command(after_help = "Example:\n  tidelog cluster feature list")]
    List,
    /// Set the level of a feature; refused unless every registered broker knows it
    #[command(after_help = "Example:\n  tidelog cluster feature set group.version 1 --dry-run")]
    Set {
        name: String,
        level: i16,
        /// To a lower level than the present one
        #[arg(long)]
        downgrade: bool,
        /// Only check whether it could be done
        #[arg(long)]
        dry_run: bool,
    },
}

impl Feature {
    pub async fn run(&self, admin: &Admin, json: bool) -> Result<()> {
        match self {
            Feature::List => list(admin, json).await,
            Feature::Set {
                name,
                level,
                downgrade,
                dry_run,
            } => {
                admin
                    .update_feature(name, *level, *downgrade, *dry_run)
                    .await?;
                let done = if *dry_run { "could set" } else { "set" };
                let mut out = std::io::stdout().lock();
                if json {
                    let line = json!({"feature": name, "level": level, "done": done});
                    writeln!(out, "{line}")?;
                } else {
                    writeln!(out, "{done} {name} to level {level}")?;
                }
                Ok(())
            }
        }
    }
}

async fn list(admin: &Admin, json: bool) -> Result<()> {
    let (features, epoch) = admin.describe_features().await?;
    let mut out = std::io::stdout().lock();
    let mut table = Table::new(["FEATURE", "LEVEL", "KNOWN"]);
    for feature in features {
        if json {
            let line = json!({
                "feature": feature.name, "level": feature.level, "min": feature.min,
                "max": feature.max, "epoch": epoch,
            });
            writeln!(out, "{line}")?;
        }
        table.row([
            feature.name,
            feature.level.to_string(),
            format!("{}-{}", feature.min, feature.max),
        ]);
    }
    if !json {
        table.print(&mut out)?;
    }
    Ok(())
}

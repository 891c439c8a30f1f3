//! Settings of brokers and groups, shown and changed at run time.

use crate::output::{Table, name_value};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use tidelog_client::{Admin, ConfigChange, ConfigResource, ConfigSource};

/// What is to be changed.
#[derive(Debug, Args)]
pub struct Changes {
    /// Set NAME to VALUE; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_value)]
    set: Vec<(String, String)>,
    /// Back to what holds without it; may be given several times
    #[arg(long, value_name = "NAME")]
    delete: Vec<String>,
    /// Only check whether it could be done
    #[arg(long)]
    dry_run: bool,
}

impl Changes {
    /// Makes them; what was done, for a sentence such as "altered broker 1".
    ///
    /// # Errors
    /// When there are none, or the broker refuses one: then none is made.
    pub async fn make(self, admin: &Admin, of: &ConfigResource) -> Result<&'static str> {
        let set = self.set.into_iter();
        let set = set.map(|(name, value)| ConfigChange::Set(name, value));
        let delete = self.delete.into_iter().map(ConfigChange::Delete);
        let changes: Vec<_> = set.chain(delete).collect();
        if changes.is_empty() {
            bail!("nothing to change; give --set or --delete");
        }
        admin.alter_configs(of, &changes, self.dry_run).await?;
        Ok(if self.dry_run {
            "could alter"
        } else {
            "altered"
        })
    }
}

/// Prints settings: with `all`, also those at their default.
///
/// # Errors
/// When they cannot be read.
pub async fn show(admin: &Admin, of: &ConfigResource, all: bool, json: bool) -> Result<()> {
    let entries = admin.describe_configs(of).await?;
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

/// Prints what was done to something: a sentence, or an object.
///
/// # Errors
/// When nothing can be printed.
pub fn done(json: bool, kind: &str, name: impl Into<Value>, action: &str) -> Result<()> {
    let name = name.into();
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", json!({kind: name, "done": action}))?;
        return Ok(());
    }
    let text = name
        .as_str()
        .map_or_else(|| name.to_string(), str::to_owned);
    writeln!(out, "{action} {kind} {text}")?;
    Ok(())
}

//! `tidelog topic elect`: who leads is put right, or kept from being nobody.

use crate::output::Table;
use crate::places::{self, Places, places};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use std::io::Write;
use tidelog_client::{Admin, Election, Error, ErrorCode};

#[derive(Debug, Args)]
pub struct Elect {
    /// TOPIC or TOPIC:PARTITION,...; without any, all where there is something to do
    #[arg(value_parser = places, value_name = "TOPIC")]
    of: Vec<Places>,
    /// Let any replica lead that lives where none is in sync, and lose what only the others have;
    /// Tidelog never does that
    #[arg(long)]
    unclean: bool,
}

/// What became of one partition.
fn outcome(result: &Result<(), Error>) -> String {
    match result {
        Ok(()) => "elected".to_owned(),
        Err(error) if error.code() == Some(ErrorCode::ELECTION_NOT_NEEDED) => {
            "leads already".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

impl Elect {
    pub async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        let election = if self.unclean {
            Election::Unclean
        } else {
            Election::Preferred
        };
        let asked: Vec<_> = places::find(admin, &self.of).await?.into_iter().collect();
        let asked = (!self.of.is_empty()).then_some(asked.as_slice());
        let outcomes = admin.elect_leaders(election, asked).await?;
        let mut out = std::io::stdout().lock();
        if outcomes.is_empty() && !json {
            writeln!(out, "nothing to elect")?;
            return Ok(());
        }
        let mut failed = 0;
        let mut table = Table::new(["TOPIC", "PARTITION", "OUTCOME"]);
        for (place, result) in outcomes {
            let told = outcome(&result);
            let not_needed = told == "leads already";
            failed += usize::from(result.is_err() && !not_needed);
            if json {
                let line = json!({
                    "topic": &*place.topic, "partition": place.partition,
                    "elected": result.is_ok(), "leads_already": not_needed,
                    "error": (result.is_err() && !not_needed).then_some(told),
                });
                writeln!(out, "{line}")?;
            } else {
                table.row([place.topic.to_string(), place.partition.to_string(), told]);
            }
        }
        if !json {
            table.print(&mut out)?;
        }
        if failed > 0 {
            bail!("{failed} partitions have no new leader");
        }
        Ok(())
    }
}

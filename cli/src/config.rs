//! `tidelog config`: what a broker would run with, and why.

use crate::start::Settings;
use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use std::io::Write;
use std::path::PathBuf;
use tidelog_broker::config::BrokerConfig;

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print each effective setting and where it came from
    #[command(
        after_help = "Example:\n  tidelog config show --config broker.toml --set broker.id=1"
    )]
    Show(Show),
    /// Check files of settings, and nothing else: no environment, no broker is started
    #[command(after_help = "Example:\n  tidelog config check /etc/tidelog/broker.toml")]
    Check {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    settings: Settings,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Config {
    pub fn run(self) -> Result<()> {
        let show = match self {
            Config::Show(show) => show,
            Config::Check { files } => return check(&files),
        };
        let config = show.settings.load()?;
        let mut out = std::io::stdout().lock();
        let printed = match show.output {
            Output::Text => print_text(&config, &mut out),
            Output::Json => print_json(&config, &mut out),
        };
        match printed {
            // The reader of a pipe had enough.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }
}

/// # Errors
/// The first file that a broker would not start with.
fn check(files: &[PathBuf]) -> Result<()> {
    for file in files {
        let config = BrokerConfig::load(Some(file), std::iter::empty(), &[])?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}: broker {}", file.display(), config.broker_id())?;
    }
    Ok(())
}

fn print_text(config: &BrokerConfig, out: &mut impl Write) -> std::io::Result<()> {
    let width = config.all().map(|(name, ..)| name.len()).max().unwrap_or(0);
    for (name, value, source) in config.all() {
        let value = if value.is_empty() { "\"\"" } else { value };
        writeln!(out, "{name:width$} = {value}  ({source})")?;
    }
    Ok(())
}

fn print_json(config: &BrokerConfig, out: &mut impl Write) -> std::io::Result<()> {
    for (name, value, source) in config.all() {
        let line = serde_json::json!({
            "name": name, "value": value, "source": source.to_string(),
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

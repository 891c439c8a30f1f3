//! `tidelog start`: one broker in this process.

use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::PathBuf;
use tidelog_broker::RunningBroker;
use tidelog_broker::config::BrokerConfig;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Where settings come from.
#[derive(Debug, Args)]
pub struct Settings {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting that overrides the file and the environment; may be given several times
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
}

impl Settings {
    pub fn load(&self) -> Result<BrokerConfig> {
        Ok(BrokerConfig::load(
            self.config.as_deref(),
            std::env::vars(),
            &self.set,
        )?)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidelog start --config /etc/tidelog/broker.toml")]
pub struct Start {
    #[command(flatten)]
    settings: Settings,
    /// Stop when the process that started this one ends
    #[arg(long, hide = true)]
    stop_with_parent: bool,
}

impl Start {
    pub fn run(self) -> Result<()> {
        let config = self.settings.load()?;
        start_logging();
        if self.stop_with_parent {
            stop_with_parent()?;
        }
        raise_file_limit();
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("start the runtime")?
            .block_on(serve(config))
    }
}

async fn serve(config: BrokerConfig) -> Result<()> {
    // Before the start: a signal that comes during it stops the broker right after it.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = config.text("listeners").to_owned();
    let mut running = RunningBroker::start(config).await?;
    tracing::info!(
        "broker {} listens for clients on {listener}",
        running.broker.id
    );
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        reason = running.failed() => Some(reason),
    };
    tracing::info!("stopping");
    running.stop().await;
    tracing::info!("stopped");
    match failure {
        Some(reason) => bail!(reason),
        None => Ok(()),
    }
}

/// `TIDELOG_LOG` takes tracing's filters, such as `debug` or `tidelog_broker=debug`.
fn start_logging() {
    use std::io::IsTerminal;
    let filter = EnvFilter::try_from_env("TIDELOG_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

fn stop_with_parent() -> Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM)).context("tie to the parent process")?;
    if getppid() != parent {
        bail!("the process that started this broker has ended");
    }
    Ok(())
}

/// Every segment and connection takes a descriptor; the usual soft limit of 1,024 is soon reached.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

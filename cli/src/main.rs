//! The `tidelog` binary: brokers, and the commands that work against them.

mod bench;
mod broker;
mod cluster;
mod color;
mod completion;
mod config;
mod consume;
mod date_time;
mod dev;
mod group;
mod health;
mod log;
mod output;
mod places;
mod produce;
mod profile;
mod progress;
mod settings;
mod start;
mod topic;
mod txn;

use clap::{ColorChoice, CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

// Thousands of partitions mean millions of small allocations: jemalloc keeps them a third smaller.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A replicated commit log that any Kafka client can use.
#[derive(Debug, Parser)]
#[command(name = "tidelog", version)]
struct Cli {
    /// Whether to write in colour; `auto` does on a terminal unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one broker
    Start(start::Start),
    /// Ask the broker on this machine whether it is well
    Health(health::Health),
    /// Run a whole cluster on this machine, one process per broker
    Dev(dev::Dev),
    /// Look at settings
    #[command(
        subcommand,
        after_help = "Example:\n  tidelog config show --config broker.toml"
    )]
    Config(config::Config),
    /// Create, list, describe, alter, move and delete topics
    Topic(topic::Topic),
    /// Write lines as records
    Produce(produce::Produce),
    /// Print the records of a topic
    Consume(consume::Consume),
    /// Look at consumer groups, and set or delete their offsets
    Group(group::Group),
    /// Look at the files of a broker that need not run, and verify them
    Log(log::Log),
    /// Look at brokers, and change their settings while they run
    Broker(broker::Broker),
    /// Measure how fast records are written and read
    Bench(bench::Bench),
    /// Print a script that completes commands in a shell
    Completion(completion::Completion),
    /// Write manual pages
    Man(completion::Man),
    /// Look at transactions
    Txn(txn::Txn),
    /// Look at the cluster
    Cluster(cluster::Cluster),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    color::choose(cli.color);
    let done = match cli.command {
        Command::Start(start) => start.run(),
        Command::Health(health) => health.run(),
        Command::Dev(dev) => dev.run(),
        Command::Config(config) => config.run(),
        Command::Topic(topic) => topic.run(),
        Command::Produce(produce) => produce.run(),
        Command::Consume(consume) => consume.run(),
        Command::Group(group) => group.run(),
        Command::Log(log) => log.run(),
        Command::Broker(broker) => broker.run(),
        Command::Bench(bench) => bench.run(),
        Command::Completion(completion) => completion.run(Cli::command()),
        Command::Man(man) => man.run(Cli::command()),
        Command::Txn(txn) => txn.run(),
        Command::Cluster(cluster) => cluster.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", color::error("tidelog:"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands_without_example(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
        let shown = command.get_after_help().map(ToString::to_string);
        if !shown.is_some_and(|help| help.starts_with("Example") && help.contains("tidelog ")) {
            missing.push(path.to_owned());
        }
        for inner in command.get_subcommands() {
            commands_without_example(inner, &format!("{path} {}", inner.get_name()), missing);
        }
    }

    #[test]
    fn the_help_of_every_command_has_an_example() {
        let mut missing = Vec::new();
        for command in Cli::command().get_subcommands() {
            commands_without_example(command, command.get_name(), &mut missing);
        }
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn the_definitions_of_the_commands_agree() {
        Cli::command().debug_assert();
    }
}

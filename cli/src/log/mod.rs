//! `tidelog log`: the files of a broker, read without the broker.
//!
//! `list` sums up partitions, `dump` prints a segment or an index, `journal` the journal, `verify`
//! reads everything and reports what is damaged and what becomes of it. All of them only read, and may
//! run beside a broker; what it is writing meanwhile may then look unfinished.

mod dump;
mod journal;
mod list;
mod verify;

use crate::output::{Output, is_closed_pipe};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tidelog log list tidelog-data/1\n  \
                  tidelog log dump tidelog-data/1/partitions/orders-0 --records\n  \
                  tidelog log verify tidelog-data/1")]
pub struct Log {
    /// How to print
    #[arg(long, global = true, value_enum, default_value = "text")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the partitions of a data folder with their segments, offsets and bytes
    #[command(after_help = "Example:\n  tidelog log list tidelog-data/1")]
    List {
        /// The broker's data.dir, or the folder of one partition
        folder: PathBuf,
    },
    /// Print the batches of segments, the entries of their indexes, or the aborted transactions in them
    #[command(
        after_help = "Examples:\n  tidelog log dump tidelog-data/1/partitions/orders-0\n  \
                      tidelog log dump 00000000000000000000.log --records --output json\n  \
                      tidelog log dump 00000000000000000000.index 00000000000000000000.txnindex"
    )]
    Dump(dump::Dump),
    /// Print the batches of the journal, or the Raft records in them
    #[command(after_help = "Examples:\n  tidelog log journal tidelog-data/1\n  \
                      tidelog log journal tidelog-data/1 --records --group 0")]
    Journal(journal::Journal),
    /// Check every checksum, offset and index entry; report what is damaged and what to do
    #[command(after_help = "Examples:\n  tidelog log verify tidelog-data/1\n  \
                      tidelog log verify tidelog-data/1/partitions/orders-0 --output json")]
    Verify {
        /// The broker's data.dir, the folder of one partition, or one segment
        path: PathBuf,
    },
}

impl Log {
    pub fn run(self) -> Result<()> {
        let json = self.output == Output::Json;
        let done = match self.command {
            Command::List { folder } => list::run(&folder, json),
            Command::Dump(dump) => dump.run(json),
            Command::Journal(journal) => journal.run(json),
            Command::Verify { path } => verify::run(&path, json),
        };
        match done {
            Err(error) if is_closed_pipe(&error) => Ok(()),
            done => done,
        }
    }
}

/// The partition folders of a data folder, or the folder itself when it is one.
fn partition_folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let all = folder.join("partitions");
    if !all.is_dir() {
        if tidelog_storage::log::inspect::segments(folder)?.is_empty() {
            bail!(
                "{} has neither a folder partitions nor segments; name a broker's data.dir or the \
                 folder of a partition",
                folder.display()
            );
        }
        return Ok(vec![folder.to_owned()]);
    }
    let entries = std::fs::read_dir(&all).with_context(|| format!("read {}", all.display()))?;
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort_by_key(|path| topic_and_partition(path));
    Ok(folders)
}

/// `orders-10` as `("orders", 10)`, so that it comes after `orders-9`.
fn topic_and_partition(folder: &Path) -> (String, i32) {
    let name = name(folder);
    let split = name
        .rsplit_once('-')
        .and_then(|(topic, n)| Some((topic.to_owned(), n.parse().ok()?)));
    split.unwrap_or((name, -1))
}

/// The last part of a path.
fn name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

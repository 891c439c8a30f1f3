//! `tidelog log journal`: what the journal holds.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tidelog_replication::entry_kind_name;
use tidelog_storage::journal::Record;
use tidelog_storage::journal::inspect::{JournalBatch, JournalFile, files, read_file};

#[derive(Debug, Args)]
pub struct Journal {
    /// The broker's data.dir, its journal folder, or one journal file
    path: PathBuf,
    /// Also the records of each batch
    #[arg(long)]
    records: bool,
    /// Only what concerns this Raft group; 0 is the metadata group
    #[arg(long, value_name = "ID")]
    group: Option<u64>,
}

/// The journal's folder, of a data folder or itself.
pub fn folder(path: &Path) -> PathBuf {
    let inside = path.join("journal");
    if inside.is_dir() {
        inside
    } else {
        path.to_owned()
    }
}

impl Journal {
    pub fn run(&self, json: bool) -> Result<()> {
        let paths = if self.path.is_dir() {
            files(&folder(&self.path))?
        } else {
            vec![self.path.clone()]
        };
        if paths.is_empty() {
            bail!(
                "{} has no *.journal files; name a broker's data.dir or its folder journal",
                self.path.display()
            );
        }
        let mut out = BufWriter::new(std::io::stdout());
        for path in paths {
            let file = read_file(&path)?;
            if !json {
                writeln!(
                    out,
                    "file {}  batches {}  used {} of {} bytes",
                    path.display(),
                    file.batches.len(),
                    file.used_bytes,
                    file.file_bytes
                )?;
            }
            for batch in &file.batches {
                self.print(&mut out, &file, batch, json)?;
            }
        }
        Ok(out.flush()?)
    }

    fn print(
        &self,
        out: &mut impl Write,
        file: &JournalFile,
        batch: &JournalBatch,
        json: bool,
    ) -> Result<()> {
        let wanted = |record: &&Record| self.group.is_none_or(|id| group(record) == id);
        let records: Vec<&Record> = batch.records.iter().filter(wanted).collect();
        if records.is_empty() {
            return Ok(());
        }
        if json {
            let mut line = json!({
                "file": file.sequence, "position": batch.position, "batch": batch.number,
                "bytes": batch.payload_bytes, "records": batch.records.len(),
            });
            if self.records {
                line["records"] = records.iter().map(|record| as_json(record)).collect();
            }
            writeln!(out, "{line}")?;
            return Ok(());
        }
        writeln!(
            out,
            "  position {}  batch {}  records {}  bytes {}",
            batch.position,
            batch.number,
            batch.records.len(),
            batch.payload_bytes
        )?;
        if self.records {
            for record in records {
                writeln!(out, "    group {}  {}", group(record), as_text(record))?;
            }
        }
        Ok(())
    }
}

fn group(record: &Record) -> u64 {
    match record {
        Record::Entry { group, .. }
        | Record::Vote { group, .. }
        | Record::Truncate { group, .. }
        | Record::Checkpoint { group, .. }
        | Record::Committed { group, .. }
        | Record::Remove { group } => group.0,
    }
}

fn as_text(record: &Record) -> String {
    match record {
        Record::Entry { entry, .. } => format!(
            "entry {}  term {}  {}  bytes {}",
            entry.index,
            entry.term,
            entry_kind_name(entry.kind),
            entry.body.len()
        ),
        Record::Vote { .. } => "vote".to_owned(),
        Record::Truncate { after: None, .. } => "truncate all entries".to_owned(),
        Record::Truncate {
            after: Some(after), ..
        } => format!("truncate after {after}"),
        Record::Checkpoint { applied, state, .. } => {
            let applied = applied.map_or("nothing".to_owned(), |(index, _)| index.to_string());
            format!("checkpoint  applied {applied}  state bytes {}", state.len())
        }
        Record::Committed { index, term, .. } => format!("committed {index}  term {term}"),
        Record::Remove { .. } => "removed".to_owned(),
    }
}

fn as_json(record: &Record) -> Value {
    let group = group(record);
    match record {
        Record::Entry { entry, .. } => json!({
            "group": group, "type": "entry", "index": entry.index, "term": entry.term,
            "kind": entry_kind_name(entry.kind), "bytes": entry.body.len(),
        }),
        Record::Vote { .. } => json!({"group": group, "type": "vote"}),
        Record::Truncate { after, .. } => {
            json!({"group": group, "type": "truncate", "after": after})
        }
        Record::Checkpoint { applied, state, .. } => json!({
            "group": group, "type": "checkpoint", "applied": applied.map(|(index, _)| index),
            "state_bytes": state.len(),
        }),
        Record::Committed { index, term, .. } => {
            json!({"group": group, "type": "committed", "index": index, "term": term})
        }
        Record::Remove { .. } => json!({"group": group, "type": "removed"}),
    }
}

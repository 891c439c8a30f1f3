//! `tidelog log verify`: reads all there is, and reports what is damaged, what the broker will do
//! about it by itself, and what a person has to do.

use super::journal::folder as journal_folder;
use super::{name, partition_folders};
use crate::progress::ProgressLine;
use anyhow::{Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use tidelog_storage::journal::inspect::state;
use tidelog_storage::log::inspect::{
    IndexedOffset, SegmentPart, SegmentReader, aborted_transactions, gaps_below, offset_index,
    segments, time_index,
};

const COPIED: &str = "start the broker: whoever reads there gets an error that can be retried while the \
     records are copied from another replica. Without another replica they are lost";
const CUT: &str = "nothing to do: it was being written; a start goes back to the last checkpoint and applies the \
     journal again";
const INDEX: &str = "stop the broker and remove this file; a start builds it anew from the segment";
const ABORTED: &str =
    "start the broker: it builds this file anew from the segments; do not remove it";
const MISSING: &str = "these records are gone from this replica; keep the other replicas running, and restore the \
     whole folder from a copy or see docs/operations.md";
const NOTES: &str = "the broker does not open this partition and serves the others; keep the other replicas running \
     and see docs/operations.md";
const JOURNAL: &str = "start the broker: it sets the journal aside and rebuilds all its replicas from the others, \
     which must be up. A cluster of one broker does not start; see docs/operations.md";

/// What was found at one place.
struct Finding {
    /// False: as a crash leaves it, nothing is lost.
    damage: bool,
    place: String,
    what: String,
    remedy: &'static str,
}

#[derive(Default)]
struct Report {
    partitions: u64,
    segments: u64,
    batches: u64,
    records: u64,
    bytes: u64,
    journal_files: usize,
    groups: usize,
    findings: Vec<Finding>,
    /// A person is told how far it is.
    progress: ProgressLine,
}

pub fn run(path: &Path, json: bool) -> Result<()> {
    let mut report = Report {
        progress: ProgressLine::new(),
        ..Report::default()
    };
    if path.is_dir() {
        if is_in_use(path) {
            eprintln!(
                "a broker runs on {}; what it is writing may look unfinished",
                path.display()
            );
        }
        for folder in partition_folders(path)? {
            report.partition(&folder)?;
        }
        if path.join("journal").is_dir() {
            report.journal(&journal_folder(path))?;
        }
    } else {
        let mut from = None;
        report.segment(path, true, &mut from, i64::MAX)?;
    }
    report.print(json)?;
    match report.damages() {
        0 => Ok(()),
        count => bail!("{count} of the places above are damaged"),
    }
}

fn is_in_use(data: &Path) -> bool {
    let lock = File::open(data.join("broker.lock"));
    lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}

impl Report {
    fn add(&mut self, damage: bool, place: String, what: String, remedy: &'static str) {
        self.findings.push(Finding {
            damage,
            place,
            what,
            remedy,
        });
    }

    fn damages(&self) -> usize {
        self.findings.iter().filter(|f| f.damage).count()
    }

    fn partition(&mut self, folder: &Path) -> Result<()> {
        self.partitions += 1;
        let gaps_below = match gaps_below(folder) {
            Ok(offset) => offset,
            Err(error) => {
                let place = folder.join("compaction").display().to_string();
                self.add(true, place, error.to_string(), NOTES);
                i64::MAX
            }
        };
        let segments = segments(folder)?;
        let mut next = None;
        for (i, (_, path)) in segments.iter().enumerate() {
            self.show(folder);
            self.segment(path, i + 1 == segments.len(), &mut next, gaps_below)?;
        }
        Ok(())
    }

    /// `next` is the offset the segment has to begin with, then the one that has to follow it.
    fn segment(
        &mut self,
        path: &Path,
        last: bool,
        next: &mut Option<i64>,
        gaps_below: i64,
    ) -> Result<()> {
        let mut reader = match SegmentReader::open(path) {
            Ok(reader) => reader,
            // Retention or compaction took it meanwhile.
            Err(_) if !path.exists() && path.parent().is_some_and(Path::exists) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.segments += 1;
        let base = path.file_stem().and_then(|s| s.to_str()?.parse().ok());
        let base: i64 = base.unwrap_or(0);
        let aborted = path.with_extension("txnindex");
        if let Err(error) = aborted_transactions(&aborted) {
            let remedy = if last { CUT } else { ABORTED };
            self.add(
                !last,
                aborted.display().to_string(),
                error.to_string(),
                remedy,
            );
        }
        let mut index = IndexCheck::new(path, self);
        let mut hole = next.is_some_and(|next| next < base).then_some(0);
        next.get_or_insert(base);
        while let Some(part) = reader.next_part()? {
            match part {
                SegmentPart::Batch(batch) => {
                    let header = &batch.header;
                    if next.is_some_and(|next| next < header.base_offset) {
                        hole.get_or_insert(batch.position);
                    }
                    if let Some(at) = hole.take()
                        && base >= gaps_below
                    {
                        let (from, to) = (next.unwrap_or(0), header.base_offset);
                        let place = format!("{}:{at}", path.display());
                        self.add(
                            true,
                            place,
                            format!("offsets [{from}, {to}) are missing"),
                            MISSING,
                        );
                    }
                    *next = Some(header.last_offset() + 1);
                    self.batches += 1;
                    self.records += u64::try_from(header.record_count).unwrap_or(0);
                    self.bytes += batch.bytes.len() as u64;
                    index.batch(batch.position, header.last_offset());
                }
                SegmentPart::Unreadable { from, to, reason } => {
                    let at_end = last && to == reader.file_bytes();
                    let place = format!("{}:{from}", path.display());
                    let what = format!("{} bytes are no batch: {reason}", to - from);
                    self.add(!at_end, place, what, if at_end { CUT } else { COPIED });
                    index.unreadable(from, to);
                    if !at_end {
                        // What is missing is told already.
                        *next = None;
                    }
                }
                SegmentPart::Reserved { .. } => {}
            }
        }
        index.end(last, self);
        Ok(())
    }

    fn journal(&mut self, folder: &Path) -> Result<()> {
        let found = state(folder)?;
        self.journal_files = found.files;
        self.groups = found.recovered.groups.len();
        if let Some(damage) = found.recovered.damage {
            let place = format!("{}:{}", damage.file.display(), damage.position);
            self.add(true, place, damage.reason, JOURNAL);
        }
        for torn in found.unfinished {
            let place = format!("{}:{}", torn.file.display(), torn.position);
            self.add(
                false,
                place,
                "a batch was being written and was not acknowledged".to_owned(),
                "nothing to do: a start cuts it",
            );
        }
        Ok(())
    }

    /// A line that is written over, for a person who watches.
    fn show(&self, folder: &Path) {
        let (partitions, megabytes) = (self.partitions, self.bytes / 1_000_000);
        let name = name(folder);
        self.progress
            .show(&format!("{partitions} partitions, {megabytes} MB; {name}"));
    }

    fn print(&self, json: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        self.progress.clear();
        if json {
            writeln!(out, "{}", self.as_json())?;
            return Ok(());
        }
        for finding in &self.findings {
            let kind = if finding.damage {
                "damaged"
            } else {
                "unfinished"
            };
            writeln!(out, "{kind} {}", finding.place)?;
            writeln!(out, "  found   {}", finding.what)?;
            writeln!(out, "  remedy  {}", finding.remedy)?;
        }
        writeln!(
            out,
            "{} partitions, {} segments, {} batches, {} records, {} bytes; journal: {} files, {} groups",
            self.partitions,
            self.segments,
            self.batches,
            self.records,
            self.bytes,
            self.journal_files,
            self.groups
        )?;
        match self.damages() {
            0 => writeln!(out, "no damage")?,
            count => writeln!(out, "{count} damaged")?,
        }
        Ok(())
    }

    fn as_json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "damage": finding.damage, "place": finding.place, "found": finding.what,
                "remedy": finding.remedy,
            })
        });
        json!({
            "partitions": self.partitions, "segments": self.segments, "batches": self.batches,
            "records": self.records, "bytes": self.bytes, "journal_files": self.journal_files,
            "groups": self.groups, "damaged": self.damages(),
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}

/// Follows a segment's offset index beside its batches.
struct IndexCheck {
    place: String,
    entries: std::vec::IntoIter<IndexedOffset>,
    due: Option<IndexedOffset>,
    wrong: Option<String>,
}

impl IndexCheck {
    fn new(segment: &Path, report: &mut Report) -> IndexCheck {
        let path = segment.with_extension("index");
        let time_path = segment.with_extension("timeindex");
        if let Err(error) = time_index(&time_path) {
            report.add(
                true,
                time_path.display().to_string(),
                error.to_string(),
                INDEX,
            );
        }
        let mut entries = match offset_index(&path) {
            Ok(entries) => entries.into_iter(),
            Err(error) => {
                report.add(true, path.display().to_string(), error.to_string(), INDEX);
                Vec::new().into_iter()
            }
        };
        IndexCheck {
            place: path.display().to_string(),
            due: entries.next(),
            entries,
            wrong: None,
        }
    }

    fn batch(&mut self, position: u64, last_offset: i64) {
        while let Some(due) = self.due
            && due.position <= position
        {
            if due.position != position || due.offset != last_offset {
                let (offset, at) = (due.offset, due.position);
                self.wrong.get_or_insert_with(|| {
                    format!(
                        "it says that the batch that ends with offset {offset} begins at byte {at}"
                    )
                });
            }
            self.due = self.entries.next();
        }
    }

    /// Entries into damage cannot be judged.
    fn unreadable(&mut self, from: u64, to: u64) {
        while let Some(due) = self.due
            && due.position < to
        {
            if due.position < from {
                self.wrong.get_or_insert_with(|| {
                    format!("it says that a batch begins at byte {}", due.position)
                });
            }
            self.due = self.entries.next();
        }
    }

    fn end(mut self, last: bool, report: &mut Report) {
        // The segment being written may lose its end in a crash; a start cuts the index too.
        if let Some(due) = self.due
            && !last
        {
            self.wrong.get_or_insert_with(|| {
                format!(
                    "it says that a batch begins at byte {}, after the end",
                    due.position
                )
            });
        }
        if let Some(wrong) = self.wrong {
            report.add(true, self.place, wrong, INDEX);
        }
    }
}

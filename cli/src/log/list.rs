//! `tidelog log list`: what lies in a data folder.

use super::{name, partition_folders};
use crate::output::Table;
use anyhow::Result;
use serde_json::json;
use std::io::Write;
use std::path::Path;
use tidelog_storage::log::inspect::{SegmentPart, SegmentReader, segments};

struct Listed {
    partition: String,
    segments: usize,
    start: i64,
    end: i64,
    bytes: u64,
}

pub fn run(folder: &Path, json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut table = Table::new(["PARTITION", "SEGMENTS", "START", "END", "BYTES"]);
    for folder in partition_folders(folder)? {
        let Some(listed) = look_while_it_changes(&folder)? else {
            continue;
        };
        if json {
            let line = json!({
                "partition": listed.partition, "segments": listed.segments,
                "start_offset": listed.start, "end_offset": listed.end, "bytes": listed.bytes,
            });
            writeln!(out, "{line}")?;
        }
        table.row([
            listed.partition,
            listed.segments.to_string(),
            listed.start.to_string(),
            listed.end.to_string(),
            listed.bytes.to_string(),
        ]);
    }
    if !json {
        table.print(&mut out)?;
    }
    Ok(())
}

/// The broker may be running: what it has removed meanwhile is not listed, and does not end the list.
fn look_while_it_changes(folder: &Path) -> Result<Option<Listed>> {
    /// Looks at a folder whose files go one after another.
    const LOOKS_MAX: usize = 5;
    for _ in 1..LOOKS_MAX {
        match look(folder) {
            Ok(listed) => return Ok(Some(listed)),
            Err(_) if !folder.exists() => return Ok(None),
            Err(_) => {}
        }
    }
    look(folder).map(Some)
}

/// Reads the last segment for the end of the log; of the others their names and sizes do.
fn look(folder: &Path) -> Result<Listed> {
    let segments = segments(folder)?;
    let start = segments.first().map_or(0, |(base, _)| *base);
    let mut listed = Listed {
        partition: name(folder),
        segments: segments.len(),
        start,
        end: start,
        bytes: 0,
    };
    for (i, (base, path)) in segments.iter().enumerate() {
        let mut reader = SegmentReader::open(path)?;
        if i + 1 < segments.len() {
            listed.bytes += reader.file_bytes();
            continue;
        }
        listed.end = *base;
        while let Some(part) = reader.next_part()? {
            if let SegmentPart::Batch(batch) = part {
                listed.end = batch.header.last_offset() + 1;
                listed.bytes += batch.bytes.len() as u64;
            }
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_gone_is_not_listed_and_one_that_cannot_be_read_is_told_of() {
        let dir = tempfile::tempdir().expect("a folder");
        let gone = look_while_it_changes(&dir.path().join("gone-0"));
        assert!(gone.expect("no error").is_none());
        let file = dir.path().join("file-0");
        std::fs::write(&file, "not a folder").expect("written");
        assert!(look_while_it_changes(&file).is_err());
    }
}

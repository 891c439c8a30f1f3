//! `tidelog log dump`: the batches and records of segments, the entries of indexes, aborted transactions.

use super::partition_folders;
use crate::consume::insert_bytes;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use tidelog_storage::batch::{EndTxnMarker, RecordView, for_each_record};
use tidelog_storage::log::inspect::{
    AbortedTransaction, SegmentBatch, SegmentPart, SegmentReader, aborted_transactions,
    offset_index, segments, time_index,
};

/// Bytes of a key or value that are shown to people.
const SHOWN_BYTES: usize = 200;

#[derive(Debug, Args)]
pub struct Dump {
    /// Segments (.log), indexes (.index, .timeindex), aborted transactions (.txnindex) or folders of partitions
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Also the records of each batch
    #[arg(long)]
    records: bool,
    /// Only batches that end at or after this offset
    #[arg(long, value_name = "OFFSET")]
    from: Option<i64>,
    /// Stop after so many batches or entries
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

impl Dump {
    pub fn run(&self, json: bool) -> Result<()> {
        let mut printer = Printer {
            out: std::io::BufWriter::new(std::io::stdout()),
            json,
            left: self.limit.unwrap_or(u64::MAX),
        };
        for path in &self.paths {
            for file in files(path)? {
                self.dump(&file, &mut printer)?;
            }
        }
        Ok(printer.out.flush()?)
    }

    fn dump(&self, file: &Path, printer: &mut Printer) -> Result<()> {
        match file.extension().and_then(|e| e.to_str()) {
            Some("log") => self.dump_segment(file, printer),
            Some("index") => {
                for entry in offset_index(file)? {
                    let (offset, position) = (entry.offset, entry.position);
                    printer.entry(
                        || format!("offset {offset}  position {position}"),
                        || json!({ "offset": offset, "position": position }),
                    )?;
                }
                Ok(())
            }
            Some("timeindex") => {
                for entry in time_index(file)? {
                    let (time, offset) = (entry.timestamp_ms, entry.offset);
                    printer.entry(
                        || format!("timestamp {time}  offset {offset}"),
                        || json!({ "timestamp_ms": time, "offset": offset }),
                    )?;
                }
                Ok(())
            }
            Some("txnindex") => {
                for entry in aborted_transactions(file)? {
                    printer.entry(|| aborted_text(&entry), || aborted_json(&entry))?;
                }
                Ok(())
            }
            _ => bail!(
                "{} is no .log, .index, .timeindex or .txnindex file; `tidelog log journal` reads the journal",
                file.display()
            ),
        }
    }

    fn dump_segment(&self, file: &Path, printer: &mut Printer) -> Result<()> {
        let mut reader = SegmentReader::open(file)?;
        let from = self.from.unwrap_or(i64::MIN);
        while printer.left > 0
            && let Some(part) = reader.next_part()?
        {
            match part {
                SegmentPart::Batch(batch) if batch.header.last_offset() < from => {}
                SegmentPart::Batch(batch) => {
                    printer.entry(|| batch_text(&batch), || batch_json(&batch))?;
                    if self.records {
                        printer.records(&batch)?;
                    }
                }
                SegmentPart::Unreadable { from, to, reason } => printer.entry(
                    || format!("position {from}  UNREADABLE  bytes {}  {reason}", to - from),
                    || json!({"position": from, "bytes": to - from, "unreadable": reason}),
                )?,
                SegmentPart::Reserved { from, to } => printer.entry(
                    || format!("position {from}  reserved  bytes {}", to - from),
                    || json!({"position": from, "bytes": to - from, "reserved": true}),
                )?,
            }
        }
        Ok(())
    }
}

/// The file itself, or the segments of a folder.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for folder in partition_folders(path)? {
        files.extend(segments(&folder)?.into_iter().map(|(_, path)| path));
    }
    Ok(files)
}

struct Printer {
    out: std::io::BufWriter<std::io::Stdout>,
    json: bool,
    left: u64,
}

impl Printer {
    fn entry(&mut self, text: impl Fn() -> String, json: impl Fn() -> Value) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        if self.json {
            writeln!(self.out, "{}", json())?;
        } else {
            writeln!(self.out, "{}", text())?;
        }
        Ok(())
    }

    fn records(&mut self, batch: &SegmentBatch) -> Result<()> {
        let mut written = Ok(());
        for_each_record(&batch.bytes, |record| {
            written = if self.json {
                writeln!(self.out, "{}", record_json(&record))
            } else {
                writeln!(self.out, "    {}", record_text(&record))
            };
            written.is_ok()
        })?;
        Ok(written?)
    }
}

fn batch_text(batch: &SegmentBatch) -> String {
    let header = &batch.header;
    let mut text = format!(
        "position {}  offsets {}..{}  records {}  bytes {}  epoch {}  time {}",
        batch.position,
        header.base_offset,
        header.last_offset(),
        header.record_count,
        batch.bytes.len(),
        header.leader_epoch,
        header.max_timestamp,
    );
    // Writing to a string cannot fail.
    if header.is_idempotent() {
        let _ = write!(
            text,
            "  producer {}:{}  sequence {}",
            header.producer_id, header.producer_epoch, header.base_sequence
        );
    }
    if let Ok(codec) = header.compression()
        && codec.id() != 0
    {
        let _ = write!(text, "  {}", format!("{codec:?}").to_lowercase());
    }
    if header.is_transactional() {
        text.push_str("  transactional");
    }
    if let Some(marker) = marker(batch) {
        let _ = write!(text, "  {marker}");
    }
    let _ = write!(text, "  crc {:08x}", header.crc);
    text
}

/// What a control batch says.
fn marker(batch: &SegmentBatch) -> Option<&'static str> {
    if !batch.header.is_control() {
        return None;
    }
    Some(match EndTxnMarker::parse(&batch.bytes) {
        Ok(Some(marker)) if marker.commit => "commit",
        Ok(Some(_)) => "abort",
        _ => "control",
    })
}

fn batch_json(batch: &SegmentBatch) -> Value {
    let header = &batch.header;
    let codec = header
        .compression()
        .map(|c| format!("{c:?}").to_lowercase());
    let producer = header.is_idempotent().then(|| {
        json!({
            "id": header.producer_id, "epoch": header.producer_epoch,
            "base_sequence": header.base_sequence,
        })
    });
    json!({
        "position": batch.position, "bytes": batch.bytes.len(), "base_offset": header.base_offset,
        "last_offset": header.last_offset(), "records": header.record_count,
        "leader_epoch": header.leader_epoch, "max_timestamp_ms": header.max_timestamp,
        "compression": codec.ok(), "producer": producer,
        "transactional": header.is_transactional(), "control": marker(batch),
        "delete_horizon_ms": header.delete_horizon_ms(), "crc": header.crc,
    })
}

fn aborted_text(entry: &AbortedTransaction) -> String {
    format!(
        "producer {}  offsets {}..{}  last stable {}",
        entry.producer_id, entry.first_offset, entry.last_offset, entry.last_stable_offset
    )
}

fn aborted_json(entry: &AbortedTransaction) -> Value {
    json!({
        "producer_id": entry.producer_id, "first_offset": entry.first_offset,
        "last_offset": entry.last_offset, "last_stable_offset": entry.last_stable_offset,
    })
}

/// For people: not all of what is long.
fn shown(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "null".to_owned(),
        Some(bytes) if bytes.len() > SHOWN_BYTES => {
            let left = bytes.len() - SHOWN_BYTES;
            format!(
                "\"{}\" and {left} bytes",
                bytes[..SHOWN_BYTES].escape_ascii()
            )
        }
        Some(bytes) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

fn record_text(record: &RecordView<'_>) -> String {
    let mut text = format!(
        "offset {}  time {}  key {}  value {}",
        record.offset,
        record.timestamp,
        shown(record.key),
        shown(record.value)
    );
    match record.headers() {
        Ok(headers) => {
            for (key, value) in headers {
                // Writing to a string cannot fail.
                let _ = write!(text, "  header {}={}", key.escape_ascii(), shown(value));
            }
        }
        Err(error) => drop(write!(text, "  {error}")),
    }
    text
}

fn record_json(record: &RecordView<'_>) -> Value {
    let mut object = Map::new();
    object.insert("offset".into(), json!(record.offset));
    object.insert("timestamp_ms".into(), json!(record.timestamp));
    let copied = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
    for (name, bytes) in [("key", record.key), ("value", record.value)] {
        insert_bytes(&mut object, name, copied(bytes).as_ref());
    }
    match record.headers() {
        Ok(headers) => {
            let headers = headers.into_iter().map(|(key, value)| {
                let mut header = Map::new();
                insert_bytes(&mut header, "key", copied(Some(key)).as_ref());
                insert_bytes(&mut header, "value", copied(value).as_ref());
                Value::Object(header)
            });
            object.insert("headers".into(), headers.collect());
        }
        Err(error) => drop(object.insert("headers_unreadable".into(), json!(error.to_string()))),
    }
    Value::Object(object)
}

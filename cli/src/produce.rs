//! `tidelog produce`: every line is a record.

use crate::output::{self, Target, name_value, unescape};
use anyhow::{Context, Result, anyhow, bail};
use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidelog_client::{Acks, Compression, Header, Producer, ProducerConfig, Record};
use tokio::sync::mpsc;
use tokio::time::Instant;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  seq 1 10 | tidelog produce numbers\n  \
                        tidelog produce users --file users.txt --key-separator : --compression zstd")]
pub struct Produce {
    #[command(flatten)]
    target: Target,
    topic: String,
    /// Read lines from this file, not from standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What stands between key and value on each line; \t and other escapes are known
    #[arg(long, value_name = "TEXT", value_parser = separator)]
    key_separator: Option<Separator>,
    /// A header for every record; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_value)]
    header: Vec<(String, String)>,
    /// Who must have a record: all replicas in sync, the leader, or nobody
    #[arg(long, value_enum, default_value = "all")]
    acks: AcksArg,
    #[arg(long, default_value = "none", value_name = "none|gzip|snappy|lz4|zstd")]
    compression: Compression,
    /// Write to this partition only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AcksArg {
    All,
    #[value(alias = "1")]
    Leader,
    #[value(alias = "0")]
    None,
}

#[derive(Debug, Clone)]
struct Separator(Vec<u8>);

fn separator(text: &str) -> Result<Separator, String> {
    match unescape(text)? {
        bytes if bytes.is_empty() => Err("is empty".to_owned()),
        bytes => Ok(Separator(bytes)),
    }
}

/// A line longer than this is refused rather than held in memory.
const LINE_BYTES_MAX: usize = 64 << 20;
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks read ahead of what is sent.
const BLOCKS_AHEAD: usize = 8;
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

impl Produce {
    pub fn run(self) -> Result<()> {
        output::run(self.send())
    }

    async fn send(self) -> Result<()> {
        let input: Box<dyn Read + Send> = match &self.file {
            Some(path) => {
                Box::new(File::open(path).with_context(|| format!("open {}", path.display()))?)
            }
            None => Box::new(std::io::stdin()),
        };
        let (acks, idempotent) = match self.acks {
            AcksArg::All => (Acks::All, true),
            AcksArg::Leader => (Acks::Leader, false),
            AcksArg::None => (Acks::None, false),
        };
        let config = ProducerConfig::default()
            .with_acks(acks)
            .with_idempotent(idempotent)
            .with_compression(self.compression);
        let producer = Producer::new(self.target.client()?, config).await?;
        let (blocks, mut read) = mpsc::channel(BLOCKS_AHEAD);
        let reader = tokio::task::spawn_blocking(move || read_blocks(input, &blocks));
        let mut lines = Lines::new(&self);
        let mut meter = Meter::new();
        let sent = async {
            while let Some(block) = read.recv().await {
                lines.send(&producer, &block).await?;
                let progress = producer.progress();
                if let Some(error) = progress.first_error {
                    return Err(error.into());
                }
                meter.show(progress.delivered_records, lines.bytes);
            }
            anyhow::Ok(())
        };
        // What was sent before a bad line is still written.
        let sent = sent.await;
        let flushed = producer.flush().await;
        let progress = producer.progress();
        meter.finish(progress.delivered_records, lines.bytes);
        let failure = progress
            .first_error
            .or(flushed.err())
            .map(anyhow::Error::from);
        if let Some(error) = sent.err().or(failure) {
            return Err(after(progress.delivered_records, error));
        }
        drop(read);
        reader.await.context("read the input")??;
        if self.target.json() {
            let done = json!({
                "topic": self.topic,
                "records": progress.delivered_records,
                "bytes": lines.bytes,
                "seconds": meter.started.elapsed().as_secs_f64(),
            });
            writeln!(std::io::stdout(), "{done}")?;
        }
        Ok(())
    }
}

/// Says how much was written before the failure; a failure before anything was is told as it is,
/// with its remedy.
fn after(delivered_records: u64, error: anyhow::Error) -> anyhow::Error {
    if delivered_records == 0 {
        return error;
    }
    anyhow!("{error:#}; {delivered_records} records were written before")
}

/// Reads until the end or until nobody wants more; every block ends where a line does.
fn read_blocks(mut input: impl Read, blocks: &mpsc::Sender<Bytes>) -> Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let filled = buffer.len();
        buffer.resize(filled + BLOCK_BYTES, 0);
        let count = input.read(&mut buffer[filled..]);
        let count = count.context("read the input")?;
        buffer.truncate(filled + count);
        if count == 0 {
            if !buffer.is_empty() {
                // Nobody may listen any more; then somebody else tells why.
                let _ = blocks.blocking_send(buffer.freeze());
            }
            return Ok(());
        }
        let newline = buffer[filled..].iter().rposition(|&byte| byte == b'\n');
        match newline {
            Some(at) => {
                let block = buffer.split_to(filled + at + 1).freeze();
                if blocks.blocking_send(block).is_err() {
                    return Ok(());
                }
            }
            None if buffer.len() > LINE_BYTES_MAX => {
                bail!("a line is longer than {LINE_BYTES_MAX} bytes; nothing of it was sent");
            }
            None => {}
        }
    }
}

/// Makes records of lines.
struct Lines {
    topic: Arc<str>,
    partition: Option<i32>,
    headers: Vec<Header>,
    separator: Option<Vec<u8>>,
    number: u64,
    bytes: u64,
}

impl Lines {
    fn new(args: &Produce) -> Lines {
        let headers = args.header.iter().map(|(key, value)| Header {
            key: key.clone(),
            value: Some(value.clone().into()),
        });
        Lines {
            topic: args.topic.as_str().into(),
            partition: args.partition,
            headers: headers.collect(),
            separator: args.key_separator.as_ref().map(|s| s.0.clone()),
            number: 0,
            bytes: 0,
        }
    }

    async fn send(&mut self, producer: &Producer, block: &Bytes) -> Result<()> {
        let text = block.strip_suffix(b"\n").unwrap_or(block);
        for line in text.split(|&byte| byte == b'\n') {
            self.number += 1;
            self.bytes += line.len() as u64;
            let record = self.record(block.slice_ref(line))?;
            // Its fate is told by Producer::progress.
            let _delivery = producer.send(record).await?;
        }
        Ok(())
    }

    fn record(&self, line: Bytes) -> Result<Record> {
        let (key, value) = match &self.separator {
            None => (None, line),
            Some(separator) => {
                let at = find(&line, separator).with_context(|| {
                    let separator = separator.escape_ascii();
                    format!("line {} has no \"{separator}\" after a key", self.number)
                })?;
                (Some(line.slice(..at)), line.slice(at + separator.len()..))
            }
        };
        Ok(Record {
            topic: self.topic.clone(),
            partition: self.partition,
            key,
            value: Some(value),
            headers: self.headers.clone(),
            timestamp_ms: None,
        })
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window == wanted)
}

/// Shows how far it is, on a terminal only.
struct Meter {
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Meter {
    fn new() -> Meter {
        Meter {
            started: Instant::now(),
            shown: None,
            // While lines are typed, progress would stand between them.
            terminal: std::io::stderr().is_terminal() && !std::io::stdin().is_terminal(),
        }
    }

    fn show(&mut self, records: u64, bytes: u64) {
        if self.terminal && self.shown.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            self.shown = Some(Instant::now());
            eprint!("\r{}", self.line(records, bytes));
        }
    }

    fn finish(&self, records: u64, bytes: u64) {
        if self.terminal {
            eprintln!("\r{}", self.line(records, bytes));
        }
    }

    fn line(&self, records: u64, bytes: u64) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let megabytes = bytes as f64 / 1e6;
        format!(
            "{records} records written, {megabytes:.1} MB read, {:.1} MB/s ",
            megabytes / seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of a few.
    struct Pieces(Vec<u8>, usize);

    impl Read for Pieces {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let count = self.1.min(self.0.len()).min(out.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    #[test]
    fn blocks_end_where_lines_do_however_the_input_comes() {
        for piece in 1..12 {
            let text = b"one\n\ntwo three\nlast without end".to_vec();
            let (sender, mut receiver) = mpsc::channel(64);
            read_blocks(Pieces(text.clone(), piece), &sender).unwrap();
            drop(sender);
            let mut all = Vec::new();
            while let Ok(block) = receiver.try_recv() {
                assert!(all.is_empty() || all.ends_with(b"\n"));
                all.extend_from_slice(&block);
            }
            assert_eq!(all, text, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_key_ends_at_the_first_separator() {
        assert_eq!(find(b"a::b::c", b"::"), Some(1));
        assert_eq!(find(b"abc", b"::"), None);
        assert_eq!(find(b":", b"::"), None);
    }
}

//! `tidelog consume`: prints the records of a topic.

use crate::output::{self, Target, base64, unescape};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::{BufWriter, Write};
use tidelog_client::{
    Consumer, ConsumerConfig, ConsumerRecord, Fetched, OffsetReset, StartPosition,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tidelog consume numbers\n  \
                        tidelog consume users --follow --format '%p:%o %k=%v\\n'\n  \
                        tidelog consume users --partition 0 --offset -10")]
pub struct Consume {
    #[command(flatten)]
    target: Target,
    topic: String,
    /// Start at the first record; what happens anyway without --follow
    #[arg(long, conflicts_with = "offset")]
    from_beginning: bool,
    /// Start here: an offset, earliest, latest, -N for the last N, or @MILLISECONDS for a time
    #[arg(long, allow_hyphen_values = true, value_parser = start)]
    offset: Option<Start>,
    /// Read this partition only; may be given several times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Wait for new records; starts after the last one unless told where
    #[arg(long, short)]
    follow: bool,
    /// Stop after this many
    #[arg(long, value_name = "N")]
    max_records: Option<u64>,
    /// How to print a record: %k key, %v value, %o offset, %p partition, %t topic, %T time in
    /// milliseconds since 1970, %h headers, %% a percent sign; \n, \t and other escapes are known
    #[arg(long, default_value = "%v\\n", value_parser = format)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    At(StartPosition),
    Last(i64),
}

fn start(text: &str) -> Result<Start, String> {
    let number = |text: &str| {
        let number = text.parse::<i64>().ok().filter(|&n| n >= 0);
        number.ok_or_else(|| "is no offset, earliest, latest, -N or @MILLISECONDS".to_owned())
    };
    Ok(match text {
        "earliest" | "beginning" => Start::At(StartPosition::Earliest),
        "latest" | "end" => Start::At(StartPosition::Latest),
        _ => match (text.strip_prefix('-'), text.strip_prefix('@')) {
            (Some(last), _) => Start::Last(number(last)?),
            (_, Some(time)) => Start::At(StartPosition::Timestamp(number(time)?)),
            _ => Start::At(StartPosition::Offset(number(text)?)),
        },
    })
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Format(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Key,
    Value,
    Offset,
    Partition,
    Topic,
    Time,
    Headers,
}

fn format(text: &str) -> Result<Format, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        pieces.push(Piece::Text(unescape(&rest[..at])?));
        let mut after = rest[at + 1..].chars();
        pieces.push(match after.next() {
            Some('k') => Piece::Key,
            Some('v' | 's') => Piece::Value,
            Some('o') => Piece::Offset,
            Some('p') => Piece::Partition,
            Some('t') => Piece::Topic,
            Some('T') => Piece::Time,
            Some('h') => Piece::Headers,
            Some('%') => Piece::Text(b"%".to_vec()),
            Some(other) => return Err(format!("%{other} stands for nothing; see --help")),
            None => return Err("it ends with a single %; write %%".to_owned()),
        });
        rest = after.as_str();
    }
    pieces.push(Piece::Text(unescape(rest)?));
    pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
    Ok(Format(pieces))
}

impl Consume {
    pub fn run(self) -> Result<()> {
        output::run(async move {
            // A reader that takes nothing more from a pipe keeps the first interrupt from being
            // seen; the second ends the process whatever it does.
            tokio::spawn(async {
                for _ in 0..2 {
                    if tokio::signal::ctrl_c().await.is_err() {
                        return;
                    }
                }
                std::process::exit(0);
            });
            tokio::select! {
                done = self.read() => done,
                signal = tokio::signal::ctrl_c() => signal.context("wait for an interrupt"),
            }
        })
    }

    async fn read(&self) -> Result<()> {
        let config = ConsumerConfig::default().with_offset_reset(OffsetReset::Fail);
        let mut consumer = Consumer::new(self.target.client()?, config).await?;
        let partitions = if self.partition.is_empty() {
            consumer.partitions(&self.topic).await?
        } else {
            self.partition.clone()
        };
        let starts = self.starts(&consumer, &partitions).await?;
        // Where to stop: what is there now.
        let mut left = if self.follow {
            HashMap::new()
        } else {
            self.ends(&consumer, &partitions).await?
        };
        let starts_of = starts.iter().map(|(p, at)| (self.topic.clone(), *p, *at));
        consumer.assign(starts_of).await?;
        if !self.follow {
            self.check_offset(&left)?;
            let known = starts.iter().map(|(p, at)| (self.topic.clone(), *p, *at));
            for (_, partition, from) in consumer.offsets(known).await? {
                if left.get(&partition).is_some_and(|&end| from >= end) {
                    left.remove(&partition);
                }
            }
        }
        let mut printer = Printer::new(self);
        while (self.follow || !left.is_empty()) && !printer.is_done() {
            let fetched = consumer.next().await?;
            let end = left.get(&fetched.partition).copied();
            if self.follow || end.is_some() {
                printer.print(&fetched, end)?;
            }
            if end.is_some_and(|end| fetched.next_offset >= end) {
                left.remove(&fetched.partition);
            }
        }
        Ok(())
    }

    /// An offset that no partition has reached is a mistake rather than a wish for nothing.
    fn check_offset(&self, ends: &HashMap<i32, i64>) -> Result<()> {
        if let Some(Start::At(StartPosition::Offset(offset))) = self.offset
            && let Some(last) = ends.values().max()
            && offset > *last
        {
            bail!(
                "offset {offset} is after the end of topic {:?}, which is at {last}",
                self.topic
            );
        }
        Ok(())
    }

    async fn starts(
        &self,
        consumer: &Consumer,
        partitions: &[i32],
    ) -> Result<Vec<(i32, StartPosition)>> {
        let default = if self.follow && !self.from_beginning {
            StartPosition::Latest
        } else {
            StartPosition::Earliest
        };
        let last = match self.offset {
            Some(Start::Last(last)) => last,
            at => {
                let at = match at {
                    Some(Start::At(at)) => at,
                    _ => default,
                };
                return Ok(partitions.iter().map(|&p| (p, at)).collect());
            }
        };
        let places = |at| partitions.iter().map(move |&p| (self.topic.clone(), p, at));
        let first = consumer.offsets(places(StartPosition::Earliest)).await?;
        let ends = self.ends(consumer, partitions).await?;
        let starts = first.into_iter().map(|(_, partition, first)| {
            let end = ends.get(&partition).copied().unwrap_or(first);
            (partition, StartPosition::Offset((end - last).max(first)))
        });
        Ok(starts.collect())
    }

    async fn ends(&self, consumer: &Consumer, partitions: &[i32]) -> Result<HashMap<i32, i64>> {
        let places = partitions
            .iter()
            .map(|&p| (self.topic.clone(), p, StartPosition::Latest));
        let ends = consumer.offsets(places).await?;
        Ok(ends.into_iter().map(|(_, p, end)| (p, end)).collect())
    }
}

struct Printer<'a> {
    args: &'a Consume,
    out: BufWriter<std::io::Stdout>,
    left: Option<u64>,
}

impl<'a> Printer<'a> {
    fn new(args: &'a Consume) -> Printer<'a> {
        Printer {
            args,
            out: BufWriter::with_capacity(64 << 10, std::io::stdout()),
            left: args.max_records,
        }
    }

    fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Prints the records before `end`, and leaves none in the buffer.
    fn print(&mut self, fetched: &Fetched, end: Option<i64>) -> Result<()> {
        for record in &fetched.records {
            if self.is_done() || end.is_some_and(|end| record.offset >= end) {
                break;
            }
            if self.args.target.json() {
                writeln!(self.out, "{}", as_json(record))?;
            } else {
                self.args.format.write(&mut self.out, record)?;
            }
            if let Some(left) = &mut self.left {
                *left -= 1;
            }
        }
        Ok(self.out.flush()?)
    }
}

impl Format {
    fn write(&self, out: &mut impl Write, record: &ConsumerRecord) -> std::io::Result<()> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.write_all(text)?,
                Piece::Key => out.write_all(record.key.as_deref().unwrap_or_default())?,
                Piece::Value => out.write_all(record.value.as_deref().unwrap_or_default())?,
                Piece::Offset => write!(out, "{}", record.offset)?,
                Piece::Partition => write!(out, "{}", record.partition)?,
                Piece::Topic => out.write_all(record.topic.as_bytes())?,
                Piece::Time => write!(out, "{}", record.timestamp_ms)?,
                Piece::Headers => write_headers(out, record)?,
            }
        }
        Ok(())
    }
}

/// `name=value,name=value`.
fn write_headers(out: &mut impl Write, record: &ConsumerRecord) -> std::io::Result<()> {
    for (i, header) in record.headers.iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        write!(out, "{}=", header.key)?;
        out.write_all(header.value.as_deref().unwrap_or_default())?;
    }
    Ok(())
}

/// Bytes that are no UTF-8 stand under their name with `_base64` behind it.
fn as_json(record: &ConsumerRecord) -> Value {
    let mut object = Map::new();
    object.insert("topic".into(), json!(&*record.topic));
    object.insert("partition".into(), json!(record.partition));
    object.insert("offset".into(), json!(record.offset));
    object.insert("timestamp_ms".into(), json!(record.timestamp_ms));
    insert_bytes(&mut object, "key", record.key.as_ref());
    insert_bytes(&mut object, "value", record.value.as_ref());
    let headers = record.headers.iter().map(|header| {
        let mut object = Map::new();
        object.insert("key".into(), json!(header.key));
        insert_bytes(&mut object, "value", header.value.as_ref());
        Value::Object(object)
    });
    object.insert("headers".into(), headers.collect());
    Value::Object(object)
}

pub fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&Bytes>) {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => object.insert(name.to_owned(), Value::Null),
        Some(Ok(text)) => object.insert(name.to_owned(), json!(text)),
        Some(Err(bytes)) => object.insert(format!("{name}_base64"), json!(base64(bytes))),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ConsumerRecord {
        ConsumerRecord {
            topic: "t".into(),
            partition: 3,
            offset: 7,
            timestamp_ms: 1234,
            key: Some("k".into()),
            value: Some(Bytes::from_static(b"\xff")),
            headers: vec![
                tidelog_client::Header {
                    key: "a".into(),
                    value: Some("1".into()),
                },
                tidelog_client::Header {
                    key: "b".into(),
                    value: None,
                },
            ],
        }
    }

    #[test]
    fn a_format_prints_each_part() {
        let record = record();
        let mut out = Vec::new();
        let format = format(r"%t %p %o %T %k %v %h 100%%\n").unwrap();
        format.write(&mut out, &record).unwrap();
        assert_eq!(out, b"t 3 7 1234 k \xff a=1,b= 100%\n");
        for wrong in ["%q", "%", r"\q"] {
            super::format(wrong).unwrap_err();
        }
    }

    #[test]
    fn json_keeps_bytes_that_are_no_text() {
        let record = record();
        let expected = json!({
            "topic": "t", "partition": 3, "offset": 7, "timestamp_ms": 1234, "key": "k",
            "value_base64": "/w==",
            "headers": [{"key": "a", "value": "1"}, {"key": "b", "value": null}],
        });
        assert_eq!(as_json(&record), expected);
    }

    #[test]
    fn a_start_is_an_offset_a_word_the_last_few_or_a_time() {
        assert_eq!(start("7"), Ok(Start::At(StartPosition::Offset(7))));
        assert_eq!(start("-7"), Ok(Start::Last(7)));
        assert_eq!(start("@7"), Ok(Start::At(StartPosition::Timestamp(7))));
        assert_eq!(start("end"), Ok(Start::At(StartPosition::Latest)));
        for wrong in ["", "x", "--1", "@-1", "@"] {
            start(wrong).unwrap_err();
        }
    }
}

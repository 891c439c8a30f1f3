//! What the commands that talk to a cluster share: where it is, how to print, what to tell when it
//! fails.

use anyhow::{Context, Error, Result};
use clap::{Args, ValueEnum};
use std::future::Future;
use std::io::{self, Write};
use std::time::Duration;
use tidelog_client::{Admin, ClientConfig};

/// Where `tidelog dev` starts a cluster.
const BOOTSTRAP: &str = "127.0.0.1:9092";

/// Which cluster, and how to print what it says.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Brokers to start from, as HOST:PORT[,HOST:PORT...]; without it the profile's, else those of
    /// TIDELOG_BOOTSTRAP, else 127.0.0.1:9092
    #[arg(long, global = true, value_name = "ADDRESSES", value_parser = addresses)]
    bootstrap: Option<String>,
    /// A cluster by its name in the file of profiles, with its addresses, TLS and SASL; without it
    /// that of TIDELOG_PROFILE. The file is TIDELOG_PROFILES or ~/.config/tidelog/profiles.toml
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// How to print
    #[arg(long, global = true, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

fn addresses(text: &str) -> Result<String, String> {
    match ClientConfig::new(text).check() {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Target {
    /// How to reach the cluster.
    ///
    /// # Errors
    /// When the profile or the addresses cannot be used.
    pub fn client(&self) -> Result<ClientConfig> {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let from_environment = var("TIDELOG_BOOTSTRAP");
        let name = self.profile.clone().or_else(|| var("TIDELOG_PROFILE"));
        // Addresses without a profile mean a cluster that the default profile does not describe.
        let addressed = self.bootstrap.is_some() || from_environment.is_some();
        let profile = if name.is_none() && addressed {
            None
        } else {
            crate::profile::load(name.as_deref())?
        };
        let profile = profile.unwrap_or_default();
        let of_profile = profile.bootstrap.clone();
        let chosen = if self.profile.is_some() {
            of_profile.or(from_environment)
        } else {
            from_environment.or(of_profile)
        };
        let bootstrap = self.bootstrap.clone().or(chosen);
        let bootstrap = bootstrap.unwrap_or_else(|| BOOTSTRAP.to_owned());
        // A misspelled name is told soon; news of a new topic takes milliseconds.
        let client = ClientConfig::new(&bootstrap)
            .with_client_id("tidelog-cli")
            .with_unknown_topic_timeout(Duration::from_secs(1));
        client.check()?;
        profile.secure(client)
    }

    pub fn json(&self) -> bool {
        self.output == Output::Json
    }

    /// Runs a command against the cluster to its end; it is told whether to print JSON.
    ///
    /// # Errors
    /// The command's, with what can be done about it.
    pub fn administer(&self, command: impl AsyncFnOnce(&Admin, bool) -> Result<()>) -> Result<()> {
        run(async {
            let admin = Admin::new(self.client()?).await?;
            command(&admin, self.json()).await
        })
    }
}

/// Runs a command to its end. A reader of a pipe that had enough is no failure.
pub fn run(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let done = runtime.block_on(command);
    // A thread may still wait for a line from a terminal.
    runtime.shutdown_background();
    match done {
        Err(error) if is_closed_pipe(&error) => Ok(()),
        Err(error) => Err(with_remedy(error)),
        Ok(()) => Ok(()),
    }
}

pub fn is_closed_pipe(error: &Error) -> bool {
    let mut causes = error.chain().filter_map(|c| c.downcast_ref::<io::Error>());
    causes.any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Adds what can be done about it, where that is known.
pub fn with_remedy(error: Error) -> Error {
    use tidelog_client::{Error as Client, ErrorCode};
    let remedy = match error.downcast_ref::<Client>() {
        Some(Client::NoBroker { .. }) => {
            "is it running? `tidelog dev` starts a cluster here, --bootstrap names another"
                .to_owned()
        }
        Some(Client::UnknownTopic { topic }) => format!(
            "`tidelog topic list` shows those that do, `tidelog topic create {topic}` makes it"
        ),
        Some(Client::Broker { code, .. }) if *code == ErrorCode::OFFSET_OUT_OF_RANGE => {
            "`tidelog topic describe` shows the offsets that are kept".to_owned()
        }
        Some(Client::Broker { code, .. }) if *code == ErrorCode::BROKER_ID_NOT_REGISTERED => {
            "`tidelog broker list` shows those that are there".to_owned()
        }
        _ => return error,
    };
    Error::msg(format!("{error}; {remedy}"))
}

/// Rows under a header, each column as wide as its widest cell; numbers to the right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(header: [&str; N]) -> Table {
        Table {
            rows: vec![header.map(str::to_owned).to_vec()],
        }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let (header, body) = (&self.rows[0], &self.rows[1..]);
        let columns: Vec<(usize, bool)> = (0..header.len())
            .map(|column| {
                let width = self
                    .rows
                    .iter()
                    .map(|row| row[column].chars().count())
                    .max();
                let is_number = |row: &Vec<String>| row[column].parse::<i64>().is_ok();
                let numbers = !body.is_empty() && body.iter().all(is_number);
                (width.unwrap_or(0), numbers)
            })
            .collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, &(width, right)) in row.iter().zip(&columns) {
                let cell = if right {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                };
                line.push_str(&cell);
                line.push_str("  ");
            }
            let line = line.trim_end();
            if index == 0 {
                writeln!(out, "{}", crate::color::heading(line))?;
            } else {
                writeln!(out, "{line}")?;
            }
        }
        Ok(())
    }
}

/// `1,2,3`, or `-` for none.
pub fn ids(ids: &[i32]) -> String {
    if ids.is_empty() {
        return "-".to_owned();
    }
    let ids: Vec<String> = ids.iter().map(i32::to_string).collect();
    ids.join(",")
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([&0, &0])
            .take(3)
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        for i in 0..4 {
            let sextet = (word >> (18 - 6 * i)) as usize & 63;
            out.push(if i <= chunk.len() {
                BASE64[sextet] as char
            } else {
                '='
            });
        }
    }
    out
}

/// A topic id as Kafka prints it: base64 for URLs, without padding.
pub fn topic_id(id: &[u8; 16]) -> String {
    base64(id)
        .trim_end_matches('=')
        .replace('+', "-")
        .replace('/', "_")
}

/// Splits `NAME=VALUE`.
pub fn name_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give NAME=VALUE".to_owned()),
    }
}

/// Replaces `\n`, `\t`, `\r`, `\0`, `\\` and `\xHH` by what they stand for.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [rest.next(), rest.next()].map(|d| d.map(char::from));
                let digit = |d: Option<char>| d.and_then(|d| d.to_digit(16));
                match digits.map(digit) {
                    [Some(high), Some(low)] => (high * 16 + low) as u8,
                    _ => return Err("\\x takes two hexadecimal digits".to_owned()),
                }
            }
            Some(other) => return Err(format!("\\{} stands for nothing", char::from(other))),
            None => return Err("it ends with a single \\; write \\\\".to_owned()),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let cases = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let encoded = [
            "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy",
        ];
        for (plain, expected) in cases.iter().zip(encoded) {
            assert_eq!(base64(plain.as_bytes()), expected);
        }
    }

    #[test]
    fn escapes_stand_for_their_bytes() {
        assert_eq!(unescape(r"a\tb\n\\\x00\xfF").unwrap(), b"a\tb\n\\\x00\xff");
        for wrong in [r"\q", r"\", r"\x1", r"\xgg"] {
            unescape(wrong).unwrap_err();
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["name", "n"]);
        table.row(["a".into(), "10".into()]);
        table.row(["longer".into(), "7".into()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        let expected = "name     n\na       10\nlonger   7\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

//! `tidelog health`: asks the HTTP endpoint of the broker beside it, for images without a shell.

use crate::start::Settings;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs};
use std::time::Duration;
use tidelog_broker::config::host_port;

const LIMIT: Duration = Duration::from_secs(3);

/// Succeeds when the broker answers; its settings say where.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidelog health --ready --config /etc/tidelog/broker.toml")]
pub struct Health {
    #[command(flatten)]
    settings: Settings,
    /// Also that it is registered and has all its replicas open
    #[arg(long)]
    ready: bool,
}

impl Health {
    pub fn run(self) -> Result<()> {
        let config = self.settings.load()?;
        let listener = config.text("http.listener");
        let path = if self.ready { "/readyz" } else { "/healthz" };
        let status = get(listener, path).with_context(|| format!("http://{listener}{path}"))?;
        if status != 200 {
            bail!("http://{listener}{path} answers {status}");
        }
        println!("{}", if self.ready { "ready" } else { "alive" });
        Ok(())
    }
}

/// The status that a server on this machine answers with.
fn get(listener: &str, path: &str) -> Result<u16> {
    let (host, port) = host_port(listener).context("http.listener is not HOST:PORT")?;
    let mut address = (host, port)
        .to_socket_addrs()?
        .next()
        .context("no such host")?;
    if address.ip().is_unspecified() {
        // It listens on every address.
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {listener}\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let status = line.split_whitespace().nth(1).and_then(|s| s.parse().ok());
    status.with_context(|| format!("not an HTTP answer: {line:?}"))
}

//! What a broker runs on: the machine, or a simulated one.
//!
//! [`Host::System`] is sockets, threads for work that waits for the disk, and the journal's own
//! threads. A [`SimulatedHost`] takes their places in the simulation (`jepsen/tests/simulation`), where one
//! thread runs several brokers and a seed decides what happens when. Time is tokio's everywhere, which
//! a simulation can stop and move.

mod stream;

pub use stream::{ReadHalf, Stream, WriteHalf};

use futures_util::future::BoxFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidelog_storage::error::StorageError;
use tidelog_storage::journal::{Journal, JournalConfig, Recovered};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// Where a broker runs.
#[derive(Clone)]
pub enum Host {
    System,
    Simulated(Arc<dyn SimulatedHost>),
}

/// A connection of a simulated network.
pub trait SimulatedStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Waits for the first byte, which stays to be read; `None` at the end.
    fn peek(&mut self) -> BoxFuture<'_, io::Result<Option<u8>>>;
}

/// Accepts connections of a simulated network.
pub trait SimulatedListener: Send + Sync {
    /// The next connection, and who made it.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn SimulatedStream>, SocketAddr)>>;
}

/// A machine that is not there.
pub trait SimulatedHost: Send + Sync {
    fn bind(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn SimulatedListener>>>;
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn SimulatedStream>>>;
    /// Connects gRPC to what `endpoint` names.
    fn connect_grpc(
        &self,
        endpoint: Endpoint,
    ) -> BoxFuture<'static, Result<Channel, tonic::transport::Error>>;
    /// Opens a journal whose turns are taken by this host.
    ///
    /// # Errors
    /// Those of [`Journal::open`].
    fn open_journal(&self, config: JournalConfig) -> Result<(Journal, Recovered), StorageError>;
    /// How long the next work on the disk takes.
    fn disk_time(&self) -> Duration;
}

impl Host {
    /// Does work that waits for the disk where it holds nothing up.
    pub fn disk_work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match self {
            Host::System => tokio::task::spawn_blocking(work),
            Host::Simulated(host) => {
                let time = host.disk_time();
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    work()
                })
            }
        }
    }

    pub(crate) fn open_journal(
        &self,
        config: JournalConfig,
    ) -> Result<(Journal, Recovered), StorageError> {
        match self {
            Host::System => Journal::open(config),
            Host::Simulated(host) => host.open_journal(config),
        }
    }

    /// Listens at `HOST:PORT`.
    ///
    /// # Errors
    /// When the address is taken, or none of this host's.
    pub async fn bind(&self, address: &str) -> io::Result<Listener> {
        Ok(match self {
            Host::System => Listener::Tcp(TcpListener::bind(address).await?),
            Host::Simulated(host) => Listener::Simulated(host.bind(address.to_owned()).await?),
        })
    }

    pub(crate) async fn connect(&self, address: &str) -> io::Result<Stream> {
        Ok(match self {
            Host::System => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Host::Simulated(host) => Stream::Simulated(host.connect(address.to_owned()).await?),
        })
    }

    pub(crate) async fn connect_grpc(
        &self,
        endpoint: Endpoint,
    ) -> Result<Channel, tonic::transport::Error> {
        match self {
            Host::System => endpoint.connect().await,
            Host::Simulated(host) => host.connect_grpc(endpoint).await,
        }
    }
}

/// Accepts connections.
pub enum Listener {
    Tcp(TcpListener),
    Simulated(Box<dyn SimulatedListener>),
}

impl Listener {
    /// The next connection, and who made it.
    ///
    /// # Errors
    /// Those of the system, most of which pass.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), peer))
            }
            Listener::Simulated(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Simulated(stream), peer))
            }
        }
    }

    /// The port that the system chose for port 0.
    pub fn port(&self) -> Option<u16> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok().map(|a| a.port()),
            Listener::Simulated(_) => None,
        }
    }
}

//! What a node runs on: the machine, or a simulated one.
//!
//! [`Host::System`] is sockets, threads for work that waits for the disk, and the journal's own
//! threads. A [`SimulatedHost`] takes their places in the simulation (`tests/simulation`), where one
//! thread runs several nodes and a seed decides what happens when. Time is tokio's everywhere, which
//! a simulation can stop and move.

mod stream;

pub(crate) use stream::Stream;

use futures_util::future::BoxFuture;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tidelog_storage::error::StorageError;
use tidelog_storage::journal::{Journal, JournalConfig, Recovered};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// Where a node runs.
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
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn SimulatedStream>>>;
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
    pub(crate) fn disk_work<T: Send + 'static>(
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

    pub(crate) async fn bind(&self, address: &str) -> io::Result<Listener> {
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
pub(crate) enum Listener {
    Tcp(TcpListener),
    Simulated(Box<dyn SimulatedListener>),
}

impl Listener {
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }
            Listener::Simulated(listener) => listener.accept().await.map(Stream::Simulated),
        }
    }
}

//! How connections are made: over TCP, or by what a [`Connector`] does instead.

use crate::config::ClientConfig;
use futures_util::future::BoxFuture;
use socket2::{SockRef, Socket};
use std::fmt::Debug;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connection to a broker.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// Makes connections by other means than TCP: through a proxy, or on a simulated network.
pub trait Connector: Debug + Send + Sync {
    /// Connects to `address` (`host:port`), as the bootstrap addresses or a broker give it. Dropping the
    /// stream ends the connection.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>>;
}

/// A connection of TCP, or another one.
pub(crate) enum Connected {
    Tcp(TcpStream),
    Other(Box<dyn ByteStream>),
}

impl Connected {
    pub(crate) async fn to(address: &str, config: &ClientConfig) -> io::Result<Connected> {
        if let Some(connector) = &config.connector {
            return connector.connect(address).await.map(Connected::Other);
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connected::Tcp(stream))
    }

    /// A second handle of the socket, if there is one.
    pub(crate) fn socket(&self) -> io::Result<Option<Socket>> {
        match self {
            Connected::Tcp(stream) => SockRef::from(stream).try_clone().map(Some),
            Connected::Other(_) => Ok(None),
        }
    }
}

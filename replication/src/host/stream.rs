//! One connection, of a peer or a client.

use super::SimulatedStream;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tonic::transport::server::Connected;

/// A connection, of the system's or of a simulated network.
pub enum Stream {
    Tcp(TcpStream),
    Simulated(Box<dyn SimulatedStream>),
}

/// Of a [`Stream`].
pub enum ReadHalf {
    Tcp(OwnedReadHalf),
    Simulated(tokio::io::ReadHalf<Box<dyn SimulatedStream>>),
}

/// Of a [`Stream`].
pub enum WriteHalf {
    Tcp(OwnedWriteHalf),
    Simulated(tokio::io::WriteHalf<Box<dyn SimulatedStream>>),
}

impl Stream {
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Stream::Tcp(stream) => {
                let (from, to) = stream.into_split();
                (ReadHalf::Tcp(from), WriteHalf::Tcp(to))
            }
            Stream::Simulated(stream) => {
                let (from, to) = tokio::io::split(stream);
                (ReadHalf::Simulated(from), WriteHalf::Simulated(to))
            }
        }
    }

    /// Waits for the first byte, which stays to be read; `None` at the end.
    pub async fn peek(&mut self) -> io::Result<Option<u8>> {
        match self {
            Stream::Tcp(stream) => {
                let mut first = [0];
                let peeked = stream.peek(&mut first).await?;
                Ok((peeked == 1).then_some(first[0]))
            }
            Stream::Simulated(stream) => stream.peek().await,
        }
    }
}

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// Calls the same method of what is inside.
macro_rules! inner {
    ($this:ident, $kind:ident, $inner:ident => $call:expr) => {
        match $this.get_mut() {
            $kind::Tcp($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            $kind::Simulated($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
        }
    };
}

macro_rules! reads {
    ($kind:ident) => {
        impl AsyncRead for $kind {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                inner!(self, $kind, inner => inner.poll_read(cx, buf))
            }
        }
    };
}

macro_rules! writes {
    ($kind:ident) => {
        impl AsyncWrite for $kind {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                inner!(self, $kind, inner => inner.poll_write(cx, buf))
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                inner!(self, $kind, inner => inner.poll_write_vectored(cx, bufs))
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $kind::Tcp(inner) => inner.is_write_vectored(),
                    $kind::Simulated(inner) => inner.is_write_vectored(),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                inner!(self, $kind, inner => inner.poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                inner!(self, $kind, inner => inner.poll_shutdown(cx))
            }
        }
    };
}

reads!(Stream);
reads!(ReadHalf);
writes!(Stream);
writes!(WriteHalf);

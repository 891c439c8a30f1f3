//! The network between the hosts: turmoil's connections, which a fault can hold back one way.
//!
//! What is on its way through a cut link comes late, as it does where TCP sends again. New connections
//! wait for both ways.

use crate::world::{CLIENTS, host_of};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tidelog_replication::host::{SimulatedListener, SimulatedStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// Which links are cut, as `(from, to)`.
#[derive(Debug, Default)]
pub struct Links(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    cut: BTreeSet<(usize, usize)>,
    /// Connections that clients have given up, by whence they came: nothing more arrives over them.
    reset: BTreeSet<SocketAddr>,
    waiting: Vec<Waker>,
}

impl Links {
    pub fn cut(&self, from: usize, to: usize) {
        self.0.lock().cut.insert((from, to));
    }

    /// Mends what `which` says.
    pub fn mend(&self, which: impl Fn(usize, usize) -> bool) {
        let woken = {
            let mut state = self.0.lock();
            state.cut.retain(|(from, to)| !which(*from, *to));
            std::mem::take(&mut state.waiting)
        };
        for waker in woken {
            waker.wake();
        }
    }

    fn is_reset(&self, from: SocketAddr) -> bool {
        self.0.lock().reset.contains(&from)
    }

    fn poll_open(&self, from: usize, to: usize, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.cut.contains(&(from, to)) {
            state.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// A connection of `me` with `peer`.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// The address of who made it.
    from: SocketAddr,
    links: Arc<Links>,
    me: usize,
    peer: usize,
}

pub async fn connect(links: Arc<Links>, me: usize, address: String) -> io::Result<Connection> {
    let peer = host_at(&address)?;
    poll_fn(|cx| links.poll_open(me, peer, cx)).await;
    poll_fn(|cx| links.poll_open(peer, me, cx)).await;
    let stream = TcpStream::connect(address).await?;
    let from = stream.local_addr()?;
    links.0.lock().reset.remove(&from);
    Ok(Connection {
        stream,
        from,
        links,
        me,
        peer,
    })
}

fn host_at(address: &str) -> io::Result<usize> {
    let host = address.rsplit_once(':').and_then(|(name, _)| host_of(name));
    host.ok_or_else(|| io::Error::other(format!("no host at {address}")))
}

pub struct Listener {
    pub listener: TcpListener,
    pub links: Arc<Links>,
    pub me: usize,
}

impl SimulatedListener for Listener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn SimulatedStream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            let name = turmoil::reverse_lookup(from.ip());
            let peer = name.and_then(|name| host_of(&name));
            let connection: Box<dyn SimulatedStream> = Box::new(Connection {
                from,
                stream,
                links: self.links.clone(),
                me: self.me,
                peer: peer.ok_or_else(|| io::Error::other("a stranger"))?,
            });
            Ok((connection, from))
        })
    }
}

impl SimulatedStream for Connection {
    fn peek(&mut self) -> BoxFuture<'_, io::Result<Option<u8>>> {
        Box::pin(poll_fn(|cx| {
            ready!(self.links.poll_open(self.peer, self.me, cx));
            let mut first = [0];
            let peeked = ready!(self.stream.poll_peek(cx, &mut ReadBuf::new(&mut first)))?;
            Poll::Ready(Ok((peeked == 1).then_some(first[0])))
        }))
    }
}

/// A client resets what it gives up, as the real one does.
impl Drop for Connection {
    fn drop(&mut self) {
        if self.me == CLIENTS {
            self.links.0.lock().reset.insert(self.from);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.links.poll_open(self.peer, self.me, cx));
        if self.links.is_reset(self.from) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! The network between the brokers: turmoil's connections, which a fault can hold back one way.
//!
//! What is on its way through a cut link comes late, as it does where TCP sends again. New connections
//! wait for both ways.

use crate::cluster::address;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tidelog_replication::host::{SimulatedListener, SimulatedStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// Which links are cut, as `(from, to)`.
#[derive(Default)]
pub struct Links(Mutex<State>);

#[derive(Default)]
struct State {
    cut: BTreeSet<(usize, usize)>,
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
pub struct Connection {
    stream: TcpStream,
    links: Arc<Links>,
    me: usize,
    peer: usize,
}

pub async fn connect(links: Arc<Links>, me: usize, address: String) -> io::Result<Connection> {
    let peer = broker_at(&address)?;
    poll_fn(|cx| links.poll_open(me, peer, cx)).await;
    poll_fn(|cx| links.poll_open(peer, me, cx)).await;
    let stream = TcpStream::connect(address).await?;
    Ok(Connection {
        stream,
        links,
        me,
        peer,
    })
}

fn broker_at(wanted: &str) -> io::Result<usize> {
    let found = (1..=crate::cluster::BROKERS_MAX).find(|b| address(*b) == wanted);
    found.ok_or_else(|| io::Error::other(format!("no broker at {wanted}")))
}

pub struct Listener {
    pub listener: TcpListener,
    pub links: Arc<Links>,
    pub me: usize,
}

impl SimulatedListener for Listener {
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn SimulatedStream>>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            let name = turmoil::reverse_lookup(from.ip());
            let peer = (1..=crate::cluster::BROKERS_MAX)
                .find(|b| name.as_deref() == Some(&*crate::cluster::name(*b)));
            let connection: Box<dyn SimulatedStream> = Box::new(Connection {
                stream,
                links: self.links.clone(),
                me: self.me,
                peer: peer.ok_or_else(|| io::Error::other("a stranger"))?,
            });
            Ok(connection)
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

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.links.poll_open(self.peer, self.me, cx));
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

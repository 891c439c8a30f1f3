//! One client connection: requests are read and started in order, answers written in order.
//!
//! Many requests of a connection may be under way at once; what has to happen in order (proposing a
//! batch) happens while the request is started.

use super::RequestContext;
use super::dispatch::{self, Started};
use super::reply::Reply;
use crate::broker::Broker;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::host::{ReadHalf, Stream, WriteHalf};
use tidelog_storage::log::Slice;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

/// Requests of one connection that may be under way at once.
const PIPELINE: usize = 64;
const IOV_MAX: usize = 1024;
/// Pieces of a file below this are copied with what is around them: a call of their own costs more.
const SEND_FILE_BYTES_MIN: usize = 16 * 1024;

/// Serves one client until it leaves, errs, or the broker stops.
pub async fn serve(
    stream: Stream,
    peer: SocketAddr,
    broker: Arc<Broker>,
    mut stop: watch::Receiver<bool>,
) {
    let (read, write) = stream.into_split();
    let (started, answers) = mpsc::channel(PIPELINE);
    let reader = read_requests(read, peer, broker.clone(), started);
    let writer = write_answers(write, answers, broker);
    tokio::select! {
        ((), result) = async { tokio::join!(reader, writer) } => {
            if let Err(error) = result {
                tracing::debug!(%peer, "connection: {error}");
            }
        }
        _ = stop.wait_for(|s| *s) => {}
    }
}

struct UnderWay {
    started: Started,
    /// Held until the answer is written.
    _budget: OwnedSemaphorePermit,
}

async fn read_requests(
    read: ReadHalf,
    peer: SocketAddr,
    broker: Arc<Broker>,
    started: mpsc::Sender<UnderWay>,
) {
    let idle_ms = broker.config.int("connections.max.idle.ms");
    let idle = u64::try_from(idle_ms).map_or(Duration::MAX, Duration::from_millis);
    let mut read = BufReader::with_capacity(16 * 1024, read);
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(idle, read_frame(&mut read, &broker)) => frame,
            // The writer has given up.
            () = started.closed() => return,
        };
        let (frame, budget) = match frame {
            Ok(Ok(Some(frame))) => frame,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    tracing::warn!(%peer, "closing a connection: {error}");
                }
                return;
            }
        };
        let context = RequestContext {
            broker: broker.clone(),
            client_id: None,
            peer,
        };
        // A defect in one handler ends this connection, not the broker.
        let begun = std::panic::catch_unwind(AssertUnwindSafe(|| dispatch::start(context, frame)));
        let request = match begun {
            Ok(Ok(request)) => request,
            Ok(Err(reason)) => {
                tracing::warn!(%peer, "closing a connection: {reason}");
                return;
            }
            Err(_) => {
                tracing::error!(%peer, "a request handler panicked; closing its connection");
                return;
            }
        };
        let under_way = UnderWay {
            started: request,
            _budget: budget,
        };
        if started.send(under_way).await.is_err() {
            return;
        }
    }
}

/// One frame with the budget it is charged to; `None` at the end of the stream.
async fn read_frame(
    read: &mut BufReader<ReadHalf>,
    broker: &Broker,
) -> io::Result<Option<(Bytes, OwnedSemaphorePermit)>> {
    let mut length = [0; 4];
    match read.read_exact(&mut length).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = i32::from_be_bytes(length);
    let max = broker.config.int("socket.request.max.bytes");
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    if length < 8 || i64::from(length) > max {
        return Err(invalid(format!(
            "a request of {length} bytes; socket.request.max.bytes = {max}"
        )));
    }
    let length = length as usize;
    let budget = broker
        .limits
        .take(length)
        .await
        .ok_or_else(|| invalid("the broker is stopping".to_owned()))?;
    // All of it at once: a buffer that grows is copied each time. The budget has been charged for it, and memory that
    // nothing was written to is only an address.
    let mut frame = BytesMut::with_capacity(length);
    while frame.len() < length {
        let left = length - frame.len();
        let read = (&mut *read).take(left as u64).read_buf(&mut frame).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some((frame.freeze(), budget)))
}

async fn write_answers(
    mut write: WriteHalf,
    mut answers: mpsc::Receiver<UnderWay>,
    broker: Arc<Broker>,
) -> io::Result<()> {
    while let Some(under_way) = answers.recv().await {
        let began = under_way.started.began;
        let api = under_way.started.api;
        let bytes_in = under_way.started.bytes;
        let answer = AssertUnwindSafe(under_way.started.answer)
            .catch_unwind()
            .await;
        let reply = match answer {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                tracing::error!(?api, "cannot answer: {error}");
                return Ok(());
            }
            Err(_) => {
                tracing::error!(?api, "a request handler panicked; closing its connection");
                return Ok(());
            }
        };
        let bytes_out = reply.as_ref().map_or(0, Reply::len);
        if let Some(reply) = reply {
            write_all(&mut write, reply.pieces).await?;
        }
        broker
            .metrics
            .request(api, began.elapsed(), bytes_in, bytes_out);
    }
    Ok(())
}

/// Writes all pieces with as few calls as the socket allows. Those that are in a file go from there.
async fn write_all(write: &mut WriteHalf, mut pieces: Vec<Slice>) -> io::Result<()> {
    let mut first = 0;
    while first < pieces.len() {
        let mut written = match (&pieces[first], &mut *write) {
            (piece, WriteHalf::Tcp(write)) if is_sent_from_file(piece) => {
                send_file(write.as_ref(), piece).await?
            }
            (_, WriteHalf::Tcp(write)) => {
                let in_memory = pieces[first..].iter().take_while(|p| !is_sent_from_file(p));
                let slices: Vec<IoSlice<'_>> =
                    in_memory.take(IOV_MAX).map(|p| IoSlice::new(p)).collect();
                write.write_vectored(&slices).await?
            }
            (piece, WriteHalf::Simulated(write)) => write.write(piece).await?,
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while first < pieces.len() && written >= pieces[first].len() {
            written -= pieces[first].len();
            first += 1;
        }
        if written > 0 {
            pieces[first].advance(written);
        }
    }
    Ok(())
}

fn is_sent_from_file(piece: &Slice) -> bool {
    piece.len() >= SEND_FILE_BYTES_MIN && piece.place().is_some()
}

/// Sends what the socket has room for, without copying it through this process; how much that was.
async fn send_file(socket: &TcpStream, piece: &Slice) -> io::Result<usize> {
    let Some((file, position)) = piece.place() else {
        return Ok(0);
    };
    let send = || {
        let mut at = position;
        let sent = rustix::fs::sendfile(socket, file, Some(&mut at), piece.len())?;
        Ok(sent)
    };
    socket.async_io(Interest::WRITABLE, send).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use tokio::net::TcpSocket;

    /// Pieces in memory and of a file arrive in order and whole, also where the socket takes only a part.
    #[tokio::test]
    async fn pieces_from_files_and_memory_arrive_in_order() {
        let mut file = tempfile::tempfile().expect("a file");
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        file.write_all(&content).expect("written");
        let bytes = Bytes::from(content).slice(1_000..);
        let from_file = Slice::in_file(bytes, Arc::new(file), 1_000);
        let mut part = from_file.clone();
        part.advance(from_file.len() - 100);
        let memory = |byte: u8, count: usize| Slice::from(Bytes::from(vec![byte; count]));
        let pieces = vec![
            memory(1, 10),
            from_file.clone(),
            memory(2, 3),
            memory(3, 3 << 20),
            from_file,
            part,
        ];
        let expected = pieces.concat();
        // Far smaller than what is sent.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_send_buffer_size(32 * 1024).expect("set");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let listener = socket.listen(1).expect("listens");
        let address = listener.local_addr().expect("an address");
        let sender = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.expect("accepted");
            let (_read, write) = socket.into_split();
            write_all(&mut WriteHalf::Tcp(write), pieces).await
        });
        let mut socket = TcpStream::connect(address).await.expect("connected");
        let mut got = Vec::new();
        socket.read_to_end(&mut got).await.expect("read");
        sender.await.expect("ended").expect("written");
        assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    }
}

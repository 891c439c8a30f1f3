//! The outgoing side to one broker.

use super::outbox::Outbox;
use super::{Handler, MESSAGE_BYTES_MAX, Transport, WINDOW_BYTES, bulk};
use crate::ids::BrokerId;
use futures_util::StreamExt;
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tidelog_proto::peer::peer_client::PeerClient;
use tidelog_proto::peer::{self as wire, Message, message::Body};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Endpoint;

const RECONNECT_MIN: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_millis(250);
/// Heartbeats go over the bulk connection when nothing else has for so long: behind batches on a slow link they
/// would come late.
const BULK_QUIET: Duration = Duration::from_secs(10);
/// Of those, one in so many goes over gRPC all the same, so that nothing on the way takes that for unused.
const GRPC_EVERY: u64 = 32;

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("no connection to broker {0}")]
    Disconnected(BrokerId),
    #[error("broker {peer} refused: {reason}")]
    Refused { peer: BrokerId, reason: String },
    #[error("broker {0} did not answer in time")]
    Timeout(BrokerId),
    #[error("broker {0} answered with another kind of message")]
    Unexpected(BrokerId),
}

struct Connection {
    outbox: Arc<Outbox>,
    /// For requests and replies that carry batches.
    bulk: Arc<Outbox>,
    bulk_used: Instant,
    /// Heartbeats since `bulk` is quiet.
    quiet_beats: u64,
    pending: HashMap<u64, oneshot::Sender<Body>>,
}

impl Connection {
    fn new(outbox: Arc<Outbox>, bulk: Arc<Outbox>) -> Connection {
        Connection {
            outbox,
            bulk,
            bulk_used: Instant::now(),
            quiet_beats: 0,
            pending: HashMap::new(),
        }
    }

    fn use_bulk(&mut self) -> &Arc<Outbox> {
        self.bulk_used = Instant::now();
        self.quiet_beats = 0;
        &self.bulk
    }

    /// Where the next heartbeat goes. A message over gRPC costs several times what a frame does, and
    /// between brokers at rest there is little else.
    fn for_heartbeat(&mut self) -> &Outbox {
        if self.bulk_used.elapsed() < BULK_QUIET {
            return &self.outbox;
        }
        self.quiet_beats += 1;
        if self.quiet_beats.is_multiple_of(GRPC_EVERY) {
            &self.outbox
        } else {
            &self.bulk
        }
    }
}

/// One other broker, as seen from here.
pub struct Peer {
    pub id: BrokerId,
    address: Mutex<String>,
    /// `Some` while a stream is up.
    connection: Mutex<Option<Connection>>,
    next_request: AtomicU64,
    heard_ms: AtomicU64,
    alive: AtomicBool,
    /// It said that it is about to stop.
    stopping: AtomicBool,
    closed: AtomicBool,
    /// Newest `metadata.version` its build knows, as its last hello said; 0 before the first.
    metadata_version: AtomicU32,
    /// Breaks the present stream, or the wait before the next try.
    kick: Notify,
}

impl Peer {
    pub(super) fn start(
        id: BrokerId,
        address: &str,
        transport: &Arc<Transport>,
        handler: &Arc<dyn Handler>,
    ) -> Arc<Peer> {
        let peer = Arc::new(Peer {
            id,
            address: Mutex::new(address.to_owned()),
            connection: Mutex::new(None),
            next_request: AtomicU64::new(1),
            heard_ms: AtomicU64::new(0),
            alive: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            metadata_version: AtomicU32::new(0),
            kick: Notify::new(),
        });
        tokio::spawn(keep_connected(
            peer.clone(),
            Arc::downgrade(transport),
            handler.clone(),
        ));
        peer
    }

    pub fn set_address(&self, address: &str) {
        let mut current = self.address.lock();
        if *current != address {
            *current = address.to_owned();
            drop(current);
            self.kick.notify_one();
        }
    }

    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn set_stopping(&self, stopping: bool) {
        self.stopping.store(stopping, Ordering::Release);
    }

    /// `None` while it has not introduced itself.
    pub fn known_metadata_version(&self) -> Option<u32> {
        let version = self.metadata_version.load(Ordering::Acquire);
        (version > 0).then_some(version)
    }

    pub(super) fn set_known_metadata_version(&self, version: u32) {
        self.metadata_version.store(version, Ordering::Release);
    }

    pub fn is_connected(&self) -> bool {
        self.connection.lock().is_some()
    }

    pub(super) fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Ordering::Release);
        self.alive.store(true, Ordering::Release);
    }

    /// Marks the peer dead when it was silent for too long. True when that is news.
    pub(crate) fn check_silence(&self, now_ms: u64, suspicion: Duration) -> bool {
        let silent_ms = now_ms.saturating_sub(self.heard_ms.load(Ordering::Acquire));
        silent_ms > suspicion.as_millis() as u64 && self.suspect()
    }

    fn suspect(&self) -> bool {
        let news = self.alive.swap(false, Ordering::AcqRel);
        if news {
            // Requests under way would wait for ever on a peer that hangs.
            self.disconnect();
            self.kick.notify_one();
        }
        news
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.disconnect();
        self.kick.notify_one();
    }

    fn disconnect(&self) {
        if let Some(connection) = self.connection.lock().take() {
            connection.outbox.close();
            connection.bulk.close();
        }
    }

    /// Tells it that this broker is alive, if there is a connection.
    pub fn send_heartbeat(&self, heartbeat: wire::Heartbeat) {
        if let Some(connection) = &mut *self.connection.lock() {
            connection.for_heartbeat().push(Message {
                group: 0,
                request: 0,
                body: Some(Body::Heartbeat(heartbeat)),
            });
        }
    }

    /// Sends without expecting a reply; lost when there is no connection.
    pub fn send(&self, group: u64, body: Body) {
        if let Some(connection) = &*self.connection.lock() {
            connection.outbox.push(Message {
                group,
                request: 0,
                body: Some(body),
            });
        }
    }

    fn register(&self, bulk: bool) -> Option<(u64, Arc<Outbox>, oneshot::Receiver<Body>)> {
        let mut connection = self.connection.lock();
        let connection = connection.as_mut()?;
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (reply, receiver) = oneshot::channel();
        connection.pending.insert(request, reply);
        let outbox = if bulk {
            connection.use_bulk().clone()
        } else {
            connection.outbox.clone()
        };
        Some((request, outbox, receiver))
    }

    fn forget(&self, request: u64) {
        if let Some(connection) = self.connection.lock().as_mut() {
            connection.pending.remove(&request);
        }
    }

    /// Queues a request that carries payload, after waiting for room; the reply comes on the
    /// returned channel, which closes when the connection is lost.
    pub async fn start_request(
        &self,
        group: u64,
        body: Body,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Body>, RequestError> {
        let (request, outbox, receiver) = self
            .register(true)
            .ok_or(RequestError::Disconnected(self.id))?;
        let message = Message {
            group,
            request,
            body: Some(body),
        };
        if outbox.push_with_room(message, bytes).await {
            Ok(receiver)
        } else {
            Err(RequestError::Disconnected(self.id))
        }
    }

    /// Sends a request and waits for its reply.
    pub async fn request(
        &self,
        group: u64,
        body: Body,
        limit: Duration,
    ) -> Result<Body, RequestError> {
        let (request, outbox, receiver) = self
            .register(matches!(body, Body::ReadLog(_)))
            .ok_or(RequestError::Disconnected(self.id))?;
        outbox.push(Message {
            group,
            request,
            body: Some(body),
        });
        match tokio::time::timeout(limit, receiver).await {
            Ok(Ok(Body::Refused(refused))) => Err(RequestError::Refused {
                peer: self.id,
                reason: refused.reason,
            }),
            Ok(Ok(body)) => Ok(body),
            Ok(Err(_)) => Err(RequestError::Disconnected(self.id)),
            Err(_) => {
                self.forget(request);
                Err(RequestError::Timeout(self.id))
            }
        }
    }

    fn complete(&self, request: u64, body: Body) {
        let waiting = self
            .connection
            .lock()
            .as_mut()
            .and_then(|c| c.pending.remove(&request));
        if let Some(waiting) = waiting {
            let _ = waiting.send(body);
        }
    }
}

/// Keeps one stream to the peer until the transport is closed or gone.
async fn keep_connected(peer: Arc<Peer>, transport: Weak<Transport>, handler: Arc<dyn Handler>) {
    let mut pause = RECONNECT_MIN;
    let mut last_error = String::new();
    while !peer.closed.load(Ordering::Acquire) {
        let Some(transport) = transport.upgrade() else {
            return;
        };
        let error = match run_stream(&peer, &transport, &handler).await {
            Ok(()) => {
                pause = RECONNECT_MIN;
                "the stream ended".to_owned()
            }
            Err(error) => {
                // Nobody listens there: the process is gone, no need to wait for silence.
                if error.starts_with("connect") && peer.suspect() {
                    handler.suspected(peer.id);
                }
                error
            }
        };
        peer.disconnect();
        drop(transport);
        if error != last_error {
            tracing::info!(peer = peer.id.0, "peer stream: {error}");
            last_error = error;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = peer.kick.notified() => {}
        }
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

async fn run_stream(
    peer: &Arc<Peer>,
    transport: &Arc<Transport>,
    handler: &Arc<dyn Handler>,
) -> Result<(), String> {
    let address = peer.address.lock().clone();
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| format!("address {address}: {e}"))?
        .connect_timeout(transport.timing.suspicion)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 2);
    let channel = transport
        .host
        .connect_grpc(endpoint)
        .await
        .map_err(|e| format!("connect to {address}: {}", root_cause(&e)))?;
    let mut client = PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);

    let outbox = Outbox::new();
    outbox.push(Message {
        group: 0,
        request: 0,
        body: Some(Body::Hello(transport.hello())),
    });
    let counted = {
        let transport = transport.clone();
        outbox
            .stream()
            .inspect(move |e| transport.count_out(e.encoded_len()))
    };
    // A peer that accepts connections but does not serve them must not hold this up.
    let response = tokio::time::timeout(transport.timing.suspicion * 4, client.exchange(counted))
        .await
        .map_err(|_| "open stream: timed out".to_owned())?
        .map_err(|e| format!("open stream: {}", e.message()))?;
    let mut replies = response.into_inner();
    let result = async {
        let limit = transport.timing.suspicion * 4;
        let first = tokio::time::timeout(limit, replies.message())
            .await
            .map_err(|_| "hello: timed out".to_owned())?
            .map_err(|e| format!("stream: {}", e.message()))?;
        introduced(peer, transport, first)?;
        let bulk = tokio::time::timeout(limit, Bulk::open(peer, transport, &address))
            .await
            .map_err(|_| "bulk connection: timed out".to_owned())??;
        *peer.connection.lock() = Some(Connection::new(outbox.clone(), bulk.outbox.clone()));
        handler.connected(peer.id);
        loop {
            let envelope = tokio::select! {
                envelope = replies.message() => envelope,
                () = peer.kick.notified() => return Ok(()),
            };
            match envelope {
                Ok(Some(envelope)) => {
                    transport.count_in(envelope.encoded_len());
                    received(peer, transport, envelope);
                }
                Ok(None) => return Ok(()),
                Err(status) => return Err(format!("stream: {}", status.message())),
            }
        }
    }
    .await;
    outbox.close();
    result
}

/// Checks the hello that a connection is answered with.
fn introduced(
    peer: &Peer,
    transport: &Transport,
    envelope: Option<wire::Envelope>,
) -> Result<(), String> {
    let first = envelope.and_then(|e| e.messages.into_iter().next());
    match first.and_then(|m| m.body) {
        Some(Body::Hello(hello)) => {
            let id = transport.check_hello(&hello).map_err(|refused| {
                let refusals = &transport.refusals;
                refusals.refusing(peer.id, refused.kind, &refused.reason);
                refused.reason
            })?;
            if id == peer.id {
                peer.heard(transport.now_ms());
                return Ok(());
            }
            let expected = peer.id;
            Err(format!(
                "broker {id} answers where broker {expected} should"
            ))
        }
        Some(Body::Refused(refused)) => {
            let (kind, reason) = (refused.kind(), refused.reason);
            transport.refusals.refused_by(peer.id, kind, &reason);
            Err(reason)
        }
        _ => Err("no hello came".to_owned()),
    }
}

fn received(peer: &Peer, transport: &Transport, envelope: wire::Envelope) {
    peer.heard(transport.now_ms());
    for message in envelope.messages {
        match message.body {
            Some(Body::Refused(refused)) if message.request == 0 => {
                tracing::debug!(peer = peer.id.0, "refused: {}", refused.reason);
            }
            Some(body) => peer.complete(message.request, body),
            None => {}
        }
    }
}

/// The open bulk connection to a peer; it ends when this is dropped.
struct Bulk {
    outbox: Arc<Outbox>,
    tasks: [JoinHandle<()>; 2],
}

impl Bulk {
    async fn open(
        peer: &Arc<Peer>,
        transport: &Arc<Transport>,
        address: &str,
    ) -> Result<Bulk, String> {
        let failed = |e: std::io::Error| format!("bulk connection to {address}: {e}");
        let stream = transport.host.connect(address).await.map_err(failed)?;
        let (mut from, mut to) = stream.into_split();
        to.write_all(bulk::MAGIC).await.map_err(failed)?;
        let hello = bulk::alone(Body::Hello(transport.hello()));
        bulk::write_frame(&mut to, hello).await.map_err(failed)?;
        let answer = bulk::read_frame(&mut from).await.map_err(failed)?;
        introduced(peer, transport, answer.map(|(envelope, _)| envelope))?;

        let outbox = Outbox::new();
        let sender = {
            let (outbox, transport, peer) = (outbox.clone(), transport.clone(), peer.clone());
            tokio::spawn(async move {
                if let Err(error) = bulk::send_all(&mut to, &outbox, &transport).await {
                    tracing::debug!(peer = peer.id.0, "bulk connection: {error}");
                }
                peer.kick.notify_one();
            })
        };
        let reader = {
            let (transport, peer) = (transport.clone(), peer.clone());
            tokio::spawn(async move {
                loop {
                    match bulk::read_frame(&mut from).await {
                        Ok(Some((envelope, bytes))) => {
                            transport.count_in(bytes);
                            received(&peer, &transport, envelope);
                        }
                        Ok(None) => break,
                        Err(error) => {
                            tracing::debug!(peer = peer.id.0, "bulk connection: {error}");
                            break;
                        }
                    }
                }
                peer.kick.notify_one();
            })
        };
        let tasks = [sender, reader];
        Ok(Bulk { outbox, tasks })
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.outbox.close();
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn heartbeats_go_where_they_are_cheap_unless_batches_do() {
        let mut connection = Connection::new(Outbox::new(), Outbox::new());
        let (grpc, bulk) = (connection.outbox.clone(), connection.bulk.clone());
        let ways = |times: u64, connection: &mut Connection| {
            let mut over_grpc = 0;
            for _ in 0..times {
                let way = connection.for_heartbeat();
                assert!(std::ptr::eq(way, &*grpc) || std::ptr::eq(way, &*bulk));
                over_grpc += u64::from(std::ptr::eq(way, &*grpc));
            }
            over_grpc
        };
        for _ in 0..2 {
            assert_eq!(ways(3, &mut connection), 3);
            tokio::time::advance(BULK_QUIET).await;
            assert_eq!(ways(GRPC_EVERY - 1, &mut connection), 0);
            assert_eq!(ways(1 + 2 * GRPC_EVERY, &mut connection), 3);
            connection.use_bulk();
        }
    }
}

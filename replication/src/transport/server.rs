//! The incoming side: one gRPC call and one bulk connection a peer, both on the peer listener; the
//! messages of each handled in order, replies coalesced.

use super::outbox::Outbox;
use super::{Handled, Handler, HelloRefused, MESSAGE_BYTES_MAX, Transport, WINDOW_BYTES, bulk};
use crate::error::ReplicationError;
use crate::host::{Host, Listener, Stream};
use crate::ids::BrokerId;
use futures_util::StreamExt;
use prost::Message as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tidelog_proto::peer::peer_server::{Peer as PeerService, PeerServer};
use tidelog_proto::peer::refused::Kind;
use tidelog_proto::peer::{Envelope, Message, Refused, message::Body};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Connections accepted that gRPC has not taken yet.
const ACCEPTED_MAX: usize = 16;
/// A connection that says nothing is given up.
const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Service {
    transport: Arc<Transport>,
    handler: Arc<dyn Handler>,
    stop: watch::Receiver<bool>,
}

/// Binds the peer listener; apart from [`serve`] so that a taken port is found before anything
/// else happens.
pub(crate) async fn bind(host: &Host, address: &str) -> Result<Listener, ReplicationError> {
    host.bind(address)
        .await
        .map_err(|source| ReplicationError::Listen {
            address: address.to_owned(),
            source,
        })
}

/// Serves peers until `stop` becomes true.
pub(crate) async fn serve(
    listener: Listener,
    transport: Arc<Transport>,
    handler: Arc<dyn Handler>,
    mut stop: watch::Receiver<bool>,
) {
    let service = Service {
        transport,
        handler,
        stop: stop.clone(),
    };
    let (grpc, incoming) = mpsc::channel(ACCEPTED_MAX);
    let accepting = tokio::spawn(accept(listener, service.clone(), grpc, stop.clone()));
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 2)
        .max_frame_size(Some(256 * 1024))
        .add_service(
            PeerServer::new(service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
            let _ = stop.wait_for(|stopped| *stopped).await;
        });
    if let Err(error) = server.await {
        tracing::error!("peer listener: {error}");
    }
    accepting.abort();
}

/// Accepts connections and tells the two kinds apart by their first byte.
async fn accept(
    listener: Listener,
    service: Service,
    grpc: mpsc::Sender<io::Result<Stream>>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stopped| *stopped) => return,
        };
        match accepted {
            Ok((mut stream, _)) => {
                let (service, grpc) = (service.clone(), grpc.clone());
                tokio::spawn(async move {
                    let first = tokio::time::timeout(FIRST_BYTE_LIMIT, stream.peek()).await;
                    let Ok(Ok(Some(first))) = first else {
                        return;
                    };
                    if first == bulk::MAGIC[0] {
                        service.serve_bulk(stream).await;
                    } else {
                        let _ = grpc.send(Ok(stream)).await;
                    }
                });
            }
            Err(error) => {
                // Most likely out of file descriptors: others may become free.
                tracing::warn!("peer listener: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Service {
    /// One bulk connection, until it ends.
    async fn serve_bulk(mut self, stream: Stream) {
        let (mut from, mut to) = stream.into_split();
        let mut magic = [0; bulk::MAGIC.len()];
        if from.read_exact(&mut magic).await.is_err() || magic != *bulk::MAGIC {
            tracing::warn!("peer listener: a connection that is neither gRPC nor a broker's");
            return;
        }
        let outbox = Outbox::new();
        let mut session = Session {
            transport: self.transport.clone(),
            handler: self.handler.clone(),
            outbox: outbox.clone(),
            from: None,
        };
        let replies = {
            let (outbox, transport) = (outbox.clone(), self.transport.clone());
            tokio::spawn(async move {
                if let Err(error) = bulk::send_all(&mut to, &outbox, &transport).await {
                    tracing::debug!("replies to a peer: {error}");
                    outbox.close();
                }
            })
        };
        loop {
            let frame = tokio::select! {
                frame = bulk::read_frame(&mut from) => frame,
                _ = self.stop.wait_for(|stopped| *stopped) => break,
            };
            match frame {
                Ok(Some((envelope, bytes))) => {
                    self.transport.count_in(bytes);
                    if !session.receive_all(envelope) {
                        // The refusal still has to leave.
                        outbox.finish();
                        let _ = replies.await;
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!("peer listener: {error}");
                    break;
                }
            }
        }
        outbox.close();
        replies.abort();
    }
}

#[tonic::async_trait]
impl PeerService for Service {
    type ExchangeStream =
        Pin<Box<dyn futures_util::Stream<Item = Result<Envelope, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<Envelope>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let incoming = request.into_inner();
        let outbox = Outbox::new();
        let transport = self.transport.clone();
        let counted = outbox.stream().map(move |envelope| {
            transport.count_out(envelope.encoded_len());
            Ok(envelope)
        });
        let session = Session {
            transport: self.transport.clone(),
            handler: self.handler.clone(),
            outbox,
            from: None,
        };
        tokio::spawn(session.run(incoming, self.stop.clone()));
        Ok(Response::new(Box::pin(counted)))
    }
}

/// One peer's call.
struct Session {
    transport: Arc<Transport>,
    handler: Arc<dyn Handler>,
    outbox: Arc<Outbox>,
    from: Option<BrokerId>,
}

impl Session {
    async fn run(mut self, mut incoming: Streaming<Envelope>, mut stop: watch::Receiver<bool>) {
        loop {
            let envelope = tokio::select! {
                envelope = incoming.message() => envelope,
                _ = stop.wait_for(|stopped| *stopped) => break,
            };
            let Ok(Some(envelope)) = envelope else { break };
            self.transport.count_in(envelope.encoded_len());
            if !self.receive_all(envelope) {
                // The refusal still has to leave.
                self.outbox.finish();
                return;
            }
        }
        self.outbox.close();
    }

    /// False when the peer has to be turned away.
    fn receive_all(&mut self, envelope: Envelope) -> bool {
        if let Some(from) = self.from {
            self.transport.heard(from);
        }
        envelope.messages.into_iter().all(|m| self.receive(m))
    }

    /// False when the peer has to be turned away.
    fn receive(&mut self, message: Message) -> bool {
        let Some(body) = message.body else {
            return true;
        };
        let Some(from) = self.from else {
            return self.introduce(body);
        };
        match self.handler.handle(from, message.group, body) {
            Handled::Now(None) => {}
            Handled::Now(Some(reply)) => {
                self.outbox.push(Message {
                    group: message.group,
                    request: message.request,
                    body: Some(reply),
                });
            }
            Handled::Later(reply) => {
                let outbox = self.outbox.clone();
                tokio::spawn(async move {
                    if let Some(body) = reply.await {
                        outbox.push(Message {
                            group: message.group,
                            request: message.request,
                            body: Some(body),
                        });
                    }
                });
            }
        }
        true
    }

    fn introduce(&mut self, body: Body) -> bool {
        let verdict = match &body {
            Body::Hello(hello) => self.transport.check_hello(hello),
            _ => Err(HelloRefused {
                kind: Kind::Other,
                reason: "the first message must be a hello".to_owned(),
            }),
        };
        let (accepted, reply) = match verdict {
            Ok(id) => {
                self.from = Some(id);
                if let Body::Hello(hello) = &body
                    && !hello.address.is_empty()
                    && self.transport.peer(id).is_none()
                {
                    // One that joins: it has to hear from this broker, too.
                    self.transport.set_peer(id, &hello.address, &self.handler);
                }
                self.transport.heard(id);
                (true, Body::Hello(self.transport.hello()))
            }
            Err(HelloRefused { kind, reason }) => {
                let peer = match &body {
                    Body::Hello(hello) => hello.broker,
                    _ => -1,
                };
                let refusals = &self.transport.refusals;
                refusals.refusing(BrokerId(peer), kind, &reason);
                if self.transport.refusals.is_news(peer, &reason) {
                    tracing::error!("refused a peer: {reason}");
                }
                let kind = kind.into();
                (false, Body::Refused(Refused { reason, kind }))
            }
        };
        self.outbox.push(Message {
            group: 0,
            request: 0,
            body: Some(reply),
        });
        accepted
    }
}

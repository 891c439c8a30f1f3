//! The incoming side: one call a peer, its messages handled in order, replies coalesced.

use super::outbox::Outbox;
use super::{Handled, Handler, HelloRefused, MESSAGE_BYTES_MAX, Transport, WINDOW_BYTES};
use crate::error::ReplicationError;
use crate::ids::BrokerId;
use futures_util::{Stream, StreamExt};
use prost::Message as _;
use std::pin::Pin;
use std::sync::Arc;
use tidelog_proto::peer::peer_server::{Peer as PeerService, PeerServer};
use tidelog_proto::peer::refused::Kind;
use tidelog_proto::peer::{Envelope, Message, Refused, message::Body};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

struct Service {
    transport: Arc<Transport>,
    handler: Arc<dyn Handler>,
    stop: watch::Receiver<bool>,
}

/// Binds the peer listener; apart from [`serve`] so that a taken port is found before anything
/// else happens.
pub async fn bind(address: &str) -> Result<TcpListener, ReplicationError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ReplicationError::Listen {
            address: address.to_owned(),
            source,
        })
}

/// Serves peers until `stop` becomes true.
pub async fn serve(
    listener: TcpListener,
    transport: Arc<Transport>,
    handler: Arc<dyn Handler>,
    mut stop: watch::Receiver<bool>,
) {
    let service = Service {
        transport,
        handler,
        stop: stop.clone(),
    };
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 2)
        .max_frame_size(Some(256 * 1024))
        .add_service(
            PeerServer::new(service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async move {
                let _ = stop.wait_for(|stopped| *stopped).await;
            },
        );
    if let Err(error) = server.await {
        tracing::error!("peer listener: {error}");
    }
}

#[tonic::async_trait]
impl PeerService for Service {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<Envelope, Status>> + Send>>;

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
            if let Some(from) = self.from {
                self.transport.heard(from);
            }
            for message in envelope.messages {
                if !self.receive(message) {
                    // The refusal still has to leave.
                    self.outbox.finish();
                    return;
                }
            }
        }
        self.outbox.close();
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
                self.transport.heard(id);
                (true, Body::Hello(self.transport.hello()))
            }
            Err(HelloRefused { kind, reason }) => {
                let peer = match &body {
                    Body::Hello(hello) => hello.broker,
                    _ => -1,
                };
                if kind == Kind::OtherCluster {
                    let refusals = &self.transport.refusals;
                    refusals.refused_by(BrokerId(peer), kind, &reason);
                }
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

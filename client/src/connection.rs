//! One TCP connection to a broker: requests are pipelined, answers found by correlation id.
//!
//! A task writes and a task reads; both end when the last handle is dropped or anything fails, and
//! then every waiting request fails with the same reason.

use crate::config::ClientConfig;
#[cfg(feature = "tls")]
use crate::connector;
use crate::connector::Connected;
use crate::error::{Error, ErrorCode, Result};
use crate::security;
use crate::versions::ApiVersions;
use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange,
};
use parking_lot::Mutex;
use socket2::Socket;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const UNSUPPORTED_VERSION: i16 = 35;
/// Bytes of frames that a connection keeps for later ones. New memory for each costs more than the copy into it.
const SPARE_BYTES_MAX: usize = 2 << 20;

/// A handle; clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: Arc<str>,
    client_id: StrBytes,
    versions: ApiVersions,
    /// No longer to be used for anything new after this.
    expires_at: Option<Instant>,
    /// To be reset when it is given up.
    socket: Option<Socket>,
    /// Not bounded here: every caller bounds the requests it has in flight, and a request is
    /// queued at once so that requests leave in the order they were submitted.
    outgoing: mpsc::UnboundedSender<Outgoing>,
    waiting: Arc<Waiting>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[derive(Debug)]
struct Outgoing {
    frame: BytesMut,
    /// Told when the frame is written, for requests that get no answer.
    written: Option<oneshot::Sender<()>>,
}

/// Requests whose answers are awaited.
#[derive(Debug)]
struct Waiting {
    state: Mutex<WaitingState>,
    /// Empty frames, [`SPARE_BYTES_MAX`] together.
    spare: Mutex<Vec<BytesMut>>,
}

#[derive(Debug)]
struct WaitingState {
    next_correlation_id: i32,
    replies: HashMap<i32, oneshot::Sender<Bytes>>,
    /// Why the connection ended, once it did.
    closed: Option<String>,
}

impl Waiting {
    /// An empty frame with room for so many bytes.
    fn frame(&self, bytes: usize) -> BytesMut {
        let mut frame = self.spare.lock().pop().unwrap_or_default();
        frame.reserve(bytes);
        frame
    }

    /// Takes back a frame that is written.
    fn give_back(&self, mut frame: BytesMut) {
        frame.clear();
        let mut spare = self.spare.lock();
        let kept: usize = spare.iter().map(BytesMut::capacity).sum();
        if kept + frame.capacity() <= SPARE_BYTES_MAX {
            spare.push(frame);
        }
    }

    fn close(&self, reason: String) {
        let replies = {
            let mut state = self.state.lock();
            state.closed.get_or_insert(reason);
            std::mem::take(&mut state.replies)
        };
        // A dropped sender is how a waiting request learns of it.
        drop(replies);
    }
}

impl Connection {
    /// Connects to `address` (`host:port`) and agrees on versions, within the connect timeout.
    pub(crate) async fn open(address: &str, config: &ClientConfig) -> Result<Connection> {
        let address: Arc<str> = address.into();
        let fail = |reason: String| Error::Connection {
            address: address.clone(),
            reason,
        };
        let opening = async {
            let stream = Connected::to(&address, config).await;
            let stream = stream.map_err(|e| fail(e.to_string()))?;
            let socket = stream.socket().map_err(|e| fail(e.to_string()))?;
            let mut connection = Connection::secure(address.clone(), stream, config).await?;
            connection.own().socket = socket;
            let versions = connection.ask_versions(config.request_timeout).await?;
            connection.own().versions = versions;
            if let Some(sasl) = &config.sasl {
                let limit = config.request_timeout;
                let lifetime = security::authenticate(&connection, sasl, limit).await?;
                // Another connection is opened well before the broker takes offence (KIP-368).
                let expires_at = lifetime.map(|lifetime| Instant::now() + lifetime.mul_f64(0.8));
                connection.own().expires_at = expires_at;
            }
            Ok(connection)
        };
        match timeout(config.connect_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(fail(format!(
                "no answer within {} ms",
                config.connect_timeout.as_millis()
            ))),
        }
    }

    /// Before any handle is given away.
    fn own(&mut self) -> &mut Inner {
        match Arc::get_mut(&mut self.inner) {
            Some(inner) => inner,
            None => unreachable!("no handle was given away yet"),
        }
    }

    /// Encrypts the stream if the client is set to.
    async fn secure(
        address: Arc<str>,
        stream: Connected,
        config: &ClientConfig,
    ) -> Result<Connection> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &config.tls {
            return match stream {
                Connected::Tcp(stream) => Connection::encrypt(address, stream, tls, config).await,
                Connected::Other(stream) => Connection::encrypt(address, stream, tls, config).await,
            };
        }
        Ok(match stream {
            Connected::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                Connection::start(address, reader, writer, config)
            }
            Connected::Other(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                Connection::start(address, reader, writer, config)
            }
        })
    }

    #[cfg(feature = "tls")]
    async fn encrypt(
        address: Arc<str>,
        stream: impl connector::ByteStream + 'static,
        tls: &security::TlsConfig,
        config: &ClientConfig,
    ) -> Result<Connection> {
        match tls.connect(&address, stream).await {
            Ok(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                Ok(Connection::start(address, reader, writer, config))
            }
            // A certificate that is not trusted stays so.
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(Error::Authentication {
                address,
                reason: e.to_string(),
            }),
            Err(e) => Err(Error::Connection {
                address,
                reason: e.to_string(),
            }),
        }
    }

    fn start(
        address: Arc<str>,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        config: &ClientConfig,
    ) -> Connection {
        let waiting = Arc::new(Waiting {
            state: Mutex::new(WaitingState {
                next_correlation_id: 0,
                replies: HashMap::new(),
                closed: None,
            }),
            spare: Mutex::default(),
        });
        let (outgoing, frames) = mpsc::unbounded_channel();
        let tasks = [
            tokio::spawn(write_frames(writer, frames, waiting.clone())),
            tokio::spawn(read_frames(
                reader,
                waiting.clone(),
                config.response_bytes_max,
            )),
        ];
        Connection {
            inner: Arc::new(Inner {
                address,
                client_id: StrBytes::from_string(config.client_id.clone()),
                versions: ApiVersions::default(),
                expires_at: None,
                socket: None,
                outgoing,
                waiting,
                tasks,
            }),
        }
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.inner.address
    }

    /// Gives the connection up: every waiting request fails with `reason`.
    pub(crate) fn close(&self, reason: &str) {
        self.inner.waiting.close(reason.to_owned());
    }

    /// Gives a connection up whose broker does not answer. What has not arrived there must not arrive any more:
    /// the system would go on sending it for minutes, and a commit of offsets would come after later ones.
    fn abandon(&self, reason: String) {
        if let Some(socket) = &self.inner.socket {
            // The socket is reset when it is closed.
            if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
                tracing::debug!("{}: {error}", self.inner.address);
            }
        }
        self.inner.waiting.close(reason);
    }

    pub(crate) fn is_closed(&self) -> bool {
        let expired = self.inner.expires_at.is_some_and(|at| at <= Instant::now());
        expired || self.inner.waiting.state.lock().closed.is_some()
    }

    /// The highest version of `R` both sides speak, at most `max`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when there is none.
    pub(crate) fn version<R: Request>(&self, max: i16) -> Result<i16> {
        self.inner
            .versions
            .negotiate::<R>(max)
            .ok_or_else(|| Error::Unsupported {
                address: self.inner.address.clone(),
                api: R::KEY,
            })
    }

    /// Every API that the broker speaks, with its versions.
    pub(crate) fn api_ranges(&self) -> Vec<(i16, VersionRange)> {
        self.inner.versions.ranges()
    }

    /// The level of a feature that the whole cluster has agreed on, if it has.
    pub(crate) fn feature(&self, name: &str) -> Option<i16> {
        self.inner.versions.feature(name)
    }

    /// Sends `request` and returns the answer.
    ///
    /// # Errors
    /// [`Error::Connection`] when no answer comes within `limit`; the connection is then closed,
    /// because a broker answers in order.
    pub(crate) async fn send<R: Request>(
        &self,
        version: i16,
        request: &R,
        limit: Duration,
    ) -> Result<R::Response> {
        let reply = self.submit(version, request)?;
        reply.wait(limit).await
    }

    /// Queues `request` at once; requests leave in the order of these calls.
    pub(crate) fn submit<R: Request>(&self, version: i16, request: &R) -> Result<Reply<R>> {
        let (sender, frame) = oneshot::channel();
        self.queue(version, request, Some(sender), None)?;
        Ok(Reply {
            connection: self.clone(),
            frame,
            version,
            request: PhantomData,
        })
    }

    /// Queues a request that gets no answer (Produce with `acks=0`); the receiver is told when it
    /// is written, and dropped when it will not be.
    pub(crate) fn submit_unanswered<R: Request>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<oneshot::Receiver<()>> {
        let (written, done) = oneshot::channel();
        self.queue(version, request, None, Some(written))?;
        Ok(done)
    }

    fn queue<R: Request>(
        &self,
        version: i16,
        request: &R,
        reply: Option<oneshot::Sender<Bytes>>,
        written: Option<oneshot::Sender<()>>,
    ) -> Result<()> {
        let id = {
            let mut state = self.inner.waiting.state.lock();
            let id = state.next_correlation_id;
            state.next_correlation_id = id.wrapping_add(1);
            id
        };
        let frame = self.encode(id, version, request)?;
        {
            let mut state = self.inner.waiting.state.lock();
            if state.closed.is_some() {
                drop(state);
                return Err(self.closed());
            }
            if let Some(reply) = reply {
                state.replies.insert(id, reply);
            }
        }
        let outgoing = Outgoing { frame, written };
        self.inner
            .outgoing
            .send(outgoing)
            .map_err(|_| self.closed())
    }

    fn encode<R: Request>(&self, id: i32, version: i16, request: &R) -> Result<BytesMut> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(id)
            .with_client_id(Some(self.inner.client_id.clone()));
        let header_version = R::header_version(version);
        let encode = || -> Result<BytesMut, Box<dyn std::error::Error + Send + Sync>> {
            let length = header.compute_size(header_version)? + request.compute_size(version)?;
            let mut frame = self.inner.waiting.frame(4 + length);
            frame.extend_from_slice(&i32::try_from(length)?.to_be_bytes());
            header.encode(&mut frame, header_version)?;
            request.encode(&mut frame, version)?;
            Ok(frame)
        };
        encode().map_err(|e| Error::Malformed {
            address: self.inner.address.clone(),
            reason: format!("cannot encode API {} version {version}: {e}", R::KEY),
        })
    }

    fn decode<T: Decodable + HeaderVersion>(&self, mut frame: Bytes, version: i16) -> Result<T> {
        let header = ResponseHeader::decode(&mut frame, T::header_version(version));
        header
            .and_then(|_| T::decode(&mut frame, version))
            .map_err(|e| Error::Malformed {
                address: self.inner.address.clone(),
                reason: e.to_string(),
            })
    }

    /// A broker that does not know our version of ApiVersions answers in version 0 with what it
    /// does know (KIP-511).
    async fn ask_versions(&self, limit: Duration) -> Result<ApiVersions> {
        let newest = <ApiVersionsRequest as kafka_protocol::protocol::Message>::VERSIONS.max;
        let mut version = newest;
        loop {
            let mut request = ApiVersionsRequest::default();
            if version >= 3 {
                request.client_software_name = StrBytes::from_static_str("tidelog-client");
                request.client_software_version =
                    StrBytes::from_static_str(env!("CARGO_PKG_VERSION"));
            }
            let frame = self.submit(version, &request)?.frame(limit).await?;
            // The correlation id, then the error code, in every version.
            let refused = frame.get(4..6) == Some(&UNSUPPORTED_VERSION.to_be_bytes()[..]);
            let response: ApiVersionsResponse =
                self.decode(frame, if refused { 0 } else { version })?;
            if !refused {
                Error::check("ApiVersions", response.error_code, None)?;
                return Ok(ApiVersions::new(&response));
            }
            let theirs = ApiVersions::new(&response)
                .negotiate::<ApiVersionsRequest>(version - 1)
                .unwrap_or(0);
            if version == 0 {
                return Err(Error::broker("ApiVersions", ErrorCode(UNSUPPORTED_VERSION)));
            }
            version = theirs;
        }
    }

    pub(crate) fn closed(&self) -> Error {
        let state = self.inner.waiting.state.lock();
        Error::Connection {
            address: self.inner.address.clone(),
            reason: state.closed.clone().unwrap_or_else(|| "closed".to_owned()),
        }
    }
}

/// The answer to come for a submitted request.
#[derive(Debug)]
pub(crate) struct Reply<R> {
    connection: Connection,
    frame: oneshot::Receiver<Bytes>,
    version: i16,
    request: PhantomData<fn() -> R>,
}

impl<R: Request> Reply<R> {
    /// # Errors
    /// As [`Connection::send`].
    pub(crate) async fn wait(self, limit: Duration) -> Result<R::Response> {
        let connection = self.connection.clone();
        let version = self.version;
        let frame = self.frame(limit).await?;
        connection.decode::<R::Response>(frame, version)
    }

    async fn frame(self, limit: Duration) -> Result<Bytes> {
        match timeout(limit, self.frame).await {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(_)) => Err(self.connection.closed()),
            Err(_) => {
                let reason = format!("no answer within {} ms", limit.as_millis());
                self.connection.abandon(reason);
                Err(self.connection.closed())
            }
        }
    }
}

async fn write_frames(
    mut writer: impl AsyncWrite + Unpin,
    mut frames: mpsc::UnboundedReceiver<Outgoing>,
    waiting: Arc<Waiting>,
) {
    while let Some(outgoing) = frames.recv().await {
        let mut done = writer.write_all(&outgoing.frame).await;
        if done.is_ok() && frames.is_empty() {
            done = writer.flush().await;
        }
        if let Err(e) = done {
            return waiting.close(e.to_string());
        }
        waiting.give_back(outgoing.frame);
        if let Some(written) = outgoing.written {
            // The caller may have stopped waiting.
            let _ = written.send(());
        }
    }
}

async fn read_frames(
    mut reader: impl AsyncRead + Unpin,
    waiting: Arc<Waiting>,
    frame_bytes_max: usize,
) {
    let reason = loop {
        match read_frame(&mut reader, frame_bytes_max).await {
            Ok(frame) => {
                let id = (&frame[..4]).get_i32();
                let reply = waiting.state.lock().replies.remove(&id);
                match reply {
                    // The caller may have stopped waiting.
                    Some(reply) => drop(reply.send(frame)),
                    None => break format!("an answer to request {id}, which was not sent"),
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                break "the broker closed it".to_owned();
            }
            Err(e) => break e.to_string(),
        }
    };
    waiting.close(reason);
}

/// Reads one frame without its length. At least the correlation id is in it.
async fn read_frame(
    reader: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> std::io::Result<Bytes> {
    let length = reader.read_i32().await?;
    let length = usize::try_from(length)
        .ok()
        .filter(|length| (4..=bytes_max).contains(length))
        .ok_or_else(|| {
            std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("an answer of {length} bytes; between 4 and {bytes_max} are taken"),
            )
        })?;
    // Memory is taken as bytes arrive, not for what a length claims.
    let mut frame = BytesMut::with_capacity(length.min(1 << 20));
    let mut limited = reader.take(length as u64);
    while frame.len() < length {
        if limited.read_buf(&mut frame).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame.freeze())
}

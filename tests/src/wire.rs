//! Kafka frames on a plain socket: what no client would send, and what must be asked of one broker.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer of a test is as slow as this.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// One connection to one broker.
pub struct Wire {
    stream: TcpStream,
    next_correlation_id: i32,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn connect(broker: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(broker)
            .await
            .with_context(|| format!("connect to {broker}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            next_correlation_id: 1,
        })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Sends `body` with its length before it.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn send_frame(&mut self, body: &[u8]) -> Result<()> {
        let mut frame = BytesMut::with_capacity(4 + body.len());
        frame.put_i32(body.len().try_into()?);
        frame.put_slice(body);
        self.send_bytes(&frame).await
    }

    /// Receives one frame without its length; `None` when the broker closed the connection.
    ///
    /// # Errors
    /// When nothing comes in time, or half a frame.
    pub async fn receive_frame(&mut self) -> Result<Option<Bytes>> {
        let received = tokio::time::timeout(ANSWER_LIMIT, self.receive_unbounded()).await;
        received.context("no answer and no close within 30 s")?
    }

    async fn receive_unbounded(&mut self) -> Result<Option<Bytes>> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length).await {
            Ok(_) => {}
            // A close with unread data of ours in its buffer arrives as a reset.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        let mut body = vec![0; usize::try_from(i32::from_be_bytes(length))?];
        self.stream.read_exact(&mut body).await?;
        Ok(Some(body.into()))
    }

    /// Encodes a request with its header, without the length.
    ///
    /// # Errors
    /// When the request has no such version or a field does not exist in it.
    pub fn encode<R: Request>(&mut self, request: &R, version: i16) -> Result<(i32, Bytes)> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("tidelog-tests")));
        let mut body = BytesMut::new();
        header.encode(&mut body, R::header_version(version))?;
        request.encode(&mut body, version)?;
        Ok((correlation_id, body.freeze()))
    }

    /// Decodes an answer to a request of type `R`.
    ///
    /// # Errors
    /// When it is none, or its correlation id is another.
    pub fn decode<R: Request>(
        frame: &mut Bytes,
        version: i16,
        correlation_id: i32,
    ) -> Result<R::Response> {
        let header = ResponseHeader::decode(frame, R::Response::header_version(version))?;
        if header.correlation_id != correlation_id {
            bail!(
                "answer to {} where {correlation_id} was asked",
                header.correlation_id
            );
        }
        let response = R::Response::decode(frame, version)?;
        if frame.has_remaining() {
            bail!("{} bytes after the answer", frame.remaining());
        }
        Ok(response)
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// When the connection is closed, or the answer is not one to this request.
    pub async fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        let (correlation_id, body) = self.encode(request, version)?;
        self.send_frame(&body).await?;
        let mut frame = self
            .receive_frame()
            .await?
            .context("closed instead of an answer")?;
        Self::decode::<R>(&mut frame, version, correlation_id)
    }
}

//! The connection that carries replicated batches: frames over plain TCP, on the peer listener.
//!
//! One frame holds an envelope whose large bodies were taken out, and behind it those bodies as they
//! are: they go from the log's memory to the socket, and on the other side stay slices of the buffer
//! the socket was read into. gRPC copies each of them twice a side.
//!
//! ```text
//! u32 bytes of the envelope | u32 bytes of all bodies | envelope (prost) | bodies, in order
//! ```
//! Numbers are little-endian. A connection begins with [`MAGIC`] and a frame with the caller's hello,
//! which is answered by a hello or a refusal.

use super::outbox::Outbox;
use super::{MESSAGE_BYTES_MAX, Transport};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use std::io::{self, IoSlice};
use std::sync::Arc;
use tidelog_proto::peer::{Envelope, Message, message::Body};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a connection begins with; gRPC begins with `PRI`.
pub const MAGIC: &[u8; 8] = b"TIDEBLK1";
const FRAME_HEAD_BYTES: usize = 8;
/// An envelope without its large bodies: at most a MiB of small messages, or one message.
const ENVELOPE_BYTES_MAX: usize = 64 << 20;
/// Bodies below this stay in the envelope: an entry of its own in a vectored write costs more.
const BODY_BYTES_MIN: usize = 512;
/// Buffers are taken as the bytes arrive, so that a length alone takes no memory.
const READ_AHEAD_BYTES: usize = 4 << 20;
/// Slices in one vectored write; the system allows 1024.
const SLICES_MAX: usize = 512;

/// Takes the large bodies out of an envelope, in order.
fn take_bodies(envelope: &mut Envelope) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    let mut take = |body: &mut Bytes, size: &mut u32| {
        if body.len() >= BODY_BYTES_MIN {
            *size = body.len() as u32;
            bodies.push(std::mem::take(body));
        }
    };
    for message in &mut envelope.messages {
        match &mut message.body {
            Some(Body::Append(append)) => {
                for entry in &mut append.entries {
                    take(&mut entry.body, &mut entry.size);
                }
            }
            Some(Body::ReadLogReply(reply)) => take(&mut reply.batches, &mut reply.size),
            _ => {}
        }
    }
    bodies
}

/// Puts them back, as slices of `bodies`.
fn put_bodies(envelope: &mut Envelope, mut bodies: Bytes) -> io::Result<()> {
    let mut put = |body: &mut Bytes, size: &mut u32| {
        let bytes = std::mem::take(size) as usize;
        if bytes > bodies.len() {
            return Err(malformed("a body is longer than its frame"));
        }
        if bytes > 0 {
            *body = bodies.split_to(bytes);
        }
        Ok(())
    };
    for message in &mut envelope.messages {
        match &mut message.body {
            Some(Body::Append(append)) => {
                for entry in &mut append.entries {
                    put(&mut entry.body, &mut entry.size)?;
                }
            }
            Some(Body::ReadLogReply(reply)) => put(&mut reply.batches, &mut reply.size)?,
            _ => {}
        }
    }
    if bodies.is_empty() {
        Ok(())
    } else {
        Err(malformed("a frame has bytes that belong to no message"))
    }
}

fn malformed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Writes one frame; the bodies are not copied. Returns its bytes.
pub async fn write_frame(
    to: &mut (impl AsyncWrite + Unpin),
    mut envelope: Envelope,
) -> io::Result<usize> {
    let bodies = take_bodies(&mut envelope);
    let bodies_bytes: usize = bodies.iter().map(Bytes::len).sum();
    let envelope_bytes = envelope.encoded_len();
    let too_large = |_| malformed("a frame is too large");
    let mut head = BytesMut::with_capacity(FRAME_HEAD_BYTES + envelope_bytes);
    head.put_u32_le(u32::try_from(envelope_bytes).map_err(too_large)?);
    head.put_u32_le(u32::try_from(bodies_bytes).map_err(too_large)?);
    envelope
        .encode(&mut head)
        .map_err(|e| malformed(&e.to_string()))?;
    let bytes = head.len() + bodies_bytes;
    let mut parts: Vec<Bytes> = std::iter::once(head.freeze()).chain(bodies).collect();
    let mut first = 0;
    while first < parts.len() {
        let slices: Vec<IoSlice<'_>> = parts[first..]
            .iter()
            .take(SLICES_MAX)
            .map(|part| IoSlice::new(part))
            .collect();
        let mut written = to.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while first < parts.len() && written >= parts[first].len() {
            written -= parts[first].len();
            // Sent: the batch need not be held for the rest of the frame.
            parts[first] = Bytes::new();
            first += 1;
        }
        if written > 0 {
            parts[first].advance(written);
        }
    }
    Ok(bytes)
}

/// Reads one frame and tells its bytes; `None` at the end of the connection.
pub async fn read_frame(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(Envelope, usize)>> {
    let mut head = [0; FRAME_HEAD_BYTES];
    match from.read_exact(&mut head).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let mut lengths = &head[..];
    let envelope_bytes = lengths.get_u32_le() as usize;
    let bodies_bytes = lengths.get_u32_le() as usize;
    if envelope_bytes > ENVELOPE_BYTES_MAX || bodies_bytes > MESSAGE_BYTES_MAX {
        return Err(malformed("a frame of an impossible length"));
    }
    let bytes = envelope_bytes + bodies_bytes;
    let mut frame = BytesMut::with_capacity(bytes.min(READ_AHEAD_BYTES));
    while frame.len() < bytes {
        let left = bytes - frame.len();
        if frame.capacity() == frame.len() {
            frame.reserve(left.min(READ_AHEAD_BYTES));
        }
        if from.read_buf(&mut (&mut frame).limit(left)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut frame = frame.freeze();
    let mut envelope = Envelope::decode(frame.split_to(envelope_bytes))
        .map_err(|e| malformed(&format!("an envelope: {e}")))?;
    put_bodies(&mut envelope, frame)?;
    Ok(Some((envelope, FRAME_HEAD_BYTES + bytes)))
}

/// Sends what the outbox gets until it is closed.
pub async fn send_all(
    to: &mut (impl AsyncWrite + Unpin),
    outbox: &Outbox,
    transport: &Arc<Transport>,
) -> io::Result<()> {
    while let Some(envelope) = outbox.next().await {
        let bytes = write_frame(to, envelope).await?;
        transport.count_out(bytes);
    }
    to.shutdown().await
}

/// The envelope of a single message that belongs to the connection.
pub fn alone(body: Body) -> Envelope {
    Envelope {
        messages: vec![Message {
            group: 0,
            request: 0,
            body: Some(body),
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidelog_proto::peer::{AppendRequest, Entry, ReadLogReply};

    fn body() -> impl Strategy<Value = Bytes> {
        let size = prop_oneof![Just(0), 1..2 * BODY_BYTES_MIN, Just(70_000_usize)];
        (size, any::<u8>()).prop_map(|(size, byte)| vec![byte; size].into())
    }

    fn message() -> impl Strategy<Value = Message> {
        let append = prop::collection::vec(body(), 0..5).prop_map(|bodies| {
            let entry = |(index, body)| Entry {
                index,
                term: 3,
                kind: 2,
                body,
                size: 0,
            };
            Body::Append(AppendRequest {
                entries: (0..).zip(bodies).map(entry).collect(),
                ..Default::default()
            })
        });
        let reply = body().prop_map(|batches| {
            Body::ReadLogReply(ReadLogReply {
                batches,
                ..Default::default()
            })
        });
        (any::<u64>(), any::<u64>(), prop_oneof![append, reply]).prop_map(
            |(group, request, body)| Message {
                group,
                request,
                body: Some(body),
            },
        )
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    fn written(envelope: &Envelope) -> Vec<u8> {
        let mut out = Vec::new();
        let bytes = block_on(write_frame(&mut out, envelope.clone())).expect("written");
        assert_eq!(bytes, out.len());
        out
    }

    fn read(mut bytes: &[u8]) -> io::Result<Option<(Envelope, usize)>> {
        block_on(read_frame(&mut bytes))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn envelopes_come_through_unchanged(messages in prop::collection::vec(message(), 0..5)) {
            let envelope = Envelope { messages };
            let frame = written(&envelope);
            let (back, bytes) = read(&frame).expect("read").expect("a frame");
            prop_assert_eq!(back, envelope);
            prop_assert_eq!(bytes, frame.len());
        }

        #[test]
        fn cut_and_changed_frames_never_panic(
            messages in prop::collection::vec(message(), 1..4),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let mut frame = written(&Envelope { messages });
            let cut = at.index(frame.len());
            prop_assert!(cut == 0 || !matches!(read(&frame[..cut]), Ok(Some(_))));
            frame[cut] ^= flip;
            let _ = read(&frame);
        }
    }

    #[test]
    fn a_length_alone_takes_no_memory() {
        let mut frame = Vec::new();
        frame.extend(10_u32.to_le_bytes());
        frame.extend((MESSAGE_BYTES_MAX as u32).to_le_bytes());
        assert!(read(&frame).is_err());
        frame[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&frame).is_err_and(|e| e.kind() == io::ErrorKind::InvalidData));
    }
}

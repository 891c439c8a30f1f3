//! Bytes of a response, ready to be written without joining them.

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::{ApiKey, ResponseHeader};
use kafka_protocol::protocol::Encodable;
use tidelog_storage::log::Slice;

/// A response as the pieces it consists of; the first begins with the length prefix.
#[derive(Debug, Default)]
pub struct Reply {
    pub pieces: Vec<Slice>,
}

impl Reply {
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Encodes a response message.
    pub fn encode<M: Encodable>(
        api: ApiKey,
        version: i16,
        correlation_id: i32,
        message: &M,
    ) -> anyhow::Result<Reply> {
        let mut buffer = start(api, version, correlation_id)?;
        message.encode(&mut buffer, version)?;
        Ok(finish(buffer, Vec::new()))
    }
}

/// A buffer with room for the length and with the response header.
pub fn start(api: ApiKey, version: i16, correlation_id: i32) -> anyhow::Result<BytesMut> {
    let mut buffer = BytesMut::with_capacity(256);
    buffer.put_i32(0);
    let mut header = ResponseHeader::default();
    header.correlation_id = correlation_id;
    header.encode(&mut buffer, api.response_header_version(version))?;
    Ok(buffer)
}

/// Sets the length, which covers `rest` as well.
pub fn finish(mut first: BytesMut, rest: Vec<Slice>) -> Reply {
    let total = first.len() - 4 + rest.iter().map(|piece| piece.len()).sum::<usize>();
    first[..4].copy_from_slice(&(total as u32).to_be_bytes());
    let mut pieces = Vec::with_capacity(rest.len() + 1);
    pieces.push(first.freeze().into());
    pieces.extend(rest);
    Reply { pieces }
}

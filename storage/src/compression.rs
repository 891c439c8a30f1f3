//! Kafka's compression codecs, for the few times the broker looks inside a batch.

use bytes::Bytes;
use std::io::{self, Read, Write};

/// Codec of a batch, with Kafka's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    /// Codec of the lowest three attribute bits.
    pub fn from_id(id: i16) -> Option<Compression> {
        Some(match id {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            _ => return None,
        })
    }

    pub fn id(self) -> i16 {
        self as i16
    }
}

/// Snappy frames of the Java client begin with this (the Xerial library's stream format).
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_BYTES: usize = 16;
/// The stream's version and the oldest one that can read it, both 1.
const XERIAL_VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
/// The densest Snappy element copies 64 bytes and takes 3.
const SNAPPY_RATIO_MAX: usize = 22;

/// Decompresses to at most `max` bytes.
///
/// # Errors
/// When the bytes are malformed or would become larger than `max`.
pub fn decompress(codec: Compression, bytes: &[u8], max: usize) -> io::Result<Bytes> {
    match codec {
        Compression::None => Ok(Bytes::copy_from_slice(bytes)),
        Compression::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(bytes), max),
        Compression::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(bytes), max),
        Compression::Zstd => read_bounded(zstd::stream::read::Decoder::new(bytes)?, max),
        Compression::Snappy => snappy(bytes, max),
    }
}

/// Compresses as Kafka's own clients do.
///
/// # Errors
/// When a codec fails, which writing to memory gives no reason for.
pub fn compress(codec: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Compression::Snappy => xerial(bytes),
        Compression::Lz4 => {
            use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
            // Java's reader takes independent blocks only.
            let info = FrameInfo::new()
                .block_mode(BlockMode::Independent)
                .block_size(BlockSize::Max64KB);
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(bytes)?;
            encoder.finish().map_err(io::Error::other)
        }
        Compression::Zstd => zstd::stream::encode_all(bytes, 0),
    }
}

fn xerial(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = [XERIAL_MAGIC, XERIAL_VERSIONS].concat();
    let mut encoder = snap::raw::Encoder::new();
    for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
        let block = encoder.compress_vec(block).map_err(io::Error::other)?;
        out.extend_from_slice(&(block.len() as u32).to_be_bytes());
        out.extend_from_slice(&block);
    }
    Ok(out)
}

fn read_bounded(reader: impl Read, max: usize) -> io::Result<Bytes> {
    let mut out = Vec::new();
    reader.take(max as u64 + 1).read_to_end(&mut out)?;
    if out.len() > max {
        return Err(too_large(max));
    }
    Ok(out.into())
}

fn snappy(bytes: &[u8], max: usize) -> io::Result<Bytes> {
    let mut out = Vec::new();
    if !bytes.starts_with(&XERIAL_MAGIC) {
        snappy_block(bytes, max, &mut out)?;
        return Ok(out.into());
    }
    let mut rest = bytes.get(XERIAL_HEADER_BYTES..).ok_or_else(cut)?;
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, tail) = tail.split_at_checked(length).ok_or_else(cut)?;
        snappy_block(block, max, &mut out)?;
        rest = tail;
    }
    Ok(out.into())
}

fn snappy_block(block: &[u8], max: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let length = snap::raw::decompress_len(block).map_err(io::Error::other)?;
    if length > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} snappy bytes cannot become {length}", block.len()),
        ));
    }
    if out.len() + length > max {
        return Err(too_large(max));
    }
    let start = out.len();
    out.resize(start + length, 0);
    snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(io::Error::other)?;
    Ok(())
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "snappy stream is cut")
}

fn too_large(max: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("more than {max} bytes after decompression"),
    )
}

//! The codecs of a record batch.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

/// How the records of a batch are compressed, with Kafka's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// Gzip (RFC 1952).
    Gzip,
    /// In the Xerial stream format, as the Java client writes it.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// Zstandard frames (RFC 8878); brokers older than Kafka 2.1 do not take them.
    Zstd,
}

impl Compression {
    /// Every codec, in the order of Kafka's ids, 0 to 4.
    pub const ALL: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    /// Kafka's name, as in `compression.type`; what `from_str` reads.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    pub(crate) fn id(self) -> i16 {
        self as i16
    }

    /// The codec of a batch's lowest three attribute bits.
    pub(crate) fn from_id(id: i16) -> Option<Compression> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Appends `bytes`, compressed, to `out`.
    pub(crate) fn compress(self, bytes: &[u8], out: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Compression::None => {
                let mut out = out;
                out.extend_from_slice(bytes);
                Ok(out)
            }
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Compression::Snappy => xerial_compress(bytes, out),
            Compression::Lz4 => {
                use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
                // Java's reader takes independent blocks only.
                let info = FrameInfo::new()
                    .block_mode(BlockMode::Independent)
                    .block_size(BlockSize::Max64KB);
                let mut encoder = FrameEncoder::with_frame_info(info, out);
                encoder.write_all(bytes)?;
                encoder.finish().map_err(io::Error::other)
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, 0)?;
                encoder.write_all(bytes)?;
                encoder.finish()
            }
        }
    }

    /// Decompresses to at most `max` bytes.
    ///
    /// # Errors
    /// When the bytes are malformed or would become more than `max`.
    pub(crate) fn decompress(self, bytes: &[u8], max: usize) -> io::Result<Vec<u8>> {
        match self {
            Compression::None => Ok(bytes.to_vec()),
            Compression::Gzip => read_at_most(flate2::read::MultiGzDecoder::new(bytes), max),
            Compression::Snappy => snappy_decompress(bytes, max),
            Compression::Lz4 => read_at_most(lz4_flex::frame::FrameDecoder::new(bytes), max),
            Compression::Zstd => read_at_most(zstd::stream::read::Decoder::new(bytes)?, max),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(name: &str) -> Result<Compression, String> {
        let found = Self::ALL.into_iter().find(|c| c.name() == name);
        found.ok_or_else(|| format!("{name:?} is none of none, gzip, snappy, lz4, zstd"))
    }
}

fn read_at_most(reader: impl Read, max: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(max as u64 + 1).read_to_end(&mut out)?;
    if out.len() > max {
        return Err(too_large(max));
    }
    Ok(out)
}

fn too_large(max: usize) -> io::Error {
    let reason = format!("decompresses to more than {max} bytes");
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Xerial's stream: this magic, a version and the oldest version that can read it (both 1), then
/// blocks of a big-endian length and a raw Snappy block.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
/// Snappy's densest element copies 64 bytes and takes 3; a claim beyond that is a lie.
const SNAPPY_RATIO_MAX: usize = 22;

fn xerial_compress(bytes: &[u8], mut out: Vec<u8>) -> io::Result<Vec<u8>> {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&XERIAL_VERSIONS);
    let mut encoder = snap::raw::Encoder::new();
    for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
        let length_at = out.len();
        let start = length_at + 4;
        out.resize(start + snap::raw::max_compress_len(block.len()), 0);
        let written = encoder.compress(block, &mut out[start..])?;
        out.truncate(start + written);
        out[length_at..start].copy_from_slice(&(written as u32).to_be_bytes());
    }
    Ok(out)
}

fn snappy_decompress(bytes: &[u8], max: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(&XERIAL_MAGIC) else {
        // librdkafka may write one raw block.
        append_snappy_block(bytes, max, &mut out)?;
        return Ok(out);
    };
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the Snappy stream is cut");
    rest = rest.get(XERIAL_VERSIONS.len()..).ok_or_else(cut)?;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (block, tail) = tail.split_at_checked(length).ok_or_else(cut)?;
        append_snappy_block(block, max, &mut out)?;
        rest = tail;
    }
    if rest.is_empty() { Ok(out) } else { Err(cut()) }
}

fn append_snappy_block(block: &[u8], max: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let length = snap::raw::decompress_len(block)?;
    if length > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        let reason = format!("{} Snappy bytes cannot become {length}", block.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let start = out.len();
    if length > max.saturating_sub(start) {
        return Err(too_large(max));
    }
    out.resize(start + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut out[start..])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_compressed_comes_back_within_its_bound(
            pattern in proptest::collection::vec(any::<u8>(), 1..50),
            repeats in 0usize..5000,
        ) {
            let bytes = pattern.repeat(repeats);
            for codec in Compression::ALL {
                let packed = codec.compress(&bytes, vec![1, 2]).unwrap();
                prop_assert_eq!(&packed[..2], &[1, 2]);
                let unpacked = codec.decompress(&packed[2..], bytes.len()).unwrap();
                prop_assert_eq!(&unpacked, &bytes, "{}", codec);
                if codec != Compression::None && !bytes.is_empty() {
                    codec.decompress(&packed[2..], bytes.len() - 1).unwrap_err();
                }
            }
        }

        #[test]
        fn noise_is_an_error_or_stays_within_its_bound(
            noise in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            for codec in &Compression::ALL[1..] {
                if let Ok(out) = codec.decompress(&noise, 4096) {
                    prop_assert!(out.len() <= 4096);
                }
            }
        }
    }

    #[test]
    fn raw_snappy_is_read_too() {
        let raw = snap::raw::Encoder::new()
            .compress_vec(b"hello hello hello")
            .unwrap();
        let read = Compression::Snappy.decompress(&raw, 100).unwrap();
        assert_eq!(read, b"hello hello hello");
    }
}

//! Walks a request's bytes before they are decoded.
//!
//! The decoders of `kafka-protocol` take memory for an array by the count in front of it, so a frame
//! of twenty bytes could ask for a hundred gigabytes. This walk follows the same layout without taking
//! any memory, and refuses a count that the bytes behind it cannot hold and a request whose decoded
//! form would be out of all proportion to its size. [`super::shape_table`] has the layouts.

use super::shape_table;
use kafka_protocol::messages::ApiKey;

/// What a decoded element takes, rounded up; the codec's own structs stay below it.
const STRUCT_BYTES: usize = 128;
const STRING_BYTES: usize = 32;
/// The tree node that holds a struct's first eleven unknown tagged fields, and a share of the next.
const FIRST_TAG_BYTES: usize = 512;
const NEXT_TAG_BYTES: usize = 96;

/// Decoded form of any request that may be this large whatever the frame.
const ALWAYS_ALLOWED_BYTES: usize = 1 << 20;
/// Bytes of decoded form allowed for each byte of frame.
const GROWTH_MAX: usize = 32;
/// Never more than this. Half a million partitions fit; record batches are slices of the frame and
/// count nothing.
const DECODED_MAX_BYTES: usize = 64 << 20;

/// Why a request is refused before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it ends too early")]
    Truncated,
    #[error("a length of {0}")]
    Length(i64),
    #[error("{count} elements where {left} bytes are left")]
    Count { count: i64, left: usize },
    #[error("tagged field {tag} is not {size} bytes long")]
    TagSize { tag: u32, size: usize },
    #[error("it would take {0} bytes of memory or more")]
    TooCostly(usize),
    #[error("its layout is not known")]
    NoShape,
}

/// How a field is written. Whether it may be null is the decoder's concern.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// So many bytes.
    Fixed(usize),
    String,
    /// A string with a two-byte length even in flexible versions: the client id of the header.
    ShortString,
    Bytes,
    Structs(&'static [Field]),
    /// An array of elements of so many bytes.
    Fixeds(usize),
    Strings,
    /// A byte that says whether a struct follows.
    OptionalStruct(&'static [Field]),
    /// A struct in a tagged field.
    Struct(&'static [Field]),
}

/// A field and the versions that have it, both ends included.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub kind: Kind,
    pub since: i16,
    pub until: i16,
    pub tag: Option<u32>,
}

impl Field {
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            since: 0,
            until: i16::MAX,
            tag: None,
        }
    }

    pub const fn since(mut self, version: i16) -> Self {
        self.since = version;
        self
    }

    pub const fn until(mut self, version: i16) -> Self {
        self.until = version;
        self
    }

    pub const fn tagged(mut self, tag: u32) -> Self {
        self.tag = Some(tag);
        self
    }

    fn is_in(&self, version: i16) -> bool {
        (self.since..=self.until).contains(&version)
    }
}

/// A request's layout in all its versions.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// First version with compact lengths and tagged fields.
    pub flexible: i16,
    pub fields: &'static [Field],
}

/// Bytes of `body` that a request of this API and version takes.
///
/// # Errors
/// When `body` cannot be such a request, or decoding it would take too much memory.
pub fn check(api: ApiKey, version: i16, body: &[u8]) -> Result<usize, Malformed> {
    let shape = shape_table::of(api).ok_or(Malformed::NoShape)?;
    walk(shape, version, body)
}

/// The same for a request header.
///
/// # Errors
/// As [`check`].
pub fn check_header(header_version: i16, frame: &[u8]) -> Result<usize, Malformed> {
    walk(&shape_table::HEADER, header_version, frame)
}

fn walk(shape: &Shape, version: i16, bytes: &[u8]) -> Result<usize, Malformed> {
    let grown = bytes.len().saturating_mul(GROWTH_MAX);
    let mut walk = Walk {
        left: bytes,
        version,
        flexible: version >= shape.flexible,
        cost: 0,
        cost_max: grown.clamp(ALWAYS_ALLOWED_BYTES, DECODED_MAX_BYTES),
    };
    walk.fields(shape.fields)?;
    Ok(bytes.len() - walk.left.len())
}

struct Walk<'a> {
    left: &'a [u8],
    version: i16,
    flexible: bool,
    cost: usize,
    cost_max: usize,
}

impl Walk<'_> {
    fn fields(&mut self, fields: &'static [Field]) -> Result<(), Malformed> {
        for field in fields {
            if field.tag.is_none() && field.is_in(self.version) {
                self.field(field.kind)?;
            }
        }
        if self.flexible {
            self.tags(fields)?;
        }
        Ok(())
    }

    fn field(&mut self, kind: Kind) -> Result<(), Malformed> {
        match kind {
            Kind::Fixed(size) => self.skip(size),
            Kind::String if self.flexible => self.compact_bytes(),
            Kind::String | Kind::ShortString => self.short_string(),
            Kind::Bytes if self.flexible => self.compact_bytes(),
            Kind::Bytes => {
                let length = self.int32()?;
                self.skip(self.length(i64::from(length))?)
            }
            Kind::Fixeds(size) => {
                let count = self.count()?;
                self.skip(count.saturating_mul(size))
            }
            Kind::Strings => {
                let count = self.count()?;
                self.pay(count.saturating_mul(STRING_BYTES))?;
                (0..count).try_for_each(|_| self.field(Kind::String))
            }
            Kind::Structs(fields) => {
                let count = self.count()?;
                self.pay(count.saturating_mul(STRUCT_BYTES))?;
                (0..count).try_for_each(|_| self.fields(fields))
            }
            Kind::OptionalStruct(fields) => {
                let present = self.left.first() == Some(&1);
                self.skip(1)?;
                if present { self.fields(fields) } else { Ok(()) }
            }
            Kind::Struct(fields) => self.fields(fields),
        }
    }

    fn tags(&mut self, fields: &'static [Field]) -> Result<(), Malformed> {
        let count = self.varint()?;
        // A tag and a size, a byte each at least.
        self.holds(i64::from(count))?;
        let mut unknown = false;
        for _ in 0..count {
            let tag = self.varint()?;
            let size = self.varint()? as usize;
            let known = fields
                .iter()
                .find(|f| f.tag == Some(tag) && f.is_in(self.version));
            if let Some(field) = known {
                let before = self.left.len();
                self.field(field.kind)?;
                // The decoder reads the field whatever size is given, so only the true one will do.
                if before - self.left.len() != size {
                    return Err(Malformed::TagSize { tag, size });
                }
            } else {
                self.pay(if unknown {
                    NEXT_TAG_BYTES
                } else {
                    FIRST_TAG_BYTES
                })?;
                unknown = true;
                self.skip(size)?;
            }
        }
        Ok(())
    }

    /// Elements of an array; 0 for null. Each takes a byte at least.
    fn count(&mut self) -> Result<usize, Malformed> {
        let count = if self.flexible {
            i64::from(self.varint()?) - 1
        } else {
            i64::from(self.int32()?)
        };
        self.holds(count)?;
        self.length(count)
    }

    fn holds(&self, count: i64) -> Result<(), Malformed> {
        let left = self.left.len();
        match usize::try_from(count) {
            Ok(n) if n > left => Err(Malformed::Count { count, left }),
            _ => Ok(()),
        }
    }

    /// −1 is null, other negative lengths are nothing.
    fn length(&self, length: i64) -> Result<usize, Malformed> {
        match length {
            -1 => Ok(0),
            other => usize::try_from(other).map_err(|_| Malformed::Length(other)),
        }
    }

    fn compact_bytes(&mut self) -> Result<(), Malformed> {
        let length = self.varint()?.saturating_sub(1);
        self.skip(length as usize)
    }

    fn short_string(&mut self) -> Result<(), Malformed> {
        let (length, rest) = self.left.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.left = rest;
        self.skip(self.length(i64::from(i16::from_be_bytes(*length)))?)
    }

    fn int32(&mut self) -> Result<i32, Malformed> {
        let (value, rest) = self.left.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.left = rest;
        Ok(i32::from_be_bytes(*value))
    }

    /// As the decoder reads it: five bytes at most, bits beyond the 32nd dropped.
    fn varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0_u32;
        for i in 0..5 {
            let (byte, rest) = self.left.split_first().ok_or(Malformed::Truncated)?;
            self.left = rest;
            value |= u32::from(byte & 0x7f) << (i * 7);
            if *byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.left = self.left.get(bytes..).ok_or(Malformed::Truncated)?;
        Ok(())
    }

    fn pay(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.cost = self.cost.saturating_add(bytes);
        if self.cost > self.cost_max {
            return Err(Malformed::TooCostly(self.cost));
        }
        Ok(())
    }
}

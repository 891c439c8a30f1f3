//! Kafka's primitive types, for the records of internal topics: fixed and *flexible* (compact) forms.

use bytes::Bytes;

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed record: {0}")]
pub struct Malformed(pub &'static str);

/// Reads Kafka's primitive types; never takes memory for more than is there.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let split = self.0.split_at_checked(count);
        let (taken, rest) = split.ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub fn i8(&mut self) -> Result<i8, Malformed> {
        self.array().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    pub fn uuid(&mut self) -> Result<uuid::Uuid, Malformed> {
        self.array().map(uuid::Uuid::from_bytes)
    }

    pub fn unsigned_varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u32::from(byte & 0x7f)
                .checked_shl(shift)
                .unwrap_or_default();
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a varint is too long"))
    }

    fn text(bytes: &'a [u8]) -> Result<String, Malformed> {
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("not UTF-8"))?;
        Ok(text.to_owned())
    }

    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<String>, Malformed> {
        let length = if flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            i64::from(self.i16()?)
        };
        let Ok(length) = usize::try_from(length) else {
            return Ok(None);
        };
        Self::text(self.take(length)?).map(Some)
    }

    pub fn string(&mut self, flexible: bool) -> Result<String, Malformed> {
        let text = self.nullable_string(flexible)?;
        text.ok_or(Malformed("null where a string is due"))
    }

    pub fn bytes(&mut self, flexible: bool) -> Result<Bytes, Malformed> {
        let length = self.length(flexible)?;
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    fn length(&mut self, flexible: bool) -> Result<usize, Malformed> {
        let length = if flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            i64::from(self.i32()?)
        };
        usize::try_from(length).map_err(|_| Malformed("null where something is due"))
    }

    /// Reads an array; each element takes at least a byte.
    pub fn array_of<T>(
        &mut self,
        flexible: bool,
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.length(flexible)?;
        if count > self.0.len() {
            return Err(Malformed("more elements than bytes"));
        }
        (0..count).map(|_| read(self)).collect()
    }

    /// An array that may be null.
    pub fn nullable_array_of<T>(
        &mut self,
        flexible: bool,
        read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<Vec<T>>, Malformed> {
        let before = self.0;
        let null = if flexible {
            self.unsigned_varint()? == 0
        } else {
            self.i32()? < 0
        };
        if null {
            return Ok(None);
        }
        self.0 = before;
        self.array_of(flexible, read).map(Some)
    }

    /// Tagged fields: calls `visit` with each tag and its bytes.
    pub fn tagged(
        &mut self,
        mut visit: impl FnMut(u32, &mut Reader<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            visit(tag, &mut Reader(self.take(size)?))?;
        }
        Ok(())
    }

    /// Skips tagged fields nobody here knows.
    pub fn skip_tagged(&mut self) -> Result<(), Malformed> {
        self.tagged(|_, _| Ok(()))
    }
}

/// Writes Kafka's primitive types.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins with the record's version.
    pub fn versioned(version: i16) -> Writer {
        Writer(version.to_be_bytes().to_vec())
    }

    pub fn i8(&mut self, value: i8) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn i16(&mut self, value: i16) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn uuid(&mut self, value: uuid::Uuid) -> &mut Self {
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    pub fn unsigned_varint(&mut self, mut value: u32) -> &mut Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    /// Strings of requests are shorter than 32 KiB, so the fixed form holds them.
    pub fn nullable_string(&mut self, flexible: bool, value: Option<&str>) -> &mut Self {
        match (value, flexible) {
            (None, true) => self.unsigned_varint(0),
            (None, false) => self.i16(-1),
            (Some(text), true) => self
                .unsigned_varint(text.len() as u32 + 1)
                .raw(text.as_bytes()),
            (Some(text), false) => self.i16(text.len() as i16).raw(text.as_bytes()),
        }
    }

    pub fn string(&mut self, flexible: bool, value: &str) -> &mut Self {
        self.nullable_string(flexible, Some(value))
    }

    pub fn bytes(&mut self, flexible: bool, value: &[u8]) -> &mut Self {
        self.count(flexible, value.len()).raw(value)
    }

    /// The length of an array or of bytes.
    pub fn count(&mut self, flexible: bool, count: usize) -> &mut Self {
        if flexible {
            self.unsigned_varint(count as u32 + 1)
        } else {
            self.i32(count as i32)
        }
    }

    pub fn array_of<T>(
        &mut self,
        flexible: bool,
        values: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        mut write: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        let values = values.into_iter();
        self.count(flexible, values.len());
        for value in values {
            write(self, value);
        }
        self
    }

    /// No tagged fields.
    pub fn no_tags(&mut self) -> &mut Self {
        self.unsigned_varint(0)
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_come_back(
            flexible: bool, number: i64, varint: u32,
            text in prop::option::of(".{0,40}"), list in prop::collection::vec(any::<i32>(), 0..9),
        ) {
            let mut writer = Writer::versioned(3);
            writer.i64(number).unsigned_varint(varint).nullable_string(flexible, text.as_deref());
            writer.array_of(flexible, &list, |w, v| { w.i32(*v); }).bytes(flexible, b"abc").no_tags();
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.i16(), Ok(3));
            prop_assert_eq!(reader.i64(), Ok(number));
            prop_assert_eq!(reader.unsigned_varint(), Ok(varint));
            prop_assert_eq!(reader.nullable_string(flexible), Ok(text));
            prop_assert_eq!(reader.array_of(flexible, Reader::i32), Ok(list));
            prop_assert_eq!(reader.bytes(flexible), Ok(Bytes::from_static(b"abc")));
            prop_assert_eq!(reader.skip_tagged(), Ok(()));
            prop_assert_eq!(reader.remaining(), 0);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), flexible: bool) {
            let mut reader = Reader::new(&bytes);
            let _ = reader.nullable_string(flexible);
            let _ = reader.array_of(flexible, |r| r.string(flexible));
            let _ = reader.nullable_array_of(flexible, Reader::i64);
            let _ = reader.skip_tagged();
        }
    }
}

//! Bytes of a log that can be sent without passing through this process.

use bytes::{Buf, Bytes};
use std::borrow::Borrow;
use std::fs::File;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes in memory, and the place in a file where the same bytes are. They never change there while
/// the slice exists.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    bytes: Bytes,
    place: Option<(Arc<File>, u64)>,
}

impl Slice {
    /// `bytes`, which `file` has at `position`.
    pub fn in_file(bytes: Bytes, file: Arc<File>, position: u64) -> Slice {
        Slice {
            bytes,
            place: Some((file, position)),
        }
    }

    /// The file that holds these bytes, and where in it they begin.
    pub fn place(&self) -> Option<(&Arc<File>, u64)> {
        self.place.as_ref().map(|(file, at)| (file, *at))
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Leaves out the first `count` bytes.
    pub fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some((_, position)) = &mut self.place {
            *position += count as u64;
        }
    }
}

impl From<Bytes> for Slice {
    fn from(bytes: Bytes) -> Slice {
        Slice { bytes, place: None }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Borrow<[u8]> for Slice {
    fn borrow(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Slice {
    fn eq(&self, other: &Slice) -> bool {
        self.bytes == other.bytes
    }
}

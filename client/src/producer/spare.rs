//! Buffers of batches that are done with, for later ones: new memory for each would cost more than to fill it,
//! as the system takes large buffers back and clears them anew.

use bytes::Bytes;

/// Bytes of all buffers that are kept.
const BYTES_MAX: usize = 8 << 20;

#[derive(Debug, Default)]
pub(super) struct Spare {
    /// Empty.
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Spare {
    /// An empty buffer; a new one has room for so many bytes.
    pub(super) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let Some(buffer) = self.buffers.pop() else {
            return Vec::with_capacity(bytes);
        };
        self.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps the buffer of a batch, unless someone still has it or there are enough.
    pub(super) fn give_back(&mut self, mut batch: Bytes) {
        if !batch.is_unique() {
            return;
        }
        // Else all its bytes would be copied to where they are; without any the buffer would be given up.
        batch.truncate(1);
        let mut buffer = Vec::from(batch);
        buffer.clear();
        if self.bytes + buffer.capacity() <= BYTES_MAX {
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_unless_someone_has_it() {
        let mut spare = Spare::default();
        let mut full = Vec::with_capacity(100);
        full.resize(60, 1);
        let at = full.as_ptr();
        let batch = Bytes::from(full);
        let held = batch.clone();
        spare.give_back(batch);
        assert!(spare.buffers.is_empty());
        spare.give_back(held);
        let buffer = spare.take(5);
        assert_eq!(
            (buffer.as_ptr(), buffer.len(), buffer.capacity()),
            (at, 0, 100)
        );
        assert_eq!((spare.bytes, spare.take(5).capacity()), (0, 5));
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        let mut spare = Spare::default();
        for _ in 0..20 {
            spare.give_back(vec![0; 1 << 20].into());
        }
        assert_eq!((spare.bytes, spare.buffers.len()), (BYTES_MAX, 8));
    }
}

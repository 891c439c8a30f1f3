//! Reads the batches of a segment one after the other, past the page cache's mappings: compaction
//! must not push out what consumers read.

use crate::batch::{BatchHeader, HEADER_BYTES, batch_crc};
use crate::error::StorageError;
use crate::ids::Offset;
use crate::log::segment::Segment;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const READ_BYTES: usize = 1 << 20;

/// Checks each batch's checksum and that offsets go up.
pub struct BatchReader<'a> {
    segment: &'a Segment,
    file: Arc<File>,
    /// Where in the file `buffer[at..]` begins, and where the segment ends.
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    at: usize,
    next_offset: Offset,
}

impl<'a> BatchReader<'a> {
    pub fn new(segment: &'a Segment) -> Result<BatchReader<'a>, StorageError> {
        Ok(BatchReader {
            file: segment.file()?,
            position: 0,
            end: segment.bytes(),
            buffer: Vec::new(),
            at: 0,
            next_offset: segment.base_offset,
            segment,
        })
    }

    /// The next batch: its header and all its bytes.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] for a damaged batch; [`BatchReader::next_offset`] tells where.
    pub fn next_batch(&mut self) -> Result<Option<(BatchHeader, &[u8])>, StorageError> {
        if self.position >= self.end {
            return Ok(None);
        }
        self.fill(HEADER_BYTES)?;
        let header = BatchHeader::parse(&self.buffer[self.at..])
            .map_err(|e| self.segment.damaged(self.position, &e.to_string()))?;
        let size = header.size_in_bytes();
        self.fill(size)?;
        let batch = &self.buffer[self.at..self.at + size];
        if batch_crc(batch) != header.crc || header.base_offset < self.next_offset {
            return Err(self
                .segment
                .damaged(self.position, "its checksum or offset is wrong"));
        }
        self.at += size;
        self.position += size as u64;
        self.next_offset = header.last_offset() + 1;
        Ok(Some((header, batch)))
    }

    /// The first offset that has not been read.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Makes `bytes` from the present position on available.
    fn fill(&mut self, bytes: usize) -> Result<(), StorageError> {
        let have = self.buffer.len() - self.at;
        if have >= bytes {
            return Ok(());
        }
        let left = self.end - self.position;
        if bytes as u64 > left {
            return Err(self.segment.damaged(self.position, "it is cut"));
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        let wanted = bytes
            .max(READ_BYTES)
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        self.buffer.resize(wanted, 0);
        self.file
            .read_exact_at(&mut self.buffer[have..], self.position + have as u64)
            .map_err(|e| StorageError::io(self.segment.path(), e))
    }
}

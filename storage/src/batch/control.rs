//! Control batches that end a transaction in a partition (KIP-98): one record, whose key says commit
//! or abort and whose value names the coordinator that decided.

use super::{BatchBuilder, BatchError, TransactionMark, for_each_record};
use crate::ids::ProducerId;
use bytes::Bytes;

const TYPE_ABORT: i16 = 0;
const TYPE_COMMIT: i16 = 1;

/// The end of a transaction in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTxnMarker {
    pub commit: bool,
    /// Leader epoch of the transaction coordinator's partition; a lower one is out of date.
    pub coordinator_epoch: i32,
}

impl EndTxnMarker {
    /// The marker in a whole control batch; `None` for control records of other kinds, which readers
    /// have to skip.
    ///
    /// # Errors
    /// [`BatchError`] when the record cannot be parsed.
    pub fn parse(batch: &[u8]) -> Result<Option<EndTxnMarker>, BatchError> {
        let mut found = None;
        for_each_record(batch, |record| {
            found = record
                .key
                .zip(record.value)
                .and_then(|(key, value)| read(key, value));
            false
        })?;
        Ok(found)
    }

    /// A control batch as a producer's batch would come: offset and leader epoch are set when it is
    /// applied.
    pub fn batch(self, producer_id: ProducerId, producer_epoch: i16, timestamp_ms: i64) -> Bytes {
        let mark = TransactionMark {
            producer_id,
            producer_epoch,
            control: true,
        };
        let (key, value) = self.record();
        let mut builder = BatchBuilder::new(0, -1, timestamp_ms, Some(mark));
        builder.push(&key, Some(&value));
        builder.finish()
    }

    /// Key and value of the control record.
    fn record(self) -> ([u8; 4], [u8; 6]) {
        let kind = if self.commit { TYPE_COMMIT } else { TYPE_ABORT };
        let (mut key, mut value) = ([0; 4], [0; 6]);
        key[2..].copy_from_slice(&kind.to_be_bytes());
        value[2..].copy_from_slice(&self.coordinator_epoch.to_be_bytes());
        (key, value)
    }
}

fn read(key: &[u8], value: &[u8]) -> Option<EndTxnMarker> {
    // Both begin with a version; later ones add fields at the end.
    let kind = i16::from_be_bytes(key.get(2..4)?.try_into().ok()?);
    let coordinator_epoch = i32::from_be_bytes(value.get(2..6)?.try_into().ok()?);
    let commit = match kind {
        TYPE_ABORT => false,
        TYPE_COMMIT => true,
        _ => return None,
    };
    Some(EndTxnMarker {
        commit,
        coordinator_epoch,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{BatchHeader, batch_crc};
    use super::*;

    #[test]
    fn a_marker_is_read_back() {
        for commit in [false, true] {
            let marker = EndTxnMarker {
                commit,
                coordinator_epoch: 7,
            };
            let batch = marker.batch(1000, 3, 1_700_000_000_000);
            let header = BatchHeader::parse(&batch).expect("a header");
            assert_eq!(header.size_in_bytes(), batch.len());
            assert_eq!(batch_crc(&batch), header.crc);
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch), (1000, 3));
            assert_eq!((header.base_sequence, header.record_count), (-1, 1));
            assert_eq!(EndTxnMarker::parse(&batch), Ok(Some(marker)));
            // Kafka's own marker batches have 78 bytes.
            assert_eq!(batch.len(), 78);
        }
    }
}

//! Turns a turn's writes into fenced record batches.

use super::{Marker, Write, Writer};
use bytes::Bytes;
use tidelog_storage::batch::{BatchBuilder, TransactionMark};

/// The batches of `writes`, the first of which must come at `next_offset` in `epoch`, and the offset
/// after the last. Neighbouring plain records share a batch.
pub fn build(writes: Vec<Write>, next_offset: i64, epoch: i32, now_ms: i64) -> (Vec<Bytes>, i64) {
    let mut batches = Vec::new();
    let mut next = next_offset;
    let mut plain: Option<BatchBuilder> = None;
    let finish = |builder: BatchBuilder, next: &mut i64, batches: &mut Vec<Bytes>| {
        *next += i64::from(builder.records());
        batches.push(builder.finish());
    };
    for write in writes {
        let (mark, records) = match write {
            Write::Record(record) => {
                plain
                    .get_or_insert_with(|| BatchBuilder::new(next, epoch, now_ms, None))
                    .push(&record.key, record.value.as_deref());
                continue;
            }
            Write::Transactional(mark, records) => (mark, records),
            Write::Marker(marker) => (mark_of(&marker), vec![marker_record(&marker)]),
        };
        if let Some(builder) = plain.take() {
            finish(builder, &mut next, &mut batches);
        }
        let mut builder = BatchBuilder::new(next, epoch, now_ms, Some(mark));
        for record in &records {
            builder.push(&record.key, record.value.as_deref());
        }
        finish(builder, &mut next, &mut batches);
    }
    if let Some(builder) = plain.take() {
        finish(builder, &mut next, &mut batches);
    }
    (batches, next)
}

fn mark_of(marker: &Marker) -> TransactionMark {
    TransactionMark {
        producer_id: marker.producer_id,
        producer_epoch: marker.producer_epoch,
        control: true,
    }
}

/// Kafka's `EndTransactionMarker`.
fn marker_record(marker: &Marker) -> super::NewRecord {
    let mut key = Writer::versioned(0);
    key.i16(i16::from(marker.commit));
    let mut value = Writer::versioned(0);
    value.i32(marker.coordinator_epoch);
    super::NewRecord {
        key: key.finish(),
        value: Some(value.finish()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::NewRecord;
    use super::*;
    use tidelog_storage::batch::BatchHeader;

    #[test]
    fn plain_records_share_a_batch_and_offsets_go_on() {
        let record = |k: &'static str| NewRecord {
            key: Bytes::from(k),
            value: None,
        };
        let mark = TransactionMark {
            producer_id: 5,
            producer_epoch: 1,
            control: false,
        };
        let marker = Marker {
            producer_id: 5,
            producer_epoch: 1,
            coordinator_epoch: 9,
            commit: true,
        };
        let writes = vec![
            Write::Record(record("a")),
            Write::Record(record("b")),
            Write::Transactional(mark, vec![record("c"), record("d")]),
            Write::Marker(marker),
            Write::Record(record("e")),
        ];
        let (batches, end) = build(writes, 100, 7, 1);
        let headers: Vec<_> = batches
            .iter()
            .map(|b| BatchHeader::parse(b).expect("a header"))
            .collect();
        let shape: Vec<_> = headers
            .iter()
            .map(|h| {
                let kind = (h.is_transactional(), h.is_control());
                (h.base_offset, h.record_count, h.leader_epoch, kind)
            })
            .collect();
        let expected = [
            (100, 2, 7, (false, false)),
            (102, 2, 7, (true, false)),
            (104, 1, 7, (true, true)),
            (105, 1, 7, (false, false)),
        ];
        assert_eq!(shape, expected);
        assert_eq!(end, 106);
    }
}

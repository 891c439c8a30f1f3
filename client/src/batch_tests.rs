use super::*;
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from))
}

fn record() -> impl Strategy<Value = (Record, i64)> {
    let header = ("[a-zé]{0,10}", bytes()).prop_map(|(key, value)| Header { key, value });
    let headers = proptest::collection::vec(header, 0..4);
    (bytes(), bytes(), headers, 0i64..4_000_000_000_000).prop_map(
        |(key, value, headers, timestamp_ms)| {
            let record = Record {
                key,
                value,
                headers,
                ..Record::default()
            };
            (record, timestamp_ms)
        },
    )
}

fn build(records: &[(Record, i64)]) -> BatchBuilder {
    let (first, rest) = records.split_first().unwrap();
    let mut batch = BatchBuilder::new(&first.0, first.1, Vec::with_capacity(100));
    for (record, timestamp_ms) in rest {
        let before = batch.len();
        batch.push(record, *timestamp_ms);
        assert!(batch.len() - before <= size_bound(record));
    }
    assert_eq!(batch.count() as usize, records.len());
    batch
}

/// Puts the offset into a batch as a broker does.
fn at_offset(batch: &Bytes, base_offset: i64) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
    bytes.into()
}

const MARK: ProducerMark = ProducerMark {
    id: 77,
    epoch: 3,
    sequence: 9,
    transactional: false,
};

fn place() -> TopicPartition {
    TopicPartition::new("t", 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records_come_back_as_they_were(
        records in proptest::collection::vec(record(), 1..40),
        base_offset in 0i64..1 << 40,
        skip in 0usize..50,
    ) {
        for codec in Compression::ALL {
            let sealed = build(&records).close(codec).unwrap().seal(MARK);
            let batches = split_batches(at_offset(&sealed, base_offset)).unwrap();
            prop_assert_eq!(batches.len(), 1);
            prop_assert_eq!(batches[0].last_offset, base_offset + records.len() as i64 - 1);
            let mut read = Vec::new();
            let from = base_offset + skip as i64;
            batches[0].read(&place(), from, 1 << 20, &mut read).unwrap();
            prop_assert_eq!(read.len(), records.len().saturating_sub(skip));
            for (read, (i, (record, timestamp_ms))) in
                read.iter().zip(records.iter().enumerate().skip(skip))
            {
                prop_assert_eq!(read.offset, base_offset + i as i64);
                prop_assert_eq!(read.timestamp_ms, *timestamp_ms);
                prop_assert_eq!(&read.key, &record.key);
                prop_assert_eq!(&read.value, &record.value);
                prop_assert_eq!(&read.headers, &record.headers);
            }
        }
    }

    /// A reader nobody here wrote agrees on the format.
    #[test]
    fn the_protocol_crate_reads_the_same(records in proptest::collection::vec(record(), 1..20)) {
        use kafka_protocol::records::RecordBatchDecoder;
        let mut sealed = build(&records).close(Compression::None).unwrap().seal(MARK);
        let set = RecordBatchDecoder::decode(&mut sealed).unwrap();
        prop_assert_eq!(set.records.len(), records.len());
        for (i, (theirs, (ours, timestamp_ms))) in set.records.iter().zip(&records).enumerate() {
            prop_assert_eq!(theirs.sequence, 9 + i as i32);
            prop_assert_eq!((theirs.producer_id, theirs.producer_epoch), (77, 3));
            prop_assert_eq!(theirs.timestamp, *timestamp_ms);
            prop_assert_eq!(&theirs.key, &ours.key);
            prop_assert_eq!(&theirs.value, &ours.value);
        }
    }

    #[test]
    fn a_cut_batch_is_left_out_and_a_changed_byte_is_noticed(
        records in proptest::collection::vec(record(), 1..10),
        at in any::<proptest::sample::Index>(),
        bit in 0u8..8,
    ) {
        let sealed = build(&records).close(Compression::None).unwrap().seal(MARK);
        let two = [&sealed[..], &sealed[..]].concat();
        let cut = Bytes::from(two).slice(..sealed.len() + at.index(sealed.len()));
        prop_assert_eq!(split_batches(cut).unwrap().len(), 1);

        let covered = ATTRIBUTES_AT + at.index(sealed.len() - ATTRIBUTES_AT);
        let mut changed = sealed.to_vec();
        changed[covered] ^= 1 << bit;
        prop_assert!(split_batches(changed.into()).is_err());
    }

    /// Whatever a broker sends with a valid checksum, reading it ends without a panic.
    #[test]
    fn noise_as_records_is_an_error(
        noise in proptest::collection::vec(any::<u8>(), 0..300),
        count in 1i32..100,
        codec in 0usize..5,
    ) {
        let closed = ClosedBatch {
            bytes: [vec![0; HEADER_BYTES], noise].concat(),
            codec: Compression::ALL[codec],
            count,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
        };
        let batches = split_batches(closed.seal(MARK)).unwrap();
        let mut read = Vec::new();
        if batches[0].read(&place(), 0, 1 << 16, &mut read).is_ok() {
            prop_assert_eq!(read.len() as i32, count);
        }
    }
}

#[test]
fn another_mark_changes_only_the_mark() {
    let records = [(Record::new("t", "v"), 5)];
    let sealed = build(&records).close(Compression::Lz4).unwrap().seal(MARK);
    let other = ProducerMark {
        id: 78,
        epoch: 0,
        transactional: false,
        sequence: 0,
    };
    let expected = build(&records).close(Compression::Lz4).unwrap().seal(other);
    assert_eq!(remark(&sealed, other), expected);
    assert_eq!(remark(&expected, MARK), sealed);
}

#[test]
fn more_than_the_bound_after_decompression_is_refused() {
    let record = Record::new("t", vec![b'x'; 100_000]);
    let sealed = build(&[(record, 0)])
        .close(Compression::Zstd)
        .unwrap()
        .seal(MARK);
    let batches = split_batches(sealed).unwrap();
    assert!(batches[0].is_compressed() && batches[0].len() < 1000);
    let error = batches[0]
        .read(&place(), 0, 50_000, &mut Vec::new())
        .unwrap_err();
    assert!(error.reason.contains("50000"), "{error:?}");
    batches[0]
        .read(&place(), 0, 200_000, &mut Vec::new())
        .unwrap();
}

/// One batch of each producer at these offsets; a negative id is a marker that ends its transaction.
fn transactions(batches: &[(i64, bool, Option<i16>)]) -> Vec<FetchedBatch> {
    let mut bytes = Vec::new();
    for (offset, &(producer_id, transactional, marker)) in batches.iter().enumerate() {
        let mut record = Record::new("t", "v");
        if let Some(kind) = marker {
            let key = [0i16.to_be_bytes(), kind.to_be_bytes()].concat();
            record.key = Some(key.into());
        }
        let mark = ProducerMark {
            id: producer_id,
            transactional,
            ..MARK
        };
        let closed = BatchBuilder::new(&record, 0, Vec::new()).close(Compression::None);
        let mut batch = closed.unwrap().seal(mark).to_vec();
        if marker.is_some() {
            batch[ATTRIBUTES_AT + 1] |= CONTROL as u8;
            let crc = crc(&batch);
            batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        }
        bytes.extend_from_slice(&at_offset(&batch.into(), offset as i64));
    }
    split_batches(bytes.into()).unwrap()
}

#[test]
fn records_of_aborted_transactions_are_left_out_up_to_their_marker() {
    const ABORT: Option<i16> = Some(0);
    const COMMIT: Option<i16> = Some(1);
    let mut batches = transactions(&[
        (1, true, None),   // 0: aborted
        (2, true, None),   // 1: committed
        (1, false, None),  // 2: outside any transaction
        (2, true, COMMIT), // 3
        (1, true, None),   // 4: aborted
        (1, true, ABORT),  // 5
        (1, true, None),   // 6: of the next, committed
        (2, true, None),   // 7: aborted
        (1, true, COMMIT), // 8
        (2, true, ABORT),  // 9
    ]);
    skip_aborted(&mut batches, vec![(2, 7), (1, 0)]);
    let mut read = Vec::new();
    for batch in &batches {
        batch.read(&place(), 0, 1 << 20, &mut read).unwrap();
    }
    let offsets: Vec<_> = read.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [1, 2, 6]);
}

#[test]
fn a_batch_of_a_transaction_says_so_whatever_mark_it_gets_later() {
    let transactional = ProducerMark {
        transactional: true,
        ..MARK
    };
    let build = || BatchBuilder::new(&Record::new("t", "vvvvvvvvvvvvvvvvvvvvvv"), 0, Vec::new());
    let sealed = build()
        .close(Compression::Zstd)
        .unwrap()
        .seal(transactional);
    let other = build().close(Compression::Zstd).unwrap().seal(MARK);
    assert_ne!(sealed, other);
    assert_eq!(remark(&sealed, MARK), other);
    assert_eq!(remark(&other, transactional), sealed);
}

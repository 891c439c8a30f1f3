use super::samples::{Sample, compress, compress_xerial, with_crc};
use super::*;
use crate::compression::decompress;
use proptest::prelude::*;

const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

/// Offset, timestamp, key and value of a batch's records.
type Seen = Vec<(i64, i64, Option<Vec<u8>>, Option<Vec<u8>>)>;

fn seen(batch: &[u8]) -> Result<Seen, BatchError> {
    let mut seen = Vec::new();
    for_each_record(batch, |r| {
        let owned = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        seen.push((r.offset, r.timestamp, owned(r.key), owned(r.value)));
        true
    })?;
    Ok(seen)
}

fn expected(sample: &Sample) -> Seen {
    let record = |(i, (timestamp, key, value)): (usize, &(i64, Option<_>, Option<_>))| {
        (
            i as i64,
            *timestamp,
            Option::clone(key),
            Option::clone(value),
        )
    };
    sample.records.iter().enumerate().map(record).collect()
}

#[test]
fn records_come_back_from_every_codec() {
    for codec in CODECS {
        let sample = Sample::of(100, 700, 5_000).compressed(codec);
        let batch = sample.build();
        let header = validate_produced(&batch, 1 << 20).expect("a good batch");
        assert_eq!(header.compression(), Ok(codec));
        assert_eq!((header.record_count, header.last_offset_delta), (100, 99));
        assert_eq!(header.size_in_bytes(), batch.len());
        assert_eq!(seen(&batch), Ok(expected(&sample)), "{codec:?}");
    }
}

/// A batch of one record that ends with these bytes where its headers are.
fn with_headers(headers: &[u8]) -> bytes::Bytes {
    let sample = Sample::of(1, 4, 5_000);
    let plain = sample.build();
    // All but the number of headers, which is the last byte; lengths below 64 take one byte.
    let mut record = plain[HEADER_BYTES..plain.len() - 1].to_vec();
    record.extend_from_slice(headers);
    record[0] = ((record.len() - 1) * 2) as u8;
    sample.build_with_body(&record)
}

#[test]
fn headers_come_back_in_order_and_malformed_ones_are_told() {
    let headers = |tail: &[u8]| {
        let mut found = None;
        for_each_record(&with_headers(tail), |record| {
            let owned = |(key, value): &RecordHeader<'_>| (key.to_vec(), value.map(<[u8]>::to_vec));
            found = Some(
                record
                    .headers()
                    .map(|h| h.iter().map(owned).collect::<Vec<_>>()),
            );
            true
        })
        .expect("a record");
        found.expect("a record")
    };
    assert_eq!(headers(&[0]), Ok(vec![]));
    let two = [4, 2, b'a', 4, b'1', b'2', 0, 1];
    let expected = vec![(b"a".to_vec(), Some(b"12".to_vec())), (vec![], None)];
    assert_eq!(headers(&two), Ok(expected));
    // Cut, too many, a negative count, a key that is null.
    for wrong in [&two[..7], &[0, 0], &[1], &[2, 1, 1]] {
        headers(wrong).unwrap_err();
    }
}

#[test]
fn records_come_back_from_xerial_snappy() {
    let plain = Sample::of(300, 400, 1).build();
    let body = &plain[HEADER_BYTES..];
    let sample = Sample::of(300, 400, 1).compressed(Compression::Snappy);
    let batch = sample.build_with_body(&compress_xerial(body, 32 * 1024));
    assert_eq!(seen(&batch), Ok(expected(&sample)));
    // Cut within a block it is an error; at the end of one, what came before.
    let first = compress_xerial(&body[..32 * 1024], 32 * 1024);
    let framed = compress_xerial(&body[..50_000], 32 * 1024);
    for cut in (8..framed.len()).step_by(7).chain([16, first.len()]) {
        let result = decompress(Compression::Snappy, &framed[..cut], 1 << 20);
        match cut {
            16 => assert_eq!(result.expect("no block").len(), 0),
            _ if cut == first.len() => assert_eq!(result.expect("one block").len(), 32 * 1024),
            _ => assert!(result.is_err(), "cut at {cut}"),
        }
    }
}

#[test]
fn a_visitor_may_stop_early() {
    let batch = Sample::of(10, 10, 0).build();
    let mut count = 0;
    for_each_record(&batch, |_| {
        count += 1;
        count < 3
    })
    .expect("a good batch");
    assert_eq!(count, 3);
}

#[test]
fn decompression_is_bounded() {
    const MAX: usize = 1 << 20;
    let bomb = vec![0; 4 * MAX];
    for codec in CODECS.into_iter().skip(1) {
        let small = compress(codec, &bomb);
        assert!(small.len() < MAX, "{codec:?}");
        assert!(decompress(codec, &small, MAX).is_err(), "{codec:?}");
        let all = decompress(codec, &small, 4 * MAX).expect("fits");
        assert_eq!(all.len(), 4 * MAX);
    }
    assert!(decompress(Compression::Snappy, &compress_xerial(&bomb, 32 * 1024), MAX).is_err());
}

#[test]
fn a_length_that_cannot_be_true_takes_no_memory() {
    // Five bytes that announce 200 MiB.
    let mut block = Vec::new();
    let mut length = 200_u32 << 20;
    while length >= 0x80 {
        block.push(length as u8 | 0x80);
        length >>= 7;
    }
    block.push(length as u8);
    let error = decompress(Compression::Snappy, &block, 256 << 20).expect_err("impossible");
    assert!(error.to_string().contains("cannot become"), "{error}");
}

#[test]
fn every_broken_rule_has_its_error() {
    let check = |bytes: &[u8]| validate_produced(bytes, 4_096).map(drop);
    let good = Sample::of(3, 20, 9).by_producer(7, 0, 0).build();
    assert_eq!(check(&good), Ok(()));
    let changed = |at: usize, to: &[u8]| {
        let mut batch = good.to_vec();
        batch[at..at + to.len()].copy_from_slice(to);
        batch
    };
    // Without a new checksum.
    assert!(matches!(
        check(&changed(60, &[4])),
        Err(BatchError::Corrupt(_))
    ));
    assert!(matches!(
        check(&changed(17, &[0; 4])),
        Err(BatchError::Corrupt(_))
    ));
    assert_eq!(check(&changed(16, &[1])), Err(BatchError::Magic(1)));
    assert_eq!(check(&changed(16, &[3])), Err(BatchError::Magic(3)));
    for length in [0_i32, 48, -1, i32::MIN, i32::MAX, good.len() as i32] {
        let bytes = changed(8, &length.to_be_bytes());
        assert!(
            matches!(check(&bytes), Err(BatchError::Corrupt(_))),
            "{length}"
        );
    }
    // Base offset and leader epoch are the broker's.
    assert_eq!(check(&changed(0, &[9; 8])), Ok(()));
    assert_eq!(check(&changed(12, &[9; 4])), Ok(()));
    // With a new checksum.
    let sealed = |at: usize, to: &[u8]| check(&with_crc(changed(at, to)));
    assert!(matches!(
        sealed(57, &4_i32.to_be_bytes()),
        Err(BatchError::Invalid(_))
    ));
    assert!(matches!(
        sealed(57, &0_i32.to_be_bytes()),
        Err(BatchError::Invalid(_))
    ));
    assert!(matches!(
        sealed(57, &(-3_i32).to_be_bytes()),
        Err(BatchError::Invalid(_))
    ));
    assert!(matches!(
        sealed(23, &7_i32.to_be_bytes()),
        Err(BatchError::Invalid(_))
    ));
    assert!(matches!(
        sealed(51, &(-1_i16).to_be_bytes()),
        Err(BatchError::Invalid(_))
    ));
    assert!(matches!(
        sealed(53, &(-1_i32).to_be_bytes()),
        Err(BatchError::Invalid(_))
    ));
    assert_eq!(
        sealed(21, &5_i16.to_be_bytes()),
        Err(BatchError::Compression(5))
    );
    assert_eq!(
        sealed(21, &7_i16.to_be_bytes()),
        Err(BatchError::Compression(7))
    );
    let control = ATTRIBUTE_CONTROL.to_be_bytes();
    assert!(matches!(sealed(21, &control), Err(BatchError::Invalid(_))));
    // More records than bytes for them.
    let mut many = changed(57, &1_000_i32.to_be_bytes());
    many[23..27].copy_from_slice(&999_i32.to_be_bytes());
    assert!(matches!(
        check(&with_crc(many)),
        Err(BatchError::Invalid(_))
    ));
    let transactional = Sample {
        attributes: ATTRIBUTE_TRANSACTIONAL,
        ..Sample::default()
    };
    assert!(matches!(
        check(&transactional.build()),
        Err(BatchError::Invalid(_))
    ));
    let two = [&good[..], &good[..]].concat();
    assert!(matches!(check(&two), Err(BatchError::Invalid(_))));
    let large = Sample::of(1, 5_000, 0).build();
    assert!(matches!(
        check(&large),
        Err(BatchError::TooLarge { max: 4_096, .. })
    ));
    for cut in 0..good.len() {
        assert!(check(&good[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn every_flipped_bit_behind_the_checksum_is_noticed() {
    let good = Sample::of(2, 30, 9).build();
    for at in 17..good.len() {
        for bit in 0..8 {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1 << bit;
            assert!(
                validate_produced(&bytes, 1 << 20).is_err(),
                "byte {at}, bit {bit}"
            );
        }
    }
}

#[test]
fn sequences_wrap_to_zero() {
    assert_eq!(sequence_add(5, 3), 8);
    assert_eq!(sequence_add(i32::MAX, 0), i32::MAX);
    assert_eq!(sequence_add(i32::MAX, 1), 0);
    assert_eq!(sequence_add(i32::MAX - 1, 3), 1);
    assert_eq!(sequence_add(0, i32::MAX), i32::MAX);
}

#[test]
fn log_append_time_replaces_all_timestamps_and_keeps_the_batch_valid() {
    for codec in CODECS {
        let mut batch = Sample::of(5, 40, 100).compressed(codec).build().to_vec();
        set_log_append_time(&mut batch, 777_000);
        let header = validate_produced(&batch, 1 << 20).expect("still valid");
        assert!(header.is_log_append_time());
        assert_eq!(header.max_timestamp, 777_000);
        assert_eq!(header.compression(), Ok(codec));
        let records = seen(&batch).expect("records");
        assert!(records.iter().all(|r| r.1 == 777_000), "{records:?}");
    }
}

fn codec() -> impl Strategy<Value = Compression> {
    prop::sample::select(CODECS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = validate_produced(&bytes, 200);
        let _ = seen(&bytes);
    }

    /// A good header in front, so that the walk over the records is reached.
    #[test]
    fn random_records_never_panic(
        codec in codec(),
        count in any::<i32>(),
        delta in any::<i32>(),
        mut body in prop::collection::vec(any::<u8>(), 0..300),
        wrap in any::<bool>(),
    ) {
        if wrap {
            body = compress(codec, &body);
        }
        let mut batch = Sample::default().compressed(codec).build_with_body(&body).to_vec();
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        batch[23..27].copy_from_slice(&delta.to_be_bytes());
        let batch = with_crc(batch);
        if let Ok(header) = validate_produced(&batch, 1 << 20) {
            prop_assert_eq!(header.size_in_bytes(), batch.len());
        }
        let _ = seen(&batch);
    }

    #[test]
    fn any_bytes_survive_compression(codec in codec(), bytes in prop::collection::vec(any::<u8>(), 0..5_000)) {
        let small = compress(codec, &bytes);
        let back = decompress(codec, &small, bytes.len());
        prop_assert_eq!(back.expect("decompresses"), &bytes[..]);
        let framed = compress_xerial(&bytes, 700);
        let back = decompress(Compression::Snappy, &framed, bytes.len());
        prop_assert_eq!(back.expect("decompresses"), &bytes[..]);
        if !bytes.is_empty() && codec != Compression::None {
            prop_assert!(decompress(codec, &small, bytes.len() - 1).is_err());
        }
    }
}

#[test]
fn a_batch_is_the_same_in_every_codec() {
    let codecs = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    let contents = |batch: &[u8]| {
        let mut found = Vec::new();
        for_each_record(batch, |r| {
            let owned = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
            found.push((r.offset, r.timestamp, owned(r.key), owned(r.value)));
            true
        })
        .expect("records");
        found
    };
    for from in codecs {
        // More than one Snappy block.
        let sample = Sample::of(50, 2_000, 1_000)
            .by_producer(7, 1, 20)
            .compressed(from);
        let batch = sample.build();
        for to in codecs {
            let again = rebuild::recompressed(&batch, to).expect("recompressed");
            let header = validate_produced(&again, 1 << 20).expect("a sound batch");
            assert_eq!(header.compression(), Ok(to));
            assert_eq!((header.producer_id, header.base_sequence), (7, 20));
            assert_eq!(contents(&again), contents(&batch), "{from:?} {to:?}");
        }
    }
}

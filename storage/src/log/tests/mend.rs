use super::*;

/// Flips a bit of the log file of the segment that holds `offset`, `at` bytes into its first batch
/// from there on; the rest of the log is untouched.
pub(super) fn damage(log: &PartitionLog, offset: Offset, at: u64) {
    use std::os::unix::fs::FileExt;
    let segment = log
        .segments()
        .into_iter()
        .rev()
        .find(|s| s.base_offset <= offset)
        .expect("a segment");
    let bytes = std::fs::read(&segment.path).expect("readable");
    let mut position = 0;
    for header in headers(&bytes) {
        if header.last_offset() >= offset {
            break;
        }
        position += header.size_in_bytes() as u64;
    }
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&segment.path)
        .expect("writable");
    let at = position + at;
    file.write_all_at(&[bytes[at as usize] ^ 4], at)
        .expect("damaged");
}

fn filled(dir: &Path) -> PartitionLog {
    let log = open(dir, None);
    for count in 1..16 {
        append(&log, &Sample::of(count, 100, 1), 1);
    }
    log
}

/// The batches another replica gives for a stretch.
pub(super) fn copy(from: &PartitionLog, stretch: &Stretch) -> Vec<u8> {
    let mut out = Vec::new();
    let mut next = stretch.from;
    while out.len() < stretch.bytes {
        let read = from
            .read(next, Offset::MAX, stretch.bytes - out.len(), true)
            .expect("a read");
        read.slices.iter().for_each(|s| out.extend_from_slice(s));
        next = read.next_offset;
    }
    out
}

#[test]
fn damaged_records_are_never_read_and_can_be_mended() {
    // Base offset, length, CRC, a count, a record.
    for at in [7, 11, 18, 60, 90] {
        for offset in [0, 1, 17, 40, 100, 119] {
            let (dir, other) = (scratch(), scratch());
            let (log, peer) = (filled(dir.path()), filled(other.path()));
            let whole = bytes_from(&peer, 0);
            damage(&log, offset, at);
            let error = log.read(offset, Offset::MAX, 1 << 20, true);
            assert!(
                matches!(error, Err(StorageError::Corrupt { .. })),
                "byte {at} of the batch of {offset}: {error:?}"
            );
            // What lies before is still there.
            let read = log.read(0, Offset::MAX, 1 << 20, true);
            assert!(offset == 0 || read.is_ok_and(|r| r.next_offset <= offset));

            let stretch = log.stretch_of(offset).expect("a stretch");
            let mut batches = copy(&peer, &stretch);
            batches[20] ^= 1;
            assert!(log.mend(&stretch, &batches).is_err(), "a damaged copy");
            batches[20] ^= 1;
            log.mend(&stretch, &batches).expect("mended");
            assert_eq!(bytes_from(&log, 0), whole);
        }
    }
}

#[test]
fn another_stretch_is_refused() {
    let dir = scratch();
    let log = filled(dir.path());
    let whole = bytes_from(&log, 0);
    let stretch = log.stretch_of(40).expect("a stretch");
    let other = log.stretch_of(100).expect("a stretch");
    assert_ne!(stretch, other);
    for batches in [&copy(&log, &other)[..], &[][..], &copy(&log, &stretch)[1..]] {
        assert!(log.mend(&stretch, batches).is_err());
    }
    assert_eq!(bytes_from(&log, 0), whole);
}

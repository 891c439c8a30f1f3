//! After a crash a log opens at its checkpoint, whatever became of the files since.

use super::*;
use std::path::PathBuf;

pub(super) fn copy_dir(from: &Path) -> TempDir {
    let to = scratch();
    for entry in std::fs::read_dir(from).expect("the folder") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    to
}

fn sample(i: i64) -> Sample {
    Sample::of(
        2 + i as usize % 3,
        90 + i as usize * 7 % 200,
        1_000 + i * 37 % 500,
    )
    .by_producer(i % 3, 0, (i / 3) as i32 * 5)
}

/// Batches whose producers' sequences fit.
fn batches(count: usize) -> Vec<(Bytes, LeaderEpoch)> {
    let mut next = [0; 3];
    (0..count as i64)
        .map(|i| {
            let mut sample = sample(i);
            let sequence = &mut next[(i % 3) as usize];
            sample.producer = Some((i % 3, 0, *sequence));
            *sequence += sample.records.len() as i32;
            (sample.build(), 1 + i as i32 / 10)
        })
        .collect()
}

struct Crashed {
    dir: TempDir,
    checkpoint: Vec<u8>,
    /// Segment that was written at the checkpoint, and its length then and at the crash.
    active: PathBuf,
    synced: usize,
    bytes: Vec<u8>,
    rest: Vec<(Bytes, LeaderEpoch)>,
}

/// A log with a checkpoint in the middle of a segment, and `after` batches after it.
fn crashed(after: usize) -> (Crashed, PartitionLog) {
    let dir = scratch();
    let log = open(dir.path(), None);
    let all = batches(40 + after);
    let mut count = 0;
    let last = loop {
        append_all(&log, &all[count..count + 1]);
        count += 1;
        let last = log.segments().pop().expect("a segment");
        if log.segments().len() > 3 && (200..900).contains(&last.bytes) {
            break last;
        }
    };
    let checkpoint = flush(&log);
    let all = &all[..count + after];
    append_all(&log, &all[count..]);
    let bytes = std::fs::read(&last.path).expect("the segment");
    let crashed = Crashed {
        dir,
        checkpoint,
        active: last.path.file_name().expect("a name").into(),
        synced: last.bytes as usize,
        bytes,
        rest: all[count..].to_vec(),
    };
    (crashed, log)
}

fn lookups(log: &PartitionLog) -> Vec<Option<Offset>> {
    (990..1_520)
        .map(|t| log.offset_for_timestamp(t).expect("a look").map(|f| f.1))
        .collect()
}

#[test]
fn cut_anywhere_after_the_checkpoint_replay_gives_the_same() {
    let (crashed, log) = crashed(3);
    assert!(crashed.bytes.len() > crashed.synced);
    let (expected, times) = (state_of(&log), lookups(&log));
    // With and without the indexes of the time after the checkpoint.
    for flushed_again in [false, true] {
        if flushed_again {
            flush(&log);
        }
        for cut in crashed.synced..=crashed.bytes.len() {
            let copy = copy_dir(crashed.dir.path());
            let path = copy.path().join(&crashed.active);
            let mut bytes = crashed.bytes[..cut].to_vec();
            // Some file systems leave zeros, or what another file held.
            if cut % 3 == 1 {
                bytes.resize(crashed.bytes.len(), cut as u8);
            }
            std::fs::write(&path, bytes).expect("cut");
            let log = open(copy.path(), Some(&crashed.checkpoint));
            append_all(&log, &crashed.rest);
            assert_eq!(state_of(&log), expected, "cut at {cut}");
            if cut % 16 == 0 {
                assert_eq!(lookups(&log), times, "cut at {cut}");
            }
        }
    }
}

#[test]
fn later_segments_are_not_trusted() {
    let (crashed, log) = crashed(40);
    let expected = state_of(&log);
    assert!(log.segments().len() > 8);
    drop(log);
    for flushed in [false, true] {
        let copy = copy_dir(crashed.dir.path());
        for entry in std::fs::read_dir(copy.path()).expect("the folder") {
            let path = entry.expect("an entry").path();
            let later = path.file_name() > Some(crashed.active.as_os_str());
            if flushed && later && path.extension().is_some_and(|e| e == "log") {
                std::fs::write(path, b"never synced").expect("written");
            }
        }
        let log = open(copy.path(), Some(&crashed.checkpoint));
        assert_eq!(
            log.log_end_offset(),
            headers(&bytes_from(&log, 0))
                .last()
                .expect("a batch")
                .last_offset()
                + 1
        );
        append_all(&log, &crashed.rest);
        assert_eq!(state_of(&log), expected);
    }
}

#[test]
fn any_loss_of_indexes_is_made_good() {
    let (crashed, log) = crashed(40);
    let checkpoint = flush(&log);
    let (expected, times) = (state_of(&log), lookups(&log));
    let whole = bytes_from(&log, 0);
    let names = files_with(crashed.dir.path(), "index");
    assert!(names.len() > 16);
    for name in names {
        for keep in [None, Some(0), Some(5), Some(8), Some(13)] {
            for zeros in [0, 8, 12, 48] {
                let copy = copy_dir(crashed.dir.path());
                let path = copy.path().join(&name);
                match keep {
                    None => std::fs::remove_file(&path).expect("removed"),
                    Some(keep) => {
                        let bytes = std::fs::read(&path).expect("the index");
                        let mut bytes = bytes[..keep.min(bytes.len())].to_vec();
                        bytes.resize(bytes.len() + zeros, 0);
                        std::fs::write(&path, &bytes).expect("cut");
                    }
                }
                let log = open(copy.path(), Some(&checkpoint));
                assert_eq!(state_of(&log), expected, "{name:?} {keep:?} {zeros}");
                assert_eq!(lookups(&log), times, "{name:?} {keep:?} {zeros}");
                assert_eq!(bytes_from(&log, 0), whole, "{name:?} {keep:?} {zeros}");
            }
        }
    }
}

/// Nothing protects an index: it is not believed where the batches say otherwise.
#[test]
fn an_index_that_leads_astray_is_made_again() {
    let (crashed, log) = crashed(40);
    let checkpoint = flush(&log);
    let (end, whole) = (log.log_end_offset(), bytes_from(&log, 0));
    for name in files_with(crashed.dir.path(), ".index") {
        let bytes = std::fs::read(crashed.dir.path().join(&name)).expect("the index");
        for at in 0..bytes.len() {
            for flipped in [1, 16, 128] {
                let copy = copy_dir(crashed.dir.path());
                let mut damaged = bytes.clone();
                damaged[at] ^= flipped;
                std::fs::write(copy.path().join(&name), &damaged).expect("damaged");
                let log = open(copy.path(), Some(&checkpoint));
                for from in 0..end {
                    let read = log.read(from, Offset::MAX, 1 << 20, true);
                    let read = read.unwrap_or_else(|e| panic!("{name:?}, byte {at}: {from}: {e}"));
                    let first = BatchHeader::parse(&read.slices[0]).expect("a batch");
                    assert!((first.base_offset..=first.last_offset()).contains(&from));
                }
                assert_eq!(bytes_from(&log, 0), whole, "{name:?}, byte {at}");
            }
        }
    }
}

fn files_with(dir: &Path, ending: &str) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(dir).expect("the folder");
    entries
        .map(|e| e.expect("an entry").file_name())
        .filter(|name| name.to_string_lossy().ends_with(ending))
        .collect()
}

#[test]
fn missing_synced_bytes_are_an_error() {
    let (crashed, log) = crashed(3);
    drop(log);
    let corrupt = |dir: &Path| {
        let opened = open_with(dir, small(), Some(&crashed.checkpoint));
        assert!(matches!(opened, Err(StorageError::Corrupt { .. })));
    };
    for cut in [0, 1, crashed.synced / 2, crashed.synced - 1] {
        let copy = copy_dir(crashed.dir.path());
        std::fs::write(copy.path().join(&crashed.active), &crashed.bytes[..cut]).expect("cut");
        corrupt(copy.path());
    }
    let copy = copy_dir(crashed.dir.path());
    std::fs::remove_file(copy.path().join(&crashed.active)).expect("removed");
    corrupt(copy.path());
    let copy = copy_dir(crashed.dir.path());
    std::fs::remove_file(copy.path().join("00000000000000000000.log")).expect("removed");
    corrupt(copy.path());
    let newer = open_with(crashed.dir.path(), small(), Some(b"\x08\x02"));
    let message = newer.map(|_| ()).expect_err("not known").to_string();
    assert!(
        message.contains("log state version 2 is not known"),
        "{message}"
    );
    for checkpoint in [&b"\xff\xff\xff"[..], b""] {
        let opened = open_with(crashed.dir.path(), small(), Some(checkpoint));
        assert!(
            matches!(opened, Err(StorageError::Corrupt { .. })),
            "{checkpoint:?}"
        );
    }
}

/// A closed segment that lost its end must not be read as if nothing had been there.
#[test]
fn a_closed_segment_without_its_end_is_an_error() {
    let (crashed, log) = crashed(3);
    let closed = log.segments().remove(1);
    let bytes = std::fs::read(&closed.path).expect("the segment");
    let name = closed.path.file_name().expect("a name");
    drop(log);
    for cut in 0..bytes.len() {
        let copy = copy_dir(crashed.dir.path());
        std::fs::write(copy.path().join(name), &bytes[..cut]).expect("cut");
        for without_index in [false, true] {
            if without_index {
                let index = Path::new(name).with_extension("index");
                std::fs::remove_file(copy.path().join(index)).expect("removed");
            }
            let opened = open_with(copy.path(), small(), Some(&crashed.checkpoint));
            assert!(
                matches!(opened, Err(StorageError::Corrupt { .. })),
                "cut at {cut}"
            );
        }
    }
    let copy = copy_dir(crashed.dir.path());
    std::fs::remove_file(copy.path().join(name)).expect("removed");
    let opened = open_with(copy.path(), small(), Some(&crashed.checkpoint));
    assert!(
        matches!(opened, Err(StorageError::Corrupt { .. })),
        "removed"
    );
}

#[test]
fn each_flush_is_a_point_to_return_to() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let mut points = Vec::new();
    let all = batches(60);
    for part in all.chunks(7) {
        append_all(&log, part);
        // Taken now, finished after more has been written.
        points.push((state_of(&log), log.begin_flush().expect("a ticket")));
        append(&log, &Sample::default(), 9);
    }
    drop(log);
    for (expected, ticket) in points {
        let checkpoint = ticket.finish().expect("flushed");
        let copy = copy_dir(dir.path());
        assert_eq!(state_of(&open(copy.path(), Some(&checkpoint))), expected);
    }
}

/// Flipped bits are not a lost end: such a log opens, refuses the damaged records, and is mended.
#[test]
fn damage_at_the_end_of_a_segment_is_mended_after_a_start() {
    let (crashed, log) = crashed(0);
    drop(log);
    let at_checkpoint = |dir: &Path| open_with(dir, small(), Some(&crashed.checkpoint));
    let peer = at_checkpoint(crashed.dir.path()).expect("the log");
    let (end, whole) = (peer.log_end_offset(), bytes_from(&peer, 0));
    let segments = peer.segments();
    // A closed one, and the one that was written.
    for segment in [&segments[1], &segments[segments.len() - 1]] {
        let name = segment.path.file_name().expect("a name");
        let bytes = std::fs::read(&segment.path).expect("the segment");
        // Nothing protects a batch's leader epoch, here as in Kafka.
        let mut epochs = Vec::new();
        let mut begins = 0;
        for header in headers(&bytes) {
            epochs.extend(begins + 12..begins + 16);
            begins += header.size_in_bytes();
        }
        for at in (0..bytes.len()).filter(|at| !epochs.contains(at)) {
            let copy = copy_dir(crashed.dir.path());
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            std::fs::write(copy.path().join(name), &damaged).expect("damaged");
            if at % 2 == 0 {
                let index = Path::new(name).with_extension("index");
                let _ = std::fs::remove_file(copy.path().join(index));
            }
            let log = at_checkpoint(copy.path());
            let log = log.unwrap_or_else(|e| panic!("byte {at} of {name:?}: {e}"));
            assert_eq!(log.log_end_offset(), end);
            let mut next = 0;
            while next < end {
                match log.read(next, Offset::MAX, 1 << 20, true) {
                    Ok(read) => next = read.next_offset,
                    Err(StorageError::Corrupt { .. }) => {
                        let stretch = log.stretch_of(next).expect("a stretch");
                        let batches = super::mend::copy(&peer, &stretch);
                        log.mend(&stretch, &batches).expect("mended");
                    }
                    Err(error) => panic!("byte {at} of {name:?}: {error}"),
                }
            }
            assert!(bytes_from(&log, 0) == whole, "byte {at} of {name:?}");
        }
    }
}

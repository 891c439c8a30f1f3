use super::*;
use proptest::prelude::*;

#[test]
fn offsets_follow_each_other_and_nothing_else_changes() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let sent: Vec<Bytes> = [3, 1, 7].map(|n| Sample::of(n, 20, 50).build()).to_vec();
    let outcomes = append_all(
        &log,
        &[
            (sent[0].clone(), 4),
            (sent[1].clone(), 4),
            (sent[2].clone(), 9),
        ],
    );
    assert_eq!(outcomes, [appended(0, 2), appended(3, 3), appended(4, 10)]);
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (0, 11));
    let mut stored = &bytes_from(&log, 0)[..];
    for (sent, (base, epoch)) in sent.iter().zip([(0, 4), (3, 4), (4, 9)]) {
        let (batch, rest) = stored.split_at(sent.len());
        let header = BatchHeader::parse(batch).expect("a header");
        assert_eq!((header.base_offset, header.leader_epoch), (base, epoch));
        assert_eq!((&batch[8..12], &batch[16..]), (&sent[8..12], &sent[16..]));
        stored = rest;
    }
    assert_eq!(stored, b"");
}

#[test]
fn segments_roll_by_size() {
    let dir = scratch();
    let log = open(dir.path(), None);
    for _ in 0..20 {
        append(&log, &Sample::of(2, 200, 1), 1);
    }
    let segments = log.segments();
    assert!(segments.len() > 3, "{segments:?}");
    for pair in segments.windows(2) {
        assert!(pair[0].bytes > 1_000 && pair[0].bytes <= 2_000, "{pair:?}");
        let bytes = std::fs::read(&pair[0].path).expect("the segment");
        assert_eq!(bytes.len() as u64, pair[0].bytes);
        let last = headers(&bytes).pop().expect("a batch").last_offset();
        assert_eq!(last + 1, pair[1].base_offset);
        let name = format!("{:020}.log", pair[0].base_offset);
        assert!(pair[0].path.ends_with(name));
    }
    assert_eq!(log.size_bytes(), bytes_from(&log, 0).len() as u64);
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let large = Sample::of(1, 10_000, 1);
    for sample in [&large, &Sample::default(), &large, &large] {
        append(&log, sample, 1);
    }
    assert_eq!(log.segments().len(), 4);
    assert_eq!(headers(&bytes_from(&log, 0)).len(), 4);
    let checkpoint = flush(&log);
    let before = state_of(&log);
    drop(log);
    assert_eq!(state_of(&open(dir.path(), Some(&checkpoint))), before);
}

#[test]
fn segments_roll_by_age() {
    let dir = scratch();
    let log = open(dir.path(), None);
    log.maybe_roll(i64::MAX / 2);
    assert_eq!(log.segments().len(), 0, "nothing to end");
    append(&log, &Sample::default(), 1);
    let now = super::super::segment::now_ms();
    log.maybe_roll(now);
    append(&log, &Sample::default(), 1);
    assert_eq!(log.segments().len(), 1, "it is young");
    for _ in 0..2 {
        log.maybe_roll(now + small().segment_ms + 10_000);
    }
    append(&log, &Sample::default(), 1);
    assert_eq!(log.segments().len(), 2);
    assert_eq!(headers(&bytes_from(&log, 0)).len(), 3);
}

#[test]
fn a_smaller_segment_size_holds_from_the_next_batch_on() {
    let dir = scratch();
    let log = open(dir.path(), None);
    append(&log, &Sample::of(1, 800, 1), 1);
    log.update_config(LogConfig {
        segment_bytes: 500,
        ..small()
    });
    append(&log, &Sample::of(1, 100, 1), 1);
    assert_eq!(log.segments().len(), 2);
}

#[test]
fn a_deleted_log_says_so_and_leaves_readers_their_bytes() {
    let dir = scratch();
    let log = open(&dir.path().join("topic-3"), None);
    append(&log, &Sample::default(), 1);
    let read = log.read(0, 1, 1_000, true).expect("a read");
    let before = read.slices[0].to_vec();
    log.delete().expect("deleted");
    assert!(!dir.path().join("topic-3").exists());
    assert_eq!(read.slices[0][..], before[..]);
    let closed = |r: Result<(), StorageError>| matches!(r, Err(StorageError::Closed { .. }));
    assert!(closed(log.read(0, 1, 1_000, true).map(drop)));
    assert!(closed(log.append(&[]).map(drop)));
    assert!(closed(log.begin_flush().map(drop)));
    log.delete().expect("twice is the same");
}

/// A flush that began before a topic went must not write into the folder of the next topic of that name.
#[test]
fn a_flush_under_way_leaves_nothing_in_a_folder_that_is_removed() {
    let dir = scratch();
    let dir = dir.path().join("topic-3");
    let log = open(&dir, None);
    append(&log, &Sample::default(), 1);
    let ticket = log.begin_flush().expect("a ticket");
    log.delete().expect("deleted");
    std::fs::create_dir(&dir).expect("made anew");
    let flushed = ticket.finish();
    assert!(matches!(flushed, Err(StorageError::Closed { .. })));
    assert_eq!(std::fs::read_dir(&dir).expect("listed").count(), 0);
    std::fs::remove_dir(&dir).expect("empty");

    for _ in 0..200 {
        let log = open(&dir, None);
        append(&log, &Sample::default(), 1);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| while log.begin_flush().and_then(FlushTicket::finish).is_ok() {});
            }
            let removed = log.delete();
            assert!(removed.is_ok(), "{removed:?}");
        });
        assert!(!dir.exists());
    }
}

#[test]
fn a_malformed_batch_changes_nothing() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let good = AppendBatch {
        bytes: Sample::default().by_producer(1, 0, 0).build(),
        leader_epoch: 1,
        origin: BatchOrigin::Client,
    };
    let bad = AppendBatch {
        bytes: Bytes::from_static(b"nonsense"),
        leader_epoch: 1,
        origin: BatchOrigin::Client,
    };
    assert!(log.append(&[good.clone(), bad]).is_err());
    assert_eq!((log.log_end_offset(), log.producers().len()), (0, 0));
    assert_eq!(log.append(&[good]).expect("appended"), [appended(0, 0)]);
}

#[derive(Debug, Clone)]
enum Command {
    Append(Vec<(Sample, LeaderEpoch)>),
    LogStart(Offset),
}

/// What only one replica does, or does at another time.
#[derive(Debug, Clone)]
enum Local {
    Nothing,
    Roll,
    Flush,
    ReleaseMappings,
    Reopen,
}

fn sample() -> impl Strategy<Value = Sample> {
    let producer = prop_oneof![Just(None), (0..3_i64, 0..3_i16, 0..12_i32).prop_map(Some),];
    (1..5_usize, 0..300_usize, 0..5_000_i64, producer).prop_map(|(count, bytes, at, producer)| {
        Sample {
            producer,
            ..Sample::of(count, bytes, at)
        }
    })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => prop::collection::vec((sample(), 1..4_i32), 1..6).prop_map(Command::Append),
        1 => (0..200_i64).prop_map(Command::LogStart),
    ]
}

fn local() -> impl Strategy<Value = Local> {
    prop_oneof![
        4 => Just(Local::Nothing),
        1 => Just(Local::Roll),
        1 => Just(Local::Flush),
        1 => Just(Local::ReleaseMappings),
        1 => Just(Local::Reopen),
    ]
}

/// Epochs never go down in a Raft log.
fn run(log: &PartitionLog, command: &Command, epoch: &mut LeaderEpoch) -> Vec<AppendOutcome> {
    match command {
        Command::Append(samples) => {
            let batches: Vec<_> = samples
                .iter()
                .map(|(sample, e)| {
                    *epoch = (*epoch).max(*e);
                    (sample.build(), *epoch)
                })
                .collect();
            append_all(log, &batches)
        }
        Command::LogStart(offset) => {
            log.set_log_start_offset(*offset).expect("moved");
            Vec::new()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_commands_give_the_same_bytes(
        steps in prop::collection::vec((command(), local()), 1..40),
    ) {
        let (one, two) = (scratch(), scratch());
        let plain = open(one.path(), None);
        let config = LogConfig { segment_bytes: 900, index_interval_bytes: 300, ..LogConfig::default() };
        let mut busy = open_with(two.path(), config.clone(), None).expect("opens");
        let (mut epoch_one, mut epoch_two) = (0, 0);
        for (command, local) in &steps {
            let outcomes = run(&plain, command, &mut epoch_one);
            prop_assert_eq!(run(&busy, command, &mut epoch_two), outcomes);
            match local {
                Local::Nothing => {}
                Local::Roll => busy.maybe_roll(i64::MAX / 2),
                Local::Flush => drop(flush(&busy)),
                Local::ReleaseMappings => busy.release_idle_mappings(),
                Local::Reopen => {
                    let checkpoint = flush(&busy);
                    drop(busy);
                    busy = open_with(two.path(), config.clone(), Some(&checkpoint)).expect("opens");
                }
            }
            prop_assert_eq!(state_of(&plain), state_of(&busy));
        }
    }
}

#[test]
fn a_fenced_batch_takes_effect_in_its_own_place_and_epoch_only() {
    let dir = scratch();
    let log = open(dir.path(), None);
    let at = |base_offset, epoch| {
        let mut builder = crate::batch::BatchBuilder::new(base_offset, epoch, 1, None);
        builder.push(b"k", Some(b"v"));
        AppendBatch {
            bytes: builder.finish(),
            leader_epoch: 3,
            origin: BatchOrigin::Fenced,
        }
    };
    // Made for another epoch; right; after a record that is not there; right again.
    let outcomes = log
        .append(&[at(0, 2), at(0, 3), at(2, 3), at(1, 3), at(1, 3)])
        .expect("appended");
    let fenced = AppendOutcome::Fenced;
    let expected = [fenced, appended(0, 0), fenced, appended(1, 1), fenced];
    assert_eq!(outcomes, expected);
    assert_eq!(log.log_end_offset(), 2);
}

#[test]
fn what_was_written_while_nobody_read_may_have_left_the_cache() {
    let dir = scratch();
    let log = open_with(dir.path(), LogConfig::default(), None).expect("the log opens");
    append(&log, &Sample::of(2, 100_000, 1), 4);
    log.set_read(false);
    append(&log, &Sample::of(2, 100_000, 2), 4);
    let is_cold = |offsets: std::ops::Range<Offset>| -> Vec<bool> {
        offsets.map(|o| log.may_have_left_cache(o)).collect()
    };
    assert_eq!(is_cold(2..5), [true, true, false]);
    log.set_read(true);
    append(&log, &Sample::of(2, 100_000, 3), 5);
    assert_eq!(is_cold(2..6), [true, true, false, false]);
    assert_eq!(headers(&bytes_from(&log, 0)).len(), 3);
}

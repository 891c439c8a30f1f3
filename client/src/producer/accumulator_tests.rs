use super::super::slot::Payload;
use super::*;

const RECORD_BYTES: usize = 1000;

fn record() -> Record {
    Record::new("t", vec![0; RECORD_BYTES - 100])
}

/// Room for four records, two of which fill a batch.
fn accumulator() -> Accumulator {
    let config = ProducerConfig::default()
        .with_buffer_bytes(4 * RECORD_BYTES)
        .with_batch_bytes(2 * RECORD_BYTES)
        .with_linger(Duration::from_secs(3600));
    Accumulator::new(&config)
}

fn put(accumulator: &Accumulator, partition: i32) {
    assert!(accumulator.try_reserve(RECORD_BYTES));
    let record = record().with_partition(partition);
    accumulator
        .append(&record, 0, 2, RECORD_BYTES)
        .expect("put in");
}

/// The partitions of the batches that may go.
fn due(accumulator: &Accumulator) -> Vec<FilledBatch> {
    accumulator.take_due(Instant::now(), |_, _| false).0.into()
}

fn written(accumulator: &Accumulator, filled: FilledBatch) {
    let batch = Batch {
        id: filled.id,
        slot: 0,
        payload: Payload::Packing,
        count: filled.builder.count(),
        mark: None,
        maybe_written: false,
        deadline: filled.opened_at,
        reserved_bytes: filled.reserved_bytes,
        outcome: filled.outcome,
        last_error: None,
    };
    accumulator.finish(batch, Ok(Written::default()));
}

/// Were they sent whenever somebody waits, each batch would be as small as the room that the one before it made.
#[tokio::test]
async fn open_batches_are_cut_short_only_when_nothing_else_makes_room() {
    let accumulator = accumulator();
    for partition in [0, 0, 0, 1] {
        put(&accumulator, partition);
    }
    let mut waiting = Box::pin(accumulator.reserve(3 * RECORD_BYTES));
    assert!(waiting.as_mut().now_or_never().is_none());
    let full = due(&accumulator);
    assert_eq!(full.len(), 1);
    assert_eq!((full[0].partition, full[0].builder.count()), (0, 2));
    assert!(due(&accumulator).is_empty(), "the full one makes room");
    for batch in full {
        written(&accumulator, batch);
    }
    assert!(waiting.as_mut().now_or_never().is_none());
    let cut: Vec<i32> = due(&accumulator).iter().map(|b| b.partition).collect();
    assert_eq!(cut, [0, 1]);
}

#[test]
fn a_batch_begins_with_the_room_that_the_one_before_it_took() {
    let accumulator = accumulator();
    for partition in [0, 0, 0, 0] {
        put(&accumulator, partition);
    }
    let state = accumulator.state.lock();
    let open = state.topics[0].partitions[0].open.as_ref();
    assert!(open.expect("an open batch").batch.builder.room() >= 2 * RECORD_BYTES - 200);
}

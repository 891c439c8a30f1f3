//! Ends are read while the log changes at the worst moment.

use super::super::ReadableEnds;
use super::transactions::{mark, send};
use super::*;

fn ends(high_watermark: Offset, last_stable_offset: Offset) -> ReadableEnds {
    ReadableEnds {
        high_watermark,
        last_stable_offset,
    }
}

/// Reads the ends, and does `change` after the first look at the end of the log.
fn ends_while(log: &PartitionLog, change: impl FnOnce()) -> ReadableEnds {
    let mut change = Some(change);
    log.readable_ends_while(|| {
        if let Some(change) = change.take() {
            change();
        }
    })
}

#[test]
fn the_end_of_one_moment_never_meets_the_last_stable_offset_of_another() {
    let dir = scratch();
    let log = open(dir.path(), None);
    // The end seen first lies within a transaction, which then goes on and is committed.
    send(&log, 1, (1, 0, 0));
    let seen = ends_while(&log, || {
        send(&log, 1, (1, 0, 1));
        mark(&log, (1, 0), true, 1, false);
    });
    assert_eq!(seen, ends(3, 3));
    // Another one opens right where it ended.
    send(&log, 1, (1, 0, 2));
    let seen = ends_while(&log, || {
        send(&log, 1, (2, 0, 0));
        send(&log, 1, (1, 0, 3));
        mark(&log, (1, 0), true, 1, false);
    });
    assert_eq!(seen, ends(7, 4));
    // And an aborted one; the other is still open.
    let seen = ends_while(&log, || {
        mark(&log, (2, 0), false, 1, false);
    });
    assert_eq!(seen, ends(8, 8));
}

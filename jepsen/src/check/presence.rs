//! Is every acknowledged record there, once, in one place?

use super::Anomaly;
use super::log::Log;

/// Acknowledged values that no poll returned although a reader went past their place. A value
/// acknowledged without an offset counts as lost only by [`unseen`].
#[must_use]
pub fn lost_write(log: &Log) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for (key, known) in &log.keys {
        let Some(last_read) = known.read.last() else {
            continue;
        };
        for (value, offset) in &known.acknowledged {
            let passed = offset.is_some_and(|offset| offset <= *last_read);
            if passed && !known.read_values.contains(value) {
                found.push(Anomaly::LostWrite {
                    key: key.clone(),
                    value: *value,
                    offset: *offset,
                });
            }
        }
    }
    found
}

/// Acknowledged values that no poll returned, and that no reader can be said to have passed.
#[must_use]
pub fn unseen(log: &Log) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for (key, known) in &log.keys {
        let last_read = known.read.last().copied();
        for (value, offset) in &known.acknowledged {
            let passed = offset.is_some() && *offset <= last_read;
            if !passed && !known.read_values.contains(value) {
                found.push(Anomaly::Unseen {
                    key: key.clone(),
                    value: *value,
                });
            }
        }
    }
    found
}

/// Values that stand at more than one offset.
#[must_use]
pub fn duplicate(log: &Log) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for (key, known) in &log.keys {
        for (value, offsets) in known
            .offsets_of
            .iter()
            .filter(|(_, offsets)| offsets.len() > 1)
        {
            let offsets = offsets.iter().copied().collect();
            found.push(Anomaly::Duplicate {
                key: key.clone(),
                value: *value,
                offsets,
            });
        }
    }
    found
}

/// Offsets that name more than one value, in acknowledgements and polls together.
#[must_use]
pub fn inconsistent_offsets(log: &Log) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for (key, known) in &log.keys {
        for (offset, values) in known
            .values_at
            .iter()
            .filter(|(_, values)| values.len() > 1)
        {
            let values = values.iter().copied().collect();
            found.push(Anomaly::InconsistentOffsets {
                key: key.clone(),
                offset: *offset,
                values,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{History, Kind};

    fn log(build: impl FnOnce(&mut History)) -> Log {
        let mut history = History::default();
        build(&mut history);
        Log::of(&history)
    }

    #[test]
    fn clean_history_has_no_anomaly() {
        let log = log(|h| {
            h.send_ok(0, "t-0", 10, 0);
            h.send_ok(0, "t-0", 11, 1);
            h.send_ended(0, Kind::Info, "t-0", 12);
            h.send_ended(0, Kind::Fail, "t-0", 13);
            h.poll_ok(1, "t-0", vec![(0, 10), (1, 11), (2, 12)]);
            h.poll_ok(2, "t-0", vec![(0, 10), (1, 11)]);
        });
        assert_eq!(lost_write(&log), []);
        assert_eq!(unseen(&log), []);
        assert_eq!(duplicate(&log), []);
        assert_eq!(inconsistent_offsets(&log), []);
    }

    #[test]
    fn acknowledged_value_a_reader_went_past_is_lost() {
        let log = log(|h| {
            h.send_ok(0, "t-0", 10, 0);
            h.send_ok(0, "t-0", 11, 1);
            h.poll_ok(1, "t-0", vec![(0, 10), (2, 12)]);
        });
        let lost = Anomaly::LostWrite {
            key: "t-0".into(),
            value: 11,
            offset: Some(1),
        };
        assert_eq!(lost_write(&log), [lost]);
        assert_eq!(unseen(&log), []);
    }

    #[test]
    fn a_value_in_anothers_place_is_lost_and_inconsistent() {
        let log = log(|h| {
            h.send_ok(0, "t-0", 10, 0);
            h.poll_ok(1, "t-0", vec![(0, 99)]);
        });
        assert_eq!(lost_write(&log).len(), 1);
        let expected = Anomaly::InconsistentOffsets {
            key: "t-0".into(),
            offset: 0,
            values: vec![10, 99],
        };
        assert_eq!(inconsistent_offsets(&log), [expected]);
    }

    #[test]
    fn acknowledged_value_past_the_last_read_is_unseen() {
        let log = log(|h| {
            h.send_ok(0, "t-0", 10, 0);
            h.send_ok(0, "t-0", 11, 1);
            h.send_ok(0, "t-0", 12, None);
            h.send_ok(0, "u-0", 13, 0);
            h.poll_ok(1, "t-0", vec![(0, 10)]);
        });
        let unseen_value = |key: &str, value| Anomaly::Unseen {
            key: key.into(),
            value,
        };
        let expected = [
            unseen_value("t-0", 11),
            unseen_value("t-0", 12),
            unseen_value("u-0", 13),
        ];
        assert_eq!(unseen(&log), expected);
        assert_eq!(lost_write(&log), []);
    }

    #[test]
    fn a_value_at_two_offsets_is_a_duplicate() {
        let log = log(|h| {
            h.send_ok(0, "t-0", 10, 0);
            h.poll_ok(1, "t-0", vec![(0, 10), (1, 10)]);
        });
        let expected = Anomaly::Duplicate {
            key: "t-0".into(),
            value: 10,
            offsets: vec![0, 1],
        };
        assert_eq!(duplicate(&log), [expected]);
    }

    #[test]
    fn equal_values_of_two_keys_are_two_records() {
        let log = log(|h| {
            h.poll_ok(1, "t-0", vec![(0, 10)]);
            h.poll_ok(1, "t-1", vec![(5, 10)]);
        });
        assert_eq!(duplicate(&log), []);
        assert_eq!(inconsistent_offsets(&log), []);
    }
}

//! Records of `__transaction_state`, in Kafka's formats (`TransactionLogKey`, `TransactionLogValue` of
//! its transaction coordinator). Values are written in version 1 and read in versions 0 and 1.

use super::super::{Malformed, NewRecord, Reader, Writer};
use super::state::{State, Transaction};
use bytes::Bytes;
use std::collections::BTreeMap;

const KEY: i16 = 0;
const VALUE: i16 = 1;
const TAG_PREVIOUS_PRODUCER_ID: u32 = 0;
const TAG_NEXT_PRODUCER_ID: u32 = 1;
const TAG_CLIENT_VERSION: u32 = 2;

fn key(id: &str) -> Bytes {
    let mut key = Writer::versioned(KEY);
    key.string(false, id);
    key.finish()
}

/// The transactional id a key names; `None` for keys of other kinds.
///
/// # Errors
/// When it is cut or not UTF-8.
pub fn read_key(bytes: &[u8]) -> Result<Option<String>, Malformed> {
    let mut reader = Reader::new(bytes);
    match reader.i16()? {
        KEY => reader.string(false).map(Some),
        _ => Ok(None),
    }
}

/// Forgets a transactional id.
pub fn tombstone(id: &str) -> NewRecord {
    NewRecord {
        key: key(id),
        value: None,
    }
}

/// A transactional id's present state.
pub fn record(id: &str, transaction: &Transaction) -> NewRecord {
    let t = transaction;
    let mut value = Writer::versioned(VALUE);
    value
        .i64(t.producer_id)
        .i16(t.epoch)
        .i32(t.timeout_ms)
        .i8(t.state as i8);
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in &t.partitions {
        topics.entry(topic).or_default().push(*partition);
    }
    value.array_of(true, topics, |writer, (topic, partitions)| {
        writer.string(true, topic);
        writer.array_of(true, partitions, |w, p| {
            w.i32(p);
        });
        writer.no_tags();
    });
    value.i64(t.updated_ms).i64(t.start_ms.unwrap_or(-1));
    let tagged = [
        (TAG_PREVIOUS_PRODUCER_ID, t.previous_producer_id),
        (TAG_NEXT_PRODUCER_ID, t.next_producer_id),
    ];
    let tagged: Vec<(u32, i64)> = tagged
        .into_iter()
        .filter_map(|(tag, id)| Some((tag, id?)))
        .collect();
    let versioned = t.client_version > 0;
    value.unsigned_varint(tagged.len() as u32 + u32::from(versioned));
    for (tag, id) in tagged {
        value.unsigned_varint(tag).unsigned_varint(8).i64(id);
    }
    if versioned {
        value
            .unsigned_varint(TAG_CLIENT_VERSION)
            .unsigned_varint(2)
            .i16(t.client_version);
    }
    NewRecord {
        key: key(id),
        value: Some(value.finish()),
    }
}

/// Reads a value.
///
/// # Errors
/// When it is cut, or of a version or state that is not known.
pub fn read_value(bytes: &[u8]) -> Result<Transaction, Malformed> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16()?;
    if !(0..=VALUE).contains(&version) {
        return Err(Malformed("a value of an unknown version"));
    }
    let flexible = version >= 1;
    let mut t = Transaction::new(reader.i64()?, 0, 0);
    t.epoch = reader.i16()?;
    t.timeout_ms = reader.i32()?;
    t.state = State::from_id(reader.i8()?).ok_or(Malformed("an unknown transaction state"))?;
    let topics = reader.nullable_array_of(flexible, |reader| {
        let topic = reader.string(flexible)?;
        let partitions = reader.array_of(flexible, Reader::i32)?;
        if flexible {
            reader.skip_tagged()?;
        }
        Ok((topic, partitions))
    })?;
    for (topic, partitions) in topics.unwrap_or_default() {
        for partition in partitions {
            t.partitions.insert((topic.clone(), partition));
        }
    }
    t.updated_ms = reader.i64()?;
    t.start_ms = Some(reader.i64()?).filter(|ms| *ms >= 0);
    if flexible {
        reader.tagged(|tag, field| {
            match tag {
                TAG_PREVIOUS_PRODUCER_ID => t.previous_producer_id = id(field)?,
                TAG_NEXT_PRODUCER_ID => t.next_producer_id = id(field)?,
                TAG_CLIENT_VERSION => t.client_version = field.i16()?,
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(t)
}

fn id(field: &mut Reader<'_>) -> Result<Option<i64>, Malformed> {
    Ok(Some(field.i64()?).filter(|id| *id >= 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let mut t = Transaction::new(4000, 60_000, 17);
        t.epoch = 7;
        t.state = State::PrepareCommit;
        t.partitions = [
            ("b".to_owned(), 1),
            ("a".to_owned(), 0),
            ("a".to_owned(), 5),
        ]
        .into();
        t.start_ms = Some(16);
        for (previous, next, version) in [(None, None, 0), (Some(3), Some(9), 2)] {
            t.previous_producer_id = previous;
            t.next_producer_id = next;
            t.client_version = version;
            let record = record("id", &t);
            assert_eq!(read_key(&record.key), Ok(Some("id".to_owned())));
            let value = record.value.expect("a value");
            assert_eq!(read_value(&value), Ok(t.clone()));
            for cut in 0..value.len() {
                assert!(read_value(&value[..cut]).is_err(), "cut at {cut}");
            }
        }
    }
}

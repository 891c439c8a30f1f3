//! Records as people write and read them.

use bytes::Bytes;
use std::sync::Arc;

/// A header of a record. Keys may repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name, in UTF-8; may be empty.
    pub key: String,
    /// Any bytes; None is null, which is not the same as empty.
    pub value: Option<Bytes>,
}

/// A record to produce.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Shared, so that many records of one topic cost no allocation for it.
    pub topic: Arc<str>,
    /// None: chosen by key, or to spread records without one.
    pub partition: Option<i32>,
    /// What the record is about: records of equal keys go to one partition, in order, and compaction
    /// keeps the last of them. None: about nothing in particular.
    pub key: Option<Bytes>,
    /// None is a tombstone: compaction forgets the key.
    pub value: Option<Bytes>,
    /// Written and read in this order.
    pub headers: Vec<Header>,
    /// Milliseconds since 1970; None: now.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// A record with a value for a topic; without a key, headers, or a partition of choice.
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Record {
        Record {
            topic: topic.into(),
            value: Some(value.into()),
            ..Record::default()
        }
    }

    /// Sets [`Record::key`].
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Record {
        self.key = Some(key.into());
        self
    }

    /// Sets [`Record::partition`]; [`Error::UnknownPartition`](crate::Error::UnknownPartition) when
    /// the topic has no such one.
    #[must_use]
    pub fn with_partition(mut self, partition: i32) -> Record {
        self.partition = Some(partition);
        self
    }

    /// Sets [`Record::timestamp_ms`].
    #[must_use]
    pub fn with_timestamp_ms(mut self, timestamp_ms: i64) -> Record {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Adds a header behind those it has.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Record {
        self.headers.push(Header {
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }
}

/// A record as consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// Where it was read; clones share the name.
    pub topic: Arc<str>,
    /// The partition it was read from.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// Milliseconds since 1970; when it was made or appended, as the topic is configured.
    pub timestamp_ms: i64,
    /// The record's key, a slice of the batch it was fetched in; None when it has none.
    pub key: Option<Bytes>,
    /// Its value, a slice of the same batch: whoever keeps it for long should copy it. None is a
    /// tombstone.
    pub value: Option<Bytes>,
    /// Its headers in the order they were written.
    pub headers: Vec<Header>,
}

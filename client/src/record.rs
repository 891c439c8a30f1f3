//! Records as people write and read them.

use bytes::Bytes;
use std::sync::Arc;

/// A header of a record. Keys may repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub key: String,
    pub value: Option<Bytes>,
}

/// A record to produce.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Shared, so that many records of one topic cost no allocation for it.
    pub topic: Arc<str>,
    /// None: chosen by key, or to spread records without one.
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    /// None is a tombstone: compaction forgets the key.
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
    /// Milliseconds since 1970; None: now.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Record {
        Record {
            topic: topic.into(),
            value: Some(value.into()),
            ..Record::default()
        }
    }

    pub fn with_key(mut self, key: impl Into<Bytes>) -> Record {
        self.key = Some(key.into());
        self
    }

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
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

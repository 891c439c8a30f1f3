//! Identifiers and units of the storage layer.

/// Id of a Raft group. A partition has one group, but they are different things in every format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// Offset of a record in its partition, as clients see it; 0 or greater.
pub type Offset = i64;

/// Raft term under which a batch was appended, as Kafka's leader epoch.
pub type LeaderEpoch = i32;

/// Kafka's producer id; 0 or greater.
pub type ProducerId = i64;

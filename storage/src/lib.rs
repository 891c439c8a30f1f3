//! Storage of one broker: synchronous code on plain files, without network, runtime or Raft.
//!
//! The rooms: [`journal`] makes the Raft logs of all groups durable with one sync; [`log`] holds the
//! committed record batches of one partition in Kafka's file formats; [`batch`] is the record batch
//! header; [`compression`] looks inside compressed batches.
//!
//! Only this crate contains `unsafe`, for mapping files.

pub mod batch;
pub mod compression;
pub mod defect;
pub mod error;
pub mod ids;
pub mod journal;
pub mod log;

#[cfg(test)]
mod fuzz_seeds;
#[cfg(test)]
mod test_disk;

//! `tidelog cluster backup` and `restore`: topics with their records and settings, settings of brokers
//! and groups, and committed offsets, in a folder.
//!
//! The rooms: [`manifest`] is what the folder says of itself, with a checksum of every file; [`records`]
//! the format of a partition's file; [`take`] makes a backup, [`restore`] brings it into a cluster,
//! [`translate`] finds the offsets of a log whose numbers have changed. Only the Kafka protocol is
//! spoken, so that it works with Apache Kafka as well.

mod manifest;
mod records;
mod restore;
mod take;
mod translate;

pub use restore::Restore;
pub use take::Backup;

//! Cluster metadata: an immutable image, changed only by committed commands of the metadata group.

pub mod image;

pub use image::{BrokerMeta, MetadataImage, PartitionMeta, Topic};

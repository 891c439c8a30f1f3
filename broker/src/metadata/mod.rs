//! Cluster metadata: an immutable image, changed only by committed commands of the metadata group.
//!
//! [`command`] is what is replicated, [`machine`] applies it, [`image`] is what request handlers
//! read, [`placement`] chooses replicas, [`changes`] is how handlers ask for changes, [`reconcile`]
//! opens and removes this broker's replicas as the image says, [`reassign`] has the rules for moving
//! partitions, [`members`] moves those that this broker leads, and the metadata group itself,
//! [`features`] are the levels of what the whole cluster may use, and [`version`] is that of the metadata
//! themselves.

pub mod changes;
pub mod command;
pub mod features;
pub mod image;
pub mod machine;
pub mod members;
pub mod placement;
pub mod reassign;
pub mod reconcile;
pub mod version;

pub use image::{BrokerMeta, MetadataImage, PartitionMeta, Topic};

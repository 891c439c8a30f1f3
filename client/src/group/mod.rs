//! Consumer groups: who reads which partition, and how far a group has come.
//!
//! The rooms: `coordinator` finds the broker that keeps a group's (or transaction's) state and asks
//! it; `offsets` commits and fetches offsets; `assign` decides who reads what, as pure functions;
//! `subscription` is how members tell each other in the classic protocol; `classic` and `broker`
//! are the tasks that keep a membership alive, one for each protocol; `membership` is what the
//! consumer sees of them.

mod assign;
mod broker;
mod classic;
pub(crate) mod coordinator;
mod membership;
pub(crate) mod offsets;
mod subscription;

pub use assign::Assignor;
pub use offsets::CommittedOffset;

pub(crate) use membership::{ChangeKind, Membership};
pub(crate) use offsets::Group;
pub(crate) use subscription::decode_assignment;

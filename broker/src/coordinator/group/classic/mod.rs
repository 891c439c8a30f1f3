//! Groups of the classic protocol: the members join, one of them assigns, all sync.
//!
//! [`group`] is a group and its members as plain data; `rebalance` moves it from generation to
//! generation; `join`, `sync`, `membership` (heartbeats and leaving) are the requests; `describe` tells
//! of it. Rules and answers are those of Kafka's `ClassicGroup` and `GroupMetadataManager`.

mod describe;
pub mod group;
mod join;
mod membership;
mod rebalance;
mod sync;

pub use describe::{described, unknown_group};
pub use group::{ClassicGroup, Member, State};
pub use join::{join, join_error};
pub use membership::{heartbeat, leave};
pub use rebalance::{
    answer_joins, expire_member, expire_sync, finish_join, loaded, prepare_rebalance, store,
};
pub use sync::{answer_syncs, sync, sync_error};

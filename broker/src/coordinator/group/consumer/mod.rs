//! Consumer groups of the next protocol (KIP-848).
//!
//! The coordinator decides who gets which partitions; a member only says in its heartbeats what it is
//! subscribed to and what it holds, and is told what to hold next. Nobody waits for everybody: a member
//! moves on by itself (`reconcile.rs`).
//!
//! | Room | What it does |
//! |---|---|
//! | [`group`] | the state of one group, changed by its records only |
//! | [`member`] | one member |
//! | [`records`] | the group's records in `__consumer_offsets`, in Kafka's formats |
//! | [`heartbeat`], `leave` | ConsumerGroupHeartbeat |
//! | `target`, [`assignor`] | the target assignment, by `uniform` or `range` |
//! | `reconcile` | one step of a member towards its target assignment |
//! | [`offsets`], `describe` | who may commit offsets; what administrators see |
//! | `subscription` | patterns, and noticing that topics have changed |
//! | [`timers`] | sessions and rebalance timeouts |

pub mod assignor;
pub mod classic;
mod describe;
pub mod group;
pub mod heartbeat;
mod leave;
pub mod member;
pub mod offsets;
pub mod partitions;
mod reconcile;
pub mod records;
pub mod settings;
mod subscription;
mod target;
pub mod timers;

#[cfg(test)]
mod tests;

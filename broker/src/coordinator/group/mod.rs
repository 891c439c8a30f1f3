//! Consumer groups, in `__consumer_offsets`.

pub mod consumer;

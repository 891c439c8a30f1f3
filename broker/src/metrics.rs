//! Counters and histograms of a broker.
/// All metrics.
pub struct Metrics {}

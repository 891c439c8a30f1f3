//! The histogram openraft counts its batch sizes in, without tables.
//!
//! openraft depends on a crate of this name, which builds look-up tables for all its precisions when
//! the first histogram is made: 26 MiB in every process, of an idle broker's 42. openraft uses the least
//! precise one, and Tidelog reads none of them. This stands in for it (`[patch.crates-io]`) with the
//! part of its interface that openraft compiles against: one counter for each power of two.
//! `docs/decisions/0014-own-histogram-for-openraft.md` has the numbers.

use std::fmt;
use std::marker::PhantomData;

/// Powers of two in a `u64`, and zero.
const BUCKETS: usize = u64::BITS as usize + 1;

/// Counts values by their magnitude. `T` has no use here.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// `counts[0]` is of zero, `counts[n]` of values in `[2^(n-1), 2^n)`; as long as it has to be.
    counts: Vec<u64>,
    data: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one; it takes memory when something is recorded.
    #[must_use]
    pub fn new() -> Self {
        Self {
            counts: Vec::new(),
            data: PhantomData,
        }
    }

    /// Counts `value` once.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = BUCKETS - 1 - value.leading_zeros() as usize;
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += count;
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The least value of the magnitude below which a share `p` (0 to 1) of all values lies; 0 when
    /// there are none.
    #[must_use]
    pub fn percentile(&self, p: f64) -> u64 {
        let due = (self.total() as f64 * p).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= due {
                return bucket.checked_sub(1).map_or(0, |power| 1 << power);
            }
        }
        0
    }

    /// The usual percentiles at once.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.percentile_stats().fmt(f)
    }
}

/// Percentiles of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} samples, median {}, 99 % {}, 99.9 % {}",
            self.samples, self.p50, self.p99, self.p99_9
        )
    }
}

/// Histograms with names, one a line when printed.
#[derive(Debug, Clone)]
pub struct AsciiChart<T = ()>(Vec<(String, Histogram<T>)>);

impl<T> AsciiChart<T> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a histogram.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.0.push((name.to_owned(), histogram));
        self
    }

    /// What to print.
    #[must_use]
    pub fn compact(&self) -> &Self {
        self
    }

    /// What to print.
    #[must_use]
    pub fn detailed(&self) -> &Self {
        self
    }
}

impl<T> Default for AsciiChart<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.0 {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_magnitude() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!((histogram.total(), histogram.percentile(0.5)), (0, 0));
        histogram.record(0);
        assert_eq!(histogram.percentile(1.0), 0);
        histogram.record_n(5, 97);
        histogram.record(u64::MAX);
        histogram.record(1);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p1, stats.p50), (100, 0, 4));
        assert_eq!((stats.p99, stats.p99_9), (4, 1 << 63));
    }
}

//! Times of many operations, and what is told of them.

use serde_json::{Value, json};
use std::time::Duration;

/// Parts of all times by their names.
const TOLD: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Times of operations of one kind.
#[derive(Debug, Default)]
pub struct Latencies {
    times: Vec<Duration>,
    sorted: bool,
}

impl Latencies {
    pub fn push(&mut self, time: Duration) {
        self.times.push(time);
        self.sorted = false;
    }

    pub fn append(&mut self, other: Latencies) {
        self.times.extend(other.times);
        self.sorted = false;
    }

    /// Makes reading off cheap.
    pub fn sort(&mut self) {
        self.times.sort_unstable();
        self.sorted = true;
    }

    /// Milliseconds that a part of all, from 0 to 1, stayed below; `None` of nothing.
    pub fn ms(&self, part: f64) -> Option<f64> {
        debug_assert!(self.sorted || self.times.is_empty(), "sort first");
        let at = (part * self.times.len() as f64) as usize;
        let last = self.times.len().checked_sub(1)?;
        Some(self.times[at.min(last)].as_secs_f64() * 1e3)
    }

    /// `p50 0.51 ms, p99 …`; empty when there are none.
    pub fn summary(&self) -> String {
        let told = TOLD.map(|(name, part)| Some(format!("{name} {:.2} ms", self.ms(part)?)));
        told.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    pub fn as_json(&self) -> Value {
        let told = TOLD.map(|(name, part)| (name.to_owned(), json!(self.ms(part))));
        Value::Object(told.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_read_off_at_their_part() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.ms(0.5), None);
        assert_eq!(latencies.summary(), "");
        for ms in (1..=50).rev() {
            latencies.push(Duration::from_millis(ms));
        }
        let mut others = Latencies::default();
        for ms in 51..=100 {
            others.push(Duration::from_millis(ms));
        }
        latencies.append(others);
        latencies.sort();
        assert_eq!(latencies.ms(0.5), Some(51.0));
        assert_eq!(latencies.ms(0.99), Some(100.0));
        assert_eq!(latencies.ms(1.0), Some(100.0));
        assert!(latencies.summary().starts_with("p50 51.00 ms, p99 "));
        assert_eq!(latencies.as_json()["max"], 100.0);
    }
}

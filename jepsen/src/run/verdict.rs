//! What a run proved, and what went wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::nemesis::Nemesis;
use super::peer::Peer;
use super::recorder::{Observed, Recorder, Span, Timed};
use super::schedule::Step;
use super::{Options, html};
use crate::check::{self, Report};
use crate::history::Kind;

/// From healing to the first acknowledged append that began afterwards.
#[derive(Clone, Debug, Serialize)]
pub struct Recovery {
    pub healed_ms: u64,
    pub partition: i32,
    /// None when the next fault came first.
    pub took_ms: Option<u64>,
}

/// Everything a run found.
#[derive(Default, Serialize)]
pub struct Verdict {
    pub seed: u64,
    /// Whose brokers they were.
    pub peer: &'static str,
    #[serde(skip)]
    pub steps: Vec<Step>,
    /// Faults asked for that this machine cannot make.
    pub skipped: Vec<String>,
    /// What broke the run, or was not back after healing.
    pub failures: Vec<String>,
    pub report: Report,
    /// Partitions whose replicas are not equal byte for byte.
    pub differing_replicas: Vec<String>,
    /// Panics and error lines in brokers' logs.
    pub log_surprises: Vec<String>,
    /// Error lines that a fault of the run explains, counted.
    pub log_expected: BTreeMap<String, u64>,
    pub recoveries: Vec<Recovery>,
    /// Recoveries that took longer than allowed.
    pub slow_recoveries: Vec<Recovery>,
    pub spans: Vec<Span>,
    pub errors_told: BTreeMap<String, u64>,
    /// Operations by name and end.
    pub operations: BTreeMap<String, u64>,
    pub millis: u64,
}

impl Verdict {
    /// Whether nothing at all was found, and there was something to look at.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.report.is_valid()
            && self.failures.is_empty()
            && self.differing_replicas.is_empty()
            && self.log_surprises.is_empty()
            && self.slow_recoveries.is_empty()
    }

    pub(super) fn judge(&mut self, recorder: &Recorder, nemesis: &Nemesis, options: &Options) {
        let observed = recorder.observed();
        self.millis = recorder.now_ms();
        self.report = check::all(&observed.history);
        self.spans.clone_from(&observed.spans);
        self.errors_told.clone_from(&observed.errors);
        for timed in &observed.timed {
            let name = format!("{} {:?}", timed.f, timed.kind).to_lowercase();
            *self.operations.entry(name).or_default() += 1;
        }
        self.recoveries = recoveries(&observed, options.partitions, self.millis);
        let limit_ms = options.recovery_limit.as_millis() as u64;
        let slow = self
            .recoveries
            .iter()
            .filter(|r| r.took_ms.is_some_and(|took| took > limit_ms));
        self.slow_recoveries = slow.cloned().collect();
        for broker in &nemesis.brokers {
            let log = fs::read(&broker.log_path).unwrap_or_default();
            for (at, line) in surprises(&String::from_utf8_lossy(&log)) {
                let failing = broker.log_off.iter().any(|part| part.contains(&at));
                // What another's brokers print is listed, not judged.
                let foreign = matches!(options.peer, Peer::Kafka { .. });
                let explained = failing && !is_panic(&line) || is_of(&line, &options.faults);
                match foreign || explained {
                    true => *self.log_expected.entry(without_digits(&line)).or_default() += 1,
                    false => self
                        .log_surprises
                        .push(format!("broker {}: {line}", broker.id)),
                }
            }
        }
    }

    /// Writes `report.txt`, `report.json`, `report.html` and `history.jsonl`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, observed: &Observed, dir: &Path) -> Result<()> {
        let put = |name: &str, text: String| {
            fs::write(dir.join(name), text).with_context(|| format!("write {name}"))
        };
        put("report.txt", self.to_string())?;
        put("report.json", serde_json::to_string_pretty(self)?)?;
        put("report.html", html::page(self, &observed.timed))?;
        put("history.jsonl", observed.history.to_json_lines())
    }
}

fn recoveries(observed: &Observed, partitions: i32, end_ms: u64) -> Vec<Recovery> {
    let mut found = Vec::new();
    let mut healed: Vec<u64> = observed.spans.iter().map(|span| span.ended_ms).collect();
    healed.dedup();
    let is_append = |timed: &&Timed| timed.f == "send" && timed.kind == Kind::Ok;
    for healed_ms in healed {
        let next = observed
            .spans
            .iter()
            .map(|s| s.began_ms)
            .filter(|began| *began > healed_ms)
            .min();
        for partition in 0..partitions {
            let of = observed.timed.iter().filter(is_append);
            let mut of = of
                .filter(|timed| timed.partition == Some(partition))
                .peekable();
            if of.peek().is_none() {
                continue;
            }
            let first = of
                .map(|timed| timed.ended_ms)
                .filter(|ended| *ended >= healed_ms)
                .min();
            let before_next = |ended: &u64| next.is_none_or(|next| *ended < next);
            let took_ms = match first.filter(before_next) {
                Some(ended) => Some(ended - healed_ms),
                // Nothing at all in a window this long is as slow as it gets.
                None => {
                    let window = next.unwrap_or(end_ms) - healed_ms;
                    Some(window).filter(|window| *window > 5_000)
                }
            };
            found.push(Recovery {
                healed_ms,
                partition,
                took_ms,
            });
        }
    }
    found
}

/// Lines no broker should ever print, and where in the log they begin.
fn surprises(log: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    for line in log.split_inclusive('\n') {
        if is_panic(line) || line.contains(" ERROR ") {
            found.push((at, line.trim_end().chars().take(300).collect()));
        }
        at += line.len();
    }
    found
}

fn is_panic(line: &str) -> bool {
    line.contains("panicked at") || line.contains("assertion")
}

/// Whether a fault that was allowed explains an error line: a broker says what its disk told it, and
/// what it found damaged. A panic has no excuse.
fn is_of(line: &str, faults: &BTreeSet<String>) -> bool {
    let told = |words: &[&str]| words.iter().any(|word| line.contains(word));
    let any = |kinds: &[&str]| kinds.iter().any(|kind| faults.contains(*kind));
    if is_panic(line) {
        return false;
    }
    (any(&["disk-full"]) && told(&["No space left", "no space left", "disk is full"]))
        || (any(&["damage"]) && told(&["damaged", "corrupt"]))
}

fn without_digits(line: &str) -> String {
    let message = line
        .split_once(" ERROR ")
        .map_or(line, |(_, message)| message);
    message.replace(|c: char| c.is_ascii_digit(), "")
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.millis / 1_000;
        writeln!(
            out,
            "{}, seed {}, {seconds} s, {} faults",
            self.peer,
            self.seed,
            self.spans.len()
        )?;
        for line in &self.skipped {
            writeln!(out, "skipped {line}")?;
        }
        for (name, count) in &self.operations {
            writeln!(out, "{count:>9} {name}")?;
        }
        for (error, count) in &self.errors_told {
            writeln!(out, "{count:>9} times told: {error}")?;
        }
        let mut took: Vec<u64> = self.recoveries.iter().filter_map(|r| r.took_ms).collect();
        took.sort_unstable();
        if let (Some(worst), Some(middle)) = (took.last(), took.get(took.len() / 2)) {
            let count = took.len();
            writeln!(
                out,
                "appends again after healing: p50 {middle} ms, worst {worst} ms of {count}"
            )?;
        }
        for (line, count) in &self.log_expected {
            writeln!(
                out,
                "{count:>9} times in logs, explained by a fault: {line}"
            )?;
        }
        let mut lines = String::new();
        for (what, list) in [
            ("failure", &self.failures),
            ("replicas-differ", &self.differing_replicas),
            ("log-surprise", &self.log_surprises),
        ] {
            for line in list.iter().take(20) {
                writeln!(lines, "{what}: {line}")?;
            }
            if list.len() > 20 {
                writeln!(lines, "{what}: and {} more", list.len() - 20)?;
            }
        }
        for slow in &self.slow_recoveries {
            writeln!(lines, "slow-recovery: {slow:?}")?;
        }
        write!(out, "{lines}{}", self.report)?;
        match self.is_valid() {
            true => writeln!(out, "verdict: no anomaly"),
            false => writeln!(out, "verdict: ANOMALIES FOUND"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(partition: i32, ended_ms: u64) -> Timed {
        Timed {
            process: 1,
            f: "send",
            kind: Kind::Ok,
            partition: Some(partition),
            began_ms: ended_ms,
            ended_ms,
            records: 1,
        }
    }

    fn span(began_ms: u64, ended_ms: u64) -> Span {
        Span {
            fault: String::new(),
            began_ms,
            ended_ms,
        }
    }

    #[test]
    fn recovery_is_measured_from_healing_to_the_next_append() {
        let observed = Observed {
            timed: vec![
                append(0, 50),
                append(0, 700),
                append(1, 90),
                append(1, 30_000),
            ],
            spans: vec![span(100, 500), span(20_000, 21_000)],
            ..Observed::default()
        };
        let took = |end_ms| -> Vec<_> {
            let found = recoveries(&observed, 3, end_ms);
            found.iter().map(|r| r.took_ms).collect()
        };
        // Partition 1 had nothing between the two faults, partition 0 nothing after the second, which
        // is only wrong when there was time for it.
        assert_eq!(took(24_000), [Some(200), Some(19_500), None, Some(9_000)]);
        assert_eq!(
            took(31_000),
            [Some(200), Some(19_500), Some(10_000), Some(9_000)]
        );
    }

    #[test]
    fn panics_and_errors_in_logs_are_surprises() {
        let log = "a INFO x\nthread 'main' panicked at y\nb ERROR z\n";
        let places: Vec<usize> = surprises(log).iter().map(|(at, _)| *at).collect();
        assert_eq!(places, [9, 37]);
        let line = "t ERROR the journal is damaged (FILE at byte 4096)";
        let faults = |kind: &str| BTreeSet::from([kind.to_owned()]);
        assert!(is_of(line, &faults("damage")));
        assert!(!is_of(line, &faults("kill")));
        assert!(!is_of(&format!("panicked at {line}"), &faults("damage")));
    }
}

//! What clients were told and what brokers showed while they ran; says at once what must never be.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use tidelog_replication::{BrokerId, GroupId};

/// What became of a value that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It may or may not be in the log.
    Unknown,
    /// It never entered the log.
    Refused,
    Acknowledged {
        offset: i64,
    },
}

/// One batch of a replica's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stored {
    pub value: u64,
    pub epoch: i32,
    pub records: i32,
    /// Of its bytes, header included.
    pub checksum: u32,
}

#[derive(Default)]
pub struct GroupHistory {
    pub sent: BTreeMap<u64, Outcome>,
    /// What any replica has shown at an offset.
    pub seen: BTreeMap<i64, Stored>,
    leaders: BTreeMap<i32, BrokerId>,
    /// The end of each running replica's log.
    ends: BTreeMap<BrokerId, i64>,
}

/// Everything that happened.
pub struct History {
    pub groups: BTreeMap<GroupId, GroupHistory>,
    /// Metadata commands acknowledged.
    pub metadata: Vec<u64>,
    pub violations: Vec<String>,
    pub acknowledged: u64,
    next_value: u64,
    now: Duration,
    trace: DefaultHasher,
    show: bool,
}

impl History {
    /// `show`: every event is printed.
    pub fn new(show: bool) -> History {
        History {
            groups: BTreeMap::new(),
            metadata: Vec::new(),
            violations: Vec::new(),
            acknowledged: 0,
            next_value: 1,
            now: Duration::ZERO,
            trace: DefaultHasher::new(),
            show,
        }
    }

    pub fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// Two runs did the same exactly when this is the same.
    pub fn fingerprint(&self) -> u64 {
        self.trace.finish()
    }

    /// Notes an event in the trace.
    pub fn note(&mut self, event: &str) {
        (self.now, event).hash(&mut self.trace);
        if self.show {
            println!("{:9.3} {event}", self.now.as_secs_f64());
        }
    }

    fn violated(&mut self, what: String) {
        self.note(&format!("VIOLATED: {what}"));
        self.violations.push(what);
    }

    pub fn group(&mut self, group: GroupId) -> &mut GroupHistory {
        self.groups.entry(group).or_default()
    }

    /// A value that was never sent before.
    pub fn send(&mut self, group: GroupId) -> u64 {
        let value = self.next_value;
        self.next_value += 1;
        self.group(group).sent.insert(value, Outcome::Unknown);
        value
    }

    /// A value whose fate is known; retries of an acknowledged one may end in anything.
    pub fn settle(&mut self, group: GroupId, value: u64, outcome: Outcome) {
        let before = self.group(group).sent.insert(value, outcome);
        self.note(&format!("{}: {value} {outcome:?}", group.0));
        let Outcome::Acknowledged { offset } = outcome else {
            return;
        };
        self.acknowledged += 1;
        if let Some(Outcome::Acknowledged { offset: first }) = before
            && first != offset
        {
            self.violated(format!(
                "{}: {value} was acknowledged at {first} and again at {offset}",
                group.0
            ));
        }
        let stored = self.group(group).seen.get(&offset).copied();
        if stored.is_some_and(|s| s.value != value) {
            self.violated(format!(
                "{}: {value} was acknowledged at {offset}, where {stored:?} is",
                group.0
            ));
        }
    }

    pub fn metadata_acknowledged(&mut self, command: u64) {
        self.note(&format!("metadata: {command} acknowledged"));
        self.metadata.push(command);
        self.acknowledged += 1;
    }

    /// `broker` says that it leads in `epoch`.
    pub fn leads(&mut self, group: GroupId, epoch: i32, broker: BrokerId) {
        match self.group(group).leaders.insert(epoch, broker) {
            None => self.note(&format!("{}: {broker} leads in {epoch}", group.0)),
            Some(other) if other != broker => self.violated(format!(
                "{}: {broker} and {other} both lead in epoch {epoch}",
                group.0
            )),
            Some(_) => {}
        }
    }

    /// The replica's log ends there; gives the range that is new, if it is.
    pub fn ends(&mut self, group: GroupId, broker: BrokerId, end: i64) -> Option<(i64, i64)> {
        let before = self.group(group).ends.insert(broker, end);
        let before = before.unwrap_or(0);
        if end < before {
            self.violated(format!(
                "{}: the high watermark of {broker} went back from {before} to {end}",
                group.0
            ));
        }
        (before < end).then_some((before, end))
    }

    /// The broker was crashed: its logs may come back shorter.
    pub fn gone(&mut self, broker: BrokerId) {
        for group in self.groups.values_mut() {
            group.ends.remove(&broker);
        }
    }

    /// The broker's replica was removed; another one may come.
    pub fn removed(&mut self, group: GroupId, broker: BrokerId) {
        self.note(&format!("{}: removed from {broker}", group.0));
        self.group(group).ends.remove(&broker);
    }

    /// A replica of the group shows a batch.
    pub fn shows(&mut self, group: GroupId, broker: BrokerId, offset: i64, stored: Stored) {
        (group.0, broker.0, offset, stored).hash(&mut self.trace);
        let seen = self.group(group).seen.entry(offset).or_insert(stored);
        if *seen != stored {
            let seen = *seen;
            self.violated(format!(
                "{}: {broker} has {stored:?} at offset {offset}, where {seen:?} was seen",
                group.0
            ));
        }
    }

    /// What must hold in the end: `logs` are the whole logs of a group's replicas.
    pub fn check_logs(&mut self, group: GroupId, logs: &BTreeMap<BrokerId, Vec<(i64, Stored)>>) {
        let Some((first, log)) = logs.first_key_value() else {
            return self.violated(format!("{}: no replica is left", group.0));
        };
        for (broker, other) in logs {
            if other != log {
                self.violated(format!(
                    "{}: the logs of {first} and {broker} differ",
                    group.0
                ));
            }
        }
        let mut places: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        let mut next = 0;
        let mut epoch = 0;
        for (offset, stored) in log {
            places.entry(stored.value).or_default().push(*offset);
            if *offset != next || stored.epoch < epoch {
                self.violated(format!(
                    "{}: {stored:?} at {offset}, after epoch {epoch} and offset {next}",
                    group.0
                ));
            }
            next = *offset + i64::from(stored.records);
            epoch = stored.epoch;
        }
        let sent = std::mem::take(&mut self.group(group).sent);
        for value in places.keys().filter(|v| !sent.contains_key(v)) {
            self.violated(format!("{}: nobody sent {value}", group.0));
        }
        for (value, outcome) in &sent {
            let at = places.get(value).map_or(&[][..], |at| at);
            let holds = match outcome {
                Outcome::Acknowledged { offset } => at == [*offset],
                Outcome::Refused => at.is_empty(),
                Outcome::Unknown => at.len() <= 1,
            };
            if !holds {
                self.violated(format!("{}: {value}, {outcome:?}, is at {at:?}", group.0));
            }
        }
        self.group(group).sent = sent;
    }

    /// Every broker's metadata commands, in the order in which they were applied.
    pub fn check_metadata(&mut self, applied: &BTreeMap<BrokerId, Vec<u64>>) {
        let Some((first, commands)) = applied.first_key_value() else {
            return;
        };
        for (broker, other) in applied {
            if other != commands {
                self.violated(format!("the metadata of {first} and {broker} differ"));
            }
        }
        for lost in self.metadata.clone() {
            if !commands.contains(&lost) {
                self.violated(format!(
                    "metadata command {lost} was acknowledged and is gone"
                ));
            }
        }
    }

    pub fn fail(&mut self, what: String) {
        self.violated(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(1000);

    fn stored(value: u64) -> Stored {
        Stored {
            value,
            epoch: 1,
            records: 1,
            checksum: value as u32,
        }
    }

    /// Three values of which the second's fate is unknown, all of them in the log.
    fn history() -> (History, Vec<(i64, Stored)>) {
        let mut history = History::new(false);
        let mut log = Vec::new();
        for offset in 0..3 {
            let value = history.send(GROUP);
            log.push((offset, stored(value)));
            if value != 2 {
                history.settle(GROUP, value, Outcome::Acknowledged { offset });
            }
        }
        (history, log)
    }

    fn check(history: &mut History, logs: &[Vec<(i64, Stored)>]) -> String {
        let logs = (1..).map(BrokerId).zip(logs.iter().cloned()).collect();
        history.check_logs(GROUP, &logs);
        history.violations.join("\n")
    }

    #[test]
    fn what_is_right_is_not_complained_about() {
        let (mut history, log) = history();
        assert_eq!(check(&mut history, &[log.clone(), log]), "");
    }

    #[test]
    fn spoiled_histories_are_noticed() {
        // A way to spoil the log of all, and what is said.
        type Spoil = fn(&mut Vec<(i64, Stored)>);
        let ways: [(Spoil, &str); 6] = [
            (
                |log| log.truncate(2),
                "3, Acknowledged { offset: 2 }, is at []",
            ),
            (
                |log| log.push((3, stored(1))),
                "1, Acknowledged { offset: 0 }, is at [0, 3]",
            ),
            (|log| log.push((3, stored(2))), "2, Unknown, is at [1, 3]"),
            (|log| log.push((3, stored(9))), "nobody sent 9"),
            (|log| log[2].1.epoch = 0, "after epoch 1"),
            (|log| log[2].0 = 3, "after epoch 1 and offset 2"),
        ];
        for (spoil, said) in ways {
            let (mut history, mut log) = history();
            spoil(&mut log);
            let found = check(&mut history, &[log.clone(), log]);
            assert!(found.contains(said), "{said:?} not in {found:?}");
        }
        let (mut history, log) = history();
        let mut other = log.clone();
        other[1].1.checksum += 1;
        let found = check(&mut history, &[log, other]);
        assert!(found.contains("the logs of 1 and 2 differ"), "{found}");
    }

    #[test]
    fn what_must_not_be_is_noticed_while_it_runs() {
        let (mut history, _) = history();
        let one = BrokerId(1);
        history.leads(GROUP, 1, one);
        history.leads(GROUP, 1, one);
        assert_eq!(history.ends(GROUP, one, 3), Some((0, 3)));
        history.shows(GROUP, one, 0, stored(1));
        history.shows(GROUP, BrokerId(2), 0, stored(1));
        history.settle(GROUP, 1, Outcome::Acknowledged { offset: 0 });
        history.gone(one);
        assert_eq!(history.ends(GROUP, one, 1), Some((0, 1)));
        history.check_metadata(&BTreeMap::from([(one, vec![7]), (BrokerId(2), vec![7])]));
        assert!(history.violations.is_empty(), "{:?}", history.violations);

        history.leads(GROUP, 1, BrokerId(2));
        history.ends(GROUP, one, 0);
        history.shows(GROUP, one, 0, stored(2));
        history.settle(GROUP, 1, Outcome::Acknowledged { offset: 1 });
        history.settle(GROUP, 9, Outcome::Acknowledged { offset: 0 });
        history.metadata_acknowledged(8);
        history.check_metadata(&BTreeMap::from([(one, vec![7]), (BrokerId(2), vec![])]));
        let found = history.violations.join("\n");
        for said in [
            "2 and 1 both lead in epoch 1",
            "went back from 1 to 0",
            "where Stored { value: 1",
            "acknowledged at 0 and again at 1",
            "9 was acknowledged at 0, where",
            "the metadata of 1 and 2 differ",
            "metadata command 8 was acknowledged and is gone",
        ] {
            assert!(found.contains(said), "{said:?} not in {found}");
        }
    }
}

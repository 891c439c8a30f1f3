//! Does money neither come into being nor vanish, and is each transfer seen as a whole?
//!
//! A snapshot at the end of one partition, as its leader told it (the last stable offset), holds the
//! last committed record of each of its accounts: compaction removes a record only for a later one
//! below that end. So banks whose accounts share a partition are judged all the time, those whose
//! accounts are spread only by the last snapshot: Kafka shows a transaction partition by partition.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Anomaly;
use crate::history::{History, Key, Kind, Op, ProcessId, Value};

type Balances = BTreeMap<String, (Value, i64)>;

/// A bank as its writer knew it.
#[derive(Default)]
struct Bank<'a> {
    home: Option<&'a Key>,
    /// What each transfer wrote; the lowest number opened all accounts.
    transfers: BTreeMap<Value, &'a BTreeMap<String, i64>>,
    acknowledged: Vec<Value>,
}

fn banks(history: &History) -> BTreeMap<&String, Bank<'_>> {
    let mut banks: BTreeMap<&String, Bank<'_>> = BTreeMap::new();
    for event in &history.events {
        let Op::Transfer {
            bank,
            home,
            number,
            balances,
        } = &event.op
        else {
            continue;
        };
        let known = banks.entry(bank).or_default();
        known.home = home.as_ref();
        known.transfers.insert(*number, balances);
        if event.kind == Kind::Ok {
            known.acknowledged.push(*number);
        }
    }
    banks
}

/// What is wrong with the accounts of one bank in one snapshot that shows all of them.
fn judge(name: &str, bank: &Bank<'_>, process: ProcessId, seen: &Balances) -> Option<Anomaly> {
    let opening = bank.transfers.values().next()?;
    let mut total = 0;
    let mut shown = Vec::new();
    for account in opening.keys() {
        let version = seen.get(account);
        total += version.map_or(0, |(_, balance)| *balance);
        shown.extend(version.map(|(number, _)| (account, *number)));
    }
    if shown.is_empty() {
        return None;
    }
    for (_, number) in &shown {
        for other in bank.transfers.get(number)?.keys() {
            if seen.get(other).is_none_or(|(later, _)| later < number) {
                return Some(Anomaly::TornTransfer {
                    process,
                    bank: name.to_owned(),
                    number: *number,
                    missing: other.clone(),
                });
            }
        }
    }
    let expected = opening.values().sum();
    (total != expected).then(|| Anomaly::WrongTotal {
        process,
        bank: name.to_owned(),
        total,
        expected,
    })
}

/// Transfers seen in part, sums that changed, accounts that went back, transfers that are lost or
/// had been aborted.
#[must_use]
pub fn transfers(history: &History) -> Vec<Anomaly> {
    let banks = banks(history);
    let mut failed: HashSet<Value> = HashSet::new();
    for event in history.events.iter().filter(|e| e.kind == Kind::Fail) {
        if let Op::Transfer { number, .. } = &event.op {
            failed.insert(*number);
        }
    }
    let mut found = Vec::new();
    let mut last_seen: HashMap<(ProcessId, &String), Value> = HashMap::new();
    for event in history.events.iter().filter(|e| e.kind == Kind::Ok) {
        let Op::Snapshot { key, balances } = &event.op else {
            continue;
        };
        let process = event.process;
        for (account, (number, _)) in balances {
            let account_is = |from: Option<Value>| Anomaly::AccountWentBack {
                process,
                account: account.clone(),
                from,
                to: *number,
            };
            let from = last_seen.insert((process, account), *number);
            if from.is_some_and(|from| from > *number) {
                found.push(account_is(from));
            }
            if failed.contains(number) {
                found.push(Anomaly::AbortedRead {
                    process,
                    key: account.clone(),
                    value: *number,
                });
            }
        }
        for (name, bank) in &banks {
            if key.is_none() || (bank.home.is_some() && bank.home == key.as_ref()) {
                found.extend(judge(name, bank, process, balances));
            }
        }
        if key.is_none() {
            found.extend(lost(&banks, balances));
        }
    }
    found
}

/// Acknowledged transfers that the last snapshot does not show.
fn lost(banks: &BTreeMap<&String, Bank<'_>>, last: &Balances) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for (name, bank) in banks {
        for number in &bank.acknowledged {
            let accounts = bank.transfers[number].keys();
            let mut missing =
                accounts.filter(|account| last.get(*account).is_none_or(|(n, _)| n < number));
            if missing.next().is_some() {
                found.push(Anomaly::LostTransfer {
                    bank: (*name).clone(),
                    number: *number,
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(h: &mut History, kind: Kind, number: Value, balances: &[(&str, i64)]) {
        let balances = balances.iter().map(|(a, b)| ((*a).to_owned(), *b));
        let op = Op::Transfer {
            bank: "bank".into(),
            home: Some("t-0".into()),
            number,
            balances: balances.collect(),
        };
        h.push(0, kind, op);
    }

    fn snapshot(h: &mut History, key: Option<&str>, balances: &[(&str, Value, i64)]) {
        let balances = balances.iter().map(|(a, n, b)| ((*a).to_owned(), (*n, *b)));
        let op = Op::Snapshot {
            key: key.map(str::to_owned),
            balances: balances.collect(),
        };
        h.push(1, Kind::Ok, op);
    }

    /// Three accounts of 100, then 10 from a to b, an aborted one, and 5 from b to c.
    fn history(build: impl FnOnce(&mut History)) -> Vec<Anomaly> {
        let mut h = History::default();
        transfer(&mut h, Kind::Ok, 1, &[("a", 100), ("b", 100), ("c", 100)]);
        transfer(&mut h, Kind::Ok, 2, &[("a", 90), ("b", 110)]);
        transfer(&mut h, Kind::Fail, 3, &[("a", 0), ("b", 200)]);
        transfer(&mut h, Kind::Ok, 4, &[("b", 105), ("c", 105)]);
        build(&mut h);
        transfers(&h)
    }

    #[test]
    fn transfers_alone_are_something_to_judge() {
        let mut h = History::default();
        assert!(!crate::check::all(&h).is_valid(), "nothing was looked at");
        transfer(&mut h, Kind::Ok, 1, &[("a", 100)]);
        assert!(!crate::check::all(&h).is_valid(), "nothing was read");
        snapshot(&mut h, Some("t-0"), &[("a", 1, 100)]);
        assert!(crate::check::all(&h).is_valid());
    }

    #[test]
    fn whole_transfers_are_clean_at_every_moment() {
        let found = history(|h| {
            snapshot(h, Some("t-0"), &[]);
            snapshot(
                h,
                Some("t-0"),
                &[("a", 1, 100), ("b", 1, 100), ("c", 1, 100)],
            );
            snapshot(
                h,
                Some("t-0"),
                &[("a", 2, 90), ("b", 2, 110), ("c", 1, 100)],
            );
            snapshot(
                h,
                Some("t-0"),
                &[("a", 2, 90), ("b", 4, 105), ("c", 4, 105)],
            );
            snapshot(h, None, &[("a", 2, 90), ("b", 4, 105), ("c", 4, 105)]);
        });
        assert_eq!(found, []);
    }

    #[test]
    fn half_a_transfer_is_torn() {
        let found = history(|h| {
            snapshot(
                h,
                Some("t-0"),
                &[("a", 2, 90), ("b", 1, 100), ("c", 1, 100)],
            );
        });
        let expected = Anomaly::TornTransfer {
            process: 1,
            bank: "bank".into(),
            number: 2,
            missing: "b".into(),
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn an_account_that_vanished_is_told_and_another_partition_tells_nothing() {
        let found = history(|h| snapshot(h, Some("t-0"), &[("a", 2, 90), ("b", 2, 110)]));
        assert!(matches!(
            found[..],
            [Anomaly::WrongTotal { total: 200, .. }]
        ));
        let found = history(|h| snapshot(h, Some("t-0"), &[("a", 1, 100), ("b", 2, 110)]));
        assert!(matches!(found[..], [Anomaly::TornTransfer { .. }]));
        let found = history(|h| snapshot(h, Some("t-1"), &[("a", 1, 100), ("b", 2, 110)]));
        assert_eq!(found, []);
    }

    #[test]
    fn money_from_nowhere_is_a_wrong_total() {
        let found = history(|h| {
            snapshot(
                h,
                Some("t-0"),
                &[("a", 1, 100), ("b", 1, 120), ("c", 1, 100)],
            );
        });
        let expected = Anomaly::WrongTotal {
            process: 1,
            bank: "bank".into(),
            total: 320,
            expected: 300,
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn an_aborted_transfer_must_not_be_seen() {
        let found = history(|h| {
            snapshot(h, Some("t-0"), &[("a", 3, 0), ("b", 3, 200), ("c", 1, 100)]);
        });
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found
                .iter()
                .all(|a| matches!(a, Anomaly::AbortedRead { .. }))
        );
    }

    #[test]
    fn an_account_that_goes_back_is_told() {
        let found = history(|h| {
            snapshot(
                h,
                Some("t-0"),
                &[("a", 2, 90), ("b", 2, 110), ("c", 1, 100)],
            );
            snapshot(
                h,
                Some("t-0"),
                &[("a", 1, 100), ("b", 1, 100), ("c", 1, 100)],
            );
        });
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found
                .iter()
                .all(|a| matches!(a, Anomaly::AccountWentBack { .. }))
        );
    }

    #[test]
    fn an_acknowledged_transfer_is_there_at_the_end() {
        let found = history(|h| {
            snapshot(h, None, &[("a", 2, 90), ("b", 2, 110), ("c", 1, 100)]);
        });
        let expected = Anomaly::LostTransfer {
            bank: "bank".into(),
            number: 4,
        };
        assert_eq!(found, [expected]);
    }
}

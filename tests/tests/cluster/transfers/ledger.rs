//! What transfers make of the accounts, and what a reader may see of that.
//!
//! Each worker owns some accounts. Its orders are numbered, and what an order moves follows from its number, so
//! the balances after so many orders are known: the log must never show anything else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

pub const PARTITIONS: i32 = 3;
pub const WORKERS: i32 = 3;
/// The first and the last one of a worker share a partition.
pub const ACCOUNTS_EACH: i32 = 4;
pub const OPENING: i64 = 1_000;

pub fn partition_of(account: i32) -> i32 {
    account % PARTITIONS
}

pub fn accounts_of(worker: i32) -> std::ops::Range<i32> {
    worker * ACCOUNTS_EACH..(worker + 1) * ACCOUNTS_EACH
}

/// One account after an order: what is written to the log, under the account as key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub account: i32,
    /// Orders of its worker up to and with the last one that changed it; 0 before any.
    pub version: u64,
    pub balance: i64,
}

impl Entry {
    pub fn to_text(self) -> String {
        let Entry {
            account,
            version,
            balance,
        } = self;
        format!("{account} {version} {balance}")
    }

    pub fn parse(text: &str) -> Result<Entry> {
        let fields: Vec<&str> = text.split(' ').collect();
        let [account, version, balance] = fields[..] else {
            bail!("not an entry: {text}");
        };
        Ok(Entry {
            account: account.parse()?,
            version: version.parse()?,
            balance: balance.parse()?,
        })
    }

    pub fn worker(self) -> i32 {
        self.account / ACCOUNTS_EACH
    }
}

/// The accounts that order `number` of a worker changes, and by how much.
pub fn order(worker: i32, number: u64) -> [(i32, i64); 2] {
    let first = accounts_of(worker).start;
    let from = first + (number % 4) as i32;
    let to = first + ((number + 1 + number / 4 % 3) % 4) as i32;
    let amount = (number % 17) as i64 + 1;
    [(from, -amount), (to, amount)]
}

/// The accounts of one worker after each number of orders.
#[derive(Debug, Clone)]
pub struct Ledger {
    worker: i32,
    /// `states[n]`: after `n` orders.
    states: Vec<Vec<Entry>>,
}

impl Ledger {
    pub fn of(worker: i32) -> Ledger {
        let opening = accounts_of(worker).map(|account| Entry {
            account,
            version: 0,
            balance: OPENING,
        });
        Ledger {
            worker,
            states: vec![opening.collect()],
        }
    }

    /// The accounts after `orders` of them.
    pub fn after(&mut self, orders: u64) -> &[Entry] {
        while self.states.len() as u64 <= orders {
            let number = self.states.len() as u64 - 1;
            let mut state = self.states[number as usize].clone();
            for (account, delta) in order(self.worker, number) {
                let entry = &mut state[(account % ACCOUNTS_EACH) as usize];
                entry.version = number + 1;
                entry.balance += delta;
            }
            self.states.push(state);
        }
        &self.states[orders as usize]
    }

    /// One account after `orders`.
    pub fn entry(&mut self, account: i32, orders: u64) -> Entry {
        self.after(orders)[(account % ACCOUNTS_EACH) as usize]
    }
}

/// Everything a reader was given of one partition, in one go.
#[derive(Debug, Default)]
pub struct Seen {
    pub entries: Vec<Entry>,
    /// Last stable offset and high watermark.
    pub stable: i64,
    pub end: i64,
}

impl Seen {
    /// Nothing was open.
    fn is_settled(&self) -> bool {
        self.stable == self.end
    }
}

/// What a reader has seen so far.
pub struct Reader {
    ledgers: Vec<Ledger>,
    /// The last entry seen of each account.
    latest: BTreeMap<i32, Entry>,
    /// Orders of each worker that have been seen, as far as anything of the last one was seen.
    orders: Vec<u64>,
    /// Rounds in which all accounts of all workers fitted together.
    pub whole: u64,
    /// Partitions without anything open, in which whole transfers only were looked for.
    pub settled: u64,
}

impl Reader {
    pub fn new() -> Reader {
        Reader {
            ledgers: (0..WORKERS).map(Ledger::of).collect(),
            latest: BTreeMap::new(),
            orders: vec![0; WORKERS as usize],
            whole: 0,
            settled: 0,
        }
    }

    fn ledger(&mut self, worker: i32) -> Result<&mut Ledger> {
        let ledger = self.ledgers.get_mut(worker as usize);
        ledger.context("an account of no worker")
    }

    /// Takes in a partition. Fails at anything that cannot follow from whole transfers, one after the other:
    /// - an entry that is not the account's after that order, or older than the one before it,
    /// - an account whose last entry was seen to be newer,
    /// - where nothing is open, an account here that lacks an order seen in this partition, or one before an
    ///   order seen anywhere before: a worker begins the next one when the one before is committed everywhere.
    ///
    /// Compaction may take away any entry but the last one of an account.
    pub fn take(&mut self, partition: i32, seen: &Seen) -> Result<()> {
        let before = self.orders.clone();
        let mut here: BTreeMap<i32, Entry> = BTreeMap::new();
        for entry in &seen.entries {
            let due = self
                .ledger(entry.worker())?
                .entry(entry.account, entry.version);
            ensure!(*entry == due, "{entry:?} where {due:?} is due");
            ensure!(partition_of(entry.account) == partition, "{entry:?}");
            if let Some(older) = here.insert(entry.account, *entry) {
                ensure!(older.version < entry.version, "{entry:?} after {older:?}");
            }
        }
        for entry in here.values() {
            let orders = &mut self.orders[entry.worker() as usize];
            *orders = (*orders).max(entry.version);
        }
        for worker in 0..WORKERS {
            let own = here.values().filter(|e| e.worker() == worker);
            let seen_here = own.map(|e| e.version).max().unwrap_or(0);
            // The last of those seen elsewhere may lack its marker here.
            let certain = seen_here.max(before[worker as usize].saturating_sub(1));
            let accounts = accounts_of(worker).filter(|a| partition_of(*a) == partition);
            for account in accounts {
                let due = self.ledger(worker)?.entry(account, certain);
                let opening = self.ledger(worker)?.entry(account, 0);
                let last = here.get(&account).copied().unwrap_or(opening);
                ensure!(
                    !seen.is_settled() || last.version >= due.version,
                    "a part of a transfer in partition {partition}: {last:?}, and {due:?} is committed"
                );
                let known = self.latest.insert(account, last).unwrap_or(opening);
                ensure!(last.version >= known.version, "{last:?} after {known:?}");
            }
        }
        self.settled += u64::from(seen.is_settled());
        Ok(())
    }

    /// The partitions were read one after the other. Where all last entries of a worker are of the same moment,
    /// their sum is what it was at first.
    pub fn end_round(&mut self) -> Result<()> {
        let mut whole = true;
        for worker in 0..WORKERS {
            let own = accounts_of(worker).filter_map(|a| self.latest.get(&a).copied());
            let own: Vec<Entry> = own.collect();
            let orders = own.iter().map(|e| e.version).max().unwrap_or(0);
            let after = self.ledger(worker)?.after(orders);
            if own != after {
                whole = false;
                continue;
            }
            let sum: i64 = own.iter().map(|e| e.balance).sum();
            ensure!(sum == OPENING * i64::from(ACCOUNTS_EACH), "{sum}: {own:?}");
        }
        self.whole += u64::from(whole);
        Ok(())
    }

    /// At the end: of each worker exactly so many orders are in the accounts.
    pub fn check_end(&mut self, orders: &[u64]) -> Result<()> {
        for (worker, &orders) in (0..).zip(orders) {
            let own = accounts_of(worker).filter_map(|a| self.latest.get(&a).copied());
            let own: Vec<Entry> = own.collect();
            let due = self.ledger(worker)?.after(orders);
            ensure!(own == due, "worker {worker}: {own:?}, and {due:?} is due");
        }
        Ok(())
    }
}

/// Entries that were committed in a partition by so many orders of each worker.
pub fn committed_entries(partition: i32, orders: &[u64]) -> usize {
    let mut count = 0;
    for (worker, &orders) in (0..).zip(orders) {
        for number in 0..orders {
            let accounts: BTreeSet<i32> = order(worker, number).iter().map(|o| o.0).collect();
            count += accounts
                .into_iter()
                .filter(|a| partition_of(*a) == partition)
                .count();
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries of a partition after orders of worker 0, all of them.
    fn seen(partition: i32, orders: std::ops::Range<u64>) -> Seen {
        let mut ledger = Ledger::of(0);
        let mut entries = Vec::new();
        for number in orders {
            for (account, _) in order(0, number) {
                if partition_of(account) == partition {
                    entries.push(ledger.entry(account, number + 1));
                }
            }
        }
        Seen {
            entries,
            stable: 100,
            end: 100,
        }
    }

    #[test]
    fn orders_conserve_the_sum_and_reach_all_partitions() {
        let mut ledger = Ledger::of(1);
        for n in 0..100 {
            let sum: i64 = ledger.after(n).iter().map(|e| e.balance).sum();
            assert_eq!(sum, OPENING * i64::from(ACCOUNTS_EACH));
            let [(from, _), (to, _)] = order(1, n);
            assert_ne!(from, to);
        }
        let both = (0..100).filter(|n| {
            let [(from, _), (to, _)] = order(1, *n);
            partition_of(from) == partition_of(to)
        });
        assert!(both.count() > 5, "none within a partition");
    }

    #[test]
    fn whole_transfers_are_taken_compacted_or_not() {
        let mut reader = Reader::new();
        for until in [5, 20] {
            for partition in 0..PARTITIONS {
                reader
                    .take(partition, &seen(partition, 0..until))
                    .expect("whole");
            }
            reader.end_round().expect("the sum");
        }
        for partition in 0..PARTITIONS {
            let mut compacted = seen(partition, 0..20);
            let keep = |e: &Entry| e.version > 12;
            compacted.entries.retain(keep);
            reader.take(partition, &compacted).expect("whole");
        }
        assert_eq!((reader.whole, reader.settled), (2, 9));
        assert!(reader.check_end(&[20, 0, 0]).is_ok());
        assert!(reader.check_end(&[19, 0, 0]).is_err());
    }

    #[test]
    fn parts_of_transfers_are_noticed() {
        // Within a partition: accounts 0 and 3 share one.
        let within = (0..).find(|n| order(0, *n).iter().all(|o| partition_of(o.0) == 0));
        let within = within.expect("one within a partition");
        let mut half = seen(0, 0..within + 1);
        half.entries.pop();
        let error = Reader::new().take(0, &half).expect_err("a half");
        assert!(error.to_string().contains("a part of"), "{error}");
        half.stable = 99;
        Reader::new().take(0, &half).expect("hidden by another one");

        // Across partitions: all that came before the last order seen anywhere.
        let missing = (1..).find(|n| order(0, *n - 1).iter().any(|o| partition_of(o.0) == 1));
        let missing = missing.expect("one in partition 1");
        let from = (missing..).find(|n| order(0, *n).iter().any(|o| partition_of(o.0) == 0));
        let until = from.expect("one in partition 0") + 1;
        let mut reader = Reader::new();
        reader.take(0, &seen(0, 0..until)).expect("whole");
        let mut lost = seen(1, 0..missing);
        let newest = lost.entries.iter().map(|e| e.version).max();
        lost.entries.retain(|e| Some(e.version) < newest);
        assert!(reader.take(1, &lost).is_err());
    }

    #[test]
    fn what_was_never_committed_or_comes_again_is_noticed() {
        let mut wrong = seen(1, 0..9);
        wrong.entries[0].balance += 1;
        assert!(Reader::new().take(1, &wrong).is_err());
        let mut again = seen(1, 0..9);
        again.entries.push(again.entries[0]);
        assert!(Reader::new().take(1, &again).is_err());
        let mut reader = Reader::new();
        reader.take(1, &seen(1, 0..9)).expect("whole");
        let mut back = seen(1, 0..5);
        back.stable = 99;
        assert!(reader.take(1, &back).is_err());
    }
}

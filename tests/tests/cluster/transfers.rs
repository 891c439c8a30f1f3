//! Amounts move between accounts in read-modify-write transactions while brokers are killed and paused
//! in turn: readers see whole transfers only, and no amount comes or goes.
//!
//! Each worker owns some accounts, spread over the partitions; a transfer writes one leg a account. What
//! a worker knows of its balances it forgets now and then, and reads again from the log.
//! `TRANSFER_SECONDS` (10) is how long it goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tidelog_tests::txn::{TxnProducer, read_committed};
use tidelog_tests::{Cluster, topics, wait};
use tokio::sync::{Mutex, RwLock};

use super::RECOVERY_LIMIT;

const TOPIC: &str = "transfers";
const PARTITIONS: i32 = 3;
const WORKERS: i32 = 3;
/// The first and the last one of a worker share a partition.
const ACCOUNTS_EACH: i32 = 4;
const OPENING: i64 = 1_000;
const TIMEOUT_MS: i32 = 60_000;
/// Transfers committed by all workers together before a fault ends.
const STEP: u64 = 10;
const PAUSE: Duration = Duration::from_secs(3);

/// One side of a transfer, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leg {
    transfer: String,
    account: i32,
    delta: i64,
    balance: i64,
}

impl Leg {
    fn to_text(&self) -> String {
        let Leg {
            transfer,
            account,
            delta,
            balance,
        } = self;
        format!("{transfer} {account} {delta} {balance}")
    }

    fn parse(text: &str) -> Result<Self> {
        let fields: Vec<&str> = text.split(' ').collect();
        let [transfer, account, delta, balance] = fields[..] else {
            bail!("not a leg: {text}");
        };
        Ok(Self {
            transfer: transfer.to_owned(),
            account: account.parse()?,
            delta: delta.parse()?,
            balance: balance.parse()?,
        })
    }
}

fn partition_of(account: i32) -> i32 {
    account % PARTITIONS
}

/// What the workers were told of their transfers.
#[derive(Default)]
struct Told {
    committed: BTreeSet<String>,
    aborted: BTreeSet<String>,
}

struct Bank {
    /// Workers share it for a step; whoever starts a broker again has it alone.
    cluster: RwLock<Cluster>,
    told: Mutex<Told>,
    committed: AtomicU64,
    closed: AtomicBool,
}

impl Bank {
    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// Everything committed in a partition, now, and whether that is all that was replicated.
    async fn read(&self, partition: i32) -> Result<(Vec<Leg>, i64, i64)> {
        let cluster = self.cluster.read().await;
        let leader = topics::leader_of(&cluster, TOPIC, partition).await?;
        let read = read_committed(cluster.broker(leader), TOPIC, partition).await?;
        let legs = read.values.iter().map(|text| Leg::parse(text));
        let legs = legs.collect::<Result<_>>()?;
        Ok((legs, read.last_stable_offset, read.high_watermark))
    }

    /// A partition up to where it is replicated now, once everything below is decided.
    async fn read_decided(&self, partition: i32) -> Result<Vec<Leg>> {
        let mut until = None;
        wait::until("everything to be decided", RECOVERY_LIMIT, async || {
            let (legs, stable, end) = self.read(partition).await?;
            let until = *until.get_or_insert(end);
            Ok((stable >= until).then_some(legs))
        })
        .await
    }

    /// The balances of one worker's accounts, read from the log.
    async fn balances(&self, worker: i32) -> Result<BTreeMap<i32, i64>> {
        let own = worker * ACCOUNTS_EACH..(worker + 1) * ACCOUNTS_EACH;
        let mut balances: BTreeMap<i32, i64> = own.map(|account| (account, OPENING)).collect();
        for partition in 0..PARTITIONS {
            for leg in self.read_decided(partition).await? {
                if let Some(balance) = balances.get_mut(&leg.account) {
                    *balance = leg.balance;
                }
            }
        }
        Ok(balances)
    }
}

/// How a worker's turn with one identity ended.
enum Turn {
    Closed,
    /// Forgets everything and begins anew, as after a crash.
    Again,
}

/// Moves amounts until the bank closes. Whatever fails, the worker begins anew: its next identity
/// ends or aborts what was open.
async fn work(bank: &Bank, worker: i32) -> Result<()> {
    let mut number = 0;
    let mut last_error = None;
    let mut failed_since = None;
    while bank.is_open() {
        let before = number;
        match turn(bank, worker, &mut number).await {
            Ok(Turn::Closed) => break,
            Ok(Turn::Again) => failed_since = None,
            Err(error) => last_error = Some(error),
        }
        if number > before {
            failed_since = None;
        }
        let since = *failed_since.get_or_insert_with(Instant::now);
        if since.elapsed() > RECOVERY_LIMIT * 2 {
            let error = last_error.unwrap_or_else(|| anyhow::anyhow!("no error"));
            return Err(error.context(format!("worker {worker} gets nowhere")));
        }
    }
    // What is left open is aborted.
    let cluster = bank.cluster.read().await;
    TxnProducer::init(&cluster, &format!("worker-{worker}"), TIMEOUT_MS, false).await?;
    Ok(())
}

async fn turn(bank: &Bank, worker: i32, number: &mut u64) -> Result<Turn> {
    let id = format!("worker-{worker}");
    // One of them is a client of before transaction version 2.
    let old = worker == 0;
    let mut producer = {
        let cluster = bank.cluster.read().await;
        TxnProducer::init(&cluster, &id, TIMEOUT_MS, old).await?
    };
    let mut balances = bank.balances(worker).await?;
    while bank.is_open() {
        *number += 1;
        let n = *number;
        let transfer = format!("{worker}-{n}");
        let from = worker * ACCOUNTS_EACH + (n % 4) as i32;
        let to = worker * ACCOUNTS_EACH + ((n + 1 + n / 4 % 3) % 4) as i32;
        let amount = (n % 17) as i64 + 1;
        let mut after = balances.clone();
        for (account, delta) in [(from, -amount), (to, amount)] {
            let balance = after.get_mut(&account).context("an own account")?;
            *balance += delta;
            let leg = Leg {
                transfer: transfer.clone(),
                account,
                delta,
                balance: *balance,
            };
            let partition = partition_of(account);
            let cluster = bank.cluster.read().await;
            let (code, _) = producer
                .produce(&cluster, TOPIC, partition, &[&leg.to_text()])
                .await?;
            ensure!(code == 0, "transfer {transfer}: error {code}");
            if n % 11 == 5 {
                bank.told.lock().await.aborted.insert(transfer);
                return Ok(Turn::Again);
            }
        }
        let commit = n % 7 != 3;
        let code = {
            let cluster = bank.cluster.read().await;
            producer.end(&cluster, commit).await?
        };
        ensure!(code == 0, "end of transfer {transfer}: error {code}");
        let mut told = bank.told.lock().await;
        if commit {
            told.committed.insert(transfer);
            bank.committed.fetch_add(1, Ordering::Relaxed);
            balances = after;
        } else {
            told.aborted.insert(transfer);
        }
    }
    Ok(Turn::Closed)
}

/// What is seen must be whole: each balance follows from the one before, and both legs of a transfer
/// within one partition are there. The transfers of which another partition must have the other leg.
fn halves(seen: &[Vec<Leg>]) -> Result<BTreeSet<String>> {
    let mut balances = BTreeMap::new();
    let mut sides: BTreeMap<&str, Vec<&Leg>> = BTreeMap::new();
    for leg in seen.iter().flatten() {
        let balance = balances.entry(leg.account).or_insert(OPENING);
        *balance += leg.delta;
        ensure!(*balance == leg.balance, "{leg:?} where {balance} is due");
        sides.entry(&leg.transfer).or_default().push(leg);
    }
    let mut halves = BTreeSet::new();
    for (transfer, legs) in sides {
        let sum: i64 = legs.iter().map(|leg| leg.delta).sum();
        ensure!(legs.len() <= 2, "{legs:?}");
        if legs.len() == 2 {
            ensure!(sum == 0, "{legs:?}");
        } else {
            halves.insert(transfer.to_owned());
        }
    }
    let total: i64 = balances.values().sum();
    if halves.is_empty() {
        ensure!(total == OPENING * balances.len() as i64, "a sum of {total}");
    }
    Ok(halves)
}

/// Reads on and on: nothing seen goes away again, and no half stays one. How often it has read.
async fn watch(bank: &Bank) -> Result<u64> {
    let mut before: Vec<Vec<Leg>> = vec![Vec::new(); PARTITIONS as usize];
    let mut rounds = 0;
    while bank.is_open() {
        let mut now = Vec::new();
        for (partition, before) in (0..PARTITIONS).zip(&before) {
            let read = wait::until("a reader's answer", RECOVERY_LIMIT, async || {
                Ok(Some(bank.read(partition).await?))
            });
            let (legs, stable, end) = read.await?;
            // A leader that was elected just now may not know yet how far it is replicated.
            let both = before.len().min(legs.len());
            ensure!(before[..both] == legs[..both], "{before:?} became {legs:?}");
            // As in Kafka, another open transaction may hide the second leg of a committed one.
            for leg in legs.iter().filter(|_| stable == end) {
                let other = partition_of_other(&legs, leg);
                ensure!(other, "half a transfer in partition {partition}: {leg:?}");
            }
            now.push(legs);
        }
        halves(&now)?;
        before = now;
        rounds += 1;
    }
    Ok(rounds)
}

/// Whether the other leg is there, if it belongs into the same partition.
fn partition_of_other(legs: &[Leg], leg: &Leg) -> bool {
    let Some((worker, n)) = leg.transfer.split_once('-') else {
        return false;
    };
    let (Ok(worker), Ok(n)) = (worker.parse::<i32>(), n.parse::<u64>()) else {
        return false;
    };
    let from = worker * ACCOUNTS_EACH + (n % 4) as i32;
    let to = worker * ACCOUNTS_EACH + ((n + 1 + n / 4 % 3) % 4) as i32;
    partition_of(from) != partition_of(to)
        || legs.iter().filter(|l| l.transfer == leg.transfer).count() == 2
}

/// Waits until the workers have committed that many more.
async fn progress(bank: &Bank) -> Result<()> {
    let goal = bank.committed.load(Ordering::Relaxed) + STEP;
    wait::until("further transfers", RECOVERY_LIMIT, async || {
        let done = bank.committed.load(Ordering::Relaxed) >= goal;
        Ok(done.then_some(()))
    })
    .await
}

/// Kills and pauses brokers in turn until `end`, each at least once, and then closes the bank, whatever
/// happens; how many it has struck.
async fn strike(bank: &Bank, end: Instant) -> Result<u64> {
    let mut struck = 0;
    let result = strike_until(bank, end, &mut struck).await;
    bank.closed.store(true, Ordering::Relaxed);
    result.map(|()| struck)
}

async fn strike_until(bank: &Bank, end: Instant, struck: &mut u64) -> Result<()> {
    while *struck < 2 || Instant::now() < end {
        progress(bank).await?;
        let victim = (*struck % 3) as i32 + 1;
        if struck.is_multiple_of(2) {
            bank.cluster.read().await.broker(victim).strike()?;
            progress(bank).await?;
            let mut cluster = bank.cluster.write().await;
            wait::until("the broker to be gone", RECOVERY_LIMIT, async || {
                Ok(cluster.broker_mut(victim).take_ended()?.map(drop))
            })
            .await?;
            cluster.restart(victim).await?;
        } else {
            bank.cluster.read().await.broker(victim).pause()?;
            // The fault itself, not a wait for something.
            tokio::time::sleep(PAUSE).await;
            bank.cluster.read().await.broker(victim).resume()?;
        }
        *struck += 1;
    }
    progress(bank).await
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_are_whole_while_brokers_are_killed_and_paused() -> Result<()> {
    let seconds = std::env::var("TRANSFER_SECONDS").unwrap_or_else(|_| "10".to_owned());
    let cluster = Cluster::start().await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    let bank = Bank {
        cluster: RwLock::new(cluster),
        told: Mutex::default(),
        committed: AtomicU64::new(0),
        closed: AtomicBool::new(false),
    };
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let (a, b, c, rounds, struck) = tokio::join!(
        work(&bank, 0),
        work(&bank, 1),
        work(&bank, WORKERS - 1),
        watch(&bank),
        strike(&bank, end),
    );
    a.and(b).and(c).context("a worker")?;
    let (rounds, struck) = (rounds.context("the reader")?, struck.context("faults")?);

    let mut seen = Vec::new();
    for partition in 0..PARTITIONS {
        seen.push(bank.read_decided(partition).await?);
    }
    let left = halves(&seen)?;
    ensure!(left.is_empty(), "half transfers: {left:?}");
    let told = bank.told.lock().await;
    let found: BTreeSet<String> = seen.iter().flatten().map(|l| l.transfer.clone()).collect();
    let lost: Vec<_> = told.committed.difference(&found).collect();
    ensure!(lost.is_empty(), "committed and lost: {lost:?}");
    let undead: Vec<_> = told.aborted.intersection(&found).collect();
    ensure!(undead.is_empty(), "aborted and seen: {undead:?}");
    println!(
        "{} transfers committed, {} aborted, {struck} faults, {rounds} reads of everything",
        told.committed.len(),
        told.aborted.len()
    );
    ensure!(struck > 0 && rounds > 0, "{struck} faults, {rounds} reads");
    Ok(())
}

//! Amounts move between accounts in a compacted topic, in transactions that read, write and commit offsets, while
//! brokers are killed and paused in turn: readers see whole transfers only, and the sum never changes.
//!
//! Each worker takes its orders by number, the offset its group has committed; what order `n` moves follows from
//! `n` (`ledger`). One transaction writes both accounts and commits the offset. A worker forgets everything now
//! and then and reads its balances again from the log. `TRANSFER_SECONDS` (8) is how long it goes on.

mod ledger;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ledger::{Entry, Ledger, PARTITIONS, Reader, Seen, WORKERS, order, partition_of};
use tidelog_tests::batch::Batch;
use tidelog_tests::txn::{TxnProducer, read_committed};
use tidelog_tests::txn_offsets::stable_offset;
use tidelog_tests::{Cluster, ClusterOptions, topics, wait};
use tokio::sync::RwLock;

use super::RECOVERY_LIMIT;

const TOPIC: &str = "accounts";
/// The orders: a partition a worker. Only its offsets are used.
const ORDERS: &str = "orders";
const GROUP: &str = "bank";
const TIMEOUT_MS: i32 = 60_000;
/// Transfers committed by all workers together before a fault ends.
const STEP: u64 = 10;
const PAUSE: Duration = Duration::from_secs(3);

/// Small segments, compacted at once.
fn options() -> ClusterOptions {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    ClusterOptions {
        settings: vec![
            setting("log.cleanup.policy", "\"compact\""),
            setting("log.roll.ms", "500"),
            setting("log.retention.check.interval.ms", "200"),
            setting("log.cleaner.backoff.ms", "100"),
            setting("log.cleaner.min.cleanable.ratio", "0.01"),
            // Markers and tombstones go as well.
            setting("log.cleaner.delete.retention.ms", "1000"),
        ],
        ..ClusterOptions::default()
    }
}

struct Bank {
    /// Workers share it for a step; whoever starts a broker again has it alone.
    cluster: RwLock<Cluster>,
    /// Of each partition: the end that workers were told of.
    ends: Vec<AtomicI64>,
    /// Of each worker: orders it knows to be committed.
    done: Vec<AtomicU64>,
    committed: AtomicU64,
    aborted: AtomicU64,
    closed: AtomicBool,
}

impl Bank {
    fn new(cluster: Cluster) -> Bank {
        Bank {
            cluster: RwLock::new(cluster),
            ends: (0..PARTITIONS).map(|_| AtomicI64::new(0)).collect(),
            done: (0..WORKERS).map(|_| AtomicU64::new(0)).collect(),
            committed: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// Everything committed in a partition now. A broker that was away may not know yet that it leads no more:
    /// what ends below something known is not told.
    async fn read(&self, partition: i32) -> Result<Seen> {
        let known = &self.ends[partition as usize];
        let least = known.load(Ordering::Acquire);
        wait::until("a reader's answer", RECOVERY_LIMIT, async || {
            let cluster = self.cluster.read().await;
            let leader = topics::leader_of(&cluster, TOPIC, partition).await?;
            let read = read_committed(cluster.broker(leader), TOPIC, partition).await?;
            if read.high_watermark < least {
                return Ok(None);
            }
            known.fetch_max(read.high_watermark, Ordering::AcqRel);
            let entries = read.values.iter().map(|text| Entry::parse(text));
            Ok(Some(Seen {
                entries: entries.collect::<Result<_>>()?,
                stable: read.last_stable_offset,
                end: read.high_watermark,
            }))
        })
        .await
    }

    /// A partition up to where it is replicated now, once everything below is decided.
    async fn read_decided(&self, partition: i32) -> Result<Seen> {
        let mut until = None;
        wait::until("everything to be decided", RECOVERY_LIMIT, async || {
            let seen = self.read(partition).await?;
            let until = *until.get_or_insert(seen.end);
            Ok((seen.stable >= until).then_some(seen))
        })
        .await
    }

    /// Orders of a worker that are committed, once that is certain.
    async fn orders(&self, worker: i32) -> Result<u64> {
        let cluster = self.cluster.read().await;
        let offset = stable_offset(&cluster, GROUP, (ORDERS, worker)).await?;
        Ok(offset.unsigned_abs())
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
    let mut last_error = None;
    let mut failed_since = None;
    let mut before = 0;
    let mut turns = 0;
    while bank.is_open() {
        turns += 1;
        match turn(bank, worker, turns).await {
            Ok(Turn::Closed) => break,
            Ok(Turn::Again) => failed_since = None,
            // What the log shows is wrong for good.
            Err(error) if error.is::<Wrong>() => return Err(error),
            Err(error) => last_error = Some(error),
        }
        let done = bank.done[worker as usize].load(Ordering::Relaxed);
        if done > before {
            (failed_since, before) = (None, done);
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

/// A worker has read what cannot be.
#[derive(Debug)]
struct Wrong(String);

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

/// The balances of one worker's accounts, read from the log, are those after the orders it has committed.
async fn check_balances(bank: &Bank, worker: i32, ledger: &mut Ledger, orders: u64) -> Result<()> {
    let mut found = ledger.after(0).to_vec();
    for partition in 0..PARTITIONS {
        for entry in bank.read_decided(partition).await?.entries {
            if entry.worker() == worker {
                found[(entry.account % ledger::ACCOUNTS_EACH) as usize] = entry;
            }
        }
    }
    let due = ledger.after(orders);
    if found != due {
        let text = format!("worker {worker} reads {found:?} after {orders} orders: {due:?} is due");
        return Err(Wrong(text).into());
    }
    Ok(())
}

async fn turn(bank: &Bank, worker: i32, number: u64) -> Result<Turn> {
    let id = format!("worker-{worker}");
    // One of them is a client of before transaction version 2.
    let old = worker == 0;
    let mut producer = {
        let cluster = bank.cluster.read().await;
        TxnProducer::init(&cluster, &id, TIMEOUT_MS, old).await?
    };
    let mut orders = bank.orders(worker).await?;
    let known = bank.done[worker as usize].load(Ordering::Relaxed);
    if orders < known {
        let text = format!("worker {worker} has committed {known} orders, and {orders} are told");
        return Err(Wrong(text).into());
    }
    let mut ledger = Ledger::of(worker);
    check_balances(bank, worker, &mut ledger, orders).await?;
    let mut attempt = number;
    while bank.is_open() {
        attempt += 1;
        let after = ledger.after(orders + 1).to_vec();
        for (account, _) in order(worker, orders) {
            let entry = after[(account % ledger::ACCOUNTS_EACH) as usize];
            let partition = partition_of(account);
            let key = account.to_string();
            let value = entry.to_text();
            let batch = Batch::keyed(&[(Some(key.as_bytes()), value.as_bytes())]);
            let cluster = bank.cluster.read().await;
            let (code, base) = producer
                .produce_batch(&cluster, TOPIC, partition, batch)
                .await?;
            ensure!(code == 0, "order {orders}: error {code}");
            bank.ends[partition as usize].fetch_max(base + 1, Ordering::AcqRel);
            if attempt % 11 == 5 {
                bank.aborted.fetch_add(1, Ordering::Relaxed);
                return Ok(Turn::Again);
            }
        }
        let commit = attempt % 7 != 3;
        let cluster = bank.cluster.read().await;
        let next = orders as i64 + 1;
        let code = producer
            .commit_offset(&cluster, GROUP, (ORDERS, worker), next)
            .await?;
        ensure!(code == 0, "offset of order {orders}: error {code}");
        let code = producer.end(&cluster, commit).await?;
        ensure!(code == 0, "end of order {orders}: error {code}");
        if commit {
            orders += 1;
            bank.done[worker as usize].store(orders, Ordering::Relaxed);
            bank.committed.fetch_add(1, Ordering::Relaxed);
        } else {
            bank.aborted.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(Turn::Closed)
}

/// Reads on and on.
async fn watch(bank: &Bank) -> Result<Reader> {
    let mut reader = Reader::new();
    while bank.is_open() {
        for partition in 0..PARTITIONS {
            let seen = bank.read(partition).await?;
            reader.take(partition, &seen)?;
        }
        reader.end_round()?;
    }
    Ok(reader)
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

/// Everything is decided: each order has its effect once, and compaction has taken most of the entries.
async fn check_end(bank: &Bank, reader: &mut Reader) -> Result<usize> {
    let mut orders = Vec::new();
    for (worker, done) in (0..).zip(&bank.done) {
        let committed = bank.orders(worker).await?;
        let done = done.load(Ordering::Relaxed);
        ensure!(committed >= done, "{committed} of {done} orders are left");
        orders.push(committed);
    }
    let mut left = 0;
    for partition in 0..PARTITIONS {
        let written = ledger::committed_entries(partition, &orders);
        let seen = wait::until("the log to be compacted", RECOVERY_LIMIT, async || {
            let seen = bank.read_decided(partition).await?;
            Ok((seen.entries.len() < written).then_some(seen))
        })
        .await?;
        left += seen.entries.len();
        reader.take(partition, &seen)?;
    }
    reader.check_end(&orders)?;
    Ok(left)
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_are_whole_while_brokers_are_killed_and_paused() -> Result<()> {
    let seconds = std::env::var("TRANSFER_SECONDS").unwrap_or_else(|_| "8".to_owned());
    let cluster = Cluster::start_with(options()).await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    topics::create(&cluster, ORDERS, WORKERS, 3).await?;
    let bank = Bank::new(cluster);
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let (a, b, c, reader, struck) = tokio::join!(
        work(&bank, 0),
        work(&bank, 1),
        work(&bank, WORKERS - 1),
        watch(&bank),
        strike(&bank, end),
    );
    a.and(b).and(c).context("a worker")?;
    let (mut reader, struck) = (reader.context("the reader")?, struck.context("faults")?);
    let left = check_end(&bank, &mut reader).await?;
    println!(
        "{} transfers committed, {} aborted, {struck} faults; {} partitions seen settled, {} rounds of one moment; \
         {left} entries are left",
        bank.committed.load(Ordering::Relaxed),
        bank.aborted.load(Ordering::Relaxed),
        reader.settled,
        reader.whole,
    );
    ensure!(struck > 0 && reader.settled > 0);
    Ok(())
}

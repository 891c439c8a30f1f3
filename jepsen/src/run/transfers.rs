//! Transfers between accounts, kept in a compacted topic.
//!
//! Each bank has one writer: it knows the balances, or reads them to the end when it does not (at its
//! start, and after a commit of unknown end), and writes those that a transfer changes in a transaction.
//! As a reader may be answered by a leader that has been deposed without knowing, the end is where the
//! writer finds a record that it appended to every partition just before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use tidelog_client::{
    Consumer, ConsumerConfig, Error, Fetched, Isolation, Producer, ProducerConfig, Record,
    StartPosition,
};
use tokio::time::{Instant, sleep, timeout};

use super::clients::Client;
use super::key_of;
use super::random::Random;
use super::writers::next_value;
use crate::history::{Kind, Op, Value};

const ACCOUNTS: i32 = 4;
const OPENING: i64 = 100;
/// The end of every partition must be reached by then, after healing.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// Accounts that money moves between.
pub struct Bank {
    name: String,
    /// The partition of all its accounts; None: they are spread over all of them.
    home: Option<i32>,
}

type Balances = BTreeMap<String, (Value, i64)>;

impl Bank {
    /// Two whose accounts share a partition each, two whose accounts are spread.
    pub fn all(partitions: i32) -> Vec<Bank> {
        let bank = |name: &str, home| Bank {
            name: name.to_owned(),
            home,
        };
        vec![
            bank("north", Some(0)),
            bank("south", Some(1 % partitions)),
            bank("east", None),
            bank("west", None),
        ]
    }

    fn account(&self, number: i32) -> String {
        format!("{}-{number}", self.name)
    }

    fn partition(&self, number: i32, partitions: i32) -> i32 {
        self.home.unwrap_or(number % partitions)
    }
}

/// What the read_committed view of all partitions is.
#[derive(Default)]
struct View {
    by_partition: BTreeMap<i32, Balances>,
    ended: BTreeSet<i32>,
    /// Read to the end, and no transaction is open there.
    settled: BTreeSet<i32>,
}

impl View {
    /// Takes in one poll; whether it was at the end of its partition.
    fn take(&mut self, fetched: &Fetched) -> Result<bool> {
        let accounts = self.by_partition.entry(fetched.partition).or_default();
        for record in &fetched.records {
            let account = record.key.as_deref().context("a record without a key")?;
            let value = record
                .value
                .as_deref()
                .context("a record without a value")?;
            let text = std::str::from_utf8(value)?;
            let (number, balance) = text.split_once(' ').context("number and balance")?;
            let account = String::from_utf8(account.to_vec())?;
            accounts.insert(account, (number.parse()?, balance.parse()?));
        }
        if fetched.at_end() {
            self.ended.insert(fetched.partition);
        }
        if fetched.next_offset >= fetched.high_watermark {
            self.settled.insert(fetched.partition);
        }
        Ok(fetched.at_end())
    }

    fn all(&self) -> Balances {
        self.by_partition
            .values()
            .flatten()
            .map(|(a, b)| (a.clone(), *b))
            .collect()
    }
}

async fn reader(client: &Client) -> Result<Consumer> {
    let config = ConsumerConfig::default().with_isolation(Isolation::ReadCommitted);
    let mut consumer = Consumer::new(client.config(), config).await?;
    let places = (0..client.partitions).map(|p| (&*client.topic, p, StartPosition::Earliest));
    consumer.assign(places).await?;
    Ok(consumer)
}

/// All accounts, read until `ended` says so of every partition's.
async fn read_until(client: &Client, ended: impl Fn(&View, i32) -> bool) -> Result<Balances> {
    let mut consumer = reader(client).await?;
    let mut view = View::default();
    let deadline = Instant::now() + READ_LIMIT;
    while !(0..client.partitions).all(|partition| ended(&view, partition)) {
        let left = deadline.saturating_duration_since(Instant::now());
        let fetched = timeout(left, consumer.next())
            .await
            .with_context(|| format!("{} is not readable to its end", client.topic))?;
        match fetched {
            Ok(fetched) => {
                view.take(&fetched)?;
            }
            Err(error) => client.recorder.error(&error),
        }
    }
    Ok(view.all())
}

/// Follows all partitions; tells the accounts of one whenever its end is reached.
///
/// # Errors
/// When a record is none of ours.
pub async fn follow(client: Client) -> Result<()> {
    let mut consumer = reader(&client).await?;
    let mut view = View::default();
    while client.goes_on() {
        let began_ms = client.recorder.now_ms();
        match timeout(Duration::from_millis(500), consumer.next()).await {
            Err(_) => {}
            Ok(Ok(fetched)) => {
                let at_end = view.take(&fetched)?;
                if at_end && !fetched.records.is_empty() {
                    let balances = view.by_partition[&fetched.partition].clone();
                    let key = Some(key_of(&client.topic, fetched.partition));
                    client.event(Kind::Ok, Op::Snapshot { key, balances });
                    client.timed("snapshot", began_ms, Kind::Ok, fetched.records.len());
                }
            }
            Ok(Err(error)) => {
                client.recorder.error(&error);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    Ok(())
}

/// The accounts as they are at the end of the run, when all transactions have ended: one that a writer gave up is
/// aborted by its timeout.
///
/// # Errors
/// When they cannot be read within a minute.
pub async fn last_snapshot(client: &Client) -> Result<()> {
    let balances = read_until(client, |view, partition| view.settled.contains(&partition)).await?;
    client.event(
        Kind::Ok,
        Op::Snapshot {
            key: None,
            balances,
        },
    );
    Ok(())
}

/// Transfers until told to stop.
pub async fn transfer(client: Client, bank: Bank) {
    let config = ProducerConfig::default()
        .with_linger(Duration::from_millis(1))
        .with_delivery_timeout(Duration::from_secs(60))
        .with_transaction_timeout(Duration::from_secs(15))
        .with_transactional_id(format!("bank-{}", bank.name));
    let mut random = Random::new(u64::from(client.process));
    let mut known: Option<(Producer, Balances)> = None;
    while client.goes_on() {
        // Now and then another producer takes the bank over.
        if random.between(0, 50) == 0 {
            known = None;
        }
        let (producer, mut balances) = match known.take() {
            Some(known) => known,
            None => {
                let Some(producer) = client.producer(config.clone()).await else {
                    return;
                };
                match begin(&client, &bank, &producer).await {
                    Ok(balances) => (producer, balances),
                    Err(error) => {
                        client.recorder.error(&error);
                        sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                }
            }
        };
        if transfer_once(&client, &bank, &producer, &mut balances, &mut random).await {
            known = Some((producer, balances));
        }
        sleep(Duration::from_millis(random.between(5, 60))).await;
    }
}

/// Balances after all transactions before this producer's, which are ended by now: what nobody may
/// change any more.
async fn begin(client: &Client, bank: &Bank, producer: &Producer) -> Result<Balances> {
    let number = next_value();
    let mark = |partition: i32| format!("{}-mark-{partition}", bank.name);
    let transaction = producer.begin().await?;
    for partition in 0..client.partitions {
        let record = Record::new(client.topic.as_str(), format!("{number} 0"));
        let record = record.with_key(mark(partition)).with_partition(partition);
        let _ = transaction.send(record).await;
    }
    transaction.commit().await?;
    let marked = |view: &View, partition: i32| {
        let accounts = view.by_partition.get(&partition);
        let found = accounts.and_then(|accounts| accounts.get(&mark(partition)));
        found.is_some_and(|(found, _)| *found >= number)
    };
    read_until(client, marked).await
}

fn plan(bank: &Bank, known: &Balances, random: &mut Random) -> BTreeMap<i32, i64> {
    let balance = |number| {
        known
            .get(&bank.account(number))
            .map(|(_, balance)| *balance)
    };
    if (0..ACCOUNTS).any(|number| balance(number).is_none()) {
        return (0..ACCOUNTS).map(|number| (number, OPENING)).collect();
    }
    let from = random.between(0, ACCOUNTS as u64) as i32;
    let to = (from + random.between(1, ACCOUNTS as u64) as i32) % ACCOUNTS;
    let amount = random.between(1, 20) as i64;
    let of = |number| balance(number).unwrap_or_default();
    BTreeMap::from([(from, of(from) - amount), (to, of(to) + amount)])
}

/// One transfer; false when the balances are no longer known.
async fn transfer_once(
    client: &Client,
    bank: &Bank,
    producer: &Producer,
    known: &mut Balances,
    random: &mut Random,
) -> bool {
    let began_ms = client.recorder.now_ms();
    let number = next_value();
    let changed = plan(bank, known, random);
    let balances = changed
        .iter()
        .map(|(account, b)| (bank.account(*account), *b));
    let op = Op::Transfer {
        bank: bank.name.clone(),
        home: bank.home.map(|home| key_of(&client.topic, home)),
        number,
        balances: balances.collect(),
    };
    let transaction = match producer.begin().await {
        Ok(transaction) => transaction,
        Err(error) => {
            client.recorder.error(&error);
            return false;
        }
    };
    for (account, balance) in &changed {
        let record = Record::new(client.topic.as_str(), format!("{number} {balance}"))
            .with_key(bank.account(*account))
            .with_partition(bank.partition(*account, client.partitions));
        // What fails is told by the commit.
        let _ = transaction.send(record).await;
    }
    let aborts = random.between(0, 5) == 0;
    let ended = if aborts {
        transaction.abort().await
    } else {
        client.event(Kind::Invoke, op.clone());
        transaction.commit().await
    };
    let kind = match &ended {
        Ok(()) if aborts => Kind::Fail,
        Ok(()) => Kind::Ok,
        Err(_) if aborts => Kind::Fail,
        Err(Error::TransactionFailed { .. }) => Kind::Fail,
        Err(_) => Kind::Info,
    };
    if let Err(error) = &ended {
        client.recorder.error(error);
    }
    client.event(kind, op);
    client.timed("transfer", began_ms, kind, changed.len());
    if kind == Kind::Ok {
        let new = changed
            .iter()
            .map(|(account, b)| (bank.account(*account), (number, *b)));
        known.extend(new);
    }
    ended.is_ok()
}

//! What the simulations have in common: the hosts and their names, what a run is told and what it reports,
//! and how replicas are looked at.

use crate::entropy::Random;
use crate::history::{History, Stored};
use crate::machine::Machine;
use crate::network::Links;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tidelog_replication::{BrokerId, Node, Partition, Role};
use tidelog_storage::batch::{BatchHeader, for_each_record};
use turmoil::Sim;

/// How long after healing everything must be answered, and then everyone have the same.
pub const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
pub const TICK: Duration = Duration::from_millis(1);
/// Where the clients of brokers are. Brokers count from one.
pub const CLIENTS: usize = 0;
const CLIENTS_NAME: &str = "clients";

/// Set by the panic hook: tokio would catch a task's panic and go on.
pub static PANICKED: AtomicBool = AtomicBool::new(false);

pub fn name(host: usize) -> String {
    match host {
        CLIENTS => CLIENTS_NAME.to_owned(),
        broker => format!("broker-{broker}"),
    }
}

/// The opposite of [`name`].
pub fn host_of(name: &str) -> Option<usize> {
    match name.strip_prefix("broker-") {
        Some(number) => number.parse().ok(),
        None => (name == CLIENTS_NAME).then_some(CLIENTS),
    }
}

/// Where other brokers reach a broker.
pub fn peer_address(broker: usize) -> String {
    format!("{}:9094", name(broker))
}

pub fn id(broker: usize) -> BrokerId {
    BrokerId(broker as i32)
}

pub struct Options {
    pub seed: u64,
    pub dir: PathBuf,
    /// What clients were told is written to the folder, too.
    pub keeps_history: bool,
    /// Every event is printed.
    pub show: bool,
    /// Disks say that they have synced before they have.
    pub lying_disks: bool,
}

/// What a run that went well did.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    pub fingerprint: u64,
    pub acknowledged: u64,
    pub simulated: Duration,
}

/// The simulated hosts of a run.
pub struct Hosts<'a> {
    pub sim: Sim<'a>,
    pub brokers: usize,
    pub links: Arc<Links>,
    pub machines: BTreeMap<usize, Arc<Machine>>,
}

/// A simulation without hosts.
pub fn sim<'a>(random: &mut Random) -> Sim<'a> {
    turmoil::Builder::new()
        .rng_seed(random.next())
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::ZERO)
        .max_message_latency(random.millis(1, 4))
        .tcp_capacity(1 << 14)
        .enable_random_order()
        .build()
}

pub fn machines(
    options: &Options,
    brokers: usize,
    links: &Arc<Links>,
) -> BTreeMap<usize, Arc<Machine>> {
    let machine = |broker| {
        let random = Random::new(options.seed, 100 + broker as u64);
        Machine::new(broker, links.clone(), random, options.lying_disks)
    };
    (1..=brokers).map(|b| (b, machine(b))).collect()
}

/// Looks at a broker: what it shows must go together with all that was seen before.
pub fn observe(history: &mut History, broker: usize, node: &Node) {
    for partition in node.partitions() {
        let group = partition.spec().group;
        if let Role::Leader { epoch, .. } = partition.role() {
            history.leads(group, epoch, id(broker));
        }
        let log = partition.log();
        // Each replica compacts by itself.
        if log.is_compacted() {
            continue;
        }
        if let Some((from, end)) = history.ends(group, id(broker), log.log_end_offset()) {
            for (offset, stored) in read(&partition, from.max(log.log_start_offset()), end) {
                history.shows(group, id(broker), offset, stored);
            }
        }
    }
}

/// A replica's batches from `from` to `end`.
pub fn read(partition: &Partition, from: i64, end: i64) -> Vec<(i64, Stored)> {
    let mut bytes = Vec::new();
    let mut next = from;
    while next < end {
        let read = partition.log().read(next, end, usize::MAX, true);
        let read = read.expect("the log can be read");
        bytes.extend(read.slices.concat());
        next = read.next_offset;
    }
    let mut rest = &bytes[..];
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).expect("a batch");
        let (batch, after) = rest.split_at(header.size_in_bytes());
        let mut value = 0;
        let key = |key: Option<&[u8]>| key.and_then(|k| k.try_into().ok()).map(u64::from_be_bytes);
        // Of a batch that a client has compressed, only the checksum is compared.
        let _ = for_each_record(batch, |record| {
            value = key(record.key).unwrap_or(0);
            false
        });
        let stored = Stored {
            value,
            epoch: header.leader_epoch,
            records: header.record_count,
            // Offset and epoch lie outside the CRC, and are compared themselves.
            checksum: header.crc,
        };
        batches.push((header.base_offset, stored));
        rest = after;
    }
    batches
}

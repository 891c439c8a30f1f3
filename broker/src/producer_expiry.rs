//! Lets partitions forget idempotent producers that have been silent for `producer.id.expiration.ms`,
//! or are too many. The leader decides by its clock and says so in the partition's Raft log, so that
//! all replicas forget the same ones at the same place.

use crate::broker::{Broker, now_ms};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::{GroupId, Partition, Role};
use tidelog_storage::log::ProducerExpiry;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often partitions are looked at: what may come between two looks exceeds the limit.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A partition in use gets a command of a few bytes this often, so that time passes for it.
const TICK_MAX_MS: i64 = 600_000;

/// Runs until `stop`.
pub async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let expiration_ms = broker.config.int("producer.id.expiration.ms");
    let tick_ms = (expiration_ms / 4).clamp(1, TICK_MAX_MS);
    let pause = PAUSE_MAX.min(Duration::from_millis(tick_ms.unsigned_abs()));
    let keep_max = broker.config.int("max.producer.ids.per.partition");
    let mut ticked: HashMap<GroupId, i64> = HashMap::new();
    // Each ends with its proposal, within `request.timeout.ms`.
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|s| *s) => return,
        }
        let image = broker.metadata.load_full();
        let expiry = ProducerExpiry {
            now_ms: now_ms(),
            expiration_ms,
            keep_max: keep_max.unsigned_abs(),
        };
        ticked.retain(|_, at| expiry.now_ms - *at < tick_ms);
        let groups = image.topics.values().flat_map(|t| &t.partitions);
        for group in groups.map(|p| p.group) {
            let Some(partition) = broker.node.partition(group) else {
                continue;
            };
            if is_due(&partition, &expiry, ticked.contains_key(&group)) {
                ticked.insert(group, expiry.now_ms);
                // Without a majority it is tried again at the next look.
                under_way.spawn(async move { partition.propose_expiry(expiry).await });
            }
        }
        while under_way.try_join_next().is_some() {}
    }
}

fn is_due(partition: &Partition, expiry: &ProducerExpiry, ticked: bool) -> bool {
    if !matches!(partition.role(), Role::Leader { ready: true, .. }) {
        return false;
    }
    let count = partition.log().producer_count() as u64;
    count > expiry.keep_max || (count > 0 && !ticked && partition.log().wants_expiry(expiry))
}

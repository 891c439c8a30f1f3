//! Ends segments that are old enough, and lets those go that `retention.ms` and `retention.bytes` no
//! longer keep. The leader decides and says so in the partition's Raft log, so that the log starts at
//! the same offset on all replicas.

use crate::broker::{Broker, now_ms};
use crate::config::TopicConfig;
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::{Partition, Role};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often the disk's free space and the age of segments are looked at.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Close to `disk.reserve.bytes` expired segments are looked for this often, whatever
/// `log.retention.check.interval.ms` says.
const NEARLY_FULL_PAUSE: Duration = Duration::from_secs(5);

/// Runs until `stop`.
pub async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let check_ms = broker.config.int("log.retention.check.interval.ms");
    let interval = Duration::from_millis(check_ms.unsigned_abs());
    let mut checked = Instant::now();
    let mut warned = false;
    // Each ends with its proposal, within `request.timeout.ms`.
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval.min(LOOK_MAX)) => {}
            _ = stop.wait_for(|s| *s) => return,
        }
        let nearly_full = is_nearly_full(&broker);
        if nearly_full && !std::mem::replace(&mut warned, nearly_full) {
            tracing::warn!("the data disk is nearly full: looking for expired segments early");
        }
        warned &= nearly_full;
        let pause = if nearly_full {
            interval.min(NEARLY_FULL_PAUSE)
        } else {
            interval
        };
        let check = checked.elapsed() >= pause;
        if check {
            checked = Instant::now();
        }
        let looking = broker.clone();
        let looked = move || look(&looking, check);
        let expired = broker.node.host().disk_work(looked).await;
        for (partition, start) in expired.unwrap_or_default() {
            // Without a majority it is tried again at the next look.
            under_way.spawn(async move { partition.propose_log_start(start).await });
        }
        while under_way.try_join_next().is_some() {}
    }
}

/// Below twice `disk.reserve.bytes`.
fn is_nearly_full(broker: &Broker) -> bool {
    let reserve = broker.config.int("disk.reserve.bytes").unsigned_abs();
    broker.node.disk_free_bytes() < reserve.saturating_mul(2)
}

/// Ends old segments; with `check`, gives back where logs led from here should start.
fn look(broker: &Broker, check: bool) -> Vec<(Arc<Partition>, i64)> {
    let image = broker.metadata.load_full();
    let now = now_ms();
    let mut expired = Vec::new();
    for topic in image.topics.values() {
        let config = TopicConfig::resolve(&topic.configs, &broker.config, &image);
        for group in topic.partitions.iter().map(|p| p.group) {
            let Some(partition) = broker.node.partition(group) else {
                continue;
            };
            partition.log().maybe_roll(now);
            let leads = matches!(partition.role(), Role::Leader { ready: true, .. });
            if !check || !config.delete || !leads {
                continue;
            }
            let start = partition.log().retention_candidate(
                now,
                config.retention_ms,
                config.retention_bytes,
            );
            expired.extend(start.map(|start| (partition, start)));
        }
    }
    expired
}

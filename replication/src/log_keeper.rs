//! Keeps memory small: purges Raft log entries that are applied, and unmaps segments nobody reads.

use crate::group::Group;
use crate::ids::BrokerId;
use crate::node::NodeShared;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidelog_storage::ids::GroupId;
use tokio::sync::watch;
use tokio::time::Instant;

/// Entry bytes all groups of a broker keep for followers that are a little behind: this,
const TARGET_BYTES: u64 = 24 * 1024 * 1024;
/// or this for each group that has any,
const TARGET_GROUP_BYTES: u64 = 64 * 1024;
/// but no more than this. A purge costs a group as much as some batches do, whatever it frees: thousands of
/// groups that share too little would do nothing else.
const TARGET_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// For a living follower that has nothing yet, a group keeps up to this much before it has to catch up
/// from the partition log.
const LAGGARD_BYTES: usize = 16 * 1024 * 1024;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A group that did not change for this long keeps nothing.
const IDLE: Duration = Duration::from_secs(5);

/// A mapped window of a segment is given back after one to two of these without a read.
const UNMAP_INTERVAL: Duration = Duration::from_secs(5);

/// Purges and unmaps until `stop`.
pub async fn keep_small(shared: Arc<NodeShared>, mut stop: watch::Receiver<bool>) {
    let mut seen: HashMap<GroupId, (u64, Instant)> = HashMap::new();
    // As of the last look.
    let mut target = TARGET_BYTES;
    let mut idle_look = Instant::now();
    let mut unmapped = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(shared.transport.next_beat(LOOK_INTERVAL)) => {}
            _ = stop.wait_for(|s| *s) => return,
        }
        if unmapped.elapsed() >= UNMAP_INTERVAL {
            unmapped = Instant::now();
            for partition in shared.partitions() {
                partition.log().release_idle_mappings();
            }
        }
        let total = shared.log_bytes.load(Ordering::Relaxed);
        let idle_due = total > 0 && idle_look.elapsed() >= IDLE;
        if total <= target && !idle_due {
            continue;
        }
        if idle_due {
            idle_look = Instant::now();
        }
        let groups: Vec<Arc<Group>> = shared
            .groups()
            .into_iter()
            .filter(|g| g.log.bytes() > 0)
            .collect();
        target = target_bytes(groups.len());
        let over = total > target;
        let share = target as usize / 2 / groups.len().max(1);
        for group in &groups {
            let applied = group.machine.applied_index();
            let idle = match seen.get(&group.id) {
                Some((index, since)) if *index == applied => since.elapsed() >= IDLE,
                _ => {
                    seen.insert(group.id, (applied, Instant::now()));
                    false
                }
            };
            let keep = if idle { 0 } else { share };
            if idle || over {
                purge(&shared, group, applied, keep).await;
            }
        }
        let kept: HashSet<GroupId> = groups.iter().map(|group| group.id).collect();
        seen.retain(|id, _| kept.contains(id));
    }
}

/// What `groups` with entries in memory keep together.
fn target_bytes(groups: usize) -> u64 {
    let shared = TARGET_GROUP_BYTES.saturating_mul(groups as u64);
    shared.clamp(TARGET_BYTES, TARGET_BYTES_MAX)
}

/// Has the group forget what it has applied, if it holds more than `keep_bytes`. All of that: openraft waits only for
/// followers to which entries are on their way.
async fn purge(shared: &NodeShared, group: &Group, applied: u64, keep_bytes: usize) {
    if !group.log.holds_applied(keep_bytes, applied) {
        return;
    }
    // One that has just begun, and lives, gets the entries from memory while that is bounded.
    let begins = group.matched().is_some_and(|matched| {
        let living = |(id, _): &(&BrokerId, &u64)| shared.transport.is_alive(**id);
        matched.iter().filter(living).any(|(_, index)| *index == 0)
    });
    if begins && !group.log.holds_applied(LAGGARD_BYTES, applied) {
        return;
    }
    // The snapshot is a manifest: taking one costs microseconds, and openraft purges what is in it.
    let _ = group.raft.trigger().snapshot().await;
}

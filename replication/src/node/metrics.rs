//! A node's counters.

use super::Node;
use std::sync::atomic::Ordering;
use tidelog_storage::journal::JournalMetrics;

/// A snapshot of the node's counters.
#[derive(Debug, Clone, Default)]
pub struct NodeMetrics {
    pub journal: JournalMetrics,
    pub groups: u64,
    pub groups_led: u64,
    pub under_replicated: u64,
    pub leader_changes: u64,
    /// Replicas being rebuilt from their peers after damage to the journal.
    pub rebuilding: u64,
    pub peer_bytes_out: u64,
    pub peer_bytes_in: u64,
    /// Raft log entries held in memory.
    pub log_bytes: u64,
    pub disk_free_bytes: u64,
}

impl Node {
    /// Counters for `/metrics`.
    pub fn metrics(&self) -> NodeMetrics {
        let groups = self.shared.groups();
        let led: Vec<_> = groups.iter().filter(|g| g.is_leader()).collect();
        let transport = &self.shared.transport;
        NodeMetrics {
            journal: self.shared.journal.metrics(),
            groups: groups.len() as u64,
            groups_led: led.len() as u64,
            under_replicated: led
                .iter()
                .filter(|g| g.replicas().iter().any(|r| !transport.is_alive(*r)))
                .count() as u64,
            rebuilding: groups.iter().filter(|g| g.guard.is_lost()).count() as u64,
            leader_changes: self.shared.leaders.changes(),
            peer_bytes_out: transport.bytes_out.load(Ordering::Relaxed),
            peer_bytes_in: transport.bytes_in.load(Ordering::Relaxed),
            log_bytes: self.shared.log_bytes.load(Ordering::Relaxed),
            disk_free_bytes: self.disk.free_bytes(),
        }
    }
}

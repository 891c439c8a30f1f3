//! Leadership for a named replica, because somebody asked for it.

use crate::detector;
use crate::ids::BrokerId;
use crate::node::Node;
use std::time::Duration;
use tidelog_storage::ids::GroupId;
use tokio::time::Instant;

const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Why a replica was not given leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotElected {
    #[error("this broker does not lead the group")]
    NotLeader,
    /// Its broker is dead or about to stop, or it has not caught up in time.
    #[error("the replica is not alive, or has not caught up")]
    NotAvailable,
}

impl Node {
    /// Hands leadership of a group that this broker leads to the replica on `to`, as soon as it has
    /// caught up. Done when leadership is handed over; who leads then is told as always.
    ///
    /// # Errors
    /// [`NotElected::NotAvailable`] when the replica is not there, or not caught up within `limit`.
    pub async fn elect(
        &self,
        group: GroupId,
        to: BrokerId,
        limit: Duration,
    ) -> Result<(), NotElected> {
        let shared = self.shared();
        let deadline = Instant::now() + limit;
        loop {
            let group = shared.group(group).ok_or(NotElected::NotLeader)?;
            let (leader, epoch) = group.leader();
            if leader != Some(self.broker()) {
                return Err(NotElected::NotLeader);
            }
            if to == self.broker() {
                return Ok(());
            }
            if !group.replicas().contains(&to) || !shared.transport.is_staying(to) {
                return Err(NotElected::NotAvailable);
            }
            if group.is_ready_leader() && group.is_voter(to) && detector::is_caught_up(&group, to) {
                detector::hand_to(shared, &group, epoch, to).await;
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(NotElected::NotAvailable);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

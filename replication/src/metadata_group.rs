//! The metadata group (group 0): opened by every broker, formed by the first of `seed.brokers`, and proposed to
//! from everywhere.

use crate::error::{ProposeError, ReplicationError};
use crate::group::{Group, GroupContext, GroupReplicas};
use crate::ids::BrokerId;
use crate::node::{
    METADATA_GROUP, MetadataMachine, Node, NodeConfig, NodeShared, malformed, start_group,
    take_recovered,
};
use crate::state_machine::{GroupMachine, Machine, leader_epoch};
use crate::types::*;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidelog_proto::peer::{self as wire, message::Body};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Most voters of the metadata group.
const METADATA_VOTERS_MAX: usize = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(30);
const FORWARD_LIMIT: Duration = Duration::from_secs(5);

impl Node {
    /// Proposes a metadata command on whichever broker leads the metadata group, and waits until it
    /// is applied *here*, so that a read after it sees it. Retries while a leader is being elected,
    /// at most `propose_timeout_ms`. A command of a later version than the first is `versioned`.
    pub async fn propose_metadata(
        &self,
        command: Bytes,
        versioned: bool,
    ) -> Result<Bytes, ProposeError> {
        let deadline = Instant::now() + self.context.propose_timeout;
        loop {
            match self.try_propose_metadata(command.clone(), versioned).await {
                Ok((index, reply)) => {
                    self.wait_for_metadata(index, deadline).await?;
                    return Ok(reply);
                }
                Err(ProposeError::NotLeader { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_propose_metadata(
        &self,
        command: Bytes,
        versioned: bool,
    ) -> Result<(u64, Bytes), ProposeError> {
        let leader = self.metadata_leader();
        match leader {
            Some(leader) if leader == self.broker() => {
                match self
                    .metadata_group()
                    .propose(Command::Metadata { command, versioned })
                    .await?
                {
                    Reply::Metadata { index, reply } => Ok((index, reply)),
                    _ => Err(ProposeError::OutcomeUnknown),
                }
            }
            Some(leader) => {
                let peer = self
                    .shared()
                    .transport
                    .peer(leader)
                    .ok_or(ProposeError::NotLeader { leader: None })?;
                let request = Body::Propose(wire::Propose { command, versioned });
                match peer.request(0, request, FORWARD_LIMIT).await {
                    Ok(Body::ProposeReply(reply)) if reply.accepted => {
                        Ok((reply.index, reply.reply))
                    }
                    Ok(Body::ProposeReply(_)) => Err(ProposeError::NotLeader { leader: None }),
                    Err(crate::transport::RequestError::Disconnected(_)) => {
                        Err(ProposeError::NotLeader { leader: None })
                    }
                    _ => Err(ProposeError::OutcomeUnknown),
                }
            }
            None => Err(ProposeError::NotLeader { leader: None }),
        }
    }

    /// `index` was committed after this process began.
    async fn wait_for_metadata(&self, index: u64, deadline: Instant) -> Result<(), ProposeError> {
        let machine = &self.metadata_group().machine;
        while machine.applied_index() < index {
            if Instant::now() >= deadline {
                return Err(ProposeError::Timeout);
            }
            let waiter = Arc::new(Notify::new());
            machine.waiters.register(&waiter);
            if machine.applied_index() < index {
                let _ = tokio::time::timeout(RETRY_PAUSE * 10, waiter.notified()).await;
            }
        }
        self.metadata_seen.store(true, Ordering::Release);
        Ok(())
    }

    /// Waits until everything is applied here that was committed in the metadata group when this was called.
    ///
    /// # Errors
    /// Without a leader that proves by a majority that it leads, or when it takes longer than `limit`.
    pub async fn catch_up_with_metadata(&self, limit: Duration) -> Result<(), ProposeError> {
        let deadline = Instant::now() + limit;
        let no_leader = ProposeError::NotLeader { leader: None };
        let index = match self.metadata_leader() {
            Some(leader) if leader == self.broker() => {
                let group = self.metadata_group();
                let policy = openraft::raft::ReadPolicy::ReadIndex;
                let proven = group.raft.ensure_linearizable(policy);
                match tokio::time::timeout(limit, proven).await {
                    Ok(Ok(_)) => group.last_index(),
                    Ok(Err(_)) => return Err(no_leader),
                    Err(_) => return Err(ProposeError::Timeout),
                }
            }
            Some(leader) => {
                let peer = self.shared().transport.peer(leader).ok_or(no_leader)?;
                let asked = peer.request(METADATA_GROUP.0, Body::Barrier(wire::Barrier {}), limit);
                match asked.await {
                    Ok(Body::BarrierReply(reply)) => reply.index,
                    _ => return Err(ProposeError::NotLeader { leader: None }),
                }
            }
            None => return Err(no_leader),
        };
        self.wait_for_metadata(index, deadline).await
    }

    /// Leader of the metadata group: Kafka's *controller*.
    pub fn metadata_leader(&self) -> Option<BrokerId> {
        // A broker that is about to join has been told who leads before it is a member. One that belongs to a
        // cluster is not to find its way into it by what it is told at addresses of another.
        let told = || {
            let leader = self.shared().leaders.get(METADATA_GROUP)?.leader;
            let joins = self.shared().transport.belongs_to_none();
            joins.then_some(leader)
        };
        let leader = self.metadata_group().leader().0.or_else(told);
        leader.filter(|l| self.shared().transport.is_alive(*l))
    }

    /// Whether the metadata applied here include all that was committed before this process began, and before the
    /// present leader of the metadata group took office. After a restart they are those of the last checkpoint at
    /// first, also where the leader is still the same: they may name topics that are gone, and replicas that were
    /// removed here.
    pub fn metadata_is_current(&self) -> bool {
        let (leader, epoch) = self.metadata_group().leader();
        self.metadata_seen.load(Ordering::Acquire)
            && leader.is_some()
            && leader_epoch(self.metadata_group().machine.applied_term()) >= epoch
    }
}

pub async fn open_metadata(
    shared: &Arc<NodeShared>,
    context: &GroupContext,
    config: &NodeConfig,
    mut machine: Box<dyn MetadataMachine>,
) -> Result<Arc<Group>, ReplicationError> {
    let (recovered, state) = take_recovered(shared, METADATA_GROUP)?;
    let mut applied = None;
    let mut membership = GroupMembership::default();
    if let Some((at, members, bytes)) = state {
        machine
            .restore(&bytes)
            .map_err(|e| malformed(METADATA_GROUP, &Malformed(e)))?;
        applied = at;
        membership = members;
    }
    let machine = GroupMachine::new(
        METADATA_GROUP,
        Machine::Metadata(Mutex::new(machine)),
        applied,
        membership,
    );
    let mut voters: Vec<BrokerId> = config.seeds.iter().map(|s| s.broker).collect();
    voters.sort_unstable();
    voters.truncate(METADATA_VOTERS_MAX);
    if voters.is_empty() {
        voters.push(config.broker);
    }
    // A broker that is not in the list joins a cluster that is there.
    let founders = if voters.contains(&config.broker) {
        voters.clone()
    } else {
        Vec::new()
    };
    let members = GroupReplicas {
        replicas: voters,
        founders,
    };
    start_group(shared, context, METADATA_GROUP, recovered, machine, members).await
}

/// The broker with the lowest id founds the cluster, once every first broker is up and agrees on
/// the list.
pub async fn form_cluster(
    shared: Arc<NodeShared>,
    metadata: Arc<Group>,
    config: NodeConfig,
    mut stop: watch::Receiver<bool>,
) {
    if metadata.first_founder() != Some(config.broker) || metadata.guard.is_lost() {
        return;
    }
    loop {
        let missing: Vec<i32> = config
            .seeds
            .iter()
            .filter(|s| s.broker != config.broker)
            .filter(|s| {
                !shared
                    .transport
                    .peer(s.broker)
                    .is_some_and(|p| p.is_connected())
            })
            .map(|s| s.broker.0)
            .collect();
        let initialized = metadata.raft.is_initialized().await.unwrap_or(true);
        if initialized {
            return;
        }
        if shared.transport.cluster_exists() {
            // This broker's data folder is new: it gets what it lacks from the others.
            return;
        }
        if missing.is_empty() {
            if let Err(error) = metadata.initialize().await {
                tracing::error!("forming the cluster: {error}");
            } else {
                tracing::info!("cluster formed");
            }
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_PAUSE) => {}
            _ = stop.wait_for(|s| *s) => return,
        }
    }
}

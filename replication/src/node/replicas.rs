//! The replicas a node has: opened, recovered from the journal, removed.

use super::Node;
use super::shared::NodeShared;
use crate::error::ReplicationError;
use crate::group::{COUNTED_ON, Group, GroupContext, GroupReplicas};
use crate::log_store::GroupLog;
use crate::partition::{Partition, PartitionSpec};
use crate::rebuild;
use crate::state_machine::{GroupMachine, Machine, decode_group_state};
use crate::types::*;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tidelog_storage::error::StorageError;
use tidelog_storage::ids::GroupId;
use tidelog_storage::journal::RecoveredGroup;
use tidelog_storage::log::PartitionLog;

impl Node {
    /// Opens (or, after a restart, recovers) this broker's replica of a partition.
    pub async fn open_partition(
        &self,
        spec: PartitionSpec,
    ) -> Result<Arc<Partition>, ReplicationError> {
        if let Some(open) = self.shared.partition(spec.group) {
            return Ok(open);
        }
        let (recovered, state) = take_recovered(&self.shared, spec.group)?;
        let rebuilding = self.shared.rebuild.is_active();
        if rebuilding && recovered.is_none() && spec.replicas.len() == 1 && spec.dir.exists() {
            return Err(ReplicationError::Refused(format!(
                "the only replica of {}-{} was in the damaged journal: its records in {} cannot be \
                 trusted or rebuilt; delete the topic, or bring the damaged journal back",
                spec.topic,
                spec.partition,
                spec.dir.display()
            )));
        }
        let spec_for_log = spec.clone();
        let machine_state = state.as_ref().map(|(_, _, bytes)| bytes.clone());
        let opened = self.shared.transport.host.disk_work(move || {
            let log = PartitionLog::open(
                &spec_for_log.dir,
                &spec_for_log.topic,
                spec_for_log.topic_id,
                spec_for_log.partition,
                spec_for_log.config,
                machine_state.as_deref(),
            )?;
            if spec_for_log.first_sequences {
                log.require_first_sequences();
            }
            Ok::<_, StorageError>(log)
        });
        let log = opened
            .await
            .map_err(|e| ReplicationError::Refused(e.to_string()))??;
        let log = Arc::new(log);
        let (applied, membership) =
            state.map_or((None, GroupMembership::default()), |s| (s.0, s.1));
        let machine = GroupMachine::new(
            spec.group,
            Machine::Partition(log.clone()),
            applied,
            membership,
        );
        let group = start_group(
            &self.shared,
            &self.context,
            spec.group,
            recovered,
            machine,
            GroupReplicas {
                replicas: spec.replicas.clone(),
                founders: spec.founders.clone(),
            },
        )
        .await?;
        let first = spec.founders.first() == Some(&self.config.broker);
        let partition = Arc::new(Partition {
            spec,
            log,
            group: group.clone(),
            transport: self.shared.transport.clone(),
            mending: AtomicBool::new(false),
        });
        self.shared
            .partitions
            .write()
            .insert(group.id, partition.clone());
        if group.guard.is_lost() {
            let stop = self.stop.subscribe();
            tokio::spawn(rebuild::run(self.shared.clone(), group, stop));
        } else if first {
            // Does nothing where it was done before: a crash may have come between the two.
            group.initialize().await?;
        }
        self.shared.unsettle();
        Ok(partition)
    }

    /// Whether replicas of this broker are being rebuilt from their peers.
    pub fn is_rebuilding(&self) -> bool {
        self.shared.rebuild.is_active()
    }

    /// Tells that every replica this broker's metadata gives it is open. It counts once the metadata
    /// itself is rebuilt.
    pub fn all_replicas_open(&self) {
        if !self.metadata.guard.is_lost() {
            self.shared.rebuild.set_all_open();
        }
    }

    /// Stops the replica and removes its data; only for a partition whose deletion is committed.
    pub async fn remove_partition(&self, group: GroupId) -> Result<(), ReplicationError> {
        self.shared.leaders.forget(group);
        self.remove_replica(group).await
    }

    /// From now on the replica answers nobody, so that nobody counts on it while its removal is being
    /// committed; `false` takes that back.
    pub fn set_leaving(&self, group: GroupId, leaving: bool) {
        if let Some(group) = self.shared.group(group) {
            if leaving {
                group.guard.leave();
            } else {
                group.guard.stay();
            }
        }
    }

    /// Stops this broker's replica of a partition that goes on elsewhere, and removes its data; only once it
    /// is committed that this broker has it no more.
    pub async fn remove_replica(&self, group: GroupId) -> Result<(), ReplicationError> {
        self.shared.leaders.resigned(group);
        let partition = self.shared.partitions.write().remove(&group);
        let open = self.shared.groups.write().remove(&group);
        if let Some(open) = open {
            open.stop().await;
            open.log.remove();
            self.shared.logs.write().remove(&group);
        } else if self.shared.recovered.lock().remove(&group).is_some() {
            self.shared.journal.submit(
                vec![tidelog_storage::journal::Record::Remove { group }],
                None,
            );
        }
        if let Some(partition) = partition {
            let log = partition.log.clone();
            self.shared
                .transport
                .host
                .disk_work(move || log.delete())
                .await
                .map_err(|e| ReplicationError::Refused(e.to_string()))??;
        }
        Ok(())
    }

    /// Whether the journal or this run knows the group.
    pub fn knows(&self, group: GroupId) -> bool {
        self.shared.recovered.lock().contains_key(&group)
            || self.shared.logs.read().contains_key(&group)
    }
}

type MachineState = (Option<LogId>, GroupMembership, Bytes);

/// A group's journaled past, taken out of the not-yet-open ones.
pub(crate) fn take_recovered(
    shared: &NodeShared,
    group: GroupId,
) -> Result<(Option<RecoveredGroup>, Option<MachineState>), ReplicationError> {
    let recovered = shared.recovered.lock().get(&group).cloned();
    let state = match recovered
        .as_ref()
        .and_then(|r| r.state.as_ref().map(|s| (r, s)))
    {
        Some((recovered, bytes)) if !bytes.is_empty() => {
            let (membership, machine) =
                decode_group_state(bytes).map_err(|e| malformed(group, &e))?;
            let applied = recovered.applied.map(|(index, term)| log_id(term, index));
            Some((applied, membership, machine))
        }
        _ => None,
    };
    Ok((recovered, state))
}

pub(crate) async fn start_group(
    shared: &Arc<NodeShared>,
    context: &GroupContext,
    id: GroupId,
    recovered: Option<RecoveredGroup>,
    machine: Arc<GroupMachine>,
    members: GroupReplicas,
) -> Result<Arc<Group>, ReplicationError> {
    let journaled = recovered.clone();
    let log = GroupLog::new(
        id,
        shared.journal.clone(),
        shared.log_bytes.clone(),
        recovered,
    )
    .map_err(|e| malformed(id, &e))?;
    {
        let mut not_open = shared.recovered.lock();
        not_open.remove(&id);
        shared
            .logs
            .write()
            .insert(id, (log.clone(), machine.clone()));
    }
    let mut guard = shared.rebuild.guard(&members);
    let has_past = journaled.is_some() || guard.is_lost();
    if has_past && members.replicas.len() > 1 {
        guard = guard.promised_until(shared.transport.started() + COUNTED_ON);
    }
    if !guard.is_lost() {
        log.begin_if_voted(&members.founders);
    }
    match Group::start(id, log.clone(), machine, members, guard, context.clone()).await {
        Ok(group) => {
            shared.groups.write().insert(id, group.clone());
            Ok(group)
        }
        Err(error) => {
            // The next try must find what the journal holds: without it the group would begin anew,
            // with its votes forgotten and its segments removed.
            let mut not_open = shared.recovered.lock();
            shared.logs.write().remove(&id);
            shared
                .log_bytes
                .fetch_sub(log.bytes() as u64, Ordering::Relaxed);
            not_open.extend(journaled.map(|journaled| (id, journaled)));
            Err(error)
        }
    }
}

pub(crate) fn malformed(group: GroupId, error: &Malformed) -> ReplicationError {
    ReplicationError::Raft {
        group: group.0,
        message: error.to_string(),
    }
}

//! Offsets committed as part of a transaction, and the end of transactions in this shard.
//!
//! The shard is the only writer of its partition, so what the state machine of other partitions checks
//! about transactions is checked here: a late commit must not get into the next transaction, nor a
//! late marker end it.

use super::offsets::Committed;
use super::request::{Answer, Confirmed, TxnCommitRequest};
use super::{Effects, Group, GroupShard, Turn, records};
use crate::coordinator::Marker;
use crate::coordinator::group::classic::ClassicGroup;
use kafka_protocol::error::ResponseError;
use std::collections::HashMap;

/// Producers remembered without an open transaction.
const IDLE_MAX: usize = 100_000;

/// What is known of one producer here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    coordinator_epoch: i32,
    /// Offsets wait for its marker.
    open: bool,
    /// Markers so far.
    marks: u64,
}

/// The producers of a shard's transactions.
#[derive(Debug, Default)]
pub struct Producers(HashMap<i64, Producer>);

/// Whether offsets of a transaction may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Go,
    /// The coordinator has to be asked whether the transaction is under way.
    Ask {
        marks: u64,
    },
}

impl Producers {
    fn admit(
        &self,
        (id, epoch): (i64, i16),
        confirmed: Confirmed,
    ) -> Result<Admission, ResponseError> {
        let known = self.0.get(&id).cloned().unwrap_or_default();
        if epoch < known.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        if known.open && epoch == known.epoch {
            return Ok(Admission::Go);
        }
        match confirmed {
            Confirmed::No => Ok(Admission::Ask { marks: known.marks }),
            Confirmed::ForEpoch => Ok(Admission::Go),
            Confirmed::At { marks } if marks == known.marks => Ok(Admission::Go),
            // That transaction has ended meanwhile.
            Confirmed::At { .. } => Err(ResponseError::InvalidTxnState),
        }
    }

    pub fn wrote(&mut self, (id, epoch): (i64, i16)) {
        let known = self.0.entry(id).or_default();
        known.epoch = epoch;
        known.open = true;
    }

    pub fn marked(&mut self, marker: &Marker) {
        let known = self.0.entry(marker.producer_id).or_default();
        known.epoch = marker.producer_epoch;
        known.coordinator_epoch = marker.coordinator_epoch;
        known.open = false;
        known.marks += 1;
        if self.0.len() > IDLE_MAX {
            self.0.retain(|_, p| p.open);
        }
    }

    /// Whether a marker is to be written; `Ok(false)` when it was before.
    fn check_marker(&self, marker: &Marker, bumped: bool) -> Result<bool, ResponseError> {
        let Some(known) = self.0.get(&marker.producer_id) else {
            return Ok(true);
        };
        if marker.coordinator_epoch < known.coordinator_epoch {
            return Err(ResponseError::TransactionCoordinatorFenced);
        }
        if marker.producer_epoch < known.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        if bumped && marker.producer_epoch == known.epoch {
            // The epoch of the next transaction: either that has begun, or this one has its marker.
            return if known.open {
                Err(ResponseError::InvalidProducerEpoch)
            } else {
                Ok(false)
            };
        }
        Ok(true)
    }
}

impl GroupShard {
    /// Takes offsets that become visible when the producer's transaction commits.
    pub(super) fn commit_transactional(
        &mut self,
        turn: &Turn,
        request: &TxnCommitRequest,
        effects: &mut Effects<Answer>,
    ) -> Answer {
        match self.producers.admit(request.producer, request.confirmed) {
            Ok(Admission::Go) => {}
            Ok(Admission::Ask { marks }) => return Answer::AskCoordinator { marks },
            Err(error) => return Answer::Committed(Err(error)),
        }
        if let Err(error) = self.check_member(turn, request) {
            return Answer::Committed(Err(error));
        }
        let commit = &request.commit;
        let mut written = Vec::new();
        let mut outcomes = Vec::with_capacity(commit.topics.len());
        for (topic, partitions) in &commit.topics {
            let mut results = Vec::with_capacity(partitions.len());
            for asked in partitions {
                if asked.metadata.len() > self.config.metadata_max_bytes {
                    results.push((asked.partition, Err(ResponseError::OffsetMetadataTooLarge)));
                    continue;
                }
                let value = Committed {
                    offset: asked.offset,
                    leader_epoch: (asked.leader_epoch >= 0).then_some(asked.leader_epoch),
                    metadata: asked.metadata.as_str().into(),
                    commit_ms: turn.now_ms,
                    expire_ms: None,
                    order: 0,
                };
                let (group, partition) = (commit.group.as_str(), asked.partition);
                written.push(records::offset_commit(group, topic, partition, &value));
                let producer_id = request.producer.0;
                self.offsets
                    .commit_pending(producer_id, group, topic, partition, value);
                results.push((partition, Ok(())));
            }
            outcomes.push((topic.clone(), results));
        }
        if !written.is_empty() {
            self.producers.wrote(request.producer);
            let (producer_id, epoch) = request.producer;
            effects.write_transactional(producer_id, epoch, written);
        }
        Answer::Committed(Ok(outcomes))
    }

    fn check_member(
        &mut self,
        turn: &Turn,
        request: &TxnCommitRequest,
    ) -> Result<(), ResponseError> {
        let commit = &request.commit;
        let Some(group) = self.groups.get(&commit.group) else {
            if commit.generation >= 0 {
                return Err(ResponseError::IllegalGeneration);
            }
            let simple = ClassicGroup::new(&commit.group, turn.now_ms);
            self.groups
                .insert(commit.group.clone(), Group::Classic(simple));
            return Ok(());
        };
        let checked = group.check_commit(
            &commit.member_id,
            commit.instance_id.as_deref(),
            commit.generation,
            true,
        );
        // Producers do not know the error of KIP-848.
        checked.map_err(|error| match error {
            ResponseError::StaleMemberEpoch => ResponseError::IllegalGeneration,
            error => error,
        })
    }

    /// Ends a producer's transaction in this partition; `bumped` as in
    /// [`tidelog_storage::log::BatchOrigin::Coordinator`].
    pub(super) fn end_transaction(
        &mut self,
        marker: &Marker,
        bumped: bool,
        effects: &mut Effects<Answer>,
    ) -> Result<(), ResponseError> {
        if self.producers.check_marker(marker, bumped)? {
            effects.write_marker(*marker);
            self.producers.marked(marker);
            self.offsets
                .end_transaction(marker.producer_id, marker.commit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(epoch: i16, coordinator_epoch: i32) -> Marker {
        Marker {
            producer_id: 7,
            producer_epoch: epoch,
            coordinator_epoch,
            commit: true,
        }
    }

    #[test]
    fn a_late_commit_does_not_get_into_the_next_transaction() {
        let mut producers = Producers::default();
        let ask = producers.admit((7, 3), Confirmed::No);
        assert_eq!(ask, Ok(Admission::Ask { marks: 0 }));
        // The transaction ends while the coordinator is asked; old clients keep their epoch.
        producers.marked(&marker(3, 1));
        let late = producers.admit((7, 3), Confirmed::At { marks: 0 });
        assert_eq!(late, Err(ResponseError::InvalidTxnState));
        assert_eq!(
            producers.admit((7, 3), Confirmed::At { marks: 1 }),
            Ok(Admission::Go)
        );
        producers.wrote((7, 3));
        assert_eq!(producers.admit((7, 3), Confirmed::No), Ok(Admission::Go));
        let zombie = producers.admit((7, 2), Confirmed::No);
        assert_eq!(zombie, Err(ResponseError::InvalidProducerEpoch));
    }

    #[test]
    fn a_late_marker_does_not_end_the_next_transaction() {
        let mut producers = Producers::default();
        producers.wrote((7, 3));
        assert_eq!(producers.check_marker(&marker(4, 5), true), Ok(true));
        producers.marked(&marker(4, 5));
        // Its answer was lost.
        assert_eq!(producers.check_marker(&marker(4, 5), true), Ok(false));
        producers.wrote((7, 4));
        let late = producers.check_marker(&marker(4, 5), true);
        assert_eq!(late, Err(ResponseError::InvalidProducerEpoch));
        let replaced = producers.check_marker(&marker(5, 4), true);
        assert_eq!(replaced, Err(ResponseError::TransactionCoordinatorFenced));
    }
}

//! Who may commit offsets to a consumer group, and fetch them.

use super::group::ConsumerGroup;
use super::member::Member;
use crate::metadata::changes::Refused;
use kafka_protocol::error::ResponseError;
use uuid::Uuid;

/// First version of OffsetCommit that members of the next protocol may use.
const FIRST_COMMIT_VERSION: i16 = 9;

/// Who commits.
#[derive(Debug, Clone, Copy)]
pub struct Committer<'a> {
    pub member_id: &'a str,
    /// Epoch, or generation of a member of the classic protocol; negative: none.
    pub epoch: i32,
    /// Version of the OffsetCommit request; `None` for TxnOffsetCommit.
    pub version: Option<i16>,
}

impl ConsumerGroup {
    /// Whether a commit of offsets for these partitions is taken. An older epoch is taken too for
    /// partitions the member has held since (KIP-1251): nobody else can have committed for them.
    ///
    /// # Errors
    /// `UNKNOWN_MEMBER_ID`, `STALE_MEMBER_EPOCH`, `UNSUPPORTED_VERSION`; of a member of the classic
    /// protocol `ILLEGAL_GENERATION`.
    pub fn check_commit(
        &self,
        committer: Committer<'_>,
        partitions: &[(Uuid, i32)],
    ) -> Result<(), Refused> {
        if committer.epoch < 0 && self.members.is_empty() {
            // An administrator, or a consumer that assigns partitions to itself.
            return Ok(());
        }
        let member = self
            .members
            .get(committer.member_id)
            .ok_or_else(|| self.unknown_member(committer.member_id))?;
        let next = member.metadata.classic.is_none();
        if next && committer.version.is_some_and(|v| v < FIRST_COMMIT_VERSION) {
            return Err(Refused::new(
                ResponseError::UnsupportedVersion,
                "OffsetCommit version 9 or above must be used by members using the modern group \
                 protocol",
            ));
        }
        let held_since = |(topic, partition): &(Uuid, i32)| {
            [&member.current.assigned, &member.current.revoking]
                .into_iter()
                .filter_map(|held| held.get(topic)?.get(partition))
                .any(|since| *since <= committer.epoch)
        };
        if next
            && committer.epoch < member.current.epoch
            && committer.epoch > 0
            && !partitions.is_empty()
            && partitions.iter().all(held_since)
        {
            return Ok(());
        }
        check_epoch(member, committer.epoch)
    }

    /// Whether a fetch of committed offsets is answered; without a member it always is.
    ///
    /// # Errors
    /// As for [`ConsumerGroup::check_commit`].
    pub fn check_fetch(&self, member_id: Option<&str>, epoch: i32) -> Result<(), Refused> {
        let Some(id) = member_id.filter(|_| epoch >= 0) else {
            return Ok(());
        };
        let member = self.members.get(id);
        check_epoch(member.ok_or_else(|| self.unknown_member(id))?, epoch)
    }
}

fn check_epoch(member: &Member, epoch: i32) -> Result<(), Refused> {
    if epoch == member.current.epoch {
        return Ok(());
    }
    let (error, word) = match member.metadata.classic {
        Some(_) => (ResponseError::IllegalGeneration, "generation id"),
        None => (ResponseError::StaleMemberEpoch, "member epoch"),
    };
    Err(Refused::new(
        error,
        format!(
            "The received {word} {epoch} does not match the expected member epoch {}.",
            member.current.epoch
        ),
    ))
}

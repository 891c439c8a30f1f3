//! Committing offsets for a group.

use crate::error::Result;
use crate::group::{CommittedOffset, Group};
use crate::topic_partition::TopicPartition;
use std::collections::BTreeMap;

/// Commits offsets for the group of the [`Consumer`](crate::Consumer) it is of, from anywhere;
/// clones are the same member.
#[derive(Debug, Clone)]
pub struct Committer {
    pub(crate) group: Group,
}

impl Committer {
    /// Commits the offset of the next record to read of each partition.
    ///
    /// # Errors
    /// [`Error::Rebalanced`](crate::Error::Rebalanced) when one of the partitions belongs to another
    /// member by now; [`Error::Timeout`](crate::Error::Timeout) when the coordinator could not be
    /// reached for the call timeout.
    pub async fn commit(&self, offsets: &BTreeMap<TopicPartition, i64>) -> Result<()> {
        self.group.commit(offsets).await
    }

    /// What the group has committed for these partitions; those without a commit are left out.
    ///
    /// # Errors
    /// When the coordinator cannot be asked before the call's deadline.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>> {
        self.group.committed(Some(partitions)).await
    }
}

//! What a caller is told of rebalances.

use super::Committer;
use crate::topic_partition::TopicPartition;
use futures_util::future::BoxFuture;
use std::fmt;

/// Told of partitions that come and go, from within [`Consumer::next`](crate::Consumer::next).
pub trait RebalanceHook: Send {
    /// These are read from now on.
    fn assigned(&mut self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }

    /// These are given back when the future is done: the last time to commit offsets of them.
    /// Automatic commits have been made before.
    fn revoked<'a>(
        &'a mut self,
        partitions: &'a [TopicPartition],
        committer: &'a Committer,
    ) -> BoxFuture<'a, ()> {
        let _ = (partitions, committer);
        Box::pin(async {})
    }

    /// These belong to others already: offsets of them can no longer be committed, and their
    /// records may have been read by others.
    fn lost(&mut self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }
}

#[derive(Default)]
pub(super) struct Hook(pub Option<Box<dyn RebalanceHook>>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hook" } else { "None" })
    }
}

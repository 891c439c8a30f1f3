//! Where each leader epoch begins (KIP-101, KIP-320).

use crate::error::StorageError;
use crate::ids::{LeaderEpoch, Offset};
use std::fmt::Write as _;
use std::path::Path;

/// Epochs with their start offsets, both ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    pub entries: Vec<(LeaderEpoch, Offset)>,
}

impl LeaderEpochs {
    /// Notes that a batch of `epoch` begins at `offset`. An epoch none of whose records are left, as
    /// the log start moved to the end, gives way. True when that changed anything.
    pub fn assign(&mut self, epoch: LeaderEpoch, offset: Offset) -> bool {
        if self
            .entries
            .last()
            .is_some_and(|(last, start)| *last < epoch && *start == offset)
        {
            self.entries.pop();
        }
        let new = self.entries.last().is_none_or(|(last, _)| *last < epoch);
        if new {
            self.entries.push((epoch, offset));
        }
        new
    }

    /// The largest epoch not above `asked` and where it ended: the start of the next one, or
    /// `end`. One older than everything known ended where the known ones begin, as in Kafka's
    /// `LeaderEpochFileCache`. `None` when `asked` is newer than `current`, the leader's own epoch,
    /// under which nothing may have been appended yet.
    pub fn end_offset(
        &self,
        asked: LeaderEpoch,
        current: LeaderEpoch,
        end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        if asked == current {
            return Some((asked, end));
        }
        if asked > current {
            return None;
        }
        let next = self.entries.partition_point(|(epoch, _)| *epoch <= asked);
        let epoch = match next.checked_sub(1) {
            Some(known) => self.entries[known].0,
            None => asked,
        };
        let end = self.entries.get(next).map_or(end, |(_, start)| *start);
        Some((epoch, end))
    }

    /// Epoch of the record at `offset`.
    pub fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|(_, start)| *start <= offset);
        Some(self.entries.get(after.checked_sub(1)?)?.0)
    }

    /// Forgets epochs that ended at or before `offset`.
    pub fn trim_front(&mut self, offset: Offset) {
        while self
            .entries
            .get(1)
            .is_some_and(|(_, start)| *start <= offset)
        {
            self.entries.remove(0);
        }
        if let Some(first) = self.entries.first_mut() {
            first.1 = first.1.max(offset);
        }
    }

    /// Writes Kafka's `leader-epoch-checkpoint`.
    pub fn write(&self, dir: &Path) -> Result<(), StorageError> {
        let mut text = format!("0\n{}\n", self.entries.len());
        for (epoch, start) in &self.entries {
            let _ = writeln!(text, "{epoch} {start}");
        }
        super::files::replace(&dir.join("leader-epoch-checkpoint"), text.as_bytes())
    }
}

//! Up to where a partition may be read.

use super::PartitionLog;
use crate::defect::Defect;
use crate::ids::Offset;
use std::sync::atomic::Ordering;

/// Ends of what readers may see, both of the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadableEnds {
    /// For `read_uncommitted`: the end of the log.
    pub high_watermark: Offset,
    /// For `read_committed`: the first offset of the earliest open transaction, else the high watermark.
    pub last_stable_offset: Offset,
}

impl PartitionLog {
    /// Both ends as they are now.
    pub fn readable_ends(&self) -> ReadableEnds {
        self.readable_ends_while(|| ())
    }

    /// End of what a `read_committed` consumer may see.
    pub fn last_stable_offset(&self) -> Offset {
        self.readable_ends().last_stable_offset
    }

    /// `between` runs after each look at the end: the worst moment for the log to change.
    pub(super) fn readable_ends_while(&self, mut between: impl FnMut()) -> ReadableEnds {
        // A transaction is noted as open before its first batch moves the end, and as ended after its
        // marker has: with the same end before and after, the two belong together. Else an end of within
        // a transaction could meet the news that it has ended.
        let (end, first_open) = loop {
            let end = self.end.load(Ordering::Acquire);
            between();
            let first_open = self.first_open.load(Ordering::Acquire);
            if self.end.load(Ordering::Acquire) == end {
                break (end, first_open);
            }
        };
        let first_open = if Defect::LastStableOffset.is_on() {
            first_open.saturating_add(1)
        } else {
            first_open
        };
        // The log may have been cut in front beyond the beginning of an open transaction.
        let stable = first_open.max(self.start.load(Ordering::Acquire)).min(end);
        ReadableEnds {
            high_watermark: end,
            last_stable_offset: stable,
        }
    }
}

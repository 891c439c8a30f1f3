//! One group's Raft log: entries in memory, made durable by the shared journal.
//!
//! The journal is only read at start-up. Entries stay here until openraft purges them, which the
//! log keeper triggers once they are applied; a follower that needs older ones catches up from the
//! partition log instead.

use crate::group::node_of;
use crate::ids::BrokerId;
use crate::types::*;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, Membership, OptionalSend};
use parking_lot::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidelog_storage::ids::GroupId;
use tidelog_storage::journal::{Journal, Record, RecoveredGroup};

/// Most entry bytes one append message to a follower carries.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

#[derive(Default)]
struct Entries {
    /// Contiguous by index; the first follows `purged`.
    queue: VecDeque<RaftEntry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    bytes: usize,
    /// While a checkpoint runs, entries above this index must stay, whatever is purged.
    pinned_after: Option<u64>,
    /// Entries at the front of `queue` that openraft has purged but a checkpoint still needs.
    purge_wanted: Option<LogId>,
    /// Entries a snapshot has replaced that are not applied yet, as it is still being installed: this
    /// replica has acknowledged them, and until the snapshot is durable they are all it has.
    replaced: VecDeque<RaftEntry>,
    /// Index up to which entries are applied, or a little less.
    applied: u64,
    /// Set when the group is removed: nothing is journaled any more.
    closed: bool,
}

/// Shared by the log store, its readers and the checkpointer.
pub struct GroupLog {
    group: GroupId,
    journal: Journal,
    entries: Mutex<Entries>,
    /// Bytes held by all groups' logs of this broker.
    total_bytes: Arc<AtomicU64>,
}

impl Entries {
    /// The last entry, though it may be purged.
    fn last_log_id(&self) -> Option<LogId> {
        self.queue.back().map(|e| e.log_id).or(self.purged)
    }
}

impl GroupLog {
    /// A group's log as the journal gave it back, or an empty one.
    pub fn new(
        group: GroupId,
        journal: Journal,
        total_bytes: Arc<AtomicU64>,
        recovered: Option<RecoveredGroup>,
    ) -> Result<Arc<GroupLog>, Malformed> {
        let mut entries = Entries::default();
        if let Some(recovered) = recovered {
            entries.purged = recovered.applied.map(|(index, term)| log_id(term, index));
            entries.applied = recovered.applied.map_or(0, |(index, _)| index);
            entries.vote = recovered.vote.as_deref().map(vote_from_bytes).transpose()?;
            for record in recovered.entries {
                let entry = entry_from_parts(record.index, record.term, record.kind, record.body)?;
                entries.bytes += entry_bytes(&entry);
                entries.queue.push_back(entry);
            }
            total_bytes.fetch_add(entries.bytes as u64, Ordering::Relaxed);
        }
        Ok(Arc::new(GroupLog {
            group,
            journal,
            entries: Mutex::new(entries),
            total_bytes,
        }))
    }

    /// Begins the log with the entry that makes `founders` the first voters, where there is nothing but a vote: a
    /// leader was elected, and was gone before it sent that entry, which is the same whoever writes it. openraft
    /// does not initialise a replica that has voted, so that nobody would begin the group any more.
    pub fn begin_if_voted(&self, founders: &[BrokerId]) {
        let mut entries = self.entries.lock();
        if entries.vote.is_none() || entries.last_log_id().is_some() || founders.is_empty() {
            return;
        }
        let voters: BTreeSet<u64> = founders.iter().copied().map(node_of).collect();
        let members = Membership::new_with_defaults(vec![voters], []);
        let entry = RaftEntry {
            log_id: log_id(0, 0),
            payload: EntryPayload::Membership(members),
        };
        let record = Record::Entry {
            group: self.group,
            entry: entry_to_record(&entry),
        };
        self.journal.submit(vec![record], None);
        let bytes = entry_bytes(&entry);
        entries.bytes += bytes;
        self.total_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        entries.queue.push_back(entry);
    }

    /// Bytes of entries in memory.
    pub fn bytes(&self) -> usize {
        self.entries.lock().bytes
    }

    /// Tells up to which index entries are applied.
    pub fn note_applied(&self, index: u64) {
        let mut entries = self.entries.lock();
        entries.applied = index;
        if !entries.replaced.is_empty() {
            entries.replaced.retain(|e| e.log_id.index > index);
        }
    }

    /// Keeps every entry after `applied` in memory until [`GroupLog::checkpoint`] has run.
    pub fn pin(&self, applied: Option<u64>) {
        self.entries.lock().pinned_after = Some(applied.unwrap_or(0));
    }

    /// Journals the group's whole state: votes, `state` as of `applied`, and the entries after it.
    /// Under the log's lock, so that the journal's order is the order of changes. False when entries
    /// after `applied` are gone, as a snapshot has been installed meanwhile: take the state again.
    pub fn checkpoint(&self, applied: Option<LogId>, state: bytes::Bytes) -> bool {
        let mut entries = self.entries.lock();
        entries.pinned_after = None;
        if entries.closed {
            return true;
        }
        let applied_index = applied.map(|id| id.index);
        let after = |e: &&RaftEntry| applied_index.is_none_or(|a| e.log_id.index > a);
        let mut kept = entries.replaced.iter().chain(&entries.queue).filter(after);
        let mut next = applied_index.map_or(0, |a| a + 1);
        let first_kept = kept
            .clone()
            .next()
            .map(|e| e.log_id.index)
            .or(entries.purged.map(|p| p.index + 1));
        let gapless =
            kept.all(|e| std::mem::replace(&mut next, e.log_id.index + 1) == e.log_id.index);
        if !gapless || first_kept.is_some_and(|first| first > next) {
            return false;
        }
        let mut records = vec![Record::Checkpoint {
            group: self.group,
            vote: entries.vote.as_ref().map(vote_to_bytes),
            applied: applied.as_ref().map(position),
            state,
        }];
        records.extend(
            entries
                .replaced
                .iter()
                .chain(&entries.queue)
                .filter(after)
                .map(|e| Record::Entry {
                    group: self.group,
                    entry: entry_to_record(e),
                }),
        );
        self.journal.submit(records, None);
        if let Some(applied) = applied_index {
            entries.replaced.retain(|e| e.log_id.index > applied);
        }
        if let Some(upto) = entries.purge_wanted.take() {
            self.drop_through(&mut entries, upto);
        }
        true
    }

    /// Blocks until everything journaled so far is durable; false when the journal was closed before.
    #[must_use]
    pub fn sync(&self) -> bool {
        self.journal.sync_barrier()
    }

    /// Whether the group is removed.
    pub fn is_closed(&self) -> bool {
        self.entries.lock().closed
    }

    /// Journals that the group is gone.
    pub fn remove(&self) {
        let mut entries = self.entries.lock();
        entries.closed = true;
        self.total_bytes
            .fetch_sub(entries.bytes as u64, Ordering::Relaxed);
        entries.queue.clear();
        entries.replaced.clear();
        entries.bytes = 0;
        self.journal
            .submit(vec![Record::Remove { group: self.group }], None);
    }

    /// The last entry, though it may be purged, and need not be synced yet.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.entries.lock().last_log_id()
    }

    /// Whether it holds more than `bytes` of entries, one of them not above `applied`.
    pub fn holds_applied(&self, bytes: usize, applied: u64) -> bool {
        let entries = self.entries.lock();
        let first = entries.queue.front();
        entries.bytes > bytes && first.is_some_and(|entry| entry.log_id.index <= applied)
    }

    fn drop_through(&self, entries: &mut Entries, upto: LogId) {
        let mut limit = upto.index;
        let last = entries.queue.back().map_or(0, |e| e.log_id.index);
        // Beyond the last entry a snapshot has replaced the log: what is left of it has no use.
        if let Some(pinned) = entries.pinned_after
            && limit > pinned
            && limit <= last
        {
            limit = pinned;
            entries.purge_wanted = Some(upto);
        }
        let mut freed = 0;
        while entries
            .queue
            .front()
            .is_some_and(|e| e.log_id.index <= limit)
        {
            if let Some(entry) = entries.queue.pop_front() {
                freed += entry_bytes(&entry);
                let needed = entries
                    .pinned_after
                    .unwrap_or(u64::MAX)
                    .min(entries.applied);
                if entry.log_id.index > needed {
                    entries.replaced.push_back(entry);
                }
            }
        }
        entries.bytes -= freed;
        self.total_bytes.fetch_sub(freed as u64, Ordering::Relaxed);
        if entries.queue.is_empty() {
            entries.queue.shrink_to(16);
        }
    }

    /// The entries of `[start, end)` that are there, without a gap among them. Those that a snapshot is
    /// about to replace are: an apply that was ordered before it may not have read them yet. An error once the
    /// group is removed: an apply that still waits must not take what is gone for done.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<RaftEntry>, io::Error> {
        let entries = self.entries.lock();
        if entries.closed {
            return Err(closed());
        }
        let replaced = entries.replaced.iter();
        let replaced = replaced.filter(|entry| entry.log_id.index >= start);
        let first = entries.queue.front().map_or(start, |e| e.log_id.index);
        let queued = entries.queue.iter();
        let queued = queued.skip(start.saturating_sub(first) as usize);
        let mut bytes = 0;
        let mut out: Vec<RaftEntry> = Vec::new();
        for entry in replaced.chain(queued) {
            let index = entry.log_id.index;
            let follows = out.last().is_none_or(|e| e.log_id.index + 1 == index);
            if index >= end || !follows {
                break;
            }
            bytes += entry_bytes(entry);
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }
}

/// openraft's view of a [`GroupLog`]; cloned for readers.
#[derive(Clone)]
pub struct LogStore(pub Arc<GroupLog>);

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => n + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(n) => n + 1,
            Bound::Excluded(n) => *n,
            Bound::Unbounded => u64::MAX,
        };
        self.0.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.entries.lock().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let entries = self.0.read(start, end, MESSAGE_BYTES_MAX)?;
        // A purge can overtake a slow follower's reader: it must see the gap, not skip it.
        if entries.first().is_some_and(|e| e.log_id.index != start) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("log entry {start} is purged"),
            ));
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let entries = self.0.entries.lock();
        Ok(LogState {
            last_purged_log_id: entries.purged,
            last_log_id: entries.last_log_id(),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, durable) = tokio::sync::oneshot::channel();
        {
            let mut entries = self.0.entries.lock();
            if entries.closed {
                return Err(closed());
            }
            entries.vote = Some(*vote);
            self.0.journal.submit(
                vec![Record::Vote {
                    group: self.0.group,
                    vote: vote_to_bytes(vote),
                }],
                Some(Box::new(move || {
                    let _ = done.send(());
                })),
            );
        }
        durable.await.map_err(|_| closed())
    }

    async fn append<I>(&mut self, new: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries = self.0.entries.lock();
        if entries.closed {
            return Err(closed());
        }
        let mut records = Vec::new();
        let mut added = 0;
        for entry in new {
            if let Some(last) = entries.queue.back() {
                assert_eq!(
                    last.log_id.index + 1,
                    entry.log_id.index,
                    "a Raft log has no gaps"
                );
            }
            records.push(Record::Entry {
                group: self.0.group,
                entry: entry_to_record(&entry),
            });
            added += entry_bytes(&entry);
            entries.queue.push_back(entry);
        }
        entries.bytes += added;
        self.0
            .total_bytes
            .fetch_add(added as u64, Ordering::Relaxed);
        self.0.journal.submit(
            records,
            Some(Box::new(move || callback.io_completed(Ok(())))),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut entries = self.0.entries.lock();
        if entries.closed {
            return Err(closed());
        }
        let after = last.map(|id| id.index);
        let mut freed = 0;
        while entries
            .queue
            .back()
            .is_some_and(|e| after.is_none_or(|a| e.log_id.index > a))
        {
            if let Some(entry) = entries.queue.pop_back() {
                freed += entry_bytes(&entry);
            }
        }
        entries.bytes -= freed;
        self.0
            .total_bytes
            .fetch_sub(freed as u64, Ordering::Relaxed);
        // Order alone makes this durable in time: whatever is appended next lies behind it.
        self.0.journal.submit(
            vec![Record::Truncate {
                group: self.0.group,
                after,
            }],
            None,
        );
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let mut entries = self.0.entries.lock();
        if entries.purged.is_none_or(|p| p < upto) {
            entries.purged = Some(upto);
        }
        self.0.drop_through(&mut entries, upto);
        Ok(())
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the group is closed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidelog_storage::journal::JournalConfig;

    fn journal(dir: &std::path::Path) -> (Journal, Option<RecoveredGroup>) {
        let config = JournalConfig {
            dir: dir.to_owned(),
            file_bytes: 1 << 20,
            direct_io: false,
            ..JournalConfig::default()
        };
        let (journal, mut recovered) = Journal::open(config).expect("a journal");
        (journal, recovered.groups.remove(&GroupId(9)))
    }

    fn entry(index: u64) -> RaftEntry {
        let payload = Payload::Normal(Command::LogStart(0));
        RaftEntry {
            log_id: log_id(1, index),
            payload,
        }
    }

    /// openraft orders an apply, then a snapshot, and purges what the snapshot replaces while the apply
    /// still waits for its turn.
    #[tokio::test]
    async fn entries_a_snapshot_replaces_are_read_until_they_are_applied() {
        let dir = tempfile::tempdir().expect("a folder");
        let (opened, _) = journal(dir.path());
        let log = GroupLog::new(GroupId(9), opened.clone(), Arc::default(), None).expect("a log");
        let mut store = LogStore(log.clone());
        let new = (0..6).map(entry);
        store
            .append(new, IOFlushed::noop())
            .await
            .expect("appended");
        log.note_applied(2);
        store.purge(log_id(1, 20)).await.expect("purged");
        let read = async |store: &mut LogStore, from| -> Vec<u64> {
            let read = store.limited_get_log_entries(from, 6).await.expect("read");
            read.iter().map(|e| e.log_id.index).collect()
        };
        assert_eq!(read(&mut store, 3).await, [3, 4, 5]);
        assert_eq!(read(&mut store, 5).await, [5]);
        log.note_applied(20);
        assert_eq!(read(&mut store, 3).await, [0; 0]);
        log.remove();
        let removed = store.limited_get_log_entries(1, 3).await;
        assert!(removed.is_err(), "{removed:?}");
        opened.close();
    }

    /// A crash while a snapshot is being installed must find what was acknowledged before it.
    #[tokio::test]
    async fn entries_a_snapshot_replaces_are_journaled_until_it_is_installed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (opened, _) = journal(dir.path());
        let log = GroupLog::new(GroupId(9), opened.clone(), Arc::default(), None).expect("a log");
        let mut store = LogStore(log.clone());
        let new = (0..6).map(entry);
        store
            .append(new, IOFlushed::noop())
            .await
            .expect("appended");
        log.note_applied(3);
        store.purge(log_id(1, 20)).await.expect("purged");
        assert!(log.checkpoint(Some(log_id(1, 3)), bytes::Bytes::from_static(b"old")));
        assert!(log.sync());
        opened.close();
        let (opened, found) = journal(dir.path());
        let found = found.expect("the group");
        assert_eq!(found.applied, Some((3, 1)));
        let kept: Vec<u64> = found.entries.iter().map(|e| e.index).collect();
        assert_eq!(kept, [4, 5]);

        let log =
            GroupLog::new(GroupId(9), opened.clone(), Arc::default(), Some(found)).expect("a log");
        let mut store = LogStore(log.clone());
        store.purge(log_id(1, 20)).await.expect("purged");
        // Installed: a state of before does not fit any more, the new one needs none of them.
        log.note_applied(20);
        assert!(!log.checkpoint(Some(log_id(1, 3)), bytes::Bytes::from_static(b"old")));
        assert!(log.checkpoint(Some(log_id(1, 20)), bytes::Bytes::from_static(b"new")));
        assert!(log.sync());
        opened.close();
        let (_, found) = journal(dir.path());
        let found = found.expect("the group");
        assert_eq!((found.applied, found.entries.len()), (Some((20, 1)), 0));
    }
}

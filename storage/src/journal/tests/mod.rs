//! Tests of the journal against a model that keeps everything in memory.

mod crash;
mod disk_full;
mod inspect;
mod model;
mod recycling;

use super::format::{BATCH_HEADER, BLOCK, blocks, record_bytes};
use super::recovery::{list, recover};
use super::{
    Checkpointer, EntryRecord, FILES_APART_MAX, Journal, JournalConfig, Record, Recovered,
    RecoveredGroup,
};
use crate::ids::GroupId;
use crate::test_disk::scratch;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const FILE_BYTES: u64 = 64 * 1024;

type Groups = BTreeMap<GroupId, RecoveredGroup>;

fn config(dir: &Path) -> JournalConfig {
    JournalConfig {
        dir: dir.to_owned(),
        file_bytes: FILE_BYTES,
        direct_io: false,
        max_batch_bytes: 16 * 1024,
    }
}

fn open(dir: &Path) -> (Journal, Recovered) {
    Journal::open(config(dir)).expect("the journal opens")
}

fn entry(group: u64, index: u64, body: Vec<u8>) -> Record {
    Record::Entry {
        group: GroupId(group),
        entry: EntryRecord {
            index,
            term: 1 + index / 10,
            kind: 1,
            body: Bytes::from(body),
        },
    }
}

fn vote(group: u64, vote: &[u8]) -> Record {
    Record::Vote {
        group: GroupId(group),
        vote: Bytes::copy_from_slice(vote),
    }
}

/// Submits and waits until it is durable.
fn write(journal: &Journal, records: Vec<Record>) {
    let (done, durable) = std::sync::mpsc::channel();
    journal.submit(
        records,
        Some(Box::new(move || {
            let _ = done.send(());
        })),
    );
    durable
        .recv_timeout(Duration::from_secs(20))
        .expect("the submission becomes durable");
}

/// What the records mean, in the plainest way.
fn apply(groups: &mut Groups, record: &Record) {
    match record.clone() {
        Record::Entry { group, entry } => groups.entry(group).or_default().entries.push(entry),
        Record::Vote { group, vote } => groups.entry(group).or_default().vote = Some(vote),
        Record::Truncate { group, after } => {
            let entries = &mut groups.entry(group).or_default().entries;
            while entries.last().is_some_and(|e| Some(e.index) > after) {
                entries.pop();
            }
        }
        Record::Checkpoint {
            group,
            vote,
            applied,
            state,
        } => {
            let group = groups.entry(group).or_default();
            group.committed = group.committed.max(applied);
            group.vote = vote;
            group.applied = applied;
            group.state = Some(state);
            group.entries.clear();
        }
        Record::Committed { group, index, term } => {
            let group = groups.entry(group).or_default();
            group.committed = group.committed.max(Some((index, term)));
        }
        Record::Remove { group } => {
            groups.remove(&group);
        }
    }
}

/// A checkpoint that covers the group's first `covered` entries and carries the others over.
fn checkpoint_of(id: GroupId, group: &RecoveredGroup, covered: usize, state: &[u8]) -> Vec<Record> {
    let applied = covered
        .checked_sub(1)
        .map(|last| (group.entries[last].index, group.entries[last].term))
        .or(group.applied);
    let mut records = vec![Record::Checkpoint {
        group: id,
        vote: group.vote.clone(),
        applied,
        state: Bytes::copy_from_slice(state),
    }];
    records.extend(group.entries[covered..].iter().map(|entry| Record::Entry {
        group: id,
        entry: entry.clone(),
    }));
    records
}

/// Everything but `committed`, which is a hint that a checkpoint may forget.
fn without_hints(groups: &Groups) -> Groups {
    let mut groups = groups.clone();
    for group in groups.values_mut() {
        group.committed = None;
    }
    groups
}

/// Copies a folder as a crash would leave it; begins again when a file changes its name meanwhile.
fn copy_dir(from: &Path) -> TempDir {
    loop {
        let to = scratch();
        let paths = std::fs::read_dir(from)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").path());
        let copied = paths.into_iter().try_for_each(|path| {
            let name = path.file_name().expect("a name");
            std::fs::copy(&path, to.path().join(name)).map(drop)
        });
        match copied {
            Ok(()) => return to,
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{e}"),
        }
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_closed_journal_takes_nothing_more_and_blocks_nobody() {
    let dir = scratch();
    let (journal, _) = open(dir.path());
    write(&journal, vec![vote(1, b"v")]);
    journal.close();
    let (done, durable) = std::sync::mpsc::channel::<()>();
    journal.submit(
        vec![vote(1, b"late")],
        Some(Box::new(move || {
            let _ = done.send(());
        })),
    );
    // The completion neither runs nor stays behind.
    assert_eq!(
        durable.recv_timeout(Duration::from_secs(10)),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
    );
    journal.sync_barrier();
    assert_eq!(journal.queued_bytes(), 0);
    let (again, recovered) = open(dir.path());
    assert_eq!(
        recovered.groups[&GroupId(1)].vote.as_deref(),
        Some(&b"v"[..])
    );
    again.close();
}

#[test]
fn a_single_record_may_be_larger_than_a_file() {
    let dir = scratch();
    let (journal, _) = open(dir.path());
    let large: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
    write(&journal, vec![entry(7, 0, b"small".to_vec())]);
    write(&journal, vec![entry(7, 1, large.clone())]);
    write(&journal, vec![entry(7, 2, b"after".to_vec())]);
    journal.close();
    let (again, recovered) = open(dir.path());
    assert_eq!(recovered.damage, None);
    let entries = &recovered.groups[&GroupId(7)].entries;
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[1].body, large);
    again.close();
}

/// On a real file system, where direct I/O insists on alignment.
#[test]
fn direct_writes_of_any_size_come_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = JournalConfig {
        direct_io: true,
        ..config(dir.path())
    };
    let (journal, _) = Journal::open(config).expect("the journal opens");
    let mut expected = Groups::new();
    for (index, bytes) in [0, 1, 4_000, 4_026, 4_027, 4_096, 9_000, 70_000, 3]
        .iter()
        .enumerate()
    {
        let record = entry(1, index as u64, vec![7; *bytes]);
        apply(&mut expected, &record);
        write(&journal, vec![record]);
    }
    journal.close();
    let (recovered, _) = recover(dir.path()).expect("the files are readable");
    assert_eq!(recovered.damage, None);
    assert_eq!(recovered.groups, expected);
}

#[test]
fn completions_run_in_order_and_counters_add_up() {
    let dir = scratch();
    let (journal, _) = open(dir.path());
    let order = Arc::new(Mutex::new(Vec::new()));
    for i in 0..200_u64 {
        let order = order.clone();
        journal.submit(
            vec![entry(i % 3, i / 3, vec![i as u8; 900])],
            Some(Box::new(move || order.lock().push(i))),
        );
    }
    journal.sync_barrier();
    assert_eq!(*order.lock(), (0..200).collect::<Vec<_>>());
    let metrics = journal.metrics();
    assert_eq!((metrics.records, metrics.queued_bytes), (200, 0));
    assert_eq!(metrics.sync_buckets.iter().sum::<u64>(), metrics.syncs);
    assert!(
        metrics.bytes >= 200 * 900 && metrics.bytes % BLOCK as u64 == 0,
        "{metrics:?}"
    );
    journal.close();
}

//! Full files are checkpointed away and used again.

use super::*;
use crate::test_disk::SmallDisk;
use parking_lot::Condvar;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Files a journal at rest may hold: the one being written, the next one, and spares.
const FILES_MAX: usize = 2 + FILES_APART_MAX as usize;

/// Stands for the groups: their state and their submissions share one lock.
#[derive(Default)]
struct Broker {
    groups: Mutex<Groups>,
    /// While set, checkpoints wait before they begin.
    held: Mutex<bool>,
    held_changed: Condvar,
    waiting: AtomicBool,
    /// While set, checkpoints say that a group is missing from them.
    incomplete: AtomicBool,
    bytes_apart: AtomicU64,
    checkpoints: AtomicU64,
}

impl Broker {
    fn submit(&self, journal: &Journal, records: Vec<Record>) {
        let mut groups = self.groups.lock();
        for record in &records {
            apply(&mut groups, record);
        }
        journal.submit(records, None);
    }

    /// Appends an entry of `bytes` to a group.
    fn append(&self, journal: &Journal, group: u64, bytes: usize) {
        let next = {
            let groups = self.groups.lock();
            let state = groups.get(&GroupId(group));
            let last = state.and_then(|s| s.entries.last().map(|e| e.index));
            last.or(state.and_then(|s| s.applied.map(|a| a.0)))
                .map_or(0, |index| index + 1)
        };
        self.submit(journal, vec![entry(group, next, vec![next as u8; bytes])]);
    }

    fn hold(&self, held: bool) {
        *self.held.lock() = held;
        self.held_changed.notify_all();
    }

    fn expected(&self) -> Groups {
        without_hints(&self.groups.lock())
    }
}

impl Checkpointer for Broker {
    fn bytes_apart(&self) -> u64 {
        self.bytes_apart.load(Ordering::Acquire)
    }

    fn checkpoint(&self, journal: &Journal) -> bool {
        self.checkpoints.fetch_add(1, Ordering::AcqRel);
        {
            let mut held = self.held.lock();
            while *held {
                self.waiting.store(true, Ordering::Release);
                self.held_changed.wait(&mut held);
            }
            self.waiting.store(false, Ordering::Release);
        }
        let ids: Vec<GroupId> = self.groups.lock().keys().copied().collect();
        for id in ids {
            let mut groups = self.groups.lock();
            let Some(group) = groups.get(&id) else {
                continue;
            };
            // All but the last two entries are applied.
            let covered = group.entries.len().saturating_sub(2);
            let records = checkpoint_of(id, group, covered, &covered.to_le_bytes());
            for record in &records {
                apply(&mut groups, record);
            }
            journal.submit(records, None);
        }
        !self.incomplete.load(Ordering::Acquire)
    }
}

fn start(dir: &Path) -> (Journal, Arc<Broker>) {
    let (journal, recovered) = open(dir);
    assert_eq!(recovered.damage, None);
    let broker = Arc::new(Broker::default());
    *broker.groups.lock() = recovered.groups;
    journal.start_checkpoints(broker.clone());
    (journal, broker)
}

fn recovered_from(dir: &Path) -> Groups {
    let copy = copy_dir(dir);
    let (recovered, _) = recover(copy.path()).expect("the files are readable");
    assert_eq!(recovered.damage, None);
    without_hints(&recovered.groups)
}

/// Waits until no file is left that the checkpoint has made superfluous.
fn until_recycled(journal: &Journal, dir: &Path) {
    until("one file is in use", || {
        journal.metrics().files == 1 && list(dir).expect("the folder").len() <= 2
    });
    until("the superfluous files are gone", || {
        std::fs::read_dir(dir).expect("the folder").count() <= FILES_MAX
    });
}

/// Last entry of each group, whether in a checkpoint or after it.
fn ends(groups: &Groups) -> Vec<(GroupId, Option<u64>)> {
    let end = |g: &RecoveredGroup| {
        let last = g.entries.last().map(|e| e.index);
        last.or(g.applied.map(|a| a.0))
    };
    groups.iter().map(|(id, g)| (*id, end(g))).collect()
}

fn newest(dir: &Path) -> u64 {
    list(dir).expect("the folder").last().expect("a file").0
}

#[test]
fn files_are_used_again_and_nothing_old_comes_back() {
    let dir = scratch();
    let (mut journal, mut broker) = start(dir.path());
    for round in 0..12_u64 {
        let first = newest(dir.path());
        let mut i = 0;
        while newest(dir.path()) < first + 2 {
            broker.append(&journal, i % 5, 1500);
            if i % 7 == 0 {
                broker.submit(&journal, vec![vote(i % 5, &i.to_le_bytes())]);
            }
            if i == 20 {
                let group = GroupId(round % 5);
                broker.submit(&journal, vec![Record::Remove { group }]);
            }
            journal.sync_barrier();
            i += 1;
        }
        until_recycled(&journal, dir.path());
        assert_eq!(recovered_from(dir.path()), broker.expected());
        if round % 4 == 3 {
            journal.close();
            (journal, broker) = start(dir.path());
        }
    }
    journal.close();
}

#[test]
fn a_crash_around_a_checkpoint_loses_nothing() {
    let dir = scratch();
    let (journal, broker) = start(dir.path());
    for i in 0..300 {
        broker.append(&journal, i % 3, 1500);
        journal.sync_barrier();
    }
    until_recycled(&journal, dir.path());
    broker.hold(true);
    let mut i = 0;
    while journal.metrics().files < 4 {
        broker.append(&journal, i % 3, 1500);
        journal.sync_barrier();
        i += 1;
    }
    until("the checkpoint waits", || {
        broker.waiting.load(Ordering::Acquire)
    });
    // Before the checkpoint, with more than one full file.
    let before = copy_dir(dir.path());
    assert_eq!(recovered_from(before.path()), broker.expected());
    broker.hold(false);
    until_recycled(&journal, dir.path());
    journal.close();
    assert_eq!(recovered_from(dir.path()), broker.expected());

    // After the checkpoint, while the old files go one by one, oldest first.
    let left: Vec<u64> = list(dir.path())
        .expect("the folder")
        .iter()
        .map(|f| f.0)
        .collect();
    let old: Vec<(u64, PathBuf)> = list(before.path())
        .expect("the folder")
        .into_iter()
        .filter(|(sequence, _)| !left.contains(sequence))
        .collect();
    assert!(old.len() >= 2, "{left:?} {old:?}");
    for gone in 0..=old.len() {
        let copy = copy_dir(dir.path());
        for (_, path) in &old[gone..] {
            let name = path.file_name().expect("a name");
            std::fs::copy(path, copy.path().join(name)).expect("a copy");
        }
        assert_eq!(
            recovered_from(copy.path()),
            broker.expected(),
            "{gone} files gone"
        );
    }
}

/// A group that was left out of a checkpoint may need any of the files before it.
#[test]
fn an_incomplete_checkpoint_gives_up_no_file() {
    let dir = scratch();
    let (journal, broker) = start(dir.path());
    broker.incomplete.store(true, Ordering::Release);
    let fill = |files: u64| {
        let mut i = 0;
        while journal.metrics().files < files {
            broker.append(&journal, i % 3, 1500);
            journal.sync_barrier();
            i += 1;
        }
    };
    fill(6);
    // A checkpoint under way is in the model only, but it moves no end.
    assert_eq!(ends(&recovered_from(dir.path())), ends(&broker.expected()));
    broker.incomplete.store(false, Ordering::Release);
    let mut i = 0;
    while journal.metrics().files > 3 {
        broker.append(&journal, i % 3, 1500);
        journal.sync_barrier();
        i += 1;
    }
    until_recycled(&journal, dir.path());
    journal.close();
    assert_eq!(recovered_from(dir.path()), broker.expected());
}

#[test]
fn a_lost_beginning_is_damage_when_no_checkpoint_makes_up_for_it() {
    let dir = scratch();
    let (journal, _) = open(dir.path());
    for i in 0..100 {
        write(&journal, vec![entry(1, i, vec![1; 1500])]);
    }
    journal.close();
    let files = list(dir.path()).expect("the folder");
    assert!(files.len() > 2);
    std::fs::remove_file(&files[0].1).expect("removed");
    let (recovered, _) = recover(dir.path()).expect("the files are readable");
    let damage = recovered.damage.expect("damage");
    assert!(
        damage
            .file
            .ends_with(files[1].1.file_name().expect("a name"))
    );
    assert!(damage.reason.contains("group 1"), "{damage}");
}

/// A writer that overtakes the thread that prepares files must not use them out of order, and
/// closing in the middle of a checkpoint must keep what the checkpoint would have covered.
#[test]
fn a_fast_writer_and_slow_checkpoints_keep_the_order_of_files() {
    for _ in 0..10 {
        let dir = scratch();
        let (journal, broker) = start(dir.path());
        for i in 0..600 {
            broker.append(&journal, i % 4, 7000);
        }
        journal.close();
        let (recovered, _) = recover(dir.path()).expect("the files are readable");
        assert_eq!(recovered.damage, None);
        // A checkpoint that came too late is in the model only, but it moves no end.
        assert_eq!(ends(&recovered.groups), ends(&broker.expected()));
    }
}

/// Each start begins a new file: many starts must not fill the disk with files that are hardly used.
#[test]
fn many_starts_do_not_gather_files() {
    let dir = scratch();
    for _ in 0..12 {
        let (journal, broker) = start(dir.path());
        broker.append(&journal, 1, 100);
        journal.sync_barrier();
        until("at most two files are in use", || {
            journal.metrics().files <= 2
        });
        journal.close();
        let (recovered, _) = recover(dir.path()).expect("the files are readable");
        assert_eq!(recovered.damage, None);
        assert_eq!(ends(&recovered.groups), ends(&broker.expected()));
    }
    let files = std::fs::read_dir(dir.path()).expect("the folder").count();
    assert!(files <= FILES_MAX, "{files} files");
}

/// Where there are many groups a checkpoint costs much, and comes less often.
#[test]
fn checkpoints_are_as_far_apart_as_they_should_be() {
    for (bytes_apart, full) in [(0, 1), (FILE_BYTES + 1, 2), (u64::MAX, FILES_APART_MAX)] {
        let dir = scratch();
        let (journal, broker) = start(dir.path());
        broker.bytes_apart.store(bytes_apart, Ordering::Release);
        broker.hold(true);
        let mut most = 0;
        while !broker.waiting.load(Ordering::Acquire) {
            most = journal.metrics().files - 1;
            assert!(most <= full, "no checkpoint after {most} files");
            broker.append(&journal, 1, 1500);
            journal.sync_barrier();
            std::thread::sleep(Duration::from_millis(2));
        }
        // The last look may have come before the file was full.
        assert!((full - 1..=full).contains(&most), "{most} of {full}");
        broker.hold(false);
        until_recycled(&journal, dir.path());
        journal.close();
        assert_eq!(broker.checkpoints.load(Ordering::Acquire), 1);
        assert_eq!(recovered_from(dir.path()), broker.expected());
    }
}

/// What would be due later is due at once when there is no room for another file: in the end none could be written.
#[test]
fn a_checkpoint_comes_early_when_the_disk_is_full() {
    const DISK: u64 = 1024 * 1024;
    let Some(disk) = SmallDisk::new(DISK as usize) else {
        return;
    };
    let dir = disk.path().join("journal");
    let (journal, broker) = start(&dir);
    broker.bytes_apart.store(u64::MAX, Ordering::Release);
    // Room for three files, and less than one more.
    let ballast = vec![1; (DISK - 4 * FILE_BYTES) as usize];
    std::fs::write(disk.path().join("ballast"), ballast).expect("ballast");
    for _ in 0..12 {
        let first = newest(&dir);
        while newest(&dir) == first {
            broker.append(&journal, 1, 1500);
            until("there is room", || journal.queued_bytes() == 0);
        }
    }
    assert!(broker.checkpoints.load(Ordering::Acquire) > 2);
    journal.close();
    let (recovered, _) = recover(&dir).expect("the files are readable");
    assert_eq!(recovered.damage, None);
    assert_eq!(ends(&recovered.groups), ends(&broker.expected()));
}

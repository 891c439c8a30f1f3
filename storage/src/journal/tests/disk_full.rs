//! A full disk makes the journal wait; it loses nothing and goes on when there is room.

use super::*;
use crate::test_disk::SmallDisk;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn a_full_disk_delays_what_is_submitted_and_loses_nothing() {
    const DISK: usize = 1024 * 1024;
    let Some(disk) = SmallDisk::new(DISK) else {
        return;
    };
    let dir = disk.path().join("journal");
    let ballast = disk.path().join("ballast");
    let (journal, _) = open(&dir);
    // Room for the first file and less than one more.
    std::fs::write(&ballast, vec![1; DISK - 2 * 64 * 1024]).expect("ballast");
    let durable = Arc::new(AtomicU64::new(0));
    for i in 0..100 {
        let durable = durable.clone();
        journal.submit(
            vec![entry(1, i, vec![i as u8; 3500])],
            Some(Box::new(move || {
                durable.fetch_add(1, Ordering::Release);
            })),
        );
    }
    until("the first file is full", || {
        journal.metrics().bytes >= 60 * 1024
    });
    // Acknowledged is what fits; what is acknowledged is on the disk.
    let acknowledged = durable.load(Ordering::Acquire) as usize;
    let copy = copy_dir(&dir);
    let (recovered, _) = recover(copy.path()).expect("the files are readable");
    assert_eq!(recovered.damage, None);
    let entries = recovered
        .groups
        .get(&GroupId(1))
        .map_or(0, |g| g.entries.len());
    assert!(
        acknowledged <= entries && entries < 100,
        "{acknowledged} of {entries}"
    );
    assert!(journal.queued_bytes() > 0);

    // A start on the full disk says what is wrong.
    let full = dir.with_file_name("full");
    match Journal::open(config(&full)) {
        Err(crate::error::StorageError::DiskFull { .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened on a full disk"),
    }

    std::fs::remove_file(&ballast).expect("removed");
    journal.sync_barrier();
    assert_eq!(durable.load(Ordering::Acquire), 100);
    journal.close();
    let (recovered, _) = recover(&dir).expect("the files are readable");
    assert_eq!(recovered.damage, None);
    let entries = &recovered.groups[&GroupId(1)].entries;
    assert!(entries.iter().map(|e| e.index).eq(0..100));
}

/// A broker that stops does not wait for room, and what was not acknowledged may go.
#[test]
fn closing_on_a_full_disk_ends_and_keeps_what_is_durable() {
    const DISK: usize = 1024 * 1024;
    for told_before in [false, true] {
        let Some(disk) = SmallDisk::new(DISK) else {
            return;
        };
        let dir = disk.path().join("journal");
        let (journal, _) = open(&dir);
        std::fs::write(disk.path().join("ballast"), vec![1; DISK - 2 * 64 * 1024])
            .expect("ballast");
        let durable = Arc::new(AtomicU64::new(0));
        for i in 0..100 {
            let durable = durable.clone();
            journal.submit(
                vec![entry(1, i, vec![i as u8; 3500])],
                Some(Box::new(move || {
                    durable.fetch_add(1, Ordering::Release);
                })),
            );
        }
        until("the first file is full", || {
            journal.metrics().bytes >= 60 * 1024
        });
        if told_before {
            journal.end_when_full();
            assert!(!journal.sync_barrier(), "nothing can be said of the rest");
        }
        let (ended, end) = std::sync::mpsc::channel();
        let closing = journal.clone();
        std::thread::spawn(move || {
            closing.close();
            let _ = ended.send(());
        });
        end.recv_timeout(std::time::Duration::from_secs(10))
            .expect("closed on a full disk");
        // It takes nothing any more, and waits for nothing.
        assert!(!journal.sync_barrier());
        let copy = copy_dir(&dir);
        let (recovered, _) = recover(copy.path()).expect("the files are readable");
        assert_eq!(recovered.damage, None);
        let entries = &recovered.groups[&GroupId(1)].entries;
        assert!(entries.iter().map(|e| e.index).eq(0..entries.len() as u64));
        assert_eq!(durable.load(Ordering::Acquire), entries.len() as u64);
        assert!(entries.len() < 100);
    }
}

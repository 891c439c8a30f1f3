//! A full disk makes the journal wait; it loses nothing and goes on when there is room.

use super::*;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// A small file system of its own.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` without the right to mount.
    fn new(bytes: u64) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(dir)),
            other => {
                eprintln!("SKIPPED: cannot mount a small file system: {other:?}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_delays_what_is_submitted_and_loses_nothing() {
    const DISK: u64 = 1024 * 1024;
    let Some(disk) = SmallDisk::new(DISK) else {
        return;
    };
    let dir = disk.0.path().join("journal");
    let ballast = disk.0.path().join("ballast");
    let (journal, _) = open(&dir);
    // Room for the first file and less than one more.
    std::fs::write(&ballast, vec![1; DISK as usize - 2 * 64 * 1024]).expect("ballast");
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

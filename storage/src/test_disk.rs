//! Folders and file systems for tests.

use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A folder in memory where the machine has one: the tests open logs thousands of times.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(dir) = tempfile::tempdir_in(memory)
    {
        return dir;
    }
    tempfile::tempdir().expect("a temporary folder")
}

/// A small file system of its own, to be filled up.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, and a message, without the right to mount.
    pub fn new(bytes: usize) -> Option<SmallDisk> {
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

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

//! A small file system that can be filled to the last byte and emptied again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A tmpfs, gone when dropped. Dropped after the brokers that use it.
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Mounts `mebibytes` MiB; `None` where this user may not mount.
    ///
    /// # Errors
    /// When no folder can be made for it.
    pub fn mount(mebibytes: u32) -> Result<Option<Self>> {
        let dir = TempDir::with_prefix("tidelog-disk-")?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Some(Self { dir })),
            Ok(output) => {
                eprintln!(
                    "no small disk: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                Ok(None)
            }
            Err(error) => {
                eprintln!("no small disk: mount: {error}");
                Ok(None)
            }
        }
    }

    /// A folder on it for a broker's data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }

    /// Takes all room there is, to the last byte.
    ///
    /// # Errors
    /// When writing fails for another reason than a full disk.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())?;
        for block in [1 << 20, 4 << 10, 1] {
            let zeros = vec![0; block];
            loop {
                match file.write(&zeros) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("fill the small disk"),
                }
            }
        }
        Ok(())
    }

    /// Takes all room but `left` bytes.
    ///
    /// # Errors
    /// When there is less than that.
    pub fn fill_but(&self, left: u64) -> Result<()> {
        let bytes = self.free_bytes()?.checked_sub(left).context("room left")?;
        let file = File::create(self.ballast())?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        Ok(())
    }

    /// Room there is.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(self.path())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Gives back what [`SmallDisk::fill`] took.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("free the small disk")
    }

    /// Changes its size.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn resize(&self, mebibytes: u32) -> Result<()> {
        let resized = Command::new("mount")
            .args(["-o", &format!("remount,size={mebibytes}m")])
            .arg(self.path())
            .status()?;
        ensure!(resized.success(), "remount ended with {resized}");
        Ok(())
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: after a failed test a process may still be going down on it.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

//! A disk of its own for each broker: an ext4 file system in an image file, on a loop device.
//!
//! - *Power loss*: the kernel is told to shut the file system down without flushing anything
//!   (`FS_IOC_SHUTDOWN`, as xfstests do); then the broker is killed and the image mounted again. What was
//!   never synced and not yet written back is gone, and the file system recovers from its own journal.
//!   A device that loses what it was sent before a flush is not imitated.
//! - *Disk error*: the same under a broker that lives on: its writes and syncs fail from then on.
//! - *Full*: a file takes all room that is left.
//! - *Stall*: the file system is frozen (`fsfreeze`): writes and syncs wait.
//!
//! Mounts are made in this process's own mount namespace, so nothing is left when it ends; see
//! [`in_own_mounts`].

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FallocateFlags;
use rustix::ioctl::{Setter, ioctl};

const BYTES_MIN: u64 = 512 << 20;
/// What a broker may write in a second of a run: nothing of what is appended is ever deleted.
const BYTES_PER_SECOND: u64 = 300 << 10;
/// `FS_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
const SHUTDOWN: u32 = 0x8004_587d;
/// `FS_SHUTDOWN_FLAGS_NOLOGFLUSH`: not even the file system's journal is flushed.
const WITHOUT_FLUSH: u32 = 2;
const UMOUNT_LIMIT: Duration = Duration::from_secs(10);

/// Set in the process that has a mount namespace of its own.
const MARK: &str = "TIDELOG_JEPSEN_OWN_MOUNTS";

/// Runs this program again in a mount namespace of its own, unless that is done; does not return then.
/// Where it is not allowed, says so and goes on: disks cannot be made then.
pub fn in_own_mounts() {
    if std::env::var_os(MARK).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    // Brokers' namespaces are copies of ours: they must hear that a disk is unmounted, the machine must not.
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-c"])
        .arg("mount --make-rshared / && exec \"$0\" \"$@\"")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .exec();
    eprintln!("no mounts of its own: {error}");
}

/// One broker's disk.
pub struct Disk {
    image: PathBuf,
    dir: PathBuf,
    filler: PathBuf,
    frozen: bool,
}

impl Disk {
    /// Whether disks can be made here; why not otherwise.
    ///
    /// # Errors
    /// Without a mount namespace of our own, loop devices, ext4, or the right to use them.
    pub fn check(dir: &Path) -> Result<()> {
        ensure!(std::env::var_os(MARK).is_some(), "needs unshare and root");
        let mut probe = Self::create(dir, "probe", Duration::ZERO)?;
        let lost = probe.power_off();
        probe.unmount()?;
        fs::remove_file(&probe.image)?;
        lost
    }

    /// An empty disk for a run of that length, mounted at `dir/NAME`.
    ///
    /// # Errors
    /// When the image cannot be made or mounted.
    pub fn create(dir: &Path, name: &str, duration: Duration) -> Result<Self> {
        let disk = Self {
            image: dir.join(format!("{name}.img")),
            dir: dir.join(name),
            filler: dir.join(name).join("filler"),
            frozen: false,
        };
        fs::create_dir_all(&disk.dir)?;
        let bytes = BYTES_MIN + BYTES_PER_SECOND * duration.as_secs();
        File::create(&disk.image)?.set_len(bytes)?;
        run(
            "mkfs.ext4",
            &["-q", "-F", "-E", "nodiscard"],
            &[&disk.image],
        )?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn mount(&self) -> Result<()> {
        run("mount", &["-o", "loop,noatime"], &[&self.image, &self.dir])
    }

    fn unmount(&mut self) -> Result<()> {
        self.thaw();
        let deadline = Instant::now() + UMOUNT_LIMIT;
        loop {
            match run("umount", &[], &[&self.dir]) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// From now on nothing reaches the disk, and what had not is lost.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn power_off(&mut self) -> Result<()> {
        self.thaw();
        let root = File::open(&self.dir)?;
        // SAFETY: this opcode reads one u32 through the pointer, which is what `Setter` passes.
        let lost = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(WITHOUT_FLUSH)) };
        lost.context("shut the file system down")
    }

    /// The disk as it is found when the power is back; nobody may use it meanwhile.
    ///
    /// # Errors
    /// When it cannot be mounted again.
    pub fn power_on(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Leaves no room at all.
    ///
    /// # Errors
    /// When it cannot be filled.
    pub fn fill(&mut self) -> Result<()> {
        let filler = File::create(&self.filler)?;
        let mut length = fs::metadata(&self.image)?.len();
        let mut at = 0;
        // Ever smaller pieces, until not one block is left.
        while length >= 4096 {
            match rustix::fs::fallocate(&filler, FallocateFlags::empty(), at, length) {
                Ok(()) => at += length,
                Err(rustix::io::Errno::NOSPC) => length /= 2,
                Err(error) => return Err(error).context("fill the disk"),
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub fn empty(&mut self) {
        // There may be no filler.
        let _ = fs::remove_file(&self.filler);
    }

    /// Writes and syncs wait from now on.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn freeze(&mut self) -> Result<()> {
        if !self.frozen {
            run("fsfreeze", &["--freeze"], &[&self.dir])?;
            self.frozen = true;
        }
        Ok(())
    }

    /// They go on.
    pub fn thaw(&mut self) {
        if self.frozen {
            let _ = run("fsfreeze", &["--unfreeze"], &[&self.dir]);
            self.frozen = false;
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is mounted goes with the namespace at the latest.
        let _ = self.unmount();
    }
}

fn run(program: &str, options: &[&str], paths: &[&Path]) -> Result<()> {
    let done = Command::new(program).args(options).args(paths).output();
    let done = done.with_context(|| format!("run {program}: install util-linux and e2fsprogs"))?;
    if !done.status.success() {
        let told = String::from_utf8_lossy(&done.stderr);
        bail!("{program}: {}", told.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Needs a mount namespace of its own: `unshare -m` and root, else it says that it was skipped.
    #[test]
    fn what_was_not_synced_is_lost_with_the_power() {
        let dir = std::env::temp_dir().join(format!("jepsen-disk-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let made = Disk::create(&dir, "disk", Duration::ZERO);
        let Ok(mut disk) = made else {
            eprintln!("SKIPPED: {:#}", made.err().unwrap());
            let _ = fs::remove_dir_all(&dir);
            return;
        };
        let put = |name: &str, synced: bool| {
            let mut file = File::create(disk.dir().join(name)).unwrap();
            file.write_all(b"bytes").unwrap();
            if synced {
                file.sync_all().unwrap();
            }
        };
        put("synced", true);
        put("not-synced", false);
        disk.power_off().unwrap();
        assert!(File::create(disk.dir().join("later")).is_err());
        disk.power_on().unwrap();
        assert_eq!(fs::read(disk.dir().join("synced")).unwrap(), b"bytes");
        let lost = fs::read(disk.dir().join("not-synced")).unwrap_or_default();
        assert_eq!(lost, b"", "it was never synced");
        disk.fill().unwrap();
        let mut file = File::create(disk.dir().join("no-room")).unwrap();
        assert!(file.write_all(&[1; 8192]).is_err());
        disk.empty();
        file.write_all(&[1; 8192]).unwrap();
        drop(file);
        drop(disk);
        fs::remove_dir_all(&dir).unwrap();
    }
}

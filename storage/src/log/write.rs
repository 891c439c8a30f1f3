//! Writes to segments, with or without leaving the bytes in the page cache.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What becomes of written pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// They stay in the page cache: consumers are about to read them.
    Keep,
    /// They leave it as soon as they are on disk, where kernel and file system can do that
    /// (`RWF_DONTCACHE`). The next write then finds pages that are free and were used just
    /// now, instead of growing the cache by pages that nobody reads.
    Drop,
}

/// Shorter writes stay in the cache: their last page would be read back for the next one.
const DROP_BYTES_MIN: usize = 64 * 1024;
/// What a file begins with stays: thousands of small logs written back one by one cost more than their pages.
const DROP_FROM: u64 = 4 << 20;
const RWF_DONTCACHE: u32 = 0x80;
/// 6.14 brought the flag, and defects: it was switched off again until they were found.
const KERNEL_MIN: (u32, u32) = (6, 16);

/// The file system does not know the flag.
static UNSUPPORTED: AtomicBool = AtomicBool::new(false);

/// Whether the kernel can be trusted with it.
static KERNEL_DROPS: LazyLock<bool> = LazyLock::new(|| {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.is_ok_and(|r| version_of(&r).is_some_and(|v| v >= KERNEL_MIN))
});

/// `(6, 18)` of `6.18.44-generic`.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// Writes all of `slices`, at most `IOV_MAX` of them, at `at`; returns the bytes written.
pub fn write_all(
    file: &File,
    slices: &[IoSlice<'_>],
    at: u64,
    caching: Caching,
) -> io::Result<u64> {
    let total: usize = slices.iter().map(|s| s.len()).sum();
    let drop = caching == Caching::Drop && total >= DROP_BYTES_MIN && at >= DROP_FROM;
    let mut written = match drop.then(|| write_dropping(file, slices, at)).flatten() {
        Some(written) => written?,
        None => rustix::io::pwritev(file, slices, at)?,
    };
    if written == total {
        return Ok(total as u64);
    }
    // A short write: the rest one by one, until it is all there or the error shows.
    let mut skip = written;
    for slice in slices {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let mut rest = &slice[skip..];
        skip = 0;
        while !rest.is_empty() {
            let count = rustix::io::pwrite(file, rest, at + written as u64)?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            written += count;
            rest = &rest[count..];
        }
    }
    Ok(total as u64)
}

/// `None` where it cannot be done.
fn write_dropping(file: &File, slices: &[IoSlice<'_>], at: u64) -> Option<io::Result<usize>> {
    use rustix::io::{Errno, ReadWriteFlags, pwritev2};
    if !*KERNEL_DROPS || UNSUPPORTED.load(Ordering::Relaxed) {
        return None;
    }
    let flags = ReadWriteFlags::from_bits_retain(RWF_DONTCACHE);
    match pwritev2(file, slices, at, flags) {
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
            UNSUPPORTED.store(true, Ordering::Relaxed);
            None
        }
        result => Some(result.map_err(Into::into)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_disk::scratch;

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(version_of("6.18.44-fc-v657\n"), Some((6, 18)));
        assert_eq!(version_of("6.9-rc1"), Some((6, 9)));
        assert!(version_of("6.9-rc1") < Some(KERNEL_MIN));
        assert_eq!(version_of("unknown"), None);
    }

    #[test]
    fn the_bytes_are_the_same_either_way() {
        let dir = scratch();
        let path = dir.path().join("file");
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .expect("a file");
        let bytes: Vec<u8> = (0..200_003_u32).map(|n| ((n * 31) >> 3) as u8).collect();
        let (head, tail) = bytes.split_at(70_001);
        // The first write lies below what is dropped, the second across it.
        let mut at = DROP_FROM - 300_000;
        let mut expected = vec![0; at as usize];
        for caching in [Caching::Drop, Caching::Keep, Caching::Drop] {
            let slices = [IoSlice::new(head), IoSlice::new(tail)];
            at += write_all(&file, &slices, at, caching).expect("written");
            expected.extend_from_slice(&bytes);
        }
        assert_eq!(at, expected.len() as u64);
        assert_eq!(std::fs::read(&path).expect("the file"), expected);
    }
}

//! Bits flipped, and index files cut short, in files that a broker no longer writes, while it is down.
//!
//! Only bytes that its peers can give back: those of closed segments, of their indexes, and of journal
//! files before the last. A closed segment that is cut short is not among them: a broker serves the
//! other partitions then and waits for a person (docs/operations.md).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::random::Random;

/// A head that names a file of no journal is another story.
const JOURNAL_HEAD: usize = 4096;

fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == suffix))
        .collect();
    files.sort();
    files
}

/// All but the last, which is still written.
fn closed(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut files = files(dir, suffix);
    files.pop();
    files
}

/// Flips one bit at `from` or later; false when there is nothing but zeros, as in a file not used yet.
fn flip(path: &Path, from: usize, random: &mut Random) -> Result<bool> {
    let bytes = fs::read(path)?;
    let used: Vec<usize> = (from..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    if used.is_empty() {
        return Ok(false);
    }
    let at = random.pick(&used);
    let file = File::options().write(true).open(path)?;
    let bit = 1 << random.between(0, 8);
    file.write_all_at(&[bytes[at] ^ bit], at as u64)?;
    file.sync_all()?;
    Ok(true)
}

/// Damages files of a broker that is down; what was done, a line each.
///
/// # Errors
/// When a file cannot be read or written.
pub fn damage(data_dir: &Path, random: &mut Random) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let (mut segments, mut indexes) = (Vec::new(), Vec::new());
    for partition in fs::read_dir(data_dir.join("partitions"))?.flatten() {
        segments.extend(closed(&partition.path(), "log"));
        indexes.extend(closed(&partition.path(), "index"));
        indexes.extend(closed(&partition.path(), "timeindex"));
    }
    for _ in 0..3.min(segments.len()) {
        let path = random.pick(&segments.iter().collect::<Vec<_>>());
        if flip(path, 0, random)? {
            done.push(format!("flipped a bit in {}", path.display()));
        }
    }
    if !indexes.is_empty() {
        let path = random.pick(&indexes.iter().collect::<Vec<_>>());
        // Nothing says whether an entry of a time index is right.
        let is_told = path.extension().is_some_and(|kind| kind == "index");
        if is_told && random.between(0, 2) == 0 && flip(path, 0, random)? {
            done.push(format!("flipped a bit in {}", path.display()));
        } else {
            let length = fs::metadata(path)?.len();
            let file = File::options().write(true).open(path)?;
            file.set_len(random.between(0, length.max(1)))?;
            file.sync_all()?;
            done.push(format!("cut {} short", path.display()));
        }
    }
    // Every other time, as all replicas of this broker are rebuilt then.
    let journals = closed(&data_dir.join("journal"), "journal");
    if random.between(0, 2) == 0
        && let Some(path) = journals.last()
        && flip(path, JOURNAL_HEAD, random)?
    {
        done.push(format!("flipped a bit in {}", path.display()));
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_closed_are_damaged() {
        let dir = std::env::temp_dir().join(format!("jepsen-damage-{}", std::process::id()));
        let partition = dir.join("partitions/t-0");
        fs::create_dir_all(&partition).unwrap();
        for base in ["00", "10", "20"] {
            for suffix in ["log", "index"] {
                fs::write(partition.join(format!("{base}.{suffix}")), vec![7; 9_000]).unwrap();
            }
        }
        let mut random = Random::new(3);
        let mut damaged = Vec::new();
        for _ in 0..20 {
            damaged.extend(damage(&dir, &mut random).unwrap());
        }
        assert!(
            damaged.iter().any(|line| line.contains("00.log")),
            "{damaged:?}"
        );
        assert!(
            damaged.iter().any(|line| line.contains("index short")),
            "{damaged:?}"
        );
        let flipped = |line: &String| line.starts_with("flipped") && line.ends_with("index");
        assert!(damaged.iter().any(flipped), "{damaged:?}");
        for suffix in ["log", "index"] {
            let last = fs::read(partition.join(format!("20.{suffix}"))).unwrap();
            assert_eq!(last, vec![7; 9_000]);
        }
        assert_ne!(fs::read(partition.join("00.log")).unwrap(), vec![7; 9_000]);
        fs::remove_dir_all(&dir).unwrap();
    }
}

//! `manifest.json`: what is in a backup. It is written last, so that a folder without it is unfinished.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const FORMAT: &str = "tidelog-backup";
/// The newest format this build writes and reads.
const VERSION: u32 = 1;
const NAME: &str = "manifest.json";
/// Eight hexadecimal digits: the CRC-32 (IEEE) of the manifest.
const CHECKSUM_NAME: &str = "manifest.crc32";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub version: u32,
    /// Milliseconds since 1970.
    pub taken_ms: i64,
    pub cluster_id: String,
    pub topics: Vec<TopicEntry>,
    /// Settings changed at run time, by broker id; those of all brokers under `""`.
    pub broker_configs: BTreeMap<String, Configs>,
    pub groups: Vec<GroupEntry>,
}

pub type Configs = BTreeMap<String, String>;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct TopicEntry {
    pub name: String,
    pub replication_factor: i16,
    /// Its own, not those of the brokers.
    pub configs: Configs,
    /// In order of their index, from 0.
    pub partitions: Vec<PartitionEntry>,
}

/// The records of a partition with offsets in `[start, end)`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionEntry {
    pub start: i64,
    pub end: i64,
    pub records: u64,
    /// Relative to the folder.
    pub file: String,
    pub bytes: u64,
    /// CRC-32 (IEEE) of the whole file.
    pub crc32: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupEntry {
    pub group: String,
    pub configs: Configs,
    pub offsets: Vec<OffsetEntry>,
}

/// The next record a group wants, as the backed-up cluster counted; not beyond the partition's end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct OffsetEntry {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl Manifest {
    pub fn new(taken_ms: i64, cluster_id: String) -> Manifest {
        Manifest {
            format: FORMAT.to_owned(),
            version: VERSION,
            taken_ms,
            cluster_id,
            topics: Vec::new(),
            broker_configs: BTreeMap::new(),
            groups: Vec::new(),
        }
    }

    /// Writes it and its checksum into `folder`, and makes both durable.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let checksum = format!("{:08x}\n", crc32fast::hash(&text));
        for (name, bytes) in [(CHECKSUM_NAME, checksum.as_bytes()), (NAME, &text)] {
            let path = folder.join(name);
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
            written.with_context(|| path.display().to_string())?;
        }
        File::open(folder)?.sync_all()?;
        Ok(())
    }

    /// Reads the manifest of `folder` and checks every file against it.
    ///
    /// # Errors
    /// Names the file that is missing, damaged, or of a later version.
    pub fn read(folder: &Path) -> Result<Manifest> {
        let path = folder.join(NAME);
        let shown = path.display();
        let text = fs::read(&path)
            .with_context(|| format!("{shown}: no backup is here, or one that was not finished"))?;
        let checksum = folder.join(CHECKSUM_NAME);
        let expected =
            fs::read_to_string(&checksum).with_context(|| checksum.display().to_string())?;
        let found = format!("{:08x}", crc32fast::hash(&text));
        ensure!(
            expected.trim() == found,
            "{shown} is damaged: its CRC-32 is {found}, {CHECKSUM_NAME} says {}",
            expected.trim()
        );
        /// Read first: a later version may have other fields.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(&text).with_context(|| shown.to_string())?;
        if head.format != FORMAT || head.version != VERSION {
            bail!(
                "{shown} is {} version {}, this build reads {FORMAT} version {VERSION}",
                head.format,
                head.version
            );
        }
        let manifest: Manifest =
            serde_json::from_slice(&text).with_context(|| shown.to_string())?;
        for topic in &manifest.topics {
            for partition in &topic.partitions {
                partition.check(folder)?;
            }
        }
        Ok(manifest)
    }
}

impl PartitionEntry {
    /// Where its records are.
    ///
    /// # Errors
    /// When the manifest names a file outside of the folder.
    pub fn path(&self, folder: &Path) -> Result<PathBuf> {
        let inside = Path::new(&self.file)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        ensure!(
            inside,
            "{NAME} names {:?}, which is not in the folder",
            self.file
        );
        Ok(folder.join(&self.file))
    }

    fn check(&self, folder: &Path) -> Result<()> {
        let path = self.path(folder)?;
        let shown = path.display();
        let mut file = File::open(&path).with_context(|| shown.to_string())?;
        let mut hasher = crc32fast::Hasher::new();
        let mut bytes = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer).with_context(|| shown.to_string())?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            bytes += read as u64;
        }
        ensure!(
            bytes == self.bytes,
            "{shown} is damaged: {bytes} bytes, the manifest says {}",
            self.bytes
        );
        let found = hasher.finalize();
        ensure!(
            found == self.crc32,
            "{shown} is damaged: its CRC-32 is {found:08x}, the manifest says {:08x}",
            self.crc32
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path) -> Manifest {
        fs::create_dir(folder.join("t")).unwrap();
        fs::write(folder.join("t/0.records"), b"some records").unwrap();
        let mut manifest = Manifest::new(7, "id".to_owned());
        manifest.topics.push(TopicEntry {
            name: "t".to_owned(),
            replication_factor: 3,
            configs: Configs::new(),
            partitions: vec![PartitionEntry {
                start: 2,
                end: 9,
                records: 3,
                file: "t/0.records".to_owned(),
                bytes: 12,
                crc32: crc32fast::hash(b"some records"),
            }],
        });
        manifest.write(folder).unwrap();
        manifest
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = written(folder.path());
        assert_eq!(Manifest::read(folder.path()).unwrap(), manifest);
    }

    #[test]
    fn a_flipped_bit_or_a_missing_byte_is_found_in_every_file() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        for name in ["t/0.records", NAME, CHECKSUM_NAME] {
            let path = folder.path().join(name);
            let good = fs::read(&path).unwrap();
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                fs::write(&path, &bad).unwrap();
                // A blank at the end of the checksum stands for nothing.
                if name == CHECKSUM_NAME && at + 1 == good.len() {
                    continue;
                }
                let error = format!("{:#}", Manifest::read(folder.path()).unwrap_err());
                let named = if name == CHECKSUM_NAME { NAME } else { name };
                assert!(error.contains(named), "{error}");
            }
            fs::write(&path, &good[..good.len() - 2]).unwrap();
            Manifest::read(folder.path()).unwrap_err();
            fs::remove_file(&path).unwrap();
            let error = format!("{:#}", Manifest::read(folder.path()).unwrap_err());
            assert!(error.contains(name), "{error}");
            fs::write(&path, &good).unwrap();
        }
        Manifest::read(folder.path()).unwrap();
    }

    #[test]
    fn later_versions_and_files_elsewhere_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = written(folder.path());
        manifest.version = VERSION + 1;
        manifest.write(folder.path()).unwrap();
        let error = Manifest::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
        manifest.version = VERSION;
        manifest.topics[0].partitions[0].file = "../0.records".to_owned();
        manifest.write(folder.path()).unwrap();
        let error = Manifest::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not in the folder"), "{error}");
    }
}

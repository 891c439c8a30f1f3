//! Reads the journal back after a start.
//!
//! A batch that fails its checksum with nothing valid after it was being written when the process or
//! the power went: it was never acknowledged and is cut. One with a valid batch after it had been
//! acknowledged: that is damage, and is reported instead of silently shortening the log. (A flipped
//! bit in the very last acknowledged batch looks like the first case; no single copy can tell.)

use super::format::{BATCH_HEADER, BLOCK, BatchHead, FileHead, RecordReader, Unreadable, blocks};
use super::{EntryRecord, Record};
use crate::error::StorageError;
use crate::ids::GroupId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the journal holds for one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    pub vote: Option<Bytes>,
    /// `(index, term)` the last checkpoint covers.
    pub applied: Option<(u64, u64)>,
    /// State of the last checkpoint.
    pub state: Option<Bytes>,
    /// Contiguous entries after `applied`.
    pub entries: Vec<EntryRecord>,
    /// `(index, term)` known to be committed.
    pub committed: Option<(u64, u64)>,
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Recovered {
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Set when acknowledged bytes are unreadable.
    pub damage: Option<JournalDamage>,
}

/// Where acknowledged bytes are unreadable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalDamage {
    pub file: PathBuf,
    pub position: u64,
    pub reason: String,
}

impl fmt::Display for JournalDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at byte {}: {}",
            self.file.display(),
            self.position,
            self.reason
        )
    }
}

/// Where writing goes on.
#[derive(Debug, Default, Clone)]
pub struct Position {
    /// Sequence of the next file.
    pub next_file: u64,
    pub next_batch: u64,
    /// Files that hold records, oldest first.
    pub files: Vec<(u64, PathBuf)>,
}

/// A start goes on with batch numbers this much higher, so that a missing batch shows as a gap of
/// another size.
const RESTART_GAP: u64 = 1_000_000;
pub const SUFFIX: &str = "journal";

/// Journal files of a folder by sequence number.
pub fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StorageError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| StorageError::io(dir, e))? {
        let path = entry.map_err(|e| StorageError::io(dir, e))?.path();
        let sequence = path
            .file_stem()
            .and_then(|s| s.to_str())
            .and_then(|s| s.parse().ok());
        if path.extension().is_some_and(|e| e == SUFFIX)
            && let Some(sequence) = sequence
        {
            files.push((sequence, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Replays all files of `dir`, and cuts what was not finished.
pub fn recover(dir: &Path) -> Result<(Recovered, Position), StorageError> {
    let (recovered, mut position, unfinished) = replay(dir)?;
    for torn in &unfinished {
        tracing::info!(
            "journal ends with an unfinished batch in {} at byte {}: cut",
            torn.file.display(),
            torn.position
        );
        wipe(torn)?;
        if torn.position == 0 {
            position.files.retain(|(_, path)| *path != torn.file);
        }
    }
    Ok((recovered, position))
}

/// Reads all files of `dir` without touching them. The last value tells where unfinished batches
/// stand that a start will cut; none when there is damage.
pub fn replay(dir: &Path) -> Result<(Recovered, Position, Vec<JournalDamage>), StorageError> {
    let files = list(dir)?;
    let mut replay = Replay::default();
    let mut position = Position {
        next_file: 1,
        next_batch: 1,
        files: Vec::new(),
    };
    // Places from which on a file is unreadable, with no valid batch after any of them so far.
    let mut broken: Vec<JournalDamage> = Vec::new();
    for (sequence, path) in files {
        let bytes = std::fs::read(&path).map_err(|e| StorageError::io(&path, e))?;
        if let Some(version) = FileHead::other_version(&bytes) {
            return Err(StorageError::newer(
                &path,
                format!("journal version {version}"),
            ));
        }
        position.next_file = position.next_file.max(sequence + 1);
        let source = Source {
            bytes: &bytes,
            path: &path,
            sequence,
        };
        let look_only = !broken.is_empty();
        let scan = scan(source, replay.last_batch, &mut replay, look_only);
        if let Some(kind) = replay.unknown {
            return Err(StorageError::newer(&path, format!("record kind {kind}")));
        }
        if scan.found_after_break || (look_only && scan.batches > 0) {
            // Valid batches follow an unreadable place, in this file or an earlier one.
            let damage = broken.drain(..).next().unwrap_or(JournalDamage {
                file: path.clone(),
                position: scan.broken_at.unwrap_or(0),
                reason: "a batch is unreadable, valid ones follow it".to_owned(),
            });
            replay.damage.get_or_insert(damage);
        } else if let Some(at) = scan.broken_at {
            broken.push(JournalDamage {
                file: path.clone(),
                position: at,
                reason: "a batch is unreadable, a later file has valid ones".to_owned(),
            });
        }
        position.files.push((sequence, path));
    }
    replay.end();
    position.next_batch = replay.last_batch + RESTART_GAP;
    if replay.damage.is_some() {
        broken.clear();
    }
    let recovered = Recovered {
        groups: replay.groups,
        damage: replay.damage,
    };
    Ok((recovered, position, broken))
}

/// Removes the header of an unfinished batch, so that it is not taken for damage once later files
/// exist. Its block never held acknowledged bytes. A file without a header of its own holds none at
/// all and is removed.
fn wipe(torn: &JournalDamage) -> Result<(), StorageError> {
    let clear = || -> std::io::Result<()> {
        if torn.position == 0 {
            return std::fs::remove_file(&torn.file);
        }
        let file = std::fs::OpenOptions::new().write(true).open(&torn.file)?;
        file.write_all_at(&[0; BLOCK], torn.position)?;
        file.sync_data()
    };
    clear().map_err(|e| StorageError::io(&torn.file, e))
}

/// Reads the bytes of one journal file; for fuzzing and offline inspection.
pub fn read_journal_bytes(bytes: &[u8]) -> Recovered {
    let mut replay = Replay::default();
    let sequence = FileHead::parse(bytes).map_or(0, |head| head.sequence);
    let source = Source {
        bytes,
        path: Path::new(""),
        sequence,
    };
    let scan = scan(source, 0, &mut replay, false);
    replay.end();
    if scan.found_after_break {
        replay.damage.get_or_insert(JournalDamage {
            file: PathBuf::new(),
            position: scan.broken_at.unwrap_or(0),
            reason: "a batch is unreadable, valid ones follow it".to_owned(),
        });
    }
    Recovered {
        groups: replay.groups,
        damage: replay.damage,
    }
}

#[derive(Default)]
struct Scan {
    batches: u64,
    /// First block after the last valid batch, when it holds something unreadable.
    broken_at: Option<u64>,
    found_after_break: bool,
}

/// One file's bytes.
#[derive(Clone, Copy)]
struct Source<'a> {
    bytes: &'a [u8],
    path: &'a Path,
    sequence: u64,
}

impl Source<'_> {
    fn damage(&self, at: usize, reason: String) -> JournalDamage {
        JournalDamage {
            file: self.path.to_owned(),
            position: at as u64,
            reason,
        }
    }
}

/// Reads one file's batches into `replay`, or only looks for them when `look_only`.
fn scan(source: Source<'_>, last_batch: u64, replay: &mut Replay, look_only: bool) -> Scan {
    let (bytes, sequence) = (source.bytes, source.sequence);
    let mut result = Scan::default();
    let head = FileHead::parse(bytes).filter(|head| head.sequence == sequence);
    let Some(FileHead { key, .. }) = head else {
        // With the key unknown, any newer batch counts: a header is durable before its first batch.
        result.broken_at = Some(0);
        result.found_after_break = later_batch(bytes, 0, None, last_batch);
        return result;
    };
    let mut at = BLOCK;
    let mut last = last_batch;
    while let Some((head, payload)) = valid_batch(bytes, at, Some(key), last) {
        result.batches += 1;
        last = head.batch;
        if !look_only {
            if last_batch_missing(replay.last_batch, head.batch) {
                let (from, to) = (replay.last_batch, head.batch);
                replay.damage.get_or_insert_with(|| {
                    source.damage(at, format!("batches between {from} and {to} are missing"))
                });
            }
            replay.last_batch = head.batch;
            replay.apply(payload, source, at);
        }
        at += blocks(BATCH_HEADER + payload.len());
    }
    if at < bytes.len() {
        // The rest is what a recycled file held before, or zeros, or a torn batch.
        result.found_after_break = later_batch(bytes, at, Some(key), last);
        if result.found_after_break || BatchHead::was_meant(&bytes[at..], key, last) {
            result.broken_at = Some(at as u64);
        }
    }
    result
}

/// Whether something acknowledged lay between two batches that follow each other.
fn last_batch_missing(last: u64, next: u64) -> bool {
    last != 0 && next != last + 1 && next != last + RESTART_GAP
}

/// The batch at `at`, when it belongs to the file with `key`, is newer than `last` and its payload is
/// whole.
pub(super) fn valid_batch(
    bytes: &[u8],
    at: usize,
    key: Option<u64>,
    last: u64,
) -> Option<(BatchHead, &[u8])> {
    let head = BatchHead::parse(bytes.get(at..)?)?;
    if key.is_some_and(|key| key != head.key) || head.batch <= last {
        return None;
    }
    let start = at + BATCH_HEADER;
    let payload =
        bytes.get(start..start.checked_add(usize::try_from(head.payload_bytes).ok()?)?)?;
    (crc32fast::hash(payload) == head.crc).then_some((head, payload))
}

/// Whether a valid batch newer than `last` starts in some block after `from`.
fn later_batch(bytes: &[u8], from: usize, key: Option<u64>, last: u64) -> bool {
    let first = from / BLOCK * BLOCK + BLOCK;
    (first..bytes.len())
        .step_by(BLOCK)
        .any(|at| valid_batch(bytes, at, key, last).is_some())
}

#[derive(Default)]
struct Replay {
    groups: BTreeMap<GroupId, RecoveredGroup>,
    damage: Option<JournalDamage>,
    /// Kind of a record that this build does not know.
    unknown: Option<u8>,
    last_batch: u64,
    /// Groups whose first entries lay in files that are recycled, and where that shows. Files are
    /// recycled once every group has a checkpoint, so one follows for each of these.
    headless: BTreeMap<GroupId, JournalDamage>,
}

impl Replay {
    fn apply(&mut self, payload: &[u8], source: Source<'_>, at: usize) {
        let mut reader = RecordReader::new(payload);
        while !reader.is_empty() {
            let applied = match reader.next_record() {
                Ok(record) => self.apply_record(record, source, at),
                Err(unreadable) => {
                    if let Unreadable::Unknown(kind) = unreadable {
                        self.unknown.get_or_insert(kind);
                    }
                    Err("a record in a valid batch is malformed".to_owned())
                }
            };
            if let Err(reason) = applied {
                self.damage.get_or_insert_with(|| source.damage(at, reason));
                return;
            }
        }
    }

    /// After the last file: a group still without its beginning has lost it.
    fn end(&mut self) {
        if let Some((_, damage)) = self.headless.pop_first() {
            self.damage.get_or_insert(damage);
        }
    }

    fn apply_record(
        &mut self,
        record: Record,
        source: Source<'_>,
        at: usize,
    ) -> Result<(), String> {
        match record {
            Record::Entry { group, entry } => {
                let state = self.groups.entry(group).or_default();
                if state.is_headless_with(&entry) {
                    let reason = format!(
                        "group {} begins with entry {} and has no checkpoint",
                        group.0, entry.index
                    );
                    self.headless
                        .entry(group)
                        .or_insert_with(|| source.damage(at, reason));
                }
                state.push(group, entry)
            }
            Record::Vote { group, vote } => {
                self.groups.entry(group).or_default().vote = Some(vote);
                Ok(())
            }
            Record::Truncate { group, after } => {
                let state = self.groups.entry(group).or_default();
                state
                    .entries
                    .retain(|e| after.is_some_and(|after| e.index <= after));
                Ok(())
            }
            Record::Checkpoint {
                group,
                vote,
                applied,
                state,
            } => {
                self.headless.remove(&group);
                let group = self.groups.entry(group).or_default();
                *group = RecoveredGroup {
                    vote,
                    applied,
                    state: Some(state),
                    entries: Vec::new(),
                    committed: group.committed.max(applied),
                };
                Ok(())
            }
            Record::Committed { group, index, term } => {
                let state = self.groups.entry(group).or_default();
                state.committed = state.committed.max(Some((index, term)));
                Ok(())
            }
            Record::Remove { group } => {
                self.headless.remove(&group);
                self.groups.remove(&group);
                Ok(())
            }
        }
    }
}

impl RecoveredGroup {
    /// Whether `entry` is the first known of a log that begins earlier. Raft starts at 0.
    fn is_headless_with(&self, entry: &EntryRecord) -> bool {
        self.entries.is_empty() && self.applied.is_none() && entry.index > 0
    }

    fn push(&mut self, group: GroupId, entry: EntryRecord) -> Result<(), String> {
        let last = self.entries.last().map(|e| e.index);
        let due = last.or(self.applied.map(|(index, _)| index));
        if let Some(due) = due
            && due.checked_add(1) != Some(entry.index)
        {
            return Err(format!(
                "group {} has entry {} after entry {due}",
                group.0, entry.index
            ));
        }
        self.entries.push(entry);
        Ok(())
    }
}

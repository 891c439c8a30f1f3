//! Creates, prepares and recycles the journal's files.

use super::format::{BLOCK, FileHead};
use super::recovery::{Position, SUFFIX};
use super::{Checkpointer, FILES_APART_MAX, Journal, JournalConfig, Rolled, Shared};
use crate::defect::Defect;
use crate::error::StorageError;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, OFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Recycled files kept for reuse: what a checkpoint gives up.
const SPARES_MAX: usize = FILES_APART_MAX as usize;
const ZEROS: usize = 256 * 1024;
const FULL_RETRY: Duration = Duration::from_millis(500);

/// The file being written.
pub struct ActiveFile {
    pub file: File,
    pub path: PathBuf,
    pub sequence: u64,
    pub key: u64,
    /// Where the next batch goes.
    pub position: u64,
    pub bytes: u64,
    /// Every write is durable when it returns.
    pub synchronous: bool,
}

#[derive(Default)]
struct State {
    /// Files in use, oldest first, the active one last.
    used: Vec<(u64, PathBuf)>,
    prepared: Option<ActiveFile>,
    spares: Vec<PathBuf>,
    next_sequence: u64,
    next_spare: u64,
}

/// All files of the journal.
pub struct FileSet {
    dir: PathBuf,
    file_bytes: u64,
    direct_io: bool,
    /// Held while a file is made: a writer in need waits for the one under way, because sequence
    /// numbers must go up in the order in which the files are written.
    making: Mutex<()>,
    state: Mutex<State>,
}

impl FileSet {
    pub fn open(
        config: &JournalConfig,
        position: &Position,
    ) -> Result<(FileSet, ActiveFile), StorageError> {
        let set = FileSet {
            dir: config.dir.clone(),
            file_bytes: config.file_bytes.max(16 * BLOCK as u64),
            direct_io: config.direct_io,
            making: Mutex::default(),
            state: Mutex::new(State {
                used: position.files.clone(),
                next_sequence: position.next_file,
                ..State::default()
            }),
        };
        set.adopt_spares()?;
        let active = set
            .create(0)
            .map_err(|e| StorageError::from_io(&set.dir, e))?;
        set.state
            .lock()
            .used
            .push((active.sequence, active.path.clone()));
        Ok((set, active))
    }

    fn adopt_spares(&self) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        for entry in std::fs::read_dir(&self.dir).map_err(|e| StorageError::io(&self.dir, e))? {
            let path = entry.map_err(|e| StorageError::io(&self.dir, e))?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("spare") => state.spares.push(path),
                // A crash came while it was made.
                Some("new") => {
                    let _ = std::fs::remove_file(path);
                }
                _ => {}
            }
        }
        let number = |p: &PathBuf| p.file_stem()?.to_str()?.parse::<u64>().ok();
        let last = state.spares.iter().filter_map(number).max();
        state.next_spare = last.map_or(0, |n| n + 1);
        let kept = state.spares.len().min(SPARES_MAX);
        for spare in state.spares.split_off(kept) {
            let _ = std::fs::remove_file(spare);
        }
        Ok(())
    }

    /// Files that a checkpoint gives up.
    fn full(&self) -> u64 {
        self.count().saturating_sub(1)
    }

    /// Whether a checkpoint pays that should come `bytes_apart` after the last.
    fn pays(&self, bytes_apart: u64) -> bool {
        self.full() >= FILES_APART_MAX || self.full() * self.file_bytes >= bytes_apart
    }

    pub fn count(&self) -> u64 {
        self.state.lock().used.len() as u64
    }

    /// The next file: the prepared one when it fits, otherwise one made now. `needed` is the bytes
    /// of the batch that did not fit the last one.
    pub fn next(&self, needed: u64) -> io::Result<ActiveFile> {
        let _making = self.making.lock();
        let prepared = self.state.lock().prepared.take();
        let next = match prepared {
            Some(file) if file.bytes - file.position >= needed => file,
            other => {
                if let Some(small) = other {
                    // It keeps its place in the sequence, empty.
                    self.state.lock().used.push((small.sequence, small.path));
                }
                self.create(needed)?
            }
        };
        self.state
            .lock()
            .used
            .push((next.sequence, next.path.clone()));
        Ok(next)
    }

    /// Makes the next file ready before it is needed.
    fn prepare(&self) -> io::Result<()> {
        let _making = self.making.lock();
        if self.state.lock().prepared.is_some() {
            return Ok(());
        }
        let file = self.create(0)?;
        self.state.lock().prepared = Some(file);
        Ok(())
    }

    fn create(&self, needed: u64) -> io::Result<ActiveFile> {
        let bytes = self
            .file_bytes
            .max((needed + BLOCK as u64).next_multiple_of(BLOCK as u64));
        let (sequence, spare) = {
            let mut state = self.state.lock();
            let sequence = state.next_sequence;
            state.next_sequence += 1;
            let spare = (bytes == self.file_bytes)
                .then(|| state.spares.pop())
                .flatten();
            (sequence, spare)
        };
        let path = self.dir.join(format!("{sequence:020}.{SUFFIX}"));
        let working = spare.unwrap_or_else(|| path.with_extension("new"));
        let made = self.fill(&working, &path, sequence, bytes);
        if made.is_err() {
            let _ = std::fs::remove_file(&working);
            // The number is taken back, so that sequences have no holes.
            let mut state = self.state.lock();
            if state.next_sequence == sequence + 1 {
                state.next_sequence = sequence;
            }
        }
        made
    }

    fn fill(
        &self,
        working: &Path,
        path: &Path,
        sequence: u64,
        bytes: u64,
    ) -> io::Result<ActiveFile> {
        let (file, synchronous) = open_for_writing(working, self.direct_io)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        let key = random_key()?;
        let aligned = Aligned::copy_of(&FileHead { sequence, key }.block());
        file.write_all_at(aligned.as_slice(), 0)?;
        file.sync_data()?;
        std::fs::rename(working, path)?;
        sync_dir(&self.dir)?;
        Ok(ActiveFile {
            file,
            path: path.to_owned(),
            sequence,
            key,
            position: BLOCK as u64,
            bytes,
            synchronous,
        })
    }

    /// Sequence of the file being written.
    fn active(&self) -> u64 {
        self.state.lock().used.last().map_or(0, |(s, _)| *s)
    }

    /// Gives up all files before `sequence`: keeps some for reuse, removes the rest.
    fn recycle(&self, sequence: u64) -> io::Result<()> {
        let old = {
            let mut state = self.state.lock();
            let keep = state.used.partition_point(|(s, _)| *s < sequence);
            state.used.drain(..keep).collect::<Vec<_>>()
        };
        for (_, path) in old {
            let mut state = self.state.lock();
            let size = std::fs::metadata(&path).map(|m| m.len()).unwrap_or(0);
            if state.spares.len() < SPARES_MAX && size == self.file_bytes {
                let spare = self.dir.join(format!("{}.spare", state.next_spare));
                state.next_spare += 1;
                std::fs::rename(&path, &spare)?;
                state.spares.push(spare);
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        sync_dir(&self.dir)
    }
}

/// Opens for direct, synchronous writing; where direct I/O is refused, for buffered writing.
fn open_for_writing(path: &Path, direct_io: bool) -> io::Result<(File, bool)> {
    let open = |flags: OFlags| {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags.bits() as i32)
            .open(path)
    };
    if direct_io && !Defect::AckBeforeFsync.is_on() {
        match open(OFlags::DIRECT | OFlags::DSYNC) {
            Ok(file) => return Ok((file, true)),
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
    }
    Ok((open(OFlags::empty())?, false))
}

/// Nobody who writes records may guess it.
fn random_key() -> io::Result<u64> {
    let mut key = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(u64::from_le_bytes(key))
}

pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Bytes that begin on a block boundary, as direct I/O asks for.
#[derive(Default)]
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// Empties the buffer and makes room for `len` bytes behind an aligned start.
    pub fn reset(&mut self, len: usize) -> &mut Vec<u8> {
        self.bytes.clear();
        self.bytes.reserve(len + BLOCK);
        self.start = self.bytes.as_ptr().align_offset(BLOCK);
        self.bytes.resize(self.start, 0);
        &mut self.bytes
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Gives memory beyond `len` back.
    pub fn shrink(&mut self, len: usize) {
        if self.bytes.capacity() > len {
            self.bytes = Vec::new();
            self.start = 0;
        }
    }

    pub fn copy_of(bytes: &[u8]) -> Aligned {
        let mut aligned = Aligned::default();
        aligned.reset(bytes.len()).extend_from_slice(bytes);
        aligned
    }
}

/// The checkpoint thread: prepares files ahead, checkpoints when enough are full.
pub fn keep(journal: &Journal, checkpointer: &dyn Checkpointer) {
    let shared = &journal.shared;
    loop {
        let asked = {
            let mut rolled = shared.rolled.lock();
            while !rolled.due && !rolled.prepare && !rolled.closed {
                shared.rolled_changed.wait(&mut rolled);
            }
            if rolled.closed {
                return;
            }
            std::mem::take(&mut *rolled)
        };
        if !look_after(journal, checkpointer, &asked) {
            return;
        }
    }
}

/// Makes a file ready, and checkpoints and gives up the files before, as far as it is asked for and pays. False once
/// the journal is closed.
pub fn look_after(journal: &Journal, checkpointer: &dyn Checkpointer, asked: &Rolled) -> bool {
    let shared = &journal.shared;
    let mut due = asked.due && shared.files.pays(checkpointer.bytes_apart());
    if asked.prepare
        && let Err(error) = prepare_next(shared)
    {
        // The writer makes the file itself when it comes to that, and waits for room.
        tracing::warn!("cannot prepare a journal file: {error}");
        // Now the file being written has room for a checkpoint; when it is full, and there is no other, none would end.
        due |= shared.files.full() > 0;
    }
    if due {
        let active = shared.files.active();
        let complete = checkpointer.checkpoint(journal);
        // When the journal was closed meanwhile, checkpoints may be missing: keep everything.
        if !journal.sync_barrier() {
            return false;
        }
        if complete && let Err(error) = shared.files.recycle(active) {
            tracing::warn!("cannot recycle journal files: {error}");
        }
    }
    true
}

fn prepare_next(shared: &Shared) -> io::Result<()> {
    let fresh = {
        let state = shared.files.state.lock();
        state.prepared.is_none() && state.spares.is_empty()
    };
    shared.files.prepare()?;
    if !fresh {
        return Ok(());
    }
    // Blocks that were written once sync in a third of the time of fresh ones. In small steps, so
    // that the syncs in between do not wait.
    let file = {
        let state = shared.files.state.lock();
        match &state.prepared {
            Some(prepared) => prepared.file.try_clone()?,
            None => return Ok(()),
        }
    };
    let zeros = Aligned::copy_of(&vec![0; ZEROS]);
    let mut at = BLOCK as u64;
    while at + ZEROS as u64 <= shared.files.file_bytes {
        // Once the writer has taken the file it must not be touched any more.
        let state = shared.files.state.lock();
        if state.prepared.is_none() {
            return Ok(());
        }
        file.write_all_at(zeros.as_slice(), at)?;
        drop(state);
        at += ZEROS as u64;
        std::thread::yield_now();
    }
    Ok(())
}

/// Waits for room on a full disk, as long as it `goes_on`: nothing is lost meanwhile, only late.
pub fn retry_when_full<T>(
    what: &str,
    goes_on: impl Fn() -> bool,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let mut tries = 0_u32;
    loop {
        match attempt() {
            Err(e) if e.kind() == io::ErrorKind::StorageFull && goes_on() => {
                if tries.is_multiple_of(20) {
                    tracing::warn!("disk full: {what} waits for room");
                }
                tries += 1;
                std::thread::sleep(FULL_RETRY);
            }
            other => return other,
        }
    }
}

//! The broker's journal: one append-only sequence of files for all Raft groups.
//!
//! A dedicated thread takes everything that was submitted while the last sync ran, writes it as one
//! batch, syncs once and runs the completions in order. So the cost of durability does not depend on
//! the number of partitions. When a file is full, or a few where there are many groups, a checkpoint makes every
//! group's applied state durable elsewhere, and the older files are recycled.
//!
//! `format` is the bytes, `recovery` reads them back, `files` creates and recycles files, `writer`
//! is the thread, `turns` a journal without threads for the simulation.

mod files;
mod format;
pub mod inspect;
mod metrics;
mod recovery;
mod turns;
mod writer;

pub use metrics::JournalMetrics;
pub use recovery::{JournalDamage, Recovered, RecoveredGroup, read_journal_bytes};
pub use turns::Turns;

use crate::error::StorageError;
use crate::ids::GroupId;
use bytes::Bytes;
use files::FileSet;
use metrics::Counters;
use parking_lot::{Condvar, Mutex};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use writer::Writer;

/// Most files a start should have to read.
const FILES_TO_REPLAY: u64 = 2;
/// Most full files between two checkpoints.
const FILES_APART_MAX: u64 = 4;

/// How the journal is kept.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// Folder of the journal's files.
    pub dir: PathBuf,
    /// Size of one file.
    pub file_bytes: u64,
    /// Write around the page cache where the file system allows it.
    pub direct_io: bool,
    /// Most record bytes one sync covers, apart from a single larger record.
    pub max_batch_bytes: usize,
}

impl Default for JournalConfig {
    fn default() -> Self {
        JournalConfig {
            dir: PathBuf::new(),
            file_bytes: 64 * 1024 * 1024,
            direct_io: true,
            max_batch_bytes: 4 * 1024 * 1024,
        }
    }
}

/// One Raft log entry. `kind` and `body` mean nothing to the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRecord {
    pub index: u64,
    pub term: u64,
    pub kind: u8,
    pub body: Bytes,
}

/// One change of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Entry {
        group: GroupId,
        entry: EntryRecord,
    },
    Vote {
        group: GroupId,
        vote: Bytes,
    },
    /// Entries with a greater index are gone; `None`: all are.
    Truncate {
        group: GroupId,
        after: Option<u64>,
    },
    /// The group's whole state. Replay forgets its earlier records; the entries after `applied`
    /// follow in the same submission. `applied` is `(index, term)`.
    Checkpoint {
        group: GroupId,
        vote: Option<Bytes>,
        applied: Option<(u64, u64)>,
        state: Bytes,
    },
    /// A hint how far the group had committed.
    Committed {
        group: GroupId,
        index: u64,
        term: u64,
    },
    /// The group is deleted.
    Remove {
        group: GroupId,
    },
}

/// Runs on the journal's thread once the submission is durable.
pub type Completion = Box<dyn FnOnce() + Send>;

/// Makes every group's applied state durable and journals it.
pub trait Checkpointer: Send + Sync {
    /// Submits, group by group, a [`Record::Checkpoint`] followed by the entries not yet applied;
    /// one submission a group, made under the lock its other submissions are made under. False when
    /// a group was left out: its older records are still needed.
    fn checkpoint(&self, journal: &Journal) -> bool;

    /// How many bytes should be written between two checkpoints, so that what one costs is little beside what they
    /// cost. The journal checkpoints after one to four full files.
    fn bytes_apart(&self) -> u64;
}

struct Submission {
    records: Vec<Record>,
    bytes: usize,
    done: Option<Completion>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Submission>,
    bytes: u64,
    closed: bool,
    /// A full disk closes the journal instead of being waited for.
    ends_when_full: bool,
    /// The writer sleeps and has to be woken.
    idle: bool,
}

/// State the threads share.
struct Shared {
    config: JournalConfig,
    queue: Mutex<Queue>,
    filled: Condvar,
    files: FileSet,
    counters: Counters,
    /// Counts file changes and close requests for the checkpoint thread.
    rolled: Mutex<Rolled>,
    rolled_changed: Condvar,
}

#[derive(Default)]
struct Rolled {
    due: bool,
    prepare: bool,
    closed: bool,
}

/// Handle of the journal; clones share it.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// `Some` when it has no threads.
    turns: Option<Turns>,
}

impl Journal {
    /// Reads what an earlier run left and starts the writer.
    ///
    /// # Errors
    /// When the folder cannot be read or written. Damage is not an error: see
    /// [`Recovered::damage`].
    pub fn open(config: JournalConfig) -> Result<(Journal, Recovered), StorageError> {
        let (shared, writer, recovered) = open(config)?;
        let journal = Journal {
            shared,
            threads: Arc::new(Mutex::new(vec![writer::start(writer)])),
            turns: None,
        };
        Ok((journal, recovered))
    }

    /// As [`Journal::open`], without threads: nothing is written but in the turns that are taken.
    /// `filled` is called when there is something for a turn.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_without_threads(
        config: JournalConfig,
        filled: impl Fn() + Send + Sync + 'static,
    ) -> Result<(Journal, Turns, Recovered), StorageError> {
        let (shared, writer, recovered) = open(config)?;
        let turns = Turns::new(shared.clone(), writer, Box::new(filled));
        let journal = Journal {
            shared,
            threads: Arc::default(),
            turns: Some(turns.clone()),
        };
        Ok((journal, turns, recovered))
    }

    /// Queues records; `done` runs when they are durable. Never waits. A closed journal takes
    /// nothing: the records and `done` are dropped.
    pub fn submit(&self, records: Vec<Record>, done: Option<Completion>) {
        let bytes = records.iter().map(format::record_bytes).sum();
        let wake = {
            let mut queue = self.shared.queue.lock();
            if queue.closed {
                return;
            }
            queue.bytes += bytes as u64;
            queue.waiting.push(Submission {
                records,
                bytes,
                done,
            });
            queue.idle
        };
        if wake {
            self.shared.filled.notify_one();
        }
        if let Some(turns) = &self.turns {
            turns.filled();
        }
    }

    /// Starts the thread that checkpoints when files are full and recycles the older ones. The
    /// checkpointer must know every recovered group by now.
    pub fn start_checkpoints(&self, checkpointer: Arc<dyn Checkpointer>) {
        // Each start begins a new file: give up those that many short runs have left.
        self.shared.rolled.lock().due |= self.shared.files.count() > FILES_TO_REPLAY;
        if let Some(turns) = &self.turns {
            turns.set_checkpointer(&checkpointer);
            return;
        }
        let journal = self.clone();
        let thread = std::thread::Builder::new()
            .name("journal-files".to_owned())
            .spawn(move || files::keep(&journal, &*checkpointer));
        match thread {
            Ok(thread) => self.threads.lock().push(thread),
            Err(error) => {
                tracing::error!("cannot start the checkpoint thread: {error}");
                std::process::abort();
            }
        }
    }

    /// Blocks until everything submitted before is durable; false when the journal was closed before
    /// this call and nothing can be said.
    pub fn sync_barrier(&self) -> bool {
        let (done, durable) = std::sync::mpsc::channel();
        self.submit(
            Vec::new(),
            Some(Box::new(move || {
                let _ = done.send(());
            })),
        );
        if let Some(turns) = &self.turns {
            turns.write_all();
        }
        durable.recv().is_ok()
    }

    /// Bytes submitted and not yet durable.
    pub fn queued_bytes(&self) -> u64 {
        self.shared.queue.lock().bytes
    }

    /// Counters so far.
    pub fn metrics(&self) -> JournalMetrics {
        let mut metrics = self.shared.counters.read();
        metrics.queued_bytes = self.queued_bytes();
        metrics.files = self.shared.files.count();
        metrics
    }

    /// From now on a full disk is not waited for: it closes the journal, and what is queued is dropped as
    /// in a crash. For a broker that stops.
    pub fn end_when_full(&self) {
        self.shared.queue.lock().ends_when_full = true;
    }

    /// Makes what is queued durable, as far as the disk has room, and ends the threads.
    pub fn close(&self) {
        {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            queue.ends_when_full = true;
        }
        self.shared.filled.notify_one();
        if let Some(turns) = &self.turns {
            turns.write_all();
        }
        self.shared.rolled.lock().closed = true;
        self.shared.rolled_changed.notify_one();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn open(config: JournalConfig) -> Result<(Arc<Shared>, Writer, Recovered), StorageError> {
    std::fs::create_dir_all(&config.dir).map_err(|e| StorageError::io(&config.dir, e))?;
    let (recovered, position) = recovery::recover(&config.dir)?;
    let (files, active) = FileSet::open(&config, &position)?;
    let shared = Arc::new(Shared {
        config,
        queue: Mutex::default(),
        filled: Condvar::new(),
        files,
        counters: Counters::default(),
        rolled: Mutex::default(),
        rolled_changed: Condvar::new(),
    });
    let writer = Writer::new(shared.clone(), active, position.next_batch);
    Ok((shared, writer, recovered))
}

/// The records' bytes, as a batch holds them.
#[cfg(test)]
pub(crate) fn record_bytes_of(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        format::write_record(record, &mut out);
    }
    out
}

#[cfg(test)]
mod tests;

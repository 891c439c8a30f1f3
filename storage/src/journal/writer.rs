//! Writes the queue batch by batch: group commit. On the journal's thread, or in the turns of
//! [`turns`](super::turns).

use super::files::{ActiveFile, Aligned, retry_when_full};
use super::format::{BATCH_HEADER, BatchHead, blocks, write_record};
use super::{Shared, Submission};
use crate::defect::Defect;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// Staging memory kept between batches.
const STAGING_KEPT: usize = 5 * 1024 * 1024;

pub struct Writer {
    shared: Arc<Shared>,
    active: ActiveFile,
    next_batch: u64,
    staging: Aligned,
    /// The file after `active` has been asked for.
    prepare_asked: bool,
}

/// Starts the thread.
pub fn start(writer: Writer) -> JoinHandle<()> {
    let spawned = std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || writer.run());
    match spawned {
        Ok(thread) => thread,
        Err(error) => {
            tracing::error!("cannot start the journal thread: {error}");
            std::process::abort();
        }
    }
}

impl Writer {
    pub fn new(shared: Arc<Shared>, active: ActiveFile, next_batch: u64) -> Writer {
        Writer {
            shared,
            active,
            next_batch,
            staging: Aligned::default(),
            prepare_asked: false,
        }
    }

    fn run(mut self) {
        let mut work: Vec<Submission> = Vec::new();
        loop {
            {
                let mut queue = self.shared.queue.lock();
                while queue.waiting.is_empty() {
                    if queue.closed {
                        return;
                    }
                    queue.idle = true;
                    self.shared.filled.wait(&mut queue);
                    queue.idle = false;
                }
                std::mem::swap(&mut queue.waiting, &mut work);
            }
            if !self.write_all(&mut work) {
                return;
            }
        }
    }

    /// Makes `work` durable, in batches, and runs its completions. False when the disk is full and the
    /// journal is to end then: it is closed, and what is not durable is dropped.
    pub fn write_all(&mut self, work: &mut Vec<Submission>) -> bool {
        let mut rest = work.drain(..).peekable();
        while rest.peek().is_some() {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while let Some(next) = rest.peek() {
                if bytes > 0 && bytes + next.bytes > self.shared.config.max_batch_bytes {
                    break;
                }
                bytes += next.bytes;
                batch.extend(rest.next());
            }
            if Defect::AckBeforeWrite.is_on() {
                acknowledge_early(&mut batch);
            }
            if bytes > 0 && !self.write(&batch, bytes) {
                self.give_up();
                return false;
            }
            self.shared.queue.lock().bytes -= bytes as u64;
            for completion in batch.into_iter().filter_map(|s| s.done) {
                completion();
            }
        }
        true
    }

    /// Closes the journal and drops what is queued.
    fn give_up(&self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        let dropped = std::mem::take(&mut queue.waiting);
        drop(queue);
        tracing::warn!(
            "stopping on a full disk: what was not acknowledged yet is dropped ({} writes and more)",
            dropped.len()
        );
    }

    /// Writes only the first `kept` bytes of what would be one batch, as when the power goes meanwhile.
    pub fn tear(&mut self, work: &[Submission], kept: usize) -> std::io::Result<()> {
        let bytes: usize = work.iter().map(|s| s.bytes).sum();
        let total = blocks(BATCH_HEADER + bytes);
        if bytes == 0 || self.active.position + total as u64 > self.active.bytes {
            return Ok(());
        }
        let records = work.iter().map(|s| s.records.len()).sum::<usize>();
        self.assemble(work, bytes, total, records);
        let kept = &self.staging.as_slice()[..kept.min(total)];
        self.active.file.write_all_at(kept, self.active.position)
    }

    /// Writes one batch and makes it durable, or ends the process. False when the disk is full and the
    /// journal is to end then.
    fn write(&mut self, batch: &[Submission], bytes: usize) -> bool {
        let total = blocks(BATCH_HEADER + bytes);
        if self.active.position + total as u64 > self.active.bytes && !self.roll(total as u64) {
            return false;
        }
        let records = batch.iter().map(|s| s.records.len()).sum::<usize>();
        self.assemble(batch, bytes, total, records);
        let started = Instant::now();
        let written = self
            .active
            .file
            .write_all_at(self.staging.as_slice(), self.active.position)
            .and_then(|()| {
                if self.active.synchronous || Defect::AckBeforeFsync.is_on() {
                    Ok(())
                } else {
                    self.active.file.sync_data()
                }
            });
        if let Err(error) = written {
            // What the disk holds now is unknown, and asking again would not tell: a page that
            // failed to be written may count as clean.
            tracing::error!(
                "cannot write the journal {}: {error}; stopping",
                self.active.path.display()
            );
            std::process::abort();
        }
        self.shared
            .counters
            .synced(records as u64, total as u64, started.elapsed());
        self.active.position += total as u64;
        self.next_batch += 1;
        self.staging.shrink(STAGING_KEPT);
        if !self.prepare_asked && self.active.position > self.active.bytes / 4 {
            self.prepare_asked = true;
            self.shared.rolled.lock().prepare = true;
            self.shared.rolled_changed.notify_one();
        }
        true
    }

    fn assemble(&mut self, batch: &[Submission], bytes: usize, total: usize, records: usize) {
        let out = self.staging.reset(total);
        let start = out.len();
        out.resize(start + BATCH_HEADER, 0);
        for record in batch.iter().flat_map(|s| &s.records) {
            write_record(record, out);
        }
        let payload = &out[start + BATCH_HEADER..];
        debug_assert_eq!(payload.len(), bytes, "records have the size they announce");
        let head = BatchHead {
            key: self.active.key,
            batch: self.next_batch,
            payload_bytes: payload.len() as u64,
            records: records as u32,
            crc: crc32fast::hash(payload),
        };
        head.write(&mut out[start..start + BATCH_HEADER]);
        out.resize(start + total, 0);
    }

    fn roll(&mut self, needed: u64) -> bool {
        let goes_on = || !self.shared.queue.lock().ends_when_full;
        let next = retry_when_full("the journal", goes_on, || self.shared.files.next(needed));
        match next {
            Ok(file) => self.active = file,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return false,
            Err(error) => {
                tracing::error!("cannot create a journal file: {error}; stopping");
                std::process::abort();
            }
        }
        self.prepare_asked = false;
        self.shared.rolled.lock().due = true;
        self.shared.rolled_changed.notify_one();
        true
    }
}

/// The defect of the same name: what is told durable is not even written for a while.
fn acknowledge_early(batch: &mut [Submission]) {
    for submission in batch {
        if let Some(done) = submission.done.take() {
            done();
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
}

//! A journal without threads: whoever opened it says when it writes and when it checkpoints. The
//! simulation does, so that a seed decides what is on disk when the power goes.

use super::writer::Writer;
use super::{Checkpointer, Journal, Shared, Submission, files};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// The turns of one journal; clones share them. Not for several threads: a completion runs in the
/// turn that it completes.
#[derive(Clone)]
pub struct Turns(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    state: Mutex<State>,
    filled: Box<dyn Fn() + Send + Sync>,
}

struct State {
    writer: Writer,
    /// What is on its way to the disk.
    begun: Vec<Submission>,
    /// Weak, because it holds the journal, and so these turns.
    checkpointer: Option<Weak<dyn Checkpointer>>,
}

impl Turns {
    pub(super) fn new(
        shared: Arc<Shared>,
        writer: Writer,
        filled: Box<dyn Fn() + Send + Sync>,
    ) -> Turns {
        let state = Mutex::new(State {
            writer,
            begun: Vec::new(),
            checkpointer: None,
        });
        Turns(Arc::new(Inner {
            shared,
            state,
            filled,
        }))
    }

    /// Begins to write what is queued, unless a write is under way; whether one is under way now.
    pub fn begin(&self) -> bool {
        let mut state = self.0.state.lock();
        if state.begun.is_empty() {
            std::mem::swap(&mut self.0.shared.queue.lock().waiting, &mut state.begun);
        }
        !state.begun.is_empty()
    }

    /// Runs the completions of what was begun although it is not on disk, as after the sync of a disk
    /// that lies.
    pub fn complete_early(&self) {
        let mut state = self.0.state.lock();
        for completion in state.begun.iter_mut().filter_map(|s| s.done.take()) {
            completion();
        }
    }

    /// What was begun is on disk.
    pub fn finish(&self) {
        let mut state = self.0.state.lock();
        let mut begun = std::mem::take(&mut state.begun);
        state.writer.write_all(&mut begun);
    }

    /// The power goes while what was begun is written: of its bytes the first `kept` stay. There must
    /// be no other turn.
    ///
    /// # Errors
    /// When the bytes cannot be written.
    pub fn tear(&self, kept: usize) -> std::io::Result<()> {
        let mut state = self.0.state.lock();
        let begun = std::mem::take(&mut state.begun);
        state.writer.tear(&begun, kept)
    }

    /// Prepares a file, checkpoints and gives files up, as far as any of it is due.
    pub fn look_after_files(&self, journal: &Journal) {
        let asked = std::mem::take(&mut *self.0.shared.rolled.lock());
        let checkpointer = self.0.state.lock().checkpointer.clone();
        if let Some(checkpointer) = checkpointer.and_then(|c| c.upgrade()) {
            files::look_after(journal, &*checkpointer, &asked);
        }
    }

    pub(super) fn set_checkpointer(&self, checkpointer: &Arc<dyn Checkpointer>) {
        self.0.state.lock().checkpointer = Some(Arc::downgrade(checkpointer));
    }

    pub(super) fn filled(&self) {
        (self.0.filled)();
    }

    /// Writes what was begun and all that is queued.
    pub(super) fn write_all(&self) {
        while self.begin() {
            self.finish();
        }
    }
}

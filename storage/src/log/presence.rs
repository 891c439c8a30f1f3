//! Whether a log's folder is there, for those who are about to make files in it.

use crate::error::StorageError;
use parking_lot::{RwLock, RwLockReadGuard};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A folder must not get files while it is removed, nor after that: a new partition of the same name may have it then.
pub struct Presence {
    dir: PathBuf,
    gone: AtomicBool,
    /// Held for reading by those who make files.
    used: RwLock<()>,
}

impl Presence {
    pub fn new(dir: &Path) -> Presence {
        Presence {
            dir: dir.to_owned(),
            gone: AtomicBool::new(false),
            used: RwLock::new(()),
        }
    }

    /// As long as the answer is held the folder stays. Not to be asked for by one who holds one.
    ///
    /// # Errors
    /// [`StorageError::Closed`] when the log is deleted.
    pub fn hold(&self) -> Result<RwLockReadGuard<'_, ()>, StorageError> {
        let held = self.used.read();
        self.check().map(|()| held)
    }

    /// # Errors
    /// [`StorageError::Closed`] when the log is deleted.
    pub fn check(&self) -> Result<(), StorageError> {
        if self.is_gone() {
            return Err(StorageError::Closed {
                path: self.dir.clone(),
            });
        }
        Ok(())
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// From now on nobody makes files here, and nobody is about it.
    pub fn end(&self) {
        self.gone.store(true, Ordering::Release);
        drop(self.used.write());
    }
}

//! What can go wrong on disk.

use crate::batch::BatchError;
use crate::ids::Offset;
use std::io;
use std::path::{Path, PathBuf};

/// Errors of the storage layer.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The disk has no room; nothing visible was written, and the same call may be made again.
    #[error("{}: no space left on the disk", path.display())]
    DiskFull { path: PathBuf },
    /// `offset` is not within `[start, end)`.
    #[error("offset {offset} is outside of [{start}, {end})")]
    OffsetOutOfRange {
        offset: Offset,
        start: Offset,
        end: Offset,
    },
    /// A newer build has written it: nothing is wrong with it.
    #[error(
        "{}: {what} is not known to this build: start the broker with the build that wrote it",
        path.display()
    )]
    Newer { path: PathBuf, what: String },
    /// Stored bytes do not mean anything.
    #[error("{}: corrupt: {reason}", path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("the partition log in {} is closed", path.display())]
    Closed { path: PathBuf },
}

impl StorageError {
    /// An I/O error with its path; a full disk becomes [`StorageError::DiskFull`].
    pub fn from_io(path: &Path, source: io::Error) -> StorageError {
        if source.kind() == io::ErrorKind::StorageFull {
            StorageError::DiskFull {
                path: path.to_owned(),
            }
        } else {
            StorageError::Io {
                path: path.to_owned(),
                source,
            }
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> StorageError {
        StorageError::from_io(path, source)
    }

    pub(crate) fn newer(path: &Path, what: impl Into<String>) -> StorageError {
        StorageError::Newer {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    pub(crate) fn corrupt(path: &Path, reason: impl Into<String>) -> StorageError {
        StorageError::Corrupt {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

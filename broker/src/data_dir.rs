//! The data folder: whose it is, and that only one broker uses it.

use crate::metadata::version::{FIRST, NEWEST};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidelog_replication::BrokerId;
use uuid::Uuid;

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is in use by another broker process", .0.display())]
    Locked(PathBuf),
    #[error(
        "{} belongs to broker {theirs}, not to broker {ours}: set broker.id = {theirs} or use another data.dir",
        path.display()
    )]
    OtherBroker {
        path: PathBuf,
        theirs: i32,
        ours: i32,
    },
    #[error(
        "{} belongs to cluster {theirs}, but its seed.brokers lead to cluster {ours}",
        path.display()
    )]
    OtherCluster {
        path: PathBuf,
        theirs: String,
        ours: String,
    },
    #[error("{}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
}

/// Contents of `broker.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Identity {
    /// The `metadata.version` of what is in the folder.
    format_version: u32,
    broker_id: i32,
    incarnation: Uuid,
    /// Empty until the broker has joined a cluster.
    #[serde(default)]
    cluster_id: String,
}

/// A locked data folder.
pub struct DataDir {
    path: PathBuf,
    pub incarnation: Uuid,
    identity: Mutex<Identity>,
    /// Released when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Locks the folder and checks that it is `broker`'s; makes it when it does not exist.
    pub fn open(path: &Path, broker: BrokerId) -> Result<DataDir, DataDirError> {
        let io_error = |path: &Path, source| DataDirError::Io {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path).map_err(|e| io_error(path, e))?;
        let lock_path = path.join("broker.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| io_error(&lock_path, e))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| DataDirError::Locked(path.to_owned()))?;
        let identity = read_or_make(path, broker)?;
        let pid = path.join("broker.pid");
        std::fs::write(&pid, format!("{}\n", std::process::id())).map_err(|e| io_error(&pid, e))?;
        Ok(DataDir {
            path: path.to_owned(),
            incarnation: identity.incarnation,
            identity: Mutex::new(identity),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster this folder belongs to; empty until its broker has joined one.
    pub fn cluster_id(&self) -> String {
        self.identity().cluster_id.clone()
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes durably that what is in the folder is of this `metadata.version` from now on: builds that
    /// do not know it will not open the folder.
    pub fn raise_format(&self, version: u32) -> Result<(), DataDirError> {
        let mut identity = self.identity();
        if version <= identity.format_version {
            return Ok(());
        }
        identity.format_version = version;
        write(&self.path, &identity)
    }

    /// Notes the cluster this folder belongs to, or checks that it is still the same.
    pub fn join_cluster(&self, cluster_id: &str) -> Result<(), DataDirError> {
        let mut identity = self.identity();
        if identity.cluster_id == cluster_id {
            return Ok(());
        }
        if !identity.cluster_id.is_empty() {
            return Err(DataDirError::OtherCluster {
                path: self.path.clone(),
                theirs: identity.cluster_id.clone(),
                ours: cluster_id.to_owned(),
            });
        }
        cluster_id.clone_into(&mut identity.cluster_id);
        write(&self.path, &identity)
    }
}

fn read_or_make(path: &Path, broker: BrokerId) -> Result<Identity, DataDirError> {
    let file = path.join("broker.json");
    match std::fs::read(&file) {
        Ok(bytes) => {
            let identity: Identity =
                serde_json::from_slice(&bytes).map_err(|e| DataDirError::Unreadable {
                    path: file.clone(),
                    reason: e.to_string(),
                })?;
            if !(FIRST..=NEWEST).contains(&identity.format_version) {
                return Err(DataDirError::Unreadable {
                    path: file,
                    reason: format!(
                        "its format version, the cluster's metadata.version, is {}, and this build knows \
                         {FIRST} to {NEWEST}: start this broker with the build of the other brokers",
                        identity.format_version
                    ),
                });
            }
            if identity.broker_id != broker.0 {
                return Err(DataDirError::OtherBroker {
                    path: path.to_owned(),
                    theirs: identity.broker_id,
                    ours: broker.0,
                });
            }
            Ok(identity)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let identity = Identity {
                format_version: FIRST,
                broker_id: broker.0,
                incarnation: Uuid::new_v4(),
                cluster_id: String::new(),
            };
            write(path, &identity)?;
            Ok(identity)
        }
        Err(source) => Err(DataDirError::Io { path: file, source }),
    }
}

fn write(dir: &Path, identity: &Identity) -> Result<(), DataDirError> {
    let file = dir.join("broker.json");
    let write = || -> io::Result<()> {
        let text = serde_json::to_vec_pretty(identity)?;
        let temporary = dir.join("broker.json.tmp");
        let mut out = File::create(&temporary)?;
        out.write_all(&text)?;
        out.sync_all()?;
        std::fs::rename(&temporary, &file)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| DataDirError::Io { path: file, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_owner() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let first = DataDir::open(dir.path(), BrokerId(1)).expect("new folder");
        let incarnation = first.incarnation;
        assert!(matches!(
            DataDir::open(dir.path(), BrokerId(1)),
            Err(DataDirError::Locked(_))
        ));
        first.join_cluster("a").expect("first cluster");
        drop(first);
        let again = DataDir::open(dir.path(), BrokerId(1)).expect("same broker");
        assert_eq!(again.incarnation, incarnation);
        again.join_cluster("a").expect("same cluster");
        assert!(matches!(
            again.join_cluster("b"),
            Err(DataDirError::OtherCluster { .. })
        ));
        drop(again);
        assert!(matches!(
            DataDir::open(dir.path(), BrokerId(2)),
            Err(DataDirError::OtherBroker { .. })
        ));
    }

    #[test]
    fn a_folder_of_a_version_that_is_not_known_is_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = DataDir::open(dir.path(), BrokerId(1)).expect("new folder");
        folder.raise_format(NEWEST).expect("raised");
        // It never goes down.
        folder.raise_format(FIRST).expect("nothing to do");
        folder.join_cluster("a").expect("first cluster");
        drop(folder);
        let file = dir.path().join("broker.json");
        let text = std::fs::read_to_string(&file).expect("readable");
        let noted = format!("\"format_version\": {NEWEST}");
        assert!(text.contains(&noted), "{text}");
        drop(DataDir::open(dir.path(), BrokerId(1)).expect("known"));

        let newer = format!("\"format_version\": {}", NEWEST + 1);
        std::fs::write(&file, text.replace(&noted, &newer)).expect("written");
        let refused = DataDir::open(dir.path(), BrokerId(1)).map(|_| ());
        let message = refused.expect_err("not known").to_string();
        assert!(
            message.contains("the build of the other brokers"),
            "{message}"
        );
        let after = std::fs::read_to_string(&file).expect("readable");
        assert!(after.contains(&newer));
    }
}

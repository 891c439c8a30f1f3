//! Room on the data disk.

use crate::node::NodeConfig;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Free space of the data disk, asked for at most a few times a second.
pub struct DiskSpace {
    dir: PathBuf,
    reserve_bytes: u64,
    state: Mutex<(Instant, u64)>,
}

impl DiskSpace {
    const REFRESH: Duration = Duration::from_millis(200);

    pub fn new(config: &NodeConfig) -> DiskSpace {
        DiskSpace {
            dir: config.data_dir.clone(),
            reserve_bytes: config.disk_reserve_bytes,
            state: Mutex::new((Instant::now(), free_bytes(&config.data_dir))),
        }
    }

    pub fn free_bytes(&self) -> u64 {
        let mut state = self.state.lock();
        if state.0.elapsed() >= Self::REFRESH {
            *state = (Instant::now(), free_bytes(&self.dir));
        }
        state.1
    }

    pub fn has_room(&self) -> bool {
        self.free_bytes() >= self.reserve_bytes
    }
}

fn free_bytes(dir: &std::path::Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(u64::MAX, |s| s.f_bavail * s.f_frsize)
}

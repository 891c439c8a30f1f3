//! Work that takes long, done where it is asked for.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does `work` here, after this worker's other tasks were taken off it. In a runtime with one thread, such as a
/// test's, there is nobody to take them.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    let threads = Handle::try_current().map(|h| h.runtime_flavor());
    match threads {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

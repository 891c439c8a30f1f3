//! Bounds on what clients can make this broker hold.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes one permit of the request budget stands for.
const PERMIT_BYTES: usize = 1024;

/// Counts of connections, and the budget of request bytes.
pub struct Limits {
    connections_max: usize,
    per_address_max: usize,
    counts: Mutex<Counts>,
    budget: Arc<Semaphore>,
    budget_permits: usize,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Limits {
    pub fn new(
        connections_max: usize,
        per_address_max: usize,
        request_bytes: usize,
    ) -> Arc<Limits> {
        let budget_permits = (request_bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Limits {
            connections_max,
            per_address_max,
            counts: Mutex::default(),
            budget: Arc::new(Semaphore::new(budget_permits)),
            budget_permits,
        })
    }

    /// Counts a connection until the guard is dropped; `None` when there are too many.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        let mut counts = self.counts.lock();
        let here = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.total >= self.connections_max || here >= self.per_address_max {
            return None;
        }
        counts.total += 1;
        counts.by_address.insert(address, here + 1);
        Some(Admitted {
            limits: self.clone(),
            address,
        })
    }

    pub fn connections(&self) -> usize {
        self.counts.lock().total
    }

    /// Waits until `bytes` of request may be held. One request larger than the whole budget gets
    /// all of it.
    pub async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, self.budget_permits);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        self.budget.clone().acquire_many_owned(permits).await.ok()
    }
}

/// One counted connection.
pub struct Admitted {
    limits: Arc<Limits>,
    address: IpAddr,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.limits.counts.lock();
        counts.total -= 1;
        if let Some(count) = counts.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_and_released() {
        let limits = Limits::new(3, 2, 1 << 20);
        let a: IpAddr = [127, 0, 0, 1].into();
        let b: IpAddr = [127, 0, 0, 2].into();
        let first = limits.admit(a).expect("first");
        let _second = limits.admit(a).expect("second");
        assert!(limits.admit(a).is_none(), "two from one address");
        let _third = limits.admit(b).expect("another address");
        assert!(limits.admit(b).is_none(), "three in all");
        drop(first);
        assert!(limits.admit(b).is_some());
        assert_eq!(limits.connections(), 2);
    }
}

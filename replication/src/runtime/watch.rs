//! The last value of something, for those who wait for it to change.
//!
//! One of tokio's has eight lists of those who wait, which take half a KiB. openraft has more than ten of them a group, and
//! nobody or one waits.

use openraft::async_runtime::watch::{RecvError, SendError};
use openraft::async_runtime::{Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use parking_lot::{RwLock, RwLockReadGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::task::coop::cooperative;

pub struct Watches;

struct Watched<T> {
    value: RwLock<T>,
    /// How often it has changed, twice, and one more when there is nobody who could change it again. It grows while
    /// the value is locked.
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    changed: Notify,
}

const CLOSED: u64 = 1;
const CHANGE: u64 = 2;

impl<T> Watched<T> {
    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn receiver(self: &Arc<Self>) -> Receiver<T> {
        self.receivers.fetch_add(1, Ordering::Relaxed);
        Receiver {
            seen: self.version() & !CLOSED,
            watched: self.clone(),
        }
    }
}

pub struct Sender<T>(Arc<Watched<T>>);

pub struct Receiver<T> {
    watched: Arc<Watched<T>>,
    seen: u64,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.version.fetch_or(CLOSED, Ordering::Release);
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.watched.receivers.fetch_add(1, Ordering::Relaxed);
        Receiver {
            watched: self.watched.clone(),
            seen: self.seen,
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.watched.receivers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Watch for Watches {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let watched = Arc::new(Watched {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            changed: Notify::new(),
        });
        let receiver = watched.receiver();
        (Sender(watched), receiver)
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<Watches, T> for Sender<T> {
    fn send(&self, mut value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::Acquire) == 0 {
            return Err(SendError(value));
        }
        // The value before it is dropped when nothing is locked any more.
        self.send_if_modified(|present| {
            std::mem::swap(present, &mut value);
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = {
            let mut value = self.0.value.write();
            let modified = modify(&mut value);
            if modified {
                self.0.version.fetch_add(CHANGE, Ordering::Release);
            }
            modified
        };
        if modified {
            self.0.changed.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        self.0.receiver()
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<Watches, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let (watched, seen) = (&self.watched, &mut self.seen);
        cooperative(async move {
            loop {
                // Made before the look, it hears of whatever comes after it.
                let changed = watched.changed.notified();
                let version = watched.version();
                if version & !CLOSED != *seen {
                    *seen = version & !CLOSED;
                    return Ok(());
                }
                if version & CLOSED != 0 {
                    return Err(RecvError(()));
                }
                changed.await;
            }
        })
        .await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.watched.value.read()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.watched.value.read();
        self.seen = self.watched.version() & !CLOSED;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::super::Runtime;
    use super::*;
    use openraft::async_runtime::AsyncRuntime;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_change_is_seen_once_by_each_receiver() {
        let (sender, mut first) = Watches::channel(1);
        let mut second = first.clone();
        assert!(poll(pin!(first.changed())).is_pending());
        assert_eq!(sender.send(2), Ok(()));
        assert_eq!(sender.send(3), Ok(()));
        assert_eq!(poll(pin!(first.changed())), Poll::Ready(Ok(())));
        assert_eq!(*first.borrow_watched(), 3);
        assert!(poll(pin!(first.changed())).is_pending());
        assert_eq!(*second.borrow_and_update(), 3);
        assert!(poll(pin!(second.changed())).is_pending());
        // One that comes later knows what is there.
        assert!(poll(pin!(sender.subscribe().changed())).is_pending());
    }

    #[test]
    fn what_is_not_modified_wakes_nobody() {
        let (sender, mut receiver) = Watches::channel(1);
        assert!(!sender.send_if_modified(|_| false));
        assert!(poll(pin!(receiver.changed())).is_pending());
        assert!(sender.send_if_modified(|value| std::mem::replace(value, 2) == 1));
        assert_eq!(poll(pin!(receiver.changed())), Poll::Ready(Ok(())));
    }

    #[test]
    fn the_last_change_is_seen_before_the_end() {
        let (sender, mut receiver) = Watches::channel(1);
        let other = sender.clone();
        drop(sender);
        assert!(poll(pin!(receiver.changed())).is_pending());
        assert_eq!(other.send(2), Ok(()));
        drop(other);
        assert_eq!(poll(pin!(receiver.changed())), Poll::Ready(Ok(())));
        assert_eq!(
            poll(pin!(receiver.changed())),
            Poll::Ready(Err(RecvError(())))
        );
        assert_eq!(*receiver.borrow_watched(), 2);
    }

    #[test]
    fn without_receivers_nothing_is_sent() {
        let (sender, receiver) = Watches::channel(1);
        drop(receiver);
        assert_eq!(sender.send(2), Err(SendError(2)));
        assert_eq!(*sender.borrow_watched(), 1);
        let receiver = sender.subscribe();
        assert_eq!(sender.send(3), Ok(()));
        assert_eq!(*receiver.borrow_watched(), 3);
    }

    /// No change is missed by one who waits meanwhile on another thread.
    #[test]
    fn who_waits_is_woken_by_the_last_change() {
        const LAST: u32 = 20_000;
        let mut runtime = Runtime::new(2);
        runtime.block_on(async {
            let (sender, receiver) = Watches::channel(0);
            let waits = |mut receiver: Receiver<u32>| async move {
                while *receiver.borrow_and_update() < LAST {
                    receiver.changed().await.expect("a sender");
                }
            };
            let waiting = [(); 3].map(|()| Runtime::spawn(waits(receiver.clone())));
            let sent = Runtime::spawn(async move {
                for value in 1..=LAST {
                    sender.send(value).expect("a receiver");
                    if value % 64 == 0 {
                        Runtime::sleep(Duration::ZERO).await;
                    }
                }
                sender
            });
            for receiver in waiting {
                let ended = Runtime::timeout(Duration::from_secs(30), receiver).await;
                ended.expect("in time").expect("no panic");
            }
            sent.await.expect("no panic");
        });
    }

    #[test]
    fn it_takes_little_room() {
        assert!(
            size_of::<Watched<u64>>() <= 96,
            "{}",
            size_of::<Watched<u64>>()
        );
    }
}

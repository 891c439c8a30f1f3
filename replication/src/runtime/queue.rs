//! Queues that take no more room than what is in them.
//!
//! One of tokio's keeps room for 32 messages at least, also when it is empty. Every group has four of them for messages
//! of hundreds of bytes.

use openraft::OptionalSend;
use openraft::async_runtime::{
    Mpsc, MpscReceiver, MpscSender, MpscWeakSender, SendError, TryRecvError,
};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::Semaphore;
use tokio::task::coop::cooperative;

/// Bounded queues from many to one.
pub struct Queues;

/// What an empty queue may keep room for.
const KEPT_MAX: usize = 8;

struct Queue<T> {
    /// Permits for what may still be sent; closed when nobody receives. Senders get them in order.
    room: Semaphore,
    state: Mutex<State<T>>,
}

struct State<T> {
    waiting: VecDeque<T>,
    senders: usize,
    receiver: Option<Waker>,
    closed: bool,
}

impl<T> Queue<T> {
    fn push(&self, message: T) -> Result<(), SendError<T>> {
        let receiver = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(SendError(message));
            }
            state.waiting.push_back(message);
            state.receiver.take()
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Ok(())
    }

    /// The next message, or whether there may be one later.
    fn pop(state: &mut State<T>) -> Result<T, TryRecvError> {
        match state.waiting.pop_front() {
            Some(message) => {
                if state.waiting.is_empty() && state.waiting.capacity() > KEPT_MAX {
                    state.waiting = VecDeque::new();
                }
                Ok(message)
            }
            None if state.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    fn taken(&self, message: T) -> T {
        self.room.add_permits(1);
        message
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let popped = {
            let mut state = self.state.lock();
            let popped = Queue::pop(&mut state);
            if matches!(popped, Err(TryRecvError::Empty)) {
                match &mut state.receiver {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
            }
            popped
        };
        match popped {
            Ok(message) => Poll::Ready(Some(self.taken(message))),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => Poll::Pending,
        }
    }
}

pub struct Sender<T>(Arc<Queue<T>>);

pub struct Receiver<T>(Arc<Queue<T>>);

pub struct WeakSender<T>(Arc<Queue<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let receiver = {
            let mut state = self.0.state.lock();
            state.senders -= 1;
            match state.senders {
                0 => state.receiver.take(),
                _ => None,
            }
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.room.close();
        // What was not received may wait for an answer, which tells it that there is none.
        let mut state = self.0.state.lock();
        state.closed = true;
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        drop(left);
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        WeakSender(self.0.clone())
    }
}

impl Mpsc for Queues {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type WeakSender<T: OptionalSend> = WeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (Sender<T>, Receiver<T>) {
        let queue = Arc::new(Queue {
            room: Semaphore::new(buffer),
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                senders: 1,
                receiver: None,
                closed: false,
            }),
        });
        (Sender(queue.clone()), Receiver(queue))
    }
}

impl<T: OptionalSend> MpscSender<Queues, T> for Sender<T> {
    async fn send(&self, message: T) -> Result<(), SendError<T>> {
        let Ok(room) = self.0.room.acquire().await else {
            return Err(SendError(message));
        };
        room.forget();
        self.0.push(message)
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.clone())
    }
}

impl<T: OptionalSend> MpscReceiver<T> for Receiver<T> {
    fn recv(&mut self) -> impl Future<Output = Option<T>> + OptionalSend {
        cooperative(poll_fn(|context| self.0.poll_next(context)))
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let popped = Queue::pop(&mut self.0.state.lock());
        popped.map(|message| self.0.taken(message))
    }
}

impl<T: OptionalSend> MpscWeakSender<Queues, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        let mut state = self.0.state.lock();
        if state.senders == 0 {
            return None;
        }
        state.senders += 1;
        drop(state);
        Some(Sender(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Runtime;
    use super::*;
    use openraft::async_runtime::AsyncRuntime;

    #[test]
    fn an_empty_queue_keeps_little_room() {
        let mut runtime = Runtime::new(1);
        runtime.block_on(async {
            let (sender, mut receiver) = Queues::channel::<[u8; 100]>(1_000);
            assert_eq!(receiver.0.state.lock().waiting.capacity(), 0);
            for number in 0..200 {
                sender.send([number; 100]).await.expect("a receiver");
            }
            for number in 0..200 {
                assert_eq!(receiver.recv().await, Some([number; 100]));
            }
            assert!(receiver.0.state.lock().waiting.capacity() <= KEPT_MAX);
        });
    }

    #[test]
    fn what_is_not_received_is_dropped_with_the_receiver() {
        let mut runtime = Runtime::new(1);
        runtime.block_on(async {
            let (sender, receiver) = Queues::channel(4);
            let (answer, answered) = tokio::sync::oneshot::channel::<()>();
            sender.send(answer).await.expect("a receiver");
            drop(receiver);
            assert!(answered.await.is_err());
        });
    }
}

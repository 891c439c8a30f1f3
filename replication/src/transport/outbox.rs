//! Messages waiting to be sent on one stream, coalesced into envelopes.

use super::ENVELOPE_BYTES;
use futures_util::Stream;
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::VecDeque;
use std::sync::Arc;
use tidelog_proto::peer::{Envelope, Message};
use tokio::sync::{Notify, Semaphore};

/// Most bytes of requests with a payload that wait for one stream.
const BUDGET_KIB: usize = 16 * 1024;

struct Queue {
    messages: VecDeque<(Message, u32)>,
    closed: bool,
}

/// A queue between many writers and the one stream that drains it.
pub struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    /// KiB that payloads may still take; control messages do not wait for it.
    budget: Semaphore,
}

impl Outbox {
    pub fn new() -> Arc<Outbox> {
        Arc::new(Outbox {
            queue: Mutex::new(Queue {
                messages: VecDeque::new(),
                closed: false,
            }),
            filled: Notify::new(),
            budget: Semaphore::new(BUDGET_KIB),
        })
    }

    /// Queues a message at once. False when the stream is gone.
    pub fn push(&self, message: Message) -> bool {
        self.push_charged(message, 0)
    }

    /// Waits until there is room for `bytes` of payload, then queues the message.
    pub async fn push_with_room(&self, message: Message, bytes: usize) -> bool {
        let kib = (bytes / 1024).clamp(1, BUDGET_KIB / 2) as u32;
        match self.budget.acquire_many(kib).await {
            Ok(permit) => permit.forget(),
            Err(_) => return false,
        }
        self.push_charged(message, kib)
    }

    fn push_charged(&self, message: Message, kib: u32) -> bool {
        {
            let mut queue = self.queue.lock();
            if queue.closed {
                return false;
            }
            queue.messages.push_back((message, kib));
        }
        self.filled.notify_one();
        true
    }

    /// Ends the stream; what was not sent is dropped.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.messages.clear();
        drop(queue);
        self.budget.close();
        self.filled.notify_one();
    }

    /// Ends the stream after what is queued has been sent.
    pub fn finish(&self) {
        self.queue.lock().closed = true;
        self.filled.notify_one();
    }

    fn take(&self) -> Option<Envelope> {
        let mut queue = self.queue.lock();
        let mut envelope = Envelope::default();
        let mut bytes = 0;
        let mut kib = 0;
        while let Some((message, _)) = queue.messages.front() {
            bytes += message.encoded_len();
            if bytes > ENVELOPE_BYTES && !envelope.messages.is_empty() {
                break;
            }
            if let Some((message, charged)) = queue.messages.pop_front() {
                kib += charged;
                envelope.messages.push(message);
            }
        }
        drop(queue);
        self.budget.add_permits(kib as usize);
        (!envelope.messages.is_empty()).then_some(envelope)
    }

    /// The next envelope, once there is one; `None` when the outbox is closed.
    pub async fn next(&self) -> Option<Envelope> {
        loop {
            if let Some(envelope) = self.take() {
                return Some(envelope);
            }
            if self.queue.lock().closed {
                return None;
            }
            self.filled.notified().await;
        }
    }

    /// The stream of envelopes; ends when the outbox is closed.
    pub fn stream(self: &Arc<Self>) -> impl Stream<Item = Envelope> + Send + 'static {
        futures_util::stream::unfold(self.clone(), |outbox| async move {
            let envelope = outbox.next().await?;
            Some((envelope, outbox))
        })
    }
}

//! The task that owns one shard: waits for leadership, loads, serves, lets go.

use super::load::{self, Loaded};
use super::runtime::{Call, Coordinator, Slot};
use super::{Effects, Shard, Token, Turn, batches};
use crate::broker::{Broker, now_ms};
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tidelog_replication::{Partition, Role};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

/// Requests that may wait. Their bytes are charged to the broker's budget of request bytes until they
/// are answered (`kafka/limits.rs`).
const QUEUE: usize = 1024;
/// Requests of one turn.
const TURN_REQUESTS: usize = 256;
/// Bytes of records after which a turn's batch is proposed.
const BATCH_BYTES: usize = 512 * 1024;
/// Turns with writes or answers that may be under way.
const UNDER_WAY: usize = 32;
/// Pause before a shard that failed is loaded again.
const RELOAD_PAUSE: Duration = Duration::from_millis(50);

/// Runs for ever; a panic in the shard is the only way out.
pub(super) async fn run<S: Shard>(
    coordinator: &Coordinator<S>,
    broker: &Broker,
    partition: &Arc<Partition>,
    slot: &Slot<S>,
    images: watch::Receiver<u64>,
) -> std::convert::Infallible {
    loop {
        let epoch = lead(partition).await;
        slot.loading();
        let index = partition.spec().partition;
        let loaded = load(broker, coordinator.make(index), partition, epoch).await;
        if let Some((shard, next_offset)) = loaded {
            let (queue, calls) = mpsc::channel(QUEUE);
            let serving = Serving {
                coordinator,
                broker,
                partition,
                epoch,
                shard,
                next_offset,
                waiting: HashMap::new(),
                next_token: 0,
                under_way: FuturesOrdered::new(),
            };
            slot.active(queue);
            serving.serve(calls, images.clone()).await;
            slot.not_leading();
        } else {
            slot.not_leading();
        }
        // A failed write often comes just before the news of another leader.
        tokio::time::sleep(RELOAD_PAUSE).await;
    }
}

fn leads(partition: &Partition, in_epoch: i32) -> bool {
    matches!(partition.role(), Role::Leader { epoch, ready: true } if epoch == in_epoch)
}

/// Waits until this broker leads and is ready; the epoch.
async fn lead(partition: &Partition) -> i32 {
    let waiter = Arc::new(Notify::new());
    loop {
        partition.notify_on_change(&waiter);
        if let Role::Leader { epoch, ready: true } = partition.role() {
            return epoch;
        }
        waiter.notified().await;
    }
}

async fn load<S: Shard>(
    broker: &Broker,
    mut shard: S,
    partition: &Arc<Partition>,
    epoch: i32,
) -> Option<(S, i64)> {
    let began = Instant::now();
    let reader = partition.clone();
    let replay = move || {
        let outcome = load::replay(&mut shard, reader.log(), || leads(&reader, epoch));
        (shard, outcome)
    };
    let loaded = broker.node.host().disk_work(replay).await;
    let spec = partition.spec();
    match loaded {
        Ok((shard, Loaded::To(end))) => {
            tracing::info!(
                topic = spec.topic,
                partition = spec.partition,
                epoch,
                end,
                "coordinator loaded in {:?}",
                began.elapsed()
            );
            Some((shard, end))
        }
        Ok((_, Loaded::Abandoned)) => None,
        Ok((_, Loaded::Unreadable(offset, error))) => {
            tracing::error!(
                topic = spec.topic,
                partition = spec.partition,
                offset,
                "the coordinator's log cannot be read: {error}"
            );
            partition.mend(offset);
            tokio::time::sleep(RELOAD_PAUSE * 20).await;
            None
        }
        Err(error) => {
            tracing::error!(
                topic = spec.topic,
                partition = spec.partition,
                "loading a coordinator panicked: {error}"
            );
            tokio::time::sleep(RELOAD_PAUSE * 20).await;
            None
        }
    }
}

/// Whether everything written by a turn is committed, and what to answer then.
type Outcome<A> = (bool, Vec<(Token, A)>);

/// A loaded shard and what waits for it.
struct Serving<'a, S: Shard> {
    coordinator: &'a Coordinator<S>,
    broker: &'a Broker,
    partition: &'a Arc<Partition>,
    epoch: i32,
    shard: S,
    /// Offset of the next record this shard writes.
    next_offset: i64,
    waiting: HashMap<Token, oneshot::Sender<S::Answer>>,
    next_token: u64,
    under_way: FuturesOrdered<BoxFuture<'static, Outcome<S::Answer>>>,
}

impl<S: Shard> Serving<'_, S> {
    /// Serves until leadership or a write is lost.
    async fn serve(mut self, mut calls: mpsc::Receiver<Call<S>>, mut images: watch::Receiver<u64>) {
        let mut effects = Effects::default();
        images.borrow_and_update();
        let turn = self.turn();
        self.shard.loaded(&turn, &mut effects);
        self.shard.metadata_changed(&turn, &mut effects);
        self.carry_out(&turn, &mut effects);
        let changed = Arc::new(Notify::new());
        self.partition.notify_on_change(&changed);
        let mut received = Vec::new();
        while leads(self.partition, self.epoch) {
            let room = self.under_way.len() < UNDER_WAY;
            let due = self.until_due();
            tokio::select! {
                biased;
                // Also after each write of our own.
                () = changed.notified() => self.partition.notify_on_change(&changed),
                Some((done, answers)) = self.under_way.next() => {
                    if !done {
                        tracing::info!(
                            topic = self.partition.spec().topic,
                            partition = self.partition.spec().partition,
                            "a coordinator's write failed; it loads again"
                        );
                        return;
                    }
                    self.release(answers);
                }
                count = calls.recv_many(&mut received, TURN_REQUESTS), if room => {
                    if count == 0 {
                        return;
                    }
                    self.handle_all(&mut received);
                }
                () = tokio::time::sleep(due), if room => {
                    let turn = self.turn();
                    self.shard.tick(&turn, &mut effects);
                    self.carry_out(&turn, &mut effects);
                }
                result = images.changed(), if room => {
                    if result.is_err() {
                        return;
                    }
                    let turn = self.turn();
                    self.shard.metadata_changed(&turn, &mut effects);
                    self.carry_out(&turn, &mut effects);
                }
            }
        }
    }

    fn turn(&self) -> Turn {
        Turn {
            now_ms: now_ms(),
            clock_ms: self.coordinator.clock_ms(),
            leader_epoch: self.epoch,
            image: self.broker.metadata.load_full(),
        }
    }

    fn until_due(&self) -> Duration {
        const FAR: Duration = Duration::from_secs(3600);
        self.shard.next_deadline().map_or(FAR, |deadline| {
            let left = deadline.saturating_sub(self.coordinator.clock_ms());
            Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(FAR)
        })
    }

    fn handle_all(&mut self, received: &mut Vec<Call<S>>) {
        let turn = self.turn();
        let mut effects = Effects::default();
        for call in received.drain(..) {
            let token = Token(self.next_token);
            self.next_token += 1;
            self.waiting.insert(token, call.reply);
            self.shard.handle(&turn, token, call.request, &mut effects);
            if effects.write_bytes() >= BATCH_BYTES {
                self.carry_out(&turn, &mut effects);
            }
        }
        // A flood of requests must not keep timers from running out.
        let due = self
            .shard
            .next_deadline()
            .is_some_and(|d| d <= turn.clock_ms);
        if due {
            self.shard.tick(&turn, &mut effects);
        }
        self.carry_out(&turn, &mut effects);
    }

    /// Proposes what is to be written and queues the answers behind it.
    fn carry_out(&mut self, turn: &Turn, effects: &mut Effects<S::Answer>) {
        let Effects {
            writes,
            answers,
            confirm,
        } = std::mem::take(effects);
        if !writes.is_empty() {
            let (built, next) = batches::build(writes, self.next_offset, self.epoch, turn.now_ms);
            self.next_offset = next;
            let proposals: Vec<_> = built
                .into_iter()
                .map(|batch| self.partition.propose_fenced(batch))
                .collect();
            self.under_way.push_back(Box::pin(async move {
                let done = join_all(proposals).await.iter().all(Result::is_ok);
                (done, answers)
            }));
        } else if confirm {
            let (partition, epoch) = (self.partition.clone(), self.epoch);
            self.under_way.push_back(Box::pin(async move {
                (partition.confirm_leader(epoch).await, answers)
            }));
        } else if self.under_way.is_empty() {
            self.release(answers);
        } else if !answers.is_empty() {
            self.under_way
                .push_back(Box::pin(std::future::ready((true, answers))));
        }
    }

    fn release(&mut self, answers: Vec<(Token, S::Answer)>) {
        for (token, answer) in answers {
            if let Some(reply) = self.waiting.remove(&token) {
                // The caller may have gone meanwhile.
                let _ = reply.send(answer);
            }
        }
    }
}

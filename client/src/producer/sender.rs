//! The task that sends batches, and decides what a failure means for them.

mod hanging;
mod transactional;
mod unreachable;

use super::ProducerConfig;
use super::accumulator::{Accumulator, FilledBatch, Written};
use super::request::{self, Answered, Part};
use super::slot::{Batch, Payload, Slot};
use super::transaction::Transactional;
use crate::batch::{ClosedBatch, ProducerMark};
use crate::cluster::{Cluster, Lane};
use crate::compression::Compression;
use crate::connection::Connection;
use crate::error::{Error, ErrorCode, Result};
use crate::retry::Backoff;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hanging::OnTheirWay;
use kafka_protocol::messages::{InitProducerIdRequest, ProducerId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};
use unreachable::Unreachable;

/// A batch that compresses from this size on does so off the async workers.
const PACK_INLINE_BYTES_MAX: usize = 16 << 10;

pub(super) struct Sender {
    cluster: Cluster,
    config: ProducerConfig,
    accumulator: Arc<Accumulator>,
    slots: Vec<Slot>,
    slot_of: HashMap<Arc<str>, HashMap<i32, usize>>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    connections: HashMap<i32, Connection>,
    connecting: HashSet<i32>,
    unreachable: Unreachable,
    /// Requests on their way, by broker.
    in_flight: HashMap<i32, OnTheirWay>,
    /// Given to partitions that have none.
    producer: Option<ProducerMark>,
    asking_producer: bool,
    transactional: Option<Arc<Transactional>>,
    /// The coordinator is being told of partitions of the transaction.
    adding: bool,
    refresh_at: Option<Instant>,
    refreshing: bool,
    backoff: Backoff,
    /// Where the next round over the partitions starts, so that none starves.
    turn: usize,
}

/// Something the sender waits for has come.
enum Event {
    Packed(usize, u64, std::io::Result<ClosedBatch>),
    Producer(Result<ProducerMark>),
    Connected(i32, Result<Connection>),
    Answered(i32, Answered),
    Refreshed(Result<()>),
    /// Partitions to the transaction of this number.
    Added(u64, Result<()>),
}

impl Sender {
    pub(super) fn new(
        cluster: Cluster,
        config: ProducerConfig,
        accumulator: Arc<Accumulator>,
        transactional: Option<Arc<Transactional>>,
    ) -> Sender {
        let backoff = Backoff::new(cluster.config());
        Sender {
            cluster,
            config,
            accumulator,
            slots: Vec::new(),
            slot_of: HashMap::new(),
            events: FuturesUnordered::new(),
            connections: HashMap::new(),
            connecting: HashSet::new(),
            unreachable: Unreachable::default(),
            in_flight: HashMap::new(),
            producer: None,
            asking_producer: false,
            transactional,
            adding: false,
            refresh_at: None,
            refreshing: false,
            backoff,
            turn: 0,
        }
    }

    /// Runs until the producer aborts it.
    pub(super) async fn run(mut self) {
        loop {
            let now = Instant::now();
            let next_due = self.take_batches(now);
            // After the batches: those of a transaction are put in after its mark is set.
            self.take_new_mark();
            self.discard();
            self.give_up_late(now);
            self.close_gaps();
            self.look_after_overdue(now);
            self.refresh_if_due(now);
            self.send_all(now);
            let until = self.next_timer(next_due, now);
            tokio::select! {
                () = self.accumulator.wake.notified() => {}
                Some(event) = self.events.next(), if !self.events.is_empty() => self.handle(event),
                () = sleep_until(until) => {}
            }
        }
    }

    fn take_batches(&mut self, now: Instant) -> Option<Instant> {
        let busy = |topic: &Arc<str>, partition: i32| {
            let slot = self.slot_of.get(topic).and_then(|of| of.get(&partition));
            slot.is_some_and(|&slot| {
                let slot = &self.slots[slot];
                !slot.queue.is_empty() || slot.in_flight.len() >= self.config.in_flight_max
            })
        };
        let (batches, next_due) = self.accumulator.take_due(now, busy);
        for batch in batches {
            self.enqueue(batch);
        }
        next_due
    }

    fn enqueue(&mut self, filled: FilledBatch) {
        let slot = self.slot(&filled.topic, filled.partition);
        let FilledBatch {
            id,
            builder,
            opened_at,
            reserved_bytes,
            outcome,
            ..
        } = filled;
        let codec = self.config.compression;
        let mut batch = Batch {
            id,
            slot,
            payload: Payload::Packing,
            count: builder.count(),
            mark: None,
            maybe_written: false,
            deadline: opened_at + self.config.delivery_timeout,
            reserved_bytes,
            outcome,
            last_error: None,
        };
        if codec == Compression::None || builder.len() < PACK_INLINE_BYTES_MAX {
            match builder.close(codec) {
                Ok(closed) => batch.payload = Payload::Packed(closed),
                Err(error) => return self.finish(batch, Err(cannot_compress(&error))),
            }
        } else {
            let packing = tokio::task::spawn_blocking(move || builder.close(codec));
            self.events.push(Box::pin(async move {
                let packed = packing
                    .await
                    .unwrap_or_else(|e| Err(std::io::Error::other(e)));
                Event::Packed(slot, id, packed)
            }));
        }
        self.slots[slot].put_back(batch);
    }

    fn slot(&mut self, topic: &Arc<str>, partition: i32) -> usize {
        let of_topic = self.slot_of.entry(topic.clone()).or_default();
        *of_topic.entry(partition).or_insert_with(|| {
            self.slots.push(Slot::new(topic.clone(), partition));
            self.slots.len() - 1
        })
    }

    /// Fails what waits past its deadline. What is on its way is judged when it comes back.
    fn give_up_late(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            while let Some(batch) = self.slots[slot].queue.pop_front_if(|b| b.deadline <= now) {
                let error = self.late(&batch);
                self.give_up(batch, error);
            }
        }
    }

    fn late(&self, batch: &Batch) -> Error {
        let slot = &self.slots[batch.slot];
        if batch.maybe_written {
            return slot.uncertain(batch);
        }
        let last = batch.last_error.as_ref().map(ToString::to_string);
        Error::Timeout {
            what: format!("produce to {}-{}", slot.topic, slot.partition),
            waited_ms: self.config.delivery_timeout.as_millis() as u64,
            last: last.unwrap_or_else(|| "not sent yet".to_owned()),
        }
    }

    fn give_up(&mut self, batch: Batch, error: Error) {
        if self.transactional.is_some() {
            self.fail_transaction(&error);
            return self.finish(batch, Err(error));
        }
        let numbered = batch.mark.is_some_and(|mark| mark != ProducerMark::NONE);
        self.slots[batch.slot].gap |= numbered;
        self.finish(batch, Err(error));
    }

    fn finish(&self, batch: Batch, outcome: Result<Written>) {
        self.accumulator.finish(batch, outcome);
    }

    fn close_gaps(&mut self) {
        for slot in 0..self.slots.len() {
            if !self.slots[slot].gap || !self.slots[slot].in_flight.is_empty() {
                continue;
            }
            let failed = self.slots[slot].close_gap();
            // The old id must not be used for this partition again.
            self.producer = None;
            for (batch, error) in failed {
                self.finish(batch, Err(error));
            }
        }
    }

    fn refresh_if_due(&mut self, now: Instant) {
        if self.refreshing || self.refresh_at.is_none_or(|at| at > now) {
            return;
        }
        self.refreshing = true;
        self.refresh_at = None;
        let cluster = self.cluster.clone();
        self.events.push(Box::pin(async move {
            Event::Refreshed(cluster.refresh().await.map(|_| ()))
        }));
    }

    fn want_refresh(&mut self) {
        if !self.refreshing && self.refresh_at.is_none() {
            self.refresh_at = Some(Instant::now() + self.backoff.next());
        }
    }

    fn next_timer(&self, next_due: Option<Instant>, now: Instant) -> Instant {
        let slots = self.slots.iter().filter(|slot| !slot.queue.is_empty());
        let of_slots = slots.flat_map(|slot| {
            let deadline = slot.queue.front().map(|batch| batch.deadline);
            let retry_at = slot.retry_at.filter(|at| *at > now);
            [deadline, retry_at].into_iter().flatten()
        });
        let overdue = self.in_flight.values().filter_map(OnTheirWay::overdue_at);
        let all = of_slots
            .chain(overdue)
            .chain(next_due)
            .chain(self.refresh_at)
            .chain(self.unreachable.next_due(now));
        all.min()
            .unwrap_or(now + self.cluster.config().metadata_age_max)
    }

    /// Sends to every broker what may go now.
    fn send_all(&mut self, now: Instant) {
        let count = self.slots.len();
        let mut requests: HashMap<i32, (Vec<Part>, usize)> = HashMap::new();
        self.turn = (self.turn + 1) % count.max(1);
        for at in 0..count {
            let slot = (self.turn + at) % count;
            if self.slots[slot].queue.is_empty() {
                continue;
            }
            let topic = self.slots[slot].topic.clone();
            let partition = self.slots[slot].partition;
            let leader = match self.cluster.leader(&topic, partition) {
                Ok(leader) => leader,
                Err(_) => {
                    self.want_refresh();
                    continue;
                }
            };
            let (info, _, leader) = leader;
            if !self.ready(slot, leader, now) {
                continue;
            }
            let (parts, bytes) = requests.entry(leader).or_default();
            if *bytes >= self.config.request_bytes_max {
                continue;
            }
            let taken = self.slots[slot].take(leader, self.config.idempotent);
            if let Some((batch, sealed)) = taken {
                *bytes += sealed.len();
                parts.push(Part {
                    topic,
                    topic_id: info.uuid(),
                    partition,
                    bytes: sealed,
                    batch,
                });
            }
        }
        let mut more = false;
        for (leader, (parts, _)) in requests {
            more |= self.send_request(leader, parts, now);
        }
        // One batch a partition goes in one request; another round takes the next ones.
        if more {
            self.accumulator.wake.notify_one();
        }
    }

    /// Whether the slot's next batch can go to its leader, getting what is missing for that.
    fn ready(&mut self, slot: usize, leader: i32, now: Instant) -> bool {
        // Without numbers the broker cannot restore the order, so one at a time.
        let in_flight_max = if self.config.idempotent {
            self.config.in_flight_max
        } else {
            1
        };
        if !self.slots[slot].may_send(leader, in_flight_max, now) {
            return false;
        }
        if self.config.idempotent && self.slots[slot].producer.is_none() {
            match self.producer {
                Some(producer) => self.slots[slot].producer = Some(producer),
                None => {
                    self.ask_producer(now);
                    return false;
                }
            }
        }
        if !self.in_transaction(slot) {
            return false;
        }
        let on_their_way = self.in_flight.get(&leader).map_or(0, OnTheirWay::count);
        on_their_way < self.config.in_flight_max && self.connected(leader, now)
    }

    fn connected(&mut self, broker: i32, now: Instant) -> bool {
        if let Some(connection) = self.connections.get(&broker) {
            if !connection.is_closed() {
                return true;
            }
            self.connections.remove(&broker);
        }
        if self.refresh_at.is_none()
            && self.unreachable.may_try(broker, now)
            && self.connecting.insert(broker)
        {
            let cluster = self.cluster.clone();
            self.events.push(Box::pin(async move {
                Event::Connected(broker, cluster.broker(broker, Lane::Main).await)
            }));
        }
        false
    }

    /// True when more may follow at once.
    fn send_request(&mut self, leader: i32, parts: Vec<Part>, now: Instant) -> bool {
        let Some(connection) = self.connections.get(&leader).filter(|_| !parts.is_empty()) else {
            return false;
        };
        // A late batch must not hold its caller longer than promised.
        let deadline = parts.iter().map(|part| part.batch.deadline).min();
        let left = deadline.map_or(self.cluster.config().request_timeout, |deadline| {
            deadline.saturating_duration_since(now)
        });
        let limit = left.min(self.cluster.config().request_timeout);
        let transactional = self.transactional.as_deref();
        let answered = request::send(connection, parts, &self.config, transactional, limit);
        let patience = self.patience();
        let on_their_way = self.in_flight.entry(leader).or_default();
        on_their_way.sent(now + patience);
        self.events.push(Box::pin(
            async move { Event::Answered(leader, answered.await) },
        ));
        true
    }

    fn ask_producer(&mut self, now: Instant) {
        let may_ask = self.refresh_at.is_none() && self.unreachable.may_try(Unreachable::ANY, now);
        if self.asking_producer || !may_ask || self.transactional.is_some() {
            return;
        }
        self.asking_producer = true;
        let cluster = self.cluster.clone();
        self.events.push(Box::pin(async move {
            Event::Producer(init_producer(&cluster).await)
        }));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Packed(slot, id, packed) => self.packed(slot, id, packed),
            Event::Producer(result) => {
                self.asking_producer = false;
                match result {
                    Ok(producer) => self.producer = Some(producer),
                    Err(error) => self.could_not_reach(Unreachable::ANY, &error),
                }
            }
            Event::Connected(broker, result) => {
                self.connecting.remove(&broker);
                match result {
                    Ok(connection) => {
                        self.unreachable.reached(broker);
                        self.connections.insert(broker, connection);
                    }
                    Err(error) => self.could_not_reach(broker, &error),
                }
            }
            Event::Refreshed(result) => {
                self.refreshing = false;
                match result {
                    Ok(()) => self.leave_deposed(),
                    Err(error) => self.nothing_can_be_sent(&error),
                }
            }
            Event::Added(number, result) => self.added(number, result),
            Event::Answered(broker, answered) => {
                let overdue_at = Instant::now() + self.patience();
                self.in_flight
                    .entry(broker)
                    .or_default()
                    .answered(overdue_at);
                for (batch, result) in answered {
                    self.answered(batch, result);
                }
            }
        }
    }

    fn packed(&mut self, slot: usize, id: u64, packed: std::io::Result<ClosedBatch>) {
        let queue = &mut self.slots[slot].queue;
        let Ok(at) = queue.binary_search_by_key(&id, |batch| batch.id) else {
            // It was given up meanwhile.
            return;
        };
        match packed {
            Ok(closed) => queue[at].payload = Payload::Packed(closed),
            Err(error) => {
                if let Some(batch) = queue.remove(at) {
                    self.finish(batch, Err(cannot_compress(&error)));
                }
            }
        }
    }

    fn could_not_reach(&mut self, broker: i32, error: &Error) {
        let pause = self.backoff.clone().next();
        let until = Instant::now() + pause;
        self.unreachable.leave_alone(broker, until);
        self.nothing_can_be_sent(error);
    }

    /// Notes why for the batches that wait, and looks at the cluster anew; gives them up when that
    /// cannot help.
    fn nothing_can_be_sent(&mut self, error: &Error) {
        tracing::debug!("producer: {error}");
        if !error.is_transient() {
            for slot in 0..self.slots.len() {
                for batch in std::mem::take(&mut self.slots[slot].queue) {
                    self.give_up(batch, error.clone());
                }
            }
            return;
        }
        for slot in &mut self.slots {
            if let Some(batch) = slot.queue.front_mut() {
                batch.last_error = Some(error.clone());
            }
        }
        self.want_refresh();
    }

    fn answered(&mut self, mut batch: Batch, result: Result<Written>) {
        let at = batch.slot;
        self.slots[at].in_flight.remove(&batch.id);
        let error = match result {
            Ok(written) => {
                self.backoff.reset();
                return self.finish(batch, Ok(written));
            }
            Err(error) => error,
        };
        let lost_count = matches!(
            error.code(),
            Some(
                ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
                    | ErrorCode::UNKNOWN_PRODUCER_ID
                    | ErrorCode::INVALID_PRODUCER_EPOCH
            )
        );
        let slot = &mut self.slots[at];
        let passes = error.is_transient() || error.is_unknown_topic();
        if let Some(transactional) = &self.transactional
            && (!passes || transactional.is_discarding())
            && !(lost_count && slot.has_earlier(batch.id))
        {
            return self.give_up(batch, error);
        }
        if lost_count && self.config.idempotent {
            // Either an earlier batch is still to be sent again, or the broker knows nothing of the
            // earlier ones: then this one was not written, and goes under a new producer id.
            slot.gap |= !slot.has_earlier(batch.id);
        } else if passes {
            batch.maybe_written |= true;
            self.want_refresh();
        } else {
            return self.give_up(batch, error);
        }
        let pause = self.backoff.clone().next();
        let slot = &mut self.slots[at];
        slot.retry_at = Some(Instant::now() + pause);
        batch.last_error = Some(error);
        tracing::debug!(
            "batch {} of {}-{} goes again: {:?}",
            batch.id,
            slot.topic,
            slot.partition,
            batch.last_error
        );
        slot.put_back(batch);
    }
}

async fn init_producer(cluster: &Cluster) -> Result<ProducerMark> {
    let connection = cluster.any().await?;
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let deadline = Instant::now() + cluster.config().request_timeout;
    let response = cluster.send(&connection, &request, deadline).await?;
    Error::check("InitProducerId", response.error_code, None)?;
    Ok(ProducerMark {
        id: response.producer_id.0,
        epoch: response.producer_epoch,
        sequence: 0,
        transactional: false,
    })
}

fn cannot_compress(error: &std::io::Error) -> Error {
    Error::Config {
        setting: "compression",
        reason: error.to_string(),
    }
}

//! Which shards are here, and how requests reach them.

use super::topic::partition_for;
use super::{Shard, task};
use crate::broker::Broker;
use kafka_protocol::error::ResponseError;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidelog_replication::Partition;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

/// How often replicas that are not open yet are looked for.
const OPEN_POLL: Duration = Duration::from_millis(50);

/// Why a request was not taken, or has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// This broker does not lead the partition, or has lost it meanwhile; what was asked for may or
    /// may not have been done.
    NotCoordinator,
    /// It leads, and is still reading the log.
    Loading,
}

impl Unavailable {
    /// Kafka's error; clients look for the coordinator again, or wait.
    pub fn error(self) -> ResponseError {
        match self {
            Unavailable::NotCoordinator => ResponseError::NotCoordinator,
            Unavailable::Loading => ResponseError::CoordinatorLoadInProgress,
        }
    }
}

/// A request in a shard's queue.
pub(super) struct Call<S: Shard> {
    pub request: S::Request,
    pub reply: oneshot::Sender<S::Answer>,
}

/// What one partition's shard is doing here.
enum Phase<S: Shard> {
    NotLeading,
    Loading,
    Active(mpsc::Sender<Call<S>>),
}

pub(super) struct Slot<S: Shard> {
    /// The replica it works on. One that moved away and came back is another.
    partition: Arc<Partition>,
    phase: RwLock<Phase<S>>,
}

impl<S: Shard> Slot<S> {
    pub fn not_leading(&self) {
        *self.phase.write() = Phase::NotLeading;
    }

    pub fn loading(&self) {
        *self.phase.write() = Phase::Loading;
    }

    pub fn active(&self, queue: mpsc::Sender<Call<S>>) {
        *self.phase.write() = Phase::Active(queue);
    }
}

/// A shard's task, and where requests find it.
struct Running<S: Shard> {
    slot: Arc<Slot<S>>,
    task: AbortHandle,
}

/// All shards of one kind on this broker.
pub struct Coordinator<S: Shard> {
    topic: &'static str,
    make: Box<dyn Fn(i32) -> S + Send + Sync>,
    slots: RwLock<HashMap<i32, Running<S>>>,
    began: Instant,
}

impl<S: Shard> Coordinator<S> {
    /// `make` gives the empty shard of a partition of `topic`.
    pub fn new(
        topic: &'static str,
        make: impl Fn(i32) -> S + Send + Sync + 'static,
    ) -> Arc<Coordinator<S>> {
        Arc::new(Coordinator {
            topic,
            make: Box::new(make),
            slots: RwLock::default(),
            began: Instant::now(),
        })
    }

    /// Sends a request to the shard of `key` (a group id, a transactional id) and waits for its
    /// answer, however long it is parked.
    ///
    /// # Errors
    /// [`Unavailable`] when the shard is not here, or is lost before it has answered.
    pub async fn call(
        &self,
        broker: &Broker,
        key: &str,
        request: S::Request,
    ) -> Result<S::Answer, Unavailable> {
        let partitions = broker
            .metadata
            .load()
            .topic(self.topic)
            .map(|t| t.partitions.len())
            .ok_or(Unavailable::NotCoordinator)?;
        self.call_partition(partition_for(key, partitions) as i32, request)
            .await
    }

    /// As [`Coordinator::call`], to the shard of a partition.
    ///
    /// # Errors
    /// As for [`Coordinator::call`].
    pub async fn call_partition(
        &self,
        partition: i32,
        request: S::Request,
    ) -> Result<S::Answer, Unavailable> {
        let queue = {
            let slots = self.slots.read();
            let running = slots.get(&partition);
            let running = running.ok_or(Unavailable::NotCoordinator)?;
            match &*running.slot.phase.read() {
                Phase::NotLeading => return Err(Unavailable::NotCoordinator),
                Phase::Loading => return Err(Unavailable::Loading),
                Phase::Active(queue) => queue.clone(),
            }
        };
        let (reply, answer) = oneshot::channel();
        let lost = |_| Unavailable::NotCoordinator;
        if queue.send(Call { request, reply }).await.is_err() {
            return Err(Unavailable::NotCoordinator);
        }
        // The sender alone must not keep the queue open.
        drop(queue);
        answer.await.map_err(lost)
    }

    /// Partitions whose shards answer here, and whether any is still loading.
    pub fn led(&self) -> (Vec<i32>, bool) {
        let slots = self.slots.read();
        let mut active = Vec::new();
        let mut loading = false;
        for (partition, running) in slots.iter() {
            match &*running.slot.phase.read() {
                Phase::NotLeading => {}
                Phase::Loading => loading = true,
                Phase::Active(_) => active.push(*partition),
            }
        }
        active.sort_unstable();
        (active, loading)
    }

    /// Milliseconds of the clock of [`super::Turn::clock_ms`].
    pub(super) fn clock_ms(&self) -> i64 {
        self.began.elapsed().as_millis() as i64
    }

    pub(super) fn make(&self, partition: i32) -> S {
        (self.make)(partition)
    }

    /// Runs a task for every local replica of the topic until `stop`.
    pub async fn run(
        self: Arc<Self>,
        broker: Arc<Broker>,
        mut changed: watch::Receiver<u64>,
        mut stop: watch::Receiver<bool>,
    ) {
        // Dropped with this task, which ends all of them.
        let mut tasks = JoinSet::new();
        loop {
            let images = changed.clone();
            changed.borrow_and_update();
            let missing = self.start_shards(&broker, &images, &mut tasks);
            let look_again = async {
                if missing {
                    tokio::time::sleep(OPEN_POLL).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                result = changed.changed() => if result.is_err() { return },
                () = look_again => {}
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(topic = self.topic, "a coordinator panicked: {error}");
                    }
                }
                _ = stop.wait_for(|s| *s) => return,
            }
        }
    }

    /// Starts what has no task yet and ends tasks of replicas that are gone; true when a replica is still to be
    /// opened.
    fn start_shards(
        self: &Arc<Self>,
        broker: &Arc<Broker>,
        images: &watch::Receiver<u64>,
        tasks: &mut JoinSet<()>,
    ) -> bool {
        let image = broker.metadata.load_full();
        let Some(topic) = image.topic(self.topic) else {
            return false;
        };
        let mut missing = false;
        for (index, meta) in topic.partitions.iter().enumerate() {
            let index = index as i32;
            let wanted = meta.replicas.contains(&broker.id);
            let partition = broker.node.partition(meta.group).filter(|_| wanted);
            missing |= wanted && partition.is_none();
            let at_work = |running: &Running<S>| {
                let on = &running.slot.partition;
                partition.as_ref().is_some_and(|p| Arc::ptr_eq(p, on))
            };
            if self.slots.read().get(&index).is_some_and(at_work) {
                continue;
            }
            let slot = partition.map(|partition| {
                Arc::new(Slot {
                    partition,
                    phase: RwLock::new(Phase::NotLeading),
                })
            });
            let running = slot.map(|slot| {
                let shard = supervise(self.clone(), broker.clone(), slot.clone(), images.clone());
                let task = tasks.spawn(shard);
                (index, Running { slot, task })
            });
            let mut slots = self.slots.write();
            if let Some(gone) = slots.remove(&index) {
                gone.task.abort();
            }
            slots.extend(running);
        }
        missing
    }
}

/// Runs a shard's task, again after a defect in it: a panic must not take the groups of a whole
/// partition away until the broker restarts.
async fn supervise<S: Shard>(
    coordinator: Arc<Coordinator<S>>,
    broker: Arc<Broker>,
    slot: Arc<Slot<S>>,
    images: watch::Receiver<u64>,
) {
    use futures_util::FutureExt as _;
    const PAUSE: Duration = Duration::from_secs(1);
    let partition = &slot.partition;
    loop {
        let task = task::run(&coordinator, &broker, partition, &slot, images.clone());
        let Err(_) = std::panic::AssertUnwindSafe(task).catch_unwind().await;
        slot.not_leading();
        let spec = partition.spec();
        tracing::error!(
            topic = spec.topic,
            partition = spec.partition,
            "a coordinator panicked; it loads again"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

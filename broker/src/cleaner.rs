//! Compacts this broker's replicas, a few threads for all of them. Each replica is compacted by its
//! own broker, whenever that finds it worth while; no other broker has to know.

use crate::broker::{Broker, now_ms};
use crate::config::broker_value;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidelog_replication::host::Host;
use tidelog_replication::{GroupId, Partition};
use tidelog_storage::log::{CompactionReport, CompactionRun, Pace};

/// What the cleaner threads have done, for `/metrics`.
#[derive(Default)]
pub struct CleanerStatus {
    pub runs: AtomicU64,
    pub bytes_read: AtomicU64,
    pub bytes_written: AtomicU64,
    /// Records read that were not written again.
    pub records_removed: AtomicU64,
    /// The largest share of bytes to be compacted of any replica at the last look, in thousandths.
    pub dirty_permille_max: AtomicU64,
    /// Milliseconds since 1970; 0: never.
    pub last_run_ms: AtomicI64,
}

impl CleanerStatus {
    fn count(&self, report: &CompactionReport) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.last_run_ms.store(now_ms(), Ordering::Relaxed);
        self.bytes_read
            .fetch_add(report.bytes_read, Ordering::Relaxed);
        self.bytes_written
            .fetch_add(report.bytes_written, Ordering::Relaxed);
        let removed = report.records_read.saturating_sub(report.records_left);
        self.records_removed.fetch_add(removed, Ordering::Relaxed);
    }
}

/// Shared by the threads.
struct Shared {
    broker: Arc<Broker>,
    stopping: AtomicBool,
    /// Replicas being compacted, and those that were, until they may be again.
    resting: Mutex<HashMap<GroupId, Instant>>,
    woken: Condvar,
    pace: Pace,
    backoff: Duration,
    memory_bytes: usize,
}

/// The cleaner threads; they end with [`Cleaner::stop`]. On a simulated host, which has no threads, a task.
pub struct Cleaner {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Longer than any compaction.
const BUSY: Duration = Duration::from_secs(365 * 24 * 3600);

impl Cleaner {
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(broker: &Arc<Broker>) -> std::io::Result<Cleaner> {
        let config = &broker.config;
        let count = if config.flag("log.cleaner.enable") {
            config.int("log.cleaner.threads").max(1) as usize
        } else {
            0
        };
        let shared = Arc::new(Shared {
            broker: broker.clone(),
            stopping: AtomicBool::new(false),
            resting: Mutex::default(),
            woken: Condvar::new(),
            pace: Pace::new(0),
            backoff: Duration::from_millis(config.int("log.cleaner.backoff.ms").unsigned_abs()),
            memory_bytes: config.int("log.cleaner.dedupe.buffer.size") as usize / count.max(1),
        });
        let runtime = tokio::runtime::Handle::current();
        let host = broker.node.host();
        if matches!(host, Host::Simulated(_)) && count > 0 {
            tokio::spawn(shared.clone().run_as_task(host.clone()));
            let threads = Vec::new();
            return Ok(Cleaner { shared, threads });
        }
        let threads = (0..count).map(|n| {
            let (shared, runtime) = (shared.clone(), runtime.clone());
            std::thread::Builder::new()
                .name(format!("cleaner-{n}"))
                .spawn(move || {
                    // Damage that is found is mended by a task.
                    let _runtime = runtime.enter();
                    shared.run();
                })
        });
        let threads = threads.collect::<std::io::Result<_>>()?;
        Ok(Cleaner { shared, threads })
    }

    /// Gives up what is under way and waits for the threads. Blocks.
    pub fn stop(self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.woken.notify_all();
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        while self.may_go_on() {
            match self.next() {
                Some(partition) => self.compact(&partition),
                None => self.pause(),
            }
        }
    }

    async fn run_as_task(self: Arc<Self>, host: Host) {
        while self.may_go_on() {
            let this = self.clone();
            let work = move || this.next().map(|partition| this.compact(&partition));
            let compacted = host.disk_work(work).await;
            if !matches!(compacted, Ok(Some(()))) {
                tokio::time::sleep(self.backoff).await;
            }
        }
    }

    fn may_go_on(&self) -> bool {
        !self.stopping.load(Ordering::Acquire)
    }

    fn pause(&self) {
        let mut resting = self.resting.lock();
        if self.may_go_on() {
            self.woken.wait_for(&mut resting, self.backoff);
        }
    }

    /// The replica that needs compaction most; it is this thread's until it rests.
    fn next(&self) -> Option<Arc<Partition>> {
        let now = now_ms();
        let mut dirtiest = 0.0_f64;
        let mut due = Vec::new();
        for partition in self.broker.node.partitions() {
            if !partition.log().is_compacted() {
                continue;
            }
            let Some(need) = partition.log().compaction_need(now) else {
                continue;
            };
            dirtiest = dirtiest.max(need.dirty_ratio);
            if need.is_due {
                due.push((need.dirty_ratio, partition));
            }
        }
        let status = &self.broker.cleaner;
        let permille = (dirtiest * 1_000.0) as u64;
        status.dirty_permille_max.store(permille, Ordering::Relaxed);
        due.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut resting = self.resting.lock();
        resting.retain(|_, until| *until > Instant::now());
        let (_, chosen) = due
            .into_iter()
            .find(|(_, p)| !resting.contains_key(&p.spec().group))?;
        resting.insert(chosen.spec().group, Instant::now() + BUSY);
        Some(chosen)
    }

    fn compact(&self, partition: &Arc<Partition>) {
        let broker = &self.broker;
        let limit = broker_value(
            "log.cleaner.io.max.bytes.per.second",
            &broker.config,
            &broker.metadata.load(),
        );
        // Beyond any disk: no limit.
        let limit = limit.trim().parse().unwrap_or(f64::MAX);
        self.pace.set_limit(if limit < 1e15 {
            limit.max(1.0) as u64
        } else {
            0
        });
        let go_on = || self.may_go_on() && broker.node.disk_has_room();
        let run = CompactionRun {
            now_ms: now_ms(),
            closed_before: 0,
            memory_bytes: self.memory_bytes,
            pace: &self.pace,
            go_on: &go_on,
        };
        let began = Instant::now();
        let name = format!("{}-{}", partition.spec().topic, partition.spec().partition);
        match partition.compact(&run) {
            Ok(report) => {
                broker.cleaner.count(&report);
                tracing::debug!("{name} compacted in {:?}: {report:?}", began.elapsed());
                if let Some(offset) = report.damaged_at {
                    partition.mend(offset);
                }
            }
            Err(error) => tracing::warn!("{name} cannot be compacted: {error}"),
        }
        let until = Instant::now() + self.backoff;
        self.resting.lock().insert(partition.spec().group, until);
    }
}

//! One broker's machine: its network, and a disk whose syncs take time that the seed decides.
//!
//! A batch of the journal is on disk when its sync is over, not before. When the power goes meanwhile,
//! nothing, all, or the first part of it is.

use crate::entropy::Random;
use crate::network::{self, Links, Listener};
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidelog_replication::host::{SimulatedHost, SimulatedListener, SimulatedStream};
use tidelog_storage::error::StorageError;
use tidelog_storage::journal::{Journal, JournalConfig, Recovered, Turns};
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint};

/// What outlives a crash of the machine's software.
pub struct Machine {
    broker: usize,
    links: Arc<Links>,
    random: Mutex<Random>,
    /// How many times longer than usual the disk takes.
    slowness: AtomicU64,
    /// It says that it has synced what it has not: to see whether that is noticed.
    lies: bool,
}

impl Machine {
    pub fn new(broker: usize, links: Arc<Links>, random: Random, lies: bool) -> Arc<Machine> {
        Arc::new(Machine {
            broker,
            links,
            random: Mutex::new(random),
            slowness: AtomicU64::new(1),
            lies,
        })
    }

    pub fn set_slowness(&self, times: u64) {
        self.slowness.store(times, Ordering::Relaxed);
    }

    fn takes(&self, low_us: u64, high_us: u64) -> Duration {
        let usual = self.random.lock().micros(low_us, high_us);
        usual * self.slowness.load(Ordering::Relaxed) as u32
    }
}

/// This broker's machine, as a node sees it.
pub struct Running(pub Arc<Machine>);

impl SimulatedHost for Running {
    fn bind(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn SimulatedListener>>> {
        let (links, me) = (self.0.links.clone(), self.0.broker);
        Box::pin(async move {
            let listener = turmoil::net::TcpListener::bind(address).await?;
            let listener: Box<dyn SimulatedListener> = Box::new(Listener {
                listener,
                links,
                me,
            });
            Ok(listener)
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn SimulatedStream>>> {
        let connected = network::connect(self.0.links.clone(), self.0.broker, address);
        Box::pin(async move {
            let stream: Box<dyn SimulatedStream> = Box::new(connected.await?);
            Ok(stream)
        })
    }

    fn connect_grpc(
        &self,
        endpoint: Endpoint,
    ) -> BoxFuture<'static, Result<Channel, tonic::transport::Error>> {
        let (links, me) = (self.0.links.clone(), self.0.broker);
        Box::pin(async move {
            let connect = move |uri: tonic::transport::Uri| {
                let address = uri.authority().map(ToString::to_string).unwrap_or_default();
                let connected = network::connect(links.clone(), me, address);
                async move { connected.await.map(TokioIo::new) }
            };
            let connector = tower::service_fn(connect);
            endpoint.connect_with_connector(connector).await
        })
    }

    fn open_journal(&self, config: JournalConfig) -> Result<(Journal, Recovered), StorageError> {
        let filled = Arc::new(Notify::new());
        let fill = {
            let filled = filled.clone();
            move || filled.notify_one()
        };
        let (journal, turns, recovered) = Journal::open_without_threads(config, fill)?;
        let power = Power {
            turns: turns.clone(),
            machine: self.0.clone(),
        };
        tokio::spawn(write_and_sync(power, filled));
        tokio::spawn(look_after_files(journal.clone(), turns, self.0.clone()));
        Ok((journal, recovered))
    }

    fn disk_time(&self) -> Duration {
        self.0.takes(20, 3_000)
    }
}

/// What is being written when this is dropped was not synced.
struct Power {
    turns: Turns,
    machine: Arc<Machine>,
}

impl Drop for Power {
    fn drop(&mut self) {
        let mut random = self.machine.random.lock();
        let kept = match random.below(3) {
            0 => 0,
            1 => usize::MAX,
            _ => random.below(16 * 1024),
        };
        drop(random);
        self.turns
            .tear(kept)
            .expect("the disk of the test takes it");
    }
}

async fn write_and_sync(power: Power, filled: Arc<Notify>) {
    loop {
        filled.notified().await;
        while power.turns.begin() {
            let rare = power.machine.random.lock().one_in(50);
            let takes = if rare || power.machine.lies {
                power.machine.takes(10_000, 80_000)
            } else {
                power.machine.takes(100, 2_000)
            };
            if power.machine.lies {
                power.turns.complete_early();
            }
            tokio::time::sleep(takes).await;
            power.turns.finish();
        }
    }
}

async fn look_after_files(journal: Journal, turns: Turns, machine: Arc<Machine>) {
    loop {
        tokio::time::sleep(machine.takes(1_000, 60_000)).await;
        turns.look_after_files(&journal);
    }
}

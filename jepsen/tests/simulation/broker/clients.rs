//! The clients, on a host of their own: those of `tidelog-jepsen`.

use super::cluster::{Change, Cluster, kafka_address};
use crate::network::{self, Links};
use crate::world::CLIENTS;
use futures_util::future::BoxFuture;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tidelog_client::{ByteStream, Connector};
use tidelog_jepsen::run::clients::Clients;
use tidelog_jepsen::run::members::Members;
use tidelog_jepsen::run::recorder::Recorder;
use tidelog_jepsen::run::{self as jepsen, ending};
use tokio::time::sleep;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Topics are being created.
    Beginning,
    Working,
    /// Nothing new is done.
    Ending,
    /// Everything is read.
    Ended,
}

const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// All that the clients do.
pub async fn run(cluster: Arc<Cluster>, links: Arc<Links>) -> turmoil::Result {
    let brokers: Vec<_> = (1..=cluster.brokers).map(kafka_address).collect();
    let run = Arc::new(jepsen::Run {
        bootstrap: brokers.join(","),
        large_batches: false,
        connector: Some(Arc::new(Simulated(links))),
    });
    let topics = jepsen::topics(&cluster.options);
    jepsen::create_topics(&run, &topics)
        .await
        .map_err(|e| format!("{e:#}"))?;
    let recorder = Arc::new(Recorder::default());
    cluster.record(&recorder);
    let clients = Clients::start(&cluster.options, &run, &recorder);
    cluster.set_phase(Phase::Working);
    let here: Vec<i32> = (1..=cluster.brokers as i32).collect();
    let mut members = Members::new(&topics);
    while !cluster.is_healed() {
        for change in cluster.changes() {
            match change {
                Change::Move(seed) => members.move_some(&run, seed, &here).await,
                Change::Drain(broker) => members.drain(&run, broker as i32).await,
                Change::Maintain(broker) => members.maintain(&run, broker as i32).await,
                Change::Restore => members.undo(&run).await,
            }
        }
        sleep(LOOK_PAUSE).await;
    }
    while cluster.phase() != Phase::Ending {
        sleep(LOOK_PAUSE).await;
    }
    let mut failures = Vec::new();
    failures.extend(members.settle(&run).await.err().map(|e| format!("{e:#}")));
    failures.extend(clients.end().await);
    failures.extend(ending::read_topics(&cluster.options, &run, &recorder).await);
    for failure in failures {
        cluster.history.lock().fail(failure);
    }
    cluster.set_phase(Phase::Ended);
    std::future::pending().await
}

/// Connects over the simulated network.
#[derive(Debug)]
struct Simulated(Arc<Links>);

impl Connector for Simulated {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        let connected = network::connect(self.0.clone(), CLIENTS, address.to_owned());
        Box::pin(async move {
            let stream: Box<dyn ByteStream> = Box::new(connected.await?);
            Ok(stream)
        })
    }
}

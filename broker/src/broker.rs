//! One broker: what every request handler can reach, and how it starts and stops.

use crate::balance;
use crate::cleaner::{Cleaner, CleanerStatus};
use crate::config::{BrokerConfig, host_port};
use crate::coordinator::Coordinator;
use crate::coordinator::group::{GroupConfig, GroupShard};
use crate::coordinator::topic::{CONSUMER_OFFSETS, TRANSACTION_STATE};
use crate::coordinator::transaction::{TransactionConfig, TransactionShard, markers};
use crate::data_dir::{DataDir, DataDirError};
use crate::http;
use crate::kafka::fetch_session::FetchSessions;
use crate::kafka::limits::Limits;
use crate::kafka::listener;
use crate::kafka::produce_verify::Verifier;
use crate::metadata::changes::ProducerIds;
use crate::metadata::machine::{Hooks, Machine};
use crate::metadata::version::NEWEST;
use crate::metadata::{MetadataImage, members, reconcile};
use crate::metrics::Metrics;
use crate::peer_calls::Answers;
use crate::producer_expiry;
use crate::registration;
use crate::retention;
use arc_swap::ArcSwap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidelog_replication::host::{Host, Listener};
use tidelog_replication::{BrokerId, Node, NodeConfig, PeerAddress, ReplicationError};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long a clean stop tries to hand leadership over.
const HAND_OVER_MS: u64 = 5_000;

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot listen on {address} ({setting}): {source}; is another broker running there?")]
    Listen {
        setting: &'static str,
        address: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    #[error("cannot start a cleaner thread: {0}")]
    Thread(std::io::Error),
    #[error("{0}")]
    Refused(String),
}

/// Shared by all connections and background tasks of one broker.
pub struct Broker {
    pub id: BrokerId,
    pub config: Arc<BrokerConfig>,
    pub node: Arc<Node>,
    /// The newest applied metadata; replaced as a whole by the metadata state machine.
    pub metadata: Arc<ArcSwap<MetadataImage>>,
    pub metrics: Arc<Metrics>,
    pub cleaner: CleanerStatus,
    pub limits: Arc<Limits>,
    pub fetch_sessions: FetchSessions,
    pub producer_ids: ProducerIds,
    /// Consumer groups and committed offsets.
    pub groups: Arc<Coordinator<GroupShard>>,
    pub transactions: Arc<Coordinator<TransactionShard>>,
    /// Transactional batches whose transaction is being looked up.
    pub verifier: Verifier,
    /// Metadata index up to which this broker's replicas are open; 0 before the first time.
    pub opened_index: AtomicU64,
    pub(crate) registered: watch::Sender<bool>,
    pub(crate) data_dir: Arc<DataDir>,
}

impl Broker {
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// Total and free bytes of the data disk.
    pub fn disk_space(&self) -> (u64, u64) {
        rustix::fs::statvfs(self.data_dir()).map_or((0, 0), |s| {
            (s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize)
        })
    }

    /// Waits until this broker has registered since its start, and so knows all that the metadata group
    /// had committed before: until then a topic may seem to be missing. False after `limit`: without a
    /// majority a broker tells what it knows.
    pub async fn knows_the_metadata(&self, limit: Duration) -> bool {
        let mut registered = self.registered.subscribe();
        let registered = tokio::time::timeout(limit, registered.wait_for(|r| *r)).await;
        matches!(registered, Ok(Ok(_)))
    }

    /// Serves clients with everything it has: registered, all first brokers known, replicas open.
    pub fn is_ready(&self) -> bool {
        let image = self.metadata.load();
        let seeds_known =
            self.config.seeds().iter().all(|s| {
                image.brokers.contains_key(&s.broker) || image.retired.contains(&s.broker)
            });
        *self.registered.borrow()
            && seeds_known
            && self.node.metadata_leader().is_some()
            && self.opened_index.load(Ordering::Acquire) > 0
    }
}

/// A broker and its listeners.
pub struct RunningBroker {
    pub broker: Arc<Broker>,
    cleaner: Cleaner,
    stop: watch::Sender<bool>,
    /// Set when the broker cannot go on.
    failed: watch::Receiver<Option<String>>,
}

impl RunningBroker {
    /// Starts a broker. Every port is bound before anything on disk is touched.
    pub async fn start(config: BrokerConfig) -> Result<RunningBroker, StartError> {
        let http = config.text("http.listener");
        let http = TcpListener::bind(http)
            .await
            .map_err(listen_error(&config, "http.listener"))?;
        let running = RunningBroker::start_on(Host::System, config).await?;
        let stopped = running.stop.subscribe();
        tokio::spawn(http::serve(http, running.broker.clone(), stopped));
        Ok(running)
    }

    /// As [`RunningBroker::start`], on another host and without HTTP.
    pub async fn start_on(host: Host, config: BrokerConfig) -> Result<RunningBroker, StartError> {
        let kafka = host
            .bind(config.text("listeners"))
            .await
            .map_err(listen_error(&config, "listeners"))?;
        let data_dir = DataDir::open(Path::new(config.text("data.dir")), config.broker_id())?;
        let data_dir = Arc::new(data_dir);
        let config = Arc::new(config);

        let metadata = Arc::new(ArcSwap::from_pointee(MetadataImage::default()));
        let (changed, changes) = watch::channel(0);
        let (fail, failed) = watch::channel(None);
        let folder = data_dir.clone();
        let hooks = Hooks {
            note_version: Box::new(move |version| {
                folder.raise_format(version).map_err(|e| e.to_string())
            }),
            failed: fail.clone(),
        };
        let machine = Machine::new(metadata.clone(), changed, hooks);
        let node = Node::start_on(host, node_config(&config, &data_dir), Box::new(machine)).await?;
        let limits = Limits::new(
            config.int("max.connections") as usize,
            config.int("max.connections.per.ip") as usize,
            config.int("queued.max.request.bytes") as usize,
        );
        let slots = config.int("max.incremental.fetch.session.cache.slots") as usize;
        let group_config = GroupConfig::of(&config);
        let groups = Coordinator::new(CONSUMER_OFFSETS, move |_| {
            GroupShard::new(group_config.clone())
        });
        let transaction_config = TransactionConfig::of(&config);
        let transactions = Coordinator::new(TRANSACTION_STATE, move |_| {
            TransactionShard::new(transaction_config)
        });
        let broker = Arc::new(Broker {
            id: config.broker_id(),
            fetch_sessions: FetchSessions::new(slots),
            metrics: Arc::new(Metrics::new()),
            cleaner: CleanerStatus::default(),
            config,
            node,
            metadata,
            limits,
            producer_ids: ProducerIds::default(),
            groups,
            transactions,
            verifier: Verifier::default(),
            opened_index: AtomicU64::new(0),
            registered: watch::Sender::new(false),
            data_dir,
        });
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(
            broker
                .groups
                .clone()
                .run(broker.clone(), changes.clone(), stopped.clone()),
        );
        broker
            .node
            .answer_calls(Arc::new(Answers(Arc::downgrade(&broker))));
        tokio::spawn(broker.transactions.clone().run(
            broker.clone(),
            changes.clone(),
            stopped.clone(),
        ));
        tokio::spawn(markers::run(broker.clone(), stopped.clone()));
        tokio::spawn(members::run(
            broker.clone(),
            changes.clone(),
            stopped.clone(),
        ));
        tokio::spawn(balance::run(broker.clone(), stopped.clone()));
        tokio::spawn(reconcile::run(
            broker.clone(),
            changes.clone(),
            stopped.clone(),
        ));
        tokio::spawn(retention::run(broker.clone(), stopped.clone()));
        tokio::spawn(producer_expiry::run(broker.clone(), stopped.clone()));
        let advertised = advertised(&broker.config, &kafka);
        tokio::spawn(end_if_unwelcome(
            broker.clone(),
            fail.clone(),
            stopped.clone(),
        ));
        tokio::spawn(end_if_retired(
            broker.clone(),
            changes.clone(),
            fail.clone(),
            stopped.clone(),
        ));
        let registration = registration::of(&broker, advertised, peer_address(&broker.config));
        tokio::spawn(registration::keep(
            broker.clone(),
            registration,
            changes,
            fail,
            stopped.clone(),
        ));
        tokio::spawn(listener::serve(kafka, broker.clone(), stopped));
        let cleaner = Cleaner::start(&broker).map_err(StartError::Thread)?;
        Ok(RunningBroker {
            broker,
            cleaner,
            stop,
            failed,
        })
    }

    /// Waits until the broker cannot go on, and says why.
    pub async fn failed(&mut self) -> String {
        match self.failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Hands leadership over, stops listening and closes everything.
    pub async fn stop(self) {
        // Leadership first, while clients are still told where it goes.
        self.broker.node.hand_over(HAND_OVER_MS).await;
        let _ = self.stop.send(true);
        // The cleaners are among those who wait.
        self.broker.node.stop_waiting();
        let cleaner = self.cleaner;
        let _ = self
            .broker
            .node
            .host()
            .disk_work(move || cleaner.stop())
            .await;
        self.broker.node.shutdown().await;
    }
}

fn listen_error(
    config: &BrokerConfig,
    setting: &'static str,
) -> impl FnOnce(std::io::Error) -> StartError {
    let address = config.text(setting).to_owned();
    move |source| StartError::Listen {
        setting,
        address,
        source,
    }
}

fn node_config(config: &BrokerConfig, data_dir: &DataDir) -> NodeConfig {
    let mut seeds = config.seeds();
    if seeds.is_empty() {
        seeds.push(PeerAddress {
            broker: config.broker_id(),
            address: config.text("peer.listener").to_owned(),
        });
    }
    let unsigned = |name: &str| config.int(name).unsigned_abs();
    NodeConfig {
        broker: config.broker_id(),
        incarnation: data_dir.incarnation.as_u128(),
        cluster_id: data_dir.cluster_id(),
        metadata_version: NEWEST,
        data_dir: data_dir.path().to_owned(),
        peer_listener: config.text("peer.listener").to_owned(),
        peer_address: peer_address(config),
        seeds,
        journal_file_bytes: unsigned("journal.file.bytes"),
        journal_direct_io: config.flag("journal.direct.io"),
        heartbeat_interval_ms: unsigned("peer.heartbeat.interval.ms"),
        suspicion_timeout_ms: unsigned("peer.suspicion.timeout.ms"),
        propose_timeout_ms: unsigned("request.timeout.ms"),
        disk_reserve_bytes: unsigned("disk.reserve.bytes"),
        auto_leader_rebalance: config.flag("auto.leader.rebalance.enable"),
    }
}

/// Host and port clients are told.
fn advertised(config: &BrokerConfig, listener: &Listener) -> (String, u16) {
    let given = match config.text("advertised.listeners") {
        "" => config.text("listeners"),
        advertised => advertised,
    };
    let (host, port) = host_port(given).unwrap_or(("127.0.0.1", 0));
    let bound = listener.port().unwrap_or(port);
    (host.to_owned(), if port == 0 { bound } else { port })
}

/// `HOST:PORT` other brokers reach this one at.
fn peer_address(config: &BrokerConfig) -> String {
    let seeds = config.seeds();
    if let Some(seed) = seeds.into_iter().find(|s| s.broker == config.broker_id()) {
        return seed.address;
    }
    let listener = config.text("peer.listener");
    let advertised = match config.text("advertised.listeners") {
        "" => config.text("listeners"),
        advertised => advertised,
    };
    match (host_port(listener), host_port(advertised)) {
        (Some(("0.0.0.0" | "::" | "[::]", port)), Some((host, _))) => format!("{host}:{port}"),
        _ => listener.to_owned(),
    }
}

/// Ends a broker that the others refuse for good.
async fn end_if_unwelcome(
    broker: Arc<Broker>,
    fail: watch::Sender<Option<String>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut unwelcome = broker.node.unwelcome();
    tokio::select! {
        refused = unwelcome.wait_for(Option::is_some) => if let Ok(reason) = refused {
            let _ = fail.send(reason.clone());
        },
        _ = stop.wait_for(|s| *s) => {}
    }
}

/// Ends a broker that was taken out of the cluster, for good.
async fn end_if_retired(
    broker: Arc<Broker>,
    mut changed: watch::Receiver<u64>,
    fail: watch::Sender<Option<String>>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        changed.borrow_and_update();
        if broker.metadata.load().retired.contains(&broker.id) {
            let _ = fail.send(Some(
                "this broker was unregistered: the cluster goes on without it".to_owned(),
            ));
            return;
        }
        tokio::select! {
            result = changed.changed() => if result.is_err() { return },
            _ = stop.wait_for(|s| *s) => return,
        }
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

//! Starts a node and stops it.

use super::shared::NodeShared;
use super::{MetadataMachine, Node, NodeConfig, PeerAddress};
use crate::catch_up::PeerCatchUp;
use crate::detector;
use crate::disk_space::DiskSpace;
use crate::error::ReplicationError;
use crate::group::{GroupContext, raft_config};
use crate::host::Host;
use crate::incoming::Incoming;
use crate::leaders::LeaderTable;
use crate::log_keeper;
use crate::metadata_group::{form_cluster, open_metadata};
use crate::quorum;
use crate::rebuild::{self, Rebuild};
use crate::transport::{Handler, Identity, Timing, Transport, server};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidelog_storage::ids::GroupId;
use tidelog_storage::journal::{Checkpointer, Journal, JournalConfig, RecoveredGroup};
use tokio::sync::watch;

const RETRY_PAUSE: Duration = Duration::from_millis(30);

impl Node {
    /// Opens the journal, listens for peers, recovers every group found in the journal lazily and
    /// starts the metadata group. Returns before a leader is elected.
    pub async fn start(
        config: NodeConfig,
        metadata: Box<dyn MetadataMachine>,
    ) -> Result<Arc<Node>, ReplicationError> {
        Node::start_on(Host::System, config, metadata).await
    }

    /// As [`Node::start`], on another host.
    pub async fn start_on(
        host: Host,
        config: NodeConfig,
        metadata: Box<dyn MetadataMachine>,
    ) -> Result<Arc<Node>, ReplicationError> {
        let listener = server::bind(&host, &config.peer_listener).await?;
        let (journal, recovered) = open_journal(&host, &config).await?;

        let transport = Transport::new(
            host,
            Identity {
                broker: config.broker,
                incarnation: config.incarnation,
                seeds: seeds_text(&config.seeds),
                address: config.peer_address.clone(),
                metadata_version: config.metadata_version,
            },
            Timing {
                heartbeat: Duration::from_millis(config.heartbeat_interval_ms),
                suspicion: Duration::from_millis(config.suspicion_timeout_ms),
            },
        );
        transport.set_cluster(&config.cluster_id);
        let leaders = LeaderTable::new(config.broker, &transport);
        let rebuild = Rebuild::of(&config.data_dir);
        let shared = NodeShared::new(&transport, &leaders, &journal, recovered, rebuild);
        let context = GroupContext {
            broker: config.broker,
            transport: transport.clone(),
            leaders,
            catch_up: Arc::new(PeerCatchUp(Arc::downgrade(&transport))),
            config: raft_config()?,
            propose_timeout: Duration::from_millis(config.propose_timeout_ms),
        };
        let metadata = open_metadata(&shared, &context, &config, metadata).await?;
        let handler: Arc<dyn Handler> = Arc::new(Incoming::new(&shared));

        let (stop, stopped) = watch::channel(false);
        tokio::spawn(server::serve(
            listener,
            transport.clone(),
            handler.clone(),
            stopped.clone(),
        ));
        for seed in &config.seeds {
            transport.set_peer(seed.broker, &seed.address, &handler);
        }
        journal.start_checkpoints(shared.clone());
        if shared.rebuild.is_active() {
            let (shared, metadata) = (shared.clone(), metadata.clone());
            tokio::spawn(rebuild::run(shared.clone(), metadata, stopped.clone()));
            tokio::spawn(rebuild::watch_end(shared, stopped.clone()));
        }
        tokio::spawn(detector::heartbeats(shared.clone(), stopped.clone()));
        tokio::spawn(detector::elections(shared.clone(), stopped.clone()));
        tokio::spawn(detector::balance(
            shared.clone(),
            config.auto_leader_rebalance,
            stopped.clone(),
        ));
        tokio::spawn(log_keeper::keep_small(shared.clone(), stopped.clone()));
        let quorum = Arc::default();
        tokio::spawn(quorum::watch_answers(
            metadata.clone(),
            Arc::clone(&quorum),
            stopped.clone(),
        ));
        tokio::spawn(form_cluster(
            shared.clone(),
            metadata.clone(),
            config.clone(),
            stopped,
        ));
        let disk = DiskSpace::new(&config);
        Ok(Arc::new(Node {
            config,
            shared,
            context,
            handler,
            metadata,
            quorum,
            stop,
            metadata_seen: AtomicBool::new(false),
            disk,
        }))
    }

    /// Hands leadership of every group to another replica, as far as that works within `limit_ms`.
    pub async fn hand_over(&self, limit_ms: u64) {
        self.shared.stopping.store(true, Ordering::Release);
        // Peers that stop at the same time must not hand leadership to this broker.
        detector::send_heartbeats(&self.shared);
        let limit = Duration::from_millis(limit_ms);
        if tokio::time::timeout(limit, self.give_leadership_away())
            .await
            .is_err()
        {
            tracing::warn!("stopping before all leadership was handed over");
        }
    }

    /// Ends all waiting for room on a full disk; only before [`Node::shutdown`].
    pub fn stop_waiting(&self) {
        for group in self.shared.groups() {
            group.machine.stop();
        }
        self.shared.journal.end_when_full();
    }

    /// Stops everything; what is applied is made durable, so that the next start replays little.
    pub async fn shutdown(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let _ = self.stop.send(true);
        self.stop_waiting();
        for group in self.shared.groups() {
            group.stop().await;
        }
        self.shared.transport.close();
        let (shared, journal) = (self.shared.clone(), self.shared.journal.clone());
        let host = shared.transport.host.clone();
        let closed = host.disk_work(move || {
            shared.checkpoint(&journal);
            journal.close();
        });
        let _ = closed.await;
    }

    async fn give_leadership_away(&self) {
        loop {
            let mut led = 0;
            for group in self.shared.groups().into_iter().filter(|g| g.is_leader()) {
                if let Some(heir) = detector::any_heir(&self.shared, &group) {
                    led += 1;
                    group.transfer_leader(heir).await;
                }
            }
            if led == 0 {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE * 3).await;
        }
    }
}

async fn open_journal(
    host: &Host,
    config: &NodeConfig,
) -> Result<(Journal, BTreeMap<GroupId, RecoveredGroup>), ReplicationError> {
    let journal_config = JournalConfig {
        dir: config.data_dir.join("journal"),
        file_bytes: config.journal_file_bytes,
        direct_io: config.journal_direct_io,
        ..JournalConfig::default()
    };
    let opening = host.clone();
    let (journal, recovered) = host
        .disk_work(move || opening.open_journal(journal_config))
        .await
        .map_err(|e| ReplicationError::Refused(e.to_string()))??;
    let Some(damage) = recovered.damage else {
        return Ok((journal, recovered.groups));
    };
    let closing = journal.clone();
    let _ = host.disk_work(move || closing.close()).await;
    if config.seeds.iter().all(|s| s.broker == config.broker) {
        return Err(ReplicationError::Refused(format!(
            "the journal is damaged ({damage}): starting with it could lose acknowledged records, \
             and there is no other broker to rebuild them from"
        )));
    }
    rebuild::begin(&config.data_dir, &damage.to_string())?;
    Box::pin(open_journal(host, config)).await
}

fn seeds_text(seeds: &[PeerAddress]) -> String {
    let mut parts: Vec<String> = seeds
        .iter()
        .map(|s| format!("{}@{}", s.broker, s.address))
        .collect();
    parts.sort();
    parts.join(",")
}

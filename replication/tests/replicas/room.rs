//! Nodes with one partition.

use bytes::Bytes;
use prost::Message as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidelog_proto::peer::Vote;
use tidelog_replication::{
    BrokerId, GroupId, MetadataMachine, Node, NodeConfig, Partition, PartitionSpec, PeerAddress,
    ProposeError, Role, Wanted,
};
use tidelog_storage::batch::{HEADER_BYTES, batch_crc};
use tidelog_storage::journal::{Journal, JournalConfig, Record};
use tidelog_storage::log::LogConfig;
use tokio::runtime::Runtime;

/// The one partition's.
const GROUP: GroupId = GroupId(1000);
/// Of a partition that only some nodes have.
const ELSEWHERE: GroupId = GroupId(1001);
const LIMIT: Duration = Duration::from_secs(30);

struct NoMetadata;

impl MetadataMachine for NoMetadata {
    fn apply(&mut self, _index: u64, _command: &[u8], _versioned: bool) -> Result<Bytes, String> {
        Ok(Bytes::new())
    }

    fn snapshot(&self) -> Bytes {
        Bytes::new()
    }

    fn restore(&mut self, _snapshot: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Addresses of `count` nodes, numbered from 1.
pub fn seeds(count: i32) -> Vec<PeerAddress> {
    // All are held at once, so that they differ.
    let sockets: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
        .collect();
    sockets
        .iter()
        .zip(1..)
        .map(|(socket, id)| PeerAddress {
            broker: BrokerId(id),
            address: socket.local_addr().expect("bound").to_string(),
        })
        .collect()
}

/// What a damaged journal leaves behind until all replicas are rebuilt: a start begins that anew.
pub fn rebuilds(dir: &Path, id: i32) {
    let dir = dir.join(id.to_string());
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("journal.rebuild"), "").expect("marked");
}

/// Of the partition, node `id` knows only that it has voted for node 1.
pub fn vote_only(dir: &Path, id: i32) {
    let vote = Vote {
        term: 1,
        node: 1,
        committed: false,
    };
    let config = JournalConfig {
        dir: dir.join(id.to_string()).join("journal"),
        file_bytes: 64 << 20,
        direct_io: false,
        ..JournalConfig::default()
    };
    let (journal, _) = Journal::open(config).expect("a journal");
    let record = Record::Vote {
        group: GROUP,
        vote: vote.encode_to_vec().into(),
    };
    journal.submit(vec![record], None);
    assert!(journal.sync_barrier());
    journal.close();
}

/// A node that holds a replica of the one partition.
pub struct Member {
    runtime: Option<Runtime>,
    pub replica: Arc<Partition>,
    node: Arc<Node>,
}

impl Member {
    /// Starts node `id` on what its folder holds.
    pub fn start(dir: &Path, id: i32, seeds: &[PeerAddress]) -> Member {
        let founders: Vec<i32> = seeds.iter().map(|s| s.broker.0).collect();
        Member::start_with(dir, id, seeds, &founders)
    }

    /// As [`Member::start`], by metadata that name the replicas in the order of `founders`.
    pub fn start_with(dir: &Path, id: i32, seeds: &[PeerAddress], founders: &[i32]) -> Member {
        Member::start_in(GROUP, dir, id, seeds, founders)
    }

    /// As [`Member::start`], with a partition of which the others know nothing, instead of the one they have.
    pub fn start_elsewhere(dir: &Path, id: i32, seeds: &[PeerAddress]) -> Member {
        Member::start_in(ELSEWHERE, dir, id, seeds, &[id])
    }

    fn start_in(
        group: GroupId,
        dir: &Path,
        id: i32,
        seeds: &[PeerAddress],
        founders: &[i32],
    ) -> Member {
        let founders: Vec<BrokerId> = founders.iter().copied().map(BrokerId).collect();
        Member::start_as(group, dir, id, seeds, founders.clone(), founders)
    }

    /// Node `id` is told to hold a replica of a partition that others have formed.
    pub fn start_later(dir: &Path, id: i32, seeds: &[PeerAddress]) -> Member {
        let replicas = seeds.iter().map(|s| s.broker).collect();
        Member::start_as(GROUP, dir, id, seeds, replicas, Vec::new())
    }

    fn start_as(
        group: GroupId,
        dir: &Path,
        id: i32,
        seeds: &[PeerAddress],
        replicas: Vec<BrokerId>,
        founders: Vec<BrokerId>,
    ) -> Member {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let dir = dir.join(id.to_string());
        let config = NodeConfig {
            broker: BrokerId(id),
            incarnation: id as u128,
            cluster_id: String::new(),
            metadata_version: 1,
            data_dir: dir.clone(),
            peer_listener: seeds[id as usize - 1].address.clone(),
            peer_address: seeds[id as usize - 1].address.clone(),
            seeds: seeds.to_vec(),
            journal_file_bytes: 64 << 20,
            journal_direct_io: false,
            heartbeat_interval_ms: 50,
            suspicion_timeout_ms: 500,
            propose_timeout_ms: 10_000,
            auto_leader_rebalance: true,
            disk_reserve_bytes: 0,
        };
        let spec = PartitionSpec {
            group,
            topic: "topic".to_owned(),
            topic_id: [7; 16],
            partition: 0,
            dir: dir.join("topic-0"),
            replicas,
            founders,
            first_sequences: true,
            config: LogConfig::default(),
        };
        let (node, replica) = runtime.block_on(async {
            let node = Node::start(config, Box::new(NoMetadata))
                .await
                .expect("a node");
            let replica = node.open_partition(spec).await.expect("a replica");
            (node, replica)
        });
        Member {
            runtime: Some(runtime),
            replica,
            node,
        }
    }

    /// Stops everything where it is: nothing is checkpointed, no peer is told.
    pub fn crash(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(LIMIT);
        }
    }

    /// Ends the Raft core of the replica as a defect would.
    #[cfg(debug_assertions)]
    pub fn end_core(&self) {
        if let Some(runtime) = self.runtime.as_ref() {
            runtime.block_on(self.replica.end_core());
        }
    }

    pub fn leads(&self) -> bool {
        matches!(self.replica.role(), Role::Leader { ready: true, .. })
    }

    /// Writes one record of `bytes` through this node; its offset.
    pub fn write(&self, bytes: usize) -> Option<i64> {
        let runtime = self.runtime.as_ref()?;
        let written = runtime.block_on(async { self.replica.propose(batch(bytes)).await });
        written.ok().map(|appended| appended.base_offset)
    }

    /// Proposes batches one after another without waiting in between; what became of each.
    /// Has a batch written, and does not wait for it.
    pub fn send(&self, bytes: usize) {
        let replica = self.replica.clone();
        let sent = async move { replica.propose(batch(bytes)).await };
        if let Some(runtime) = &self.runtime {
            drop(runtime.spawn(sent));
        }
    }

    pub fn propose_fenced(&self, batches: Vec<Bytes>) -> Vec<Result<i64, ProposeError>> {
        let Some(runtime) = self.runtime.as_ref() else {
            return Vec::new();
        };
        runtime.block_on(async {
            let proposals: Vec<_> = batches
                .into_iter()
                .map(|batch| self.replica.propose_fenced(batch))
                .collect();
            let mut outcomes = Vec::new();
            for proposal in proposals {
                outcomes.push(proposal.await.map(|appended| appended.base_offset));
            }
            outcomes
        })
    }

    /// Has the replica, which leads, hand over to one that does not hear of it.
    #[cfg(debug_assertions)]
    pub fn lose_hand_over(&self, id: i32) {
        if let Some(runtime) = self.runtime.as_ref() {
            runtime.block_on(self.replica.begin_hand_over(BrokerId(id)));
        }
    }

    /// Has this node, which leads, see to it that `voters` vote and `learners` learn.
    pub fn move_to(&self, voters: &[i32], learners: &[i32]) {
        let wanted = Wanted {
            voters: voters.iter().copied().map(BrokerId).collect(),
            learners: learners.iter().copied().map(BrokerId).collect(),
        };
        until("the members have changed", || {
            let moved = self.node.move_replicas(GROUP, &wanted);
            self.runtime.as_ref().is_some_and(|r| r.block_on(moved))
        });
    }

    /// Has the replica, which leads, write that `voters` are the next ones and wait until they agree, or no longer.
    #[cfg(debug_assertions)]
    pub fn begin_change(&self, voters: &[i32]) {
        let voters: Vec<BrokerId> = voters.iter().copied().map(BrokerId).collect();
        if let Some(runtime) = self.runtime.as_ref() {
            runtime.block_on(self.replica.begin_change(&voters));
        }
    }

    /// Asks this node, which leads, to hand leadership to another one.
    pub fn hand_to(&self, id: i32) {
        if let Some(runtime) = self.runtime.as_ref() {
            until("the heir is there", || {
                let elected = self.node.elect(GROUP, BrokerId(id), LIMIT);
                runtime.block_on(elected).is_ok()
            });
        }
    }

    /// The metadata name the replicas in another order now.
    pub fn set_replicas(&self, order: &[i32]) {
        let order: Vec<BrokerId> = order.iter().copied().map(BrokerId).collect();
        self.node.set_replicas(GROUP, &order);
    }

    pub fn confirm_leader(&self, epoch: i32) -> bool {
        let runtime = self.runtime.as_ref();
        runtime.is_some_and(|r| r.block_on(self.replica.confirm_leader(epoch)))
    }

    pub fn end(&self) -> i64 {
        self.replica.log().log_end_offset()
    }

    /// Bytes of Raft log entries it keeps in memory.
    pub fn log_bytes(&self) -> u64 {
        self.node.metrics().log_bytes
    }

    /// Records its journal has synced.
    pub fn journaled(&self) -> u64 {
        self.node.metrics().journal.records
    }

    /// Stops the node as a broker does.
    pub fn stop(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(self.node.shutdown());
            runtime.shutdown_timeout(LIMIT);
        }
    }
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for a leader among `members`.
pub fn leader(members: &[Member]) -> &Member {
    until("a leader", || members.iter().any(Member::leads));
    members.iter().find(|m| m.leads()).unwrap_or(&members[0])
}

/// Writes one record through whichever member leads, and returns its offset.
pub fn write(members: &[Member]) -> i64 {
    let mut offset = None;
    until("a write", || {
        offset = leader(members).write(9);
        offset.is_some()
    });
    offset.unwrap_or(-1)
}

/// A batch of one record without a producer. Nothing looks inside before a consumer does.
fn batch(bytes: usize) -> Bytes {
    let mut batch = vec![0; HEADER_BYTES + bytes];
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[43..57].fill(0xff);
    batch[57..61].copy_from_slice(&1_i32.to_be_bytes());
    let crc = batch_crc(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

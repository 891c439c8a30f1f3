//! Groups whose preferred leader is away when they are made.

use bytes::Bytes;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidelog_replication::{
    BrokerId, GroupId, MetadataMachine, Node, NodeConfig, Partition, PartitionSpec, PeerAddress,
    Role,
};
use tidelog_storage::log::LogConfig;

const LIMIT: Duration = Duration::from_secs(20);

struct NoMetadata;

impl MetadataMachine for NoMetadata {
    fn apply(&mut self, _index: u64, _command: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn snapshot(&self) -> Bytes {
        Bytes::new()
    }

    fn restore(&mut self, _snapshot: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

fn seeds(count: i32) -> Vec<PeerAddress> {
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

async fn start(dir: &Path, id: i32, seeds: &[PeerAddress]) -> Arc<Node> {
    let config = NodeConfig {
        broker: BrokerId(id),
        incarnation: id as u128,
        data_dir: dir.join(id.to_string()),
        peer_listener: seeds[id as usize - 1].address.clone(),
        seeds: seeds.to_vec(),
        journal_file_bytes: 1 << 20,
        journal_direct_io: false,
        heartbeat_interval_ms: 50,
        suspicion_timeout_ms: 500,
        propose_timeout_ms: 10_000,
        disk_reserve_bytes: 0,
    };
    Node::start(config, Box::new(NoMetadata))
        .await
        .expect("a node")
}

async fn open(dir: &Path, node: &Node, group: u64) -> Arc<Partition> {
    let spec = PartitionSpec {
        group: GroupId(group),
        topic: "topic".to_owned(),
        topic_id: [7; 16],
        partition: 0,
        dir: dir.join(node.broker().0.to_string()).join("topic-0"),
        replicas: vec![BrokerId(1), BrokerId(2), BrokerId(3)],
        config: LogConfig::default(),
    };
    node.open_partition(spec).await.expect("a replica")
}

async fn leader(replicas: &[Arc<Partition>]) -> Arc<Partition> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let ready = |p: &&Arc<Partition>| matches!(p.role(), Role::Leader { ready: true, .. });
        if let Some(found) = replicas.iter().find(ready) {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "no leader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_formed_without_its_preferred_leader() {
    let dir = tempfile::tempdir().expect("a folder");
    let seeds = seeds(3);
    let mut nodes = Vec::new();
    let mut replicas = Vec::new();
    for id in [2, 3] {
        nodes.push(start(dir.path(), id, &seeds).await);
    }
    for node in &nodes {
        replicas.push(open(dir.path(), node, 1000).await);
    }
    let leading = leader(&replicas).await;
    let moved = leading.propose_log_start(0).await.expect("committed");
    assert_eq!(moved.log_start_offset, 0);

    // The one that was away comes, forms the group as it is told to, and is one of it.
    let first = start(dir.path(), 1, &seeds).await;
    let late = open(dir.path(), &first, 1000).await;
    nodes.push(first);
    let deadline = Instant::now() + LIMIT;
    loop {
        let led = leader(&replicas).await.role();
        let (
            Role::Leader { epoch, .. },
            Role::Follower {
                leader,
                epoch: known,
            },
        ) = (led, late.role())
        else {
            // Leadership has come to it already, as it is the preferred one.
            break;
        };
        if leader.is_some() && known == epoch {
            break;
        }
        assert!(Instant::now() < deadline, "the late one follows nobody");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for node in nodes {
        node.shutdown().await;
    }
}

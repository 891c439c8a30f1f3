//! How large the partitions are, asked of every broker.

use crate::broker::Broker;
use crate::peer_calls::{self, PeerCall, ReplicaSizes};
use futures_util::future::join_all;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tidelog_replication::{BrokerId, GroupId};

const CALL_LIMIT: Duration = Duration::from_secs(2);

/// The bytes one replica takes on its disk.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GroupSize {
    #[prost(uint64, tag = "1")]
    pub group: u64,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

/// Of the replicas on this broker.
pub fn here(broker: &Broker) -> Vec<GroupSize> {
    let replicas = broker.node.partitions();
    let size = |replica: &std::sync::Arc<tidelog_replication::Partition>| GroupSize {
        group: replica.spec().group.0,
        bytes: replica.log().size_bytes(),
    };
    replicas.iter().map(size).collect()
}

/// Of all partitions: the largest replica counts, as the others may still be copying. Brokers that do not
/// answer are left out.
pub async fn of_all(broker: &Broker, alive: &BTreeSet<BrokerId>) -> HashMap<GroupId, u64> {
    let asked = alive.iter().map(|id| async move {
        if *id == broker.id {
            return here(broker);
        }
        let call = PeerCall::ReplicaSizes(ReplicaSizes {});
        let reply = peer_calls::ask(broker, *id, call, CALL_LIMIT).await;
        reply.map_or_else(|_| Vec::new(), |reply| reply.sizes)
    });
    let mut bytes: HashMap<GroupId, u64> = HashMap::new();
    for size in join_all(asked).await.into_iter().flatten() {
        let largest = bytes.entry(GroupId(size.group)).or_default();
        *largest = size.bytes.max(*largest);
    }
    bytes
}

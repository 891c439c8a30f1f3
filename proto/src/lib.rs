//! Wire messages between brokers, generated from `proto/proto/*.proto`.

/// The peer protocol: Raft messages of all groups, heartbeats and leader news.
#[allow(missing_docs, clippy::all)]
pub mod peer {
    tonic::include_proto!("tidelog.peer.v1");
}

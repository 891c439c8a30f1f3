//! What brokers ask each other besides replication, over the stream that replication keeps to each
//! peer ([`tidelog_replication::Calls`]).
//!
//! Not over the Kafka protocol: that stream is there, reconnects by itself, knows who is at its other
//! end, and needs no rights that clients could have as well.

use crate::balance::{self, GroupSize};
use crate::broker::Broker;
use crate::coordinator::transaction::{markers, remote};
use crate::preferred;
use crate::quorum::{self, QuorumRecord};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use kafka_protocol::error::ResponseError;
use prost::Message as _;
use std::sync::Weak;
use std::time::Duration;
use tidelog_replication::{BrokerId, Calls};

/// A request to another broker.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PeerRequest {
    #[prost(oneof = "PeerCall", tags = "1, 2, 3, 16, 17")]
    pub call: Option<PeerCall>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum PeerCall {
    #[prost(message, tag = "1")]
    AddPartitions(AddPartitions),
    #[prost(message, tag = "2")]
    WriteMarkers(WriteMarkers),
    #[prost(message, tag = "3")]
    ElectPreferred(ElectPreferred),
    #[prost(message, tag = "16")]
    DescribeQuorum(DescribeQuorum),
    #[prost(message, tag = "17")]
    ReplicaSizes(ReplicaSizes),
}

/// To the coordinator: adds partitions to a transaction, or looks whether they are part of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddPartitions {
    #[prost(string, tag = "1")]
    pub transactional_id: String,
    #[prost(int64, tag = "2")]
    pub producer_id: i64,
    #[prost(int32, tag = "3")]
    pub producer_epoch: i32,
    #[prost(message, repeated, tag = "4")]
    pub partitions: Vec<TopicIndex>,
    #[prost(bool, tag = "5")]
    pub verify_only: bool,
}

/// To the leader of all of `partitions`: ends a transaction there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteMarkers {
    #[prost(int64, tag = "1")]
    pub producer_id: i64,
    #[prost(int32, tag = "2")]
    pub producer_epoch: i32,
    #[prost(int32, tag = "3")]
    pub coordinator_epoch: i32,
    #[prost(bool, tag = "4")]
    pub commit: bool,
    #[prost(bool, tag = "5")]
    pub bumped: bool,
    #[prost(message, repeated, tag = "6")]
    pub partitions: Vec<TopicIndex>,
}

/// To the leader of all of `partitions`: hands leadership to their preferred replicas.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ElectPreferred {
    #[prost(message, repeated, tag = "1")]
    pub partitions: Vec<TopicIndex>,
    /// How long the replicas may take to catch up.
    #[prost(uint32, tag = "2")]
    pub limit_ms: u32,
}

/// To the leader of the metadata group: how far its replicas are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DescribeQuorum {}

/// To any broker: how large the replicas it has are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplicaSizes {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TopicIndex {
    #[prost(string, tag = "1")]
    pub topic: String,
    #[prost(int32, tag = "2")]
    pub partition: i32,
}

/// Kafka's error code for each partition, in the order of the request; 0 is success.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PeerReply {
    #[prost(int32, repeated, tag = "1")]
    pub codes: Vec<i32>,
    /// To [`DescribeQuorum`], from who leads.
    #[prost(message, optional, tag = "16")]
    pub quorum: Option<QuorumRecord>,
    /// To [`ReplicaSizes`].
    #[prost(message, repeated, tag = "17")]
    pub sizes: Vec<GroupSize>,
}

pub type Outcome = Result<(), ResponseError>;

/// Asks `to`.
///
/// # Errors
/// `NETWORK_EXCEPTION` when there is no reply that can be understood.
pub async fn call(
    broker: &Broker,
    to: BrokerId,
    call: PeerCall,
    count: usize,
    limit: Duration,
) -> Result<Vec<Outcome>, ResponseError> {
    let reply = ask(broker, to, call, limit).await?;
    if reply.codes.len() != count {
        return Err(ResponseError::NetworkException);
    }
    Ok(reply.codes.into_iter().map(outcome).collect())
}

/// Asks `to`, for the whole reply.
///
/// # Errors
/// `NETWORK_EXCEPTION` when there is no reply that can be understood.
pub async fn ask(
    broker: &Broker,
    to: BrokerId,
    call: PeerCall,
    limit: Duration,
) -> Result<PeerReply, ResponseError> {
    let request = PeerRequest { call: Some(call) };
    let reply = broker
        .node
        .call(to, request.encode_to_vec().into(), limit)
        .await
        .map_err(|error| {
            tracing::debug!("call to another broker: {error}");
            ResponseError::NetworkException
        })?;
    PeerReply::decode(reply).map_err(|_| ResponseError::NetworkException)
}

fn outcome(code: i32) -> Outcome {
    match i16::try_from(code).ok().map(ResponseError::try_from_code) {
        Some(None) if code == 0 => Ok(()),
        Some(Some(error)) => Err(error),
        _ => Err(ResponseError::UnknownServerError),
    }
}

/// Answers for a broker.
pub struct Answers(pub Weak<Broker>);

impl Calls for Answers {
    fn handle(&self, _from: BrokerId, request: Bytes) -> BoxFuture<'static, Bytes> {
        let broker = self.0.upgrade();
        async move {
            let reply = match (broker, PeerRequest::decode(request)) {
                (Some(broker), Ok(PeerRequest { call: Some(call) })) => answer(&broker, call).await,
                // One the caller does not understand: of another version, or of a broker that stops.
                _ => PeerReply::default(),
            };
            Bytes::from(reply.encode_to_vec())
        }
        .boxed()
    }
}

async fn answer(broker: &Broker, call: PeerCall) -> PeerReply {
    let outcomes = match call {
        PeerCall::DescribeQuorum(_) => {
            return PeerReply {
                quorum: quorum::here(broker).await,
                ..PeerReply::default()
            };
        }
        PeerCall::ReplicaSizes(_) => {
            return PeerReply {
                sizes: balance::sizes_here(broker),
                ..PeerReply::default()
            };
        }
        PeerCall::ElectPreferred(elect) => preferred::hand_over_here(broker, elect).await,
        PeerCall::AddPartitions(add) => remote::add_here(broker, add).await,
        PeerCall::WriteMarkers(write) => {
            let marker = markers::TxnMarker {
                producer_id: write.producer_id,
                producer_epoch: write.producer_epoch as i16,
                coordinator_epoch: write.coordinator_epoch,
                commit: write.commit,
                bumped: write.bumped,
            };
            let partitions = write.partitions.into_iter();
            let partitions = partitions.map(|p| (p.topic, p.partition)).collect();
            markers::write(broker, marker, partitions).await
        }
    };
    let codes = outcomes
        .into_iter()
        .map(|o| o.err().map_or(0, |e| i32::from(e.code())));
    PeerReply {
        codes: codes.collect(),
        ..PeerReply::default()
    }
}

//! openraft's view of the transport: one client per (group, target).

use super::{Peer, RequestError, Transport};
use crate::ids::BrokerId;
use crate::state_machine::{GroupMachine, SnapshotData};
use crate::throttle::Throttle;
use crate::types::*;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tidelog_proto::peer::{self as wire, append_reply::Outcome, message::Body};
use tidelog_storage::defect::Defect;
use tidelog_storage::ids::GroupId;
use tokio::sync::oneshot;

/// Append messages of one group under way to one follower.
const PIPELINE: usize = 32;
const VOTE_LIMIT: Duration = Duration::from_millis(1000);
/// A replica that copies gigabytes answers when it is done; its death ends the wait sooner.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(3600);

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Makes network clients for one group.
pub struct NetworkFactory {
    pub transport: Arc<Transport>,
    pub group: GroupId,
    pub machine: Arc<GroupMachine>,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Network {
        Network {
            transport: self.transport.clone(),
            group: self.group.0,
            target: broker_of(target),
            machine: self.machine.clone(),
        }
    }
}

/// openraft's node ids are broker ids, which are never negative.
pub fn broker_of(node: u64) -> BrokerId {
    BrokerId(i32::try_from(node).unwrap_or(i32::MAX))
}

/// One group's client to one broker.
pub struct Network {
    transport: Arc<Transport>,
    group: u64,
    target: BrokerId,
    machine: Arc<GroupMachine>,
}

fn unreachable(error: &RequestError) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl Network {
    fn peer(&self) -> Result<Arc<Peer>, RPCError<TypeConfig>> {
        self.transport
            .peer(self.target)
            .ok_or_else(|| unreachable(&RequestError::Disconnected(self.target)))
    }

    async fn request(&self, body: Body, limit: Duration) -> Result<Body, RPCError<TypeConfig>> {
        self.peer()?
            .request(self.group, body, limit)
            .await
            .map_err(|e| unreachable(&e))
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre_vote: bool,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = Body::Vote(wire::VoteRequest {
            vote: Some(vote_to_proto(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(log_id_to_proto),
            leadership_transfer: rpc.leadership_transfer,
            pre_vote,
        });
        match self.request(body, VOTE_LIMIT).await? {
            Body::VoteReply(reply) => Ok(VoteResponse {
                vote: vote_from_proto(&reply.vote.unwrap_or_default()),
                vote_granted: reply.granted,
                last_log_id: reply.last.as_ref().map(log_id_from_proto),
            }),
            _ => Err(unreachable(&RequestError::Unexpected(self.target))),
        }
    }
}

/// Wire form of an append request and the payload bytes it carries.
fn append_to_wire(rpc: AppendEntriesRequest<TypeConfig>) -> (Body, usize) {
    let mut bytes = 0;
    let entries = rpc
        .entries
        .iter()
        .map(|entry| {
            let record = entry_to_record(entry);
            bytes += record.body.len();
            wire::Entry {
                index: record.index,
                term: record.term,
                kind: u32::from(record.kind),
                body: record.body,
                size: 0,
            }
        })
        .collect();
    let body = Body::Append(wire::AppendRequest {
        vote: Some(vote_to_proto(&rpc.vote)),
        prev: rpc.prev_log_id.as_ref().map(log_id_to_proto),
        commit: rpc.leader_commit.as_ref().map(log_id_to_proto),
        entries,
    });
    (body, bytes)
}

fn append_from_wire(reply: wire::AppendReply) -> AppendEntriesResponse<TypeConfig> {
    match reply.outcome() {
        Outcome::Success => AppendEntriesResponse::Success,
        Outcome::Partial => {
            AppendEntriesResponse::PartialSuccess(reply.matching.as_ref().map(log_id_from_proto))
        }
        Outcome::Conflict => AppendEntriesResponse::Conflict,
        Outcome::HigherVote => {
            AppendEntriesResponse::HigherVote(vote_from_proto(&reply.vote.unwrap_or_default()))
        }
    }
}

/// One append message under way.
struct Flight {
    prev: Option<LogId>,
    last: Option<LogId>,
    reply: Result<oneshot::Receiver<Body>, RequestError>,
}

impl Flight {
    /// `throttle` holds it back, when there is one.
    async fn start(
        peer: Arc<Peer>,
        group: u64,
        rpc: AppendEntriesRequest<TypeConfig>,
        throttle: Option<&Throttle>,
    ) -> Flight {
        let prev = rpc.prev_log_id;
        let last = rpc.entries.last().map(|e| e.log_id).or(prev);
        let (body, bytes) = append_to_wire(rpc);
        if let Some(throttle) = throttle {
            throttle.take(bytes).await;
        }
        Flight {
            prev,
            last,
            reply: peer.start_request(group, body, bytes).await,
        }
    }

    async fn land(
        self,
        target: BrokerId,
    ) -> Result<
        (
            AppendEntriesResponse<TypeConfig>,
            Option<LogId>,
            Option<LogId>,
        ),
        RPCError<TypeConfig>,
    > {
        let mut reply = self.reply.map_err(|e| unreachable(&e))?;
        let answer = if Defect::ApplyBeforeCommit.is_on() && self.last != self.prev {
            // Who does not refuse at once has it, says the defect.
            match tokio::time::timeout(Duration::from_millis(1), &mut reply).await {
                Ok(answer) => answer,
                Err(_) => return Ok((AppendEntriesResponse::Success, self.prev, self.last)),
            }
        } else {
            reply.await
        };
        match answer {
            Ok(Body::AppendReply(reply)) => Ok((append_from_wire(reply), self.prev, self.last)),
            Ok(Body::Refused(refused)) => Err(unreachable(&RequestError::Refused {
                peer: target,
                reason: refused.reason,
            })),
            Ok(_) => Err(unreachable(&RequestError::Unexpected(target))),
            Err(_) => Err(unreachable(&RequestError::Disconnected(target))),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let flight = Flight::start(self.peer()?, self.group, rpc, None).await;
        flight
            .land(self.target)
            .await
            .map(|(response, _, _)| response)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let target = self.target;
        let group = self.group;
        let (transport, machine) = (self.transport.clone(), self.machine.clone());
        async move {
            // openraft pauses after an error where it makes the next request. So an error that comes
            // before one is taken would be answered at once by the next try, without end.
            let peer = match self.peer() {
                Ok(peer) => peer,
                Err(error) => {
                    input.next().await;
                    return Err(error);
                }
            };
            let results = input
                .then(move |rpc| {
                    // Nobody waits for a learner.
                    let slow = transport.throttle.is_on() && !machine.is_voter(target);
                    let (peer, transport) = (peer.clone(), transport.clone());
                    async move {
                        let throttle = slow.then_some(&transport.throttle);
                        Flight::start(peer, group, rpc, throttle).await
                    }
                })
                .map(move |flight| flight.land(target))
                .buffered(PIPELINE)
                .map(|landed| {
                    landed.map(|(response, prev, last)| response.into_stream_result(prev, last))
                });
            Ok(results.boxed())
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(rpc, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(rpc, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let body = Body::Snapshot(wire::SnapshotRequest {
            vote: Some(vote_to_proto(&vote)),
            last: snapshot.meta.last_log_id.as_ref().map(log_id_to_proto),
            membership: Some(stored_membership_to_proto(&snapshot.meta.last_membership)),
            manifest: snapshot.snapshot.manifest,
        });
        let request = self.request(body, SNAPSHOT_LIMIT);
        tokio::select! {
            reply = request => match reply {
                Ok(Body::SnapshotReply(reply)) => Ok(SnapshotResponse::new(vote_from_proto(
                    &reply.vote.unwrap_or_default(),
                ))),
                Ok(_) => Err(StreamingError::Network(NetworkError::new(
                    &RequestError::Unexpected(self.target),
                ))),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = Body::TransferLeader(wire::TransferLeader {
            from: Some(vote_to_proto(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(log_id_to_proto),
        });
        match self.request(body, VOTE_LIMIT).await? {
            Body::TransferLeaderReply(reply) if reply.accepted => Ok(Ok(())),
            Body::TransferLeaderReply(reply) => Err(unreachable(&RequestError::Refused {
                peer: self.target,
                reason: reply.reason,
            })),
            _ => Err(unreachable(&RequestError::Unexpected(self.target))),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        const STEPS_MS: [u64; 5] = [10, 20, 50, 100, 200];
        let steps = STEPS_MS.into_iter().chain(std::iter::repeat(200));
        Some(Backoff::new(steps.map(Duration::from_millis)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::node::MetadataMachine;
    use crate::state_machine::Machine;
    use crate::transport::{Handled, Handler, Identity, Timing};
    use bytes::Bytes;
    use parking_lot::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Nothing;

    impl MetadataMachine for Nothing {
        fn apply(&mut self, _: u64, _: &[u8], _: bool) -> Result<Bytes, String> {
            Ok(Bytes::new())
        }

        fn snapshot(&self) -> Bytes {
            Bytes::new()
        }

        fn restore(&mut self, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }

    impl Handler for Nothing {
        fn handle(&self, _: BrokerId, _: u64, _: Body) -> Handled {
            Handled::Now(None)
        }

        fn connected(&self, _: BrokerId) {}

        fn suspected(&self, _: BrokerId) {}
    }

    /// Found by the simulation, seed 1: a leader tried a dead follower again and again, without a pause.
    #[tokio::test]
    async fn without_a_connection_a_request_is_taken_before_it_fails() {
        let identity = Identity {
            broker: BrokerId(1),
            incarnation: 1,
            seeds: String::new(),
            address: String::new(),
            metadata_version: 1,
        };
        let timing = Timing {
            heartbeat: Duration::from_millis(100),
            suspicion: Duration::from_millis(500),
        };
        let transport = Transport::new(Host::System, identity, timing);
        let handler: Arc<dyn Handler> = Arc::new(Nothing);
        transport.set_peer(BrokerId(2), "127.0.0.1:1", &handler);
        let group = GroupId(1);
        let machine = Machine::Metadata(Mutex::new(Box::new(Nothing)));
        let machine = GroupMachine::new(group, machine, None, GroupMembership::default());
        // One that is away, and one of which nobody has told yet where it is.
        for target in [2, 3] {
            let mut network = Network {
                transport: transport.clone(),
                group: group.0,
                target: BrokerId(target),
                machine: machine.clone(),
            };
            let taken = Arc::new(AtomicBool::new(false));
            let take = taken.clone();
            let requests = futures_util::stream::repeat_with(move || {
                take.store(true, Ordering::Relaxed);
                AppendEntriesRequest {
                    vote: Vote::new_committed(1, 1),
                    prev_log_id: None,
                    entries: Vec::new(),
                    leader_commit: None,
                }
            });
            let option = RPCOption::new(Duration::from_secs(1));
            let failed = match network.stream_append(requests, option).await {
                Ok(mut results) => results.next().await.is_some_and(|r| r.is_err()),
                Err(_) => true,
            };
            assert!(failed && taken.load(Ordering::Relaxed), "broker {target}");
        }
    }
}

//! What peers' messages lead to here.

use crate::group::Group;
use crate::ids::BrokerId;
use crate::node::NodeShared;
use crate::state_machine::SnapshotData;
use crate::transport::{Handled, Handler};
use crate::types::*;
use futures_util::FutureExt;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest,
};
use std::future::Future;
use std::sync::{Arc, Weak};
use tidelog_proto::peer::{self as wire, append_reply::Outcome, message::Body};
use tidelog_storage::error::StorageError;
use tidelog_storage::ids::GroupId;

/// Handles everything except hellos and replies.
pub struct Incoming {
    shared: Weak<NodeShared>,
}

impl Incoming {
    pub fn new(shared: &Arc<NodeShared>) -> Incoming {
        Incoming {
            shared: Arc::downgrade(shared),
        }
    }
}

impl Handler for Incoming {
    fn handle(&self, from: BrokerId, group: u64, body: Body) -> Handled {
        let Some(shared) = self.shared.upgrade() else {
            return Handled::Now(None);
        };
        match body {
            Body::Heartbeat(heartbeat) => {
                if let Some(peer) = shared.transport.peer(from) {
                    peer.set_stopping(heartbeat.stopping);
                }
                Handled::Now(None)
            }
            Body::Leaders(news) => {
                shared.leaders.received(from, &news);
                if news.whole {
                    // It may have been restarted, and lead nothing any more.
                    shared.unsettle();
                }
                Handled::Now(None)
            }
            Body::Propose(propose) => metadata_proposal(&shared, propose),
            Body::ReadLog(read) => read_log(&shared, GroupId(group), read),
            Body::RebuildState(_) => rebuild_state(&shared, GroupId(group), from),
            Body::Barrier(_) => barrier(&shared, GroupId(group)),
            Body::Call(call) => match shared.calls.get() {
                Some(calls) => {
                    let reply = calls.handle(from, call.request);
                    Handled::Later(Box::pin(async move {
                        let reply = reply.await;
                        Some(Body::CallReply(wire::CallReply { reply }))
                    }))
                }
                None => refused("this broker is still starting".to_owned()),
            },
            raft => match shared.group(GroupId(group)) {
                Some(group) => raft_message(&shared, group, from, raft),
                None => refused(format!("group {group} is not open here")),
            },
        }
    }

    fn connected(&self, peer: BrokerId) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if let Some(to) = shared.transport.peer(peer) {
            to.send(0, shared.leaders.own());
        }
        if shared.transport.cluster_exists()
            && let Some(metadata) = shared.group(crate::node::METADATA_GROUP)
            && metadata.is_unformed()
        {
            metadata.guard.join();
        }
        shared.unsettle();
        tokio::spawn(async move {
            // Replication to this peer has been backing off while it was away.
            let node = crate::group::node_of(peer);
            for group in shared.groups() {
                if group.is_leader() && group.replicas().contains(&peer) {
                    let _ = group.raft.trigger().reset_backoff([node]).await;
                }
            }
        });
    }

    fn suspected(&self, peer: BrokerId) {
        if let Some(shared) = self.shared.upgrade() {
            tracing::warn!("broker {peer} refuses connections: suspected dead");
            shared.peer_suspected(peer);
        }
    }
}

fn refused(reason: String) -> Handled {
    Handled::Now(Some(Body::Refused(wire::Refused {
        reason,
        ..Default::default()
    })))
}

/// Runs `reply` until it first has to wait, so that messages reach the group in the order they
/// came; the rest of it goes on by itself.
///
/// The task's budget must not count: one envelope may hold more messages than a task may take steps
/// before tokio makes it yield. From there on each would "wait" before it has reached the group, and
/// those that go on by themselves have no order: an append could overtake the one that it follows, and
/// be answered with a conflict about an entry that the leader knows to be there.
fn in_order(reply: impl Future<Output = Option<Body>> + Send + 'static) -> Handled {
    let mut reply = Box::pin(tokio::task::unconstrained(reply));
    match reply.as_mut().now_or_never() {
        Some(body) => Handled::Now(body),
        None => Handled::Later(reply),
    }
}

fn raft_message(
    shared: &Arc<NodeShared>,
    group: Arc<Group>,
    from: BrokerId,
    body: Body,
) -> Handled {
    // A vote may be the first to ask a replica that has just become a voter.
    let admitted = group.guard.admits(&body) || group.may_vote() && group.guard.admits(&body);
    if !admitted {
        return refused(format!("group {} takes no part here yet", group.id.0));
    }
    match body {
        Body::Append(append) => match append_from_wire(append) {
            Ok(request) => in_order(async move {
                let body = match group.raft.append_entries(request).await {
                    Ok(response) => Body::AppendReply(append_to_wire(response)),
                    Err(error) => Body::Refused(wire::Refused {
                        reason: error.to_string(),
                        ..Default::default()
                    }),
                };
                Some(body)
            }),
            Err(error) => refused(error.to_string()),
        },
        Body::Vote(vote) => in_order(vote_reply(group, vote)),
        Body::Snapshot(snapshot) => in_order(install_snapshot(group, from, snapshot)),
        Body::TransferLeader(transfer) => {
            let stopping = shared.is_stopping();
            in_order(transfer_leader(group, transfer, stopping))
        }
        _ => refused("not a request".to_owned()),
    }
}

fn append_from_wire(
    append: wire::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let mut entries = Vec::with_capacity(append.entries.len());
    for entry in append.entries {
        let kind = u8::try_from(entry.kind)
            .map_err(|_| Malformed(format!("entry kind {}", entry.kind)))?;
        entries.push(entry_from_parts(entry.index, entry.term, kind, entry.body)?);
    }
    Ok(AppendEntriesRequest {
        vote: vote_from_proto(&append.vote.unwrap_or_default()),
        prev_log_id: append.prev.as_ref().map(log_id_from_proto),
        leader_commit: append.commit.as_ref().map(log_id_from_proto),
        entries,
    })
}

fn append_to_wire(response: AppendEntriesResponse<TypeConfig>) -> wire::AppendReply {
    let mut reply = wire::AppendReply::default();
    match response {
        AppendEntriesResponse::Success => reply.set_outcome(Outcome::Success),
        AppendEntriesResponse::PartialSuccess(matching) => {
            reply.set_outcome(Outcome::Partial);
            reply.matching = matching.as_ref().map(log_id_to_proto);
        }
        AppendEntriesResponse::Conflict => reply.set_outcome(Outcome::Conflict),
        AppendEntriesResponse::HigherVote(vote) => {
            reply.set_outcome(Outcome::HigherVote);
            reply.vote = Some(vote_to_proto(&vote));
        }
    }
    reply
}

async fn vote_reply(group: Arc<Group>, vote: wire::VoteRequest) -> Option<Body> {
    let request = VoteRequest {
        vote: vote_from_proto(&vote.vote.unwrap_or_default()),
        last_log_id: vote.last.as_ref().map(log_id_from_proto),
        leadership_transfer: vote.leadership_transfer,
    };
    let answer = if vote.pre_vote {
        group.raft.pre_vote(request).await
    } else {
        group.raft.vote(request).await
    };
    Some(match answer {
        Ok(response) => Body::VoteReply(wire::VoteReply {
            vote: Some(vote_to_proto(&response.vote)),
            last: response.last_log_id.as_ref().map(log_id_to_proto),
            granted: response.vote_granted,
        }),
        Err(error) => Body::Refused(wire::Refused {
            reason: error.to_string(),
            ..Default::default()
        }),
    })
}

async fn install_snapshot(
    group: Arc<Group>,
    from: BrokerId,
    request: wire::SnapshotRequest,
) -> Option<Body> {
    let membership = match stored_membership_from_proto(request.membership.as_ref()) {
        Ok(membership) => membership,
        Err(error) => {
            return Some(Body::Refused(wire::Refused {
                reason: error.to_string(),
                ..Default::default()
            }));
        }
    };
    let snapshot = openraft::storage::Snapshot {
        meta: SnapshotMeta {
            last_log_id: request.last.as_ref().map(log_id_from_proto),
            last_membership: membership,
        },
        snapshot: SnapshotData {
            manifest: request.manifest,
            source: Some(from),
        },
    };
    let vote = vote_from_proto(&request.vote.unwrap_or_default());
    Some(
        match group.raft.install_full_snapshot(vote, snapshot).await {
            Ok(response) => Body::SnapshotReply(wire::SnapshotReply {
                vote: Some(vote_to_proto(&response.vote)),
            }),
            Err(error) => Body::Refused(wire::Refused {
                reason: error.to_string(),
                ..Default::default()
            }),
        },
    )
}

async fn transfer_leader(
    group: Arc<Group>,
    transfer: wire::TransferLeader,
    stopping: bool,
) -> Option<Body> {
    let to_here = transfer.to == *group.raft.node_id();
    if to_here && stopping {
        return Some(Body::TransferLeaderReply(wire::TransferLeaderReply {
            accepted: false,
            reason: "this broker is stopping".to_owned(),
        }));
    }
    let mut last = transfer.last.as_ref().map(log_id_from_proto);
    if to_here && group.came_with(last.as_ref()) {
        // openraft waits until the heir has flushed the last entry, and counts only what it has
        // flushed since it heard of this leader. What was there before is in the journal before the
        // vote, so there is nothing to wait for.
        last = None;
    }
    let request = TransferLeaderRequest::new(
        vote_from_proto(&transfer.from.unwrap_or_default()),
        transfer.to,
        last,
    );
    let (accepted, reason) = match group.raft.handle_transfer_leader(request).await {
        Ok(Ok(())) => (true, String::new()),
        Ok(Err(error)) => (false, error.to_string()),
        Err(error) => (false, error.to_string()),
    };
    Some(Body::TransferLeaderReply(wire::TransferLeaderReply {
        accepted,
        reason,
    }))
}

/// What a replica that has lost its past has to know. The leader counts it from nothing again.
fn rebuild_state(shared: &Arc<NodeShared>, group: GroupId, from: BrokerId) -> Handled {
    let Some(group) = shared.group(group) else {
        return refused(format!("group {} is not open here", group.0));
    };
    let may_vote = group.may_vote();
    let joining = group.guard.is_joining();
    if !may_vote && !joining {
        return refused(format!(
            "group {} takes no part here yet, either",
            group.id.0
        ));
    }
    Handled::Later(Box::pin(async move {
        let node = crate::group::node_of(from);
        // Fails where this replica does not lead: then there is nothing to forget.
        let _ = group.raft.trigger().allow_next_revert(&node, true).await;
        Some(Body::RebuildStateReply(wire::RebuildStateReply {
            term: group.term(),
            empty: group.is_unformed(),
            log_end: Some(wire::LogEnd {
                last: group.last_log_id().as_ref().map(log_id_to_proto),
            }),
            joining,
        }))
    }))
}

/// A leader proves that it leads, and names the end of its log.
fn barrier(shared: &Arc<NodeShared>, group: GroupId) -> Handled {
    let Some(group) = shared.group(group) else {
        return refused(format!("group {} is not open here", group.0));
    };
    Handled::Later(Box::pin(async move {
        let proven = group
            .raft
            .ensure_linearizable(openraft::raft::ReadPolicy::ReadIndex)
            .await;
        Some(match proven {
            Ok(_) => Body::BarrierReply(wire::BarrierReply {
                index: group.last_index(),
            }),
            Err(error) => Body::Refused(wire::Refused {
                reason: error.to_string(),
                ..Default::default()
            }),
        })
    }))
}

/// A metadata command from a broker that does not lead the metadata group.
fn metadata_proposal(shared: &Arc<NodeShared>, propose: wire::Propose) -> Handled {
    let Some(group) = shared.group(crate::node::METADATA_GROUP) else {
        return refused("the metadata group is not open here".to_owned());
    };
    if !group.is_leader() {
        return Handled::Now(Some(Body::ProposeReply(wire::ProposeReply::default())));
    }
    let proposal = group.propose(Command::Metadata {
        command: propose.command,
        versioned: propose.versioned,
    });
    Handled::Later(Box::pin(async move {
        let reply = match proposal.await {
            Ok(Reply::Metadata { index, reply }) => wire::ProposeReply {
                accepted: true,
                reply,
                index,
                ..Default::default()
            },
            Ok(_) | Err(crate::ProposeError::NotLeader { .. }) => wire::ProposeReply::default(),
            Err(error) => {
                return Some(Body::Refused(wire::Refused {
                    reason: error.to_string(),
                    ..Default::default()
                }));
            }
        };
        Some(Body::ProposeReply(reply))
    }))
}

/// Committed batches for a replica that lacks them.
fn read_log(shared: &Arc<NodeShared>, group: GroupId, read: wire::ReadLog) -> Handled {
    /// What one answer holds at most, whatever was asked for.
    const READ_BYTES_MAX: u32 = 4 * 1024 * 1024;
    let Some(partition) = shared.partition(group) else {
        return Handled::Now(Some(Body::ReadLogReply(wire::ReadLogReply {
            error: format!("group {} is not open here", group.0),
            ..Default::default()
        })));
    };
    let host = shared.transport.host.clone();
    Handled::Later(Box::pin(async move {
        let damaged = partition.clone();
        let copied = host
            .disk_work(move || -> Result<_, StorageError> {
                let log = partition.log();
                let max_bytes = read.max_bytes.min(READ_BYTES_MAX) as usize;
                let end = read.end_offset.min(log.log_end_offset());
                if read.from_offset >= end {
                    return Ok(wire::ReadLogReply::default());
                }
                let batches = log.read(read.from_offset, end, max_bytes, true)?;
                // Asked for after the read: it may say too much, never too little.
                Ok(wire::ReadLogReply {
                    batches: batches.slices.concat().into(),
                    sparse: batches.sparse,
                    next_offset: batches.next_offset,
                    gone_below: log.gone_below(),
                    ..Default::default()
                })
            })
            .await;
        let failed = |error: String| wire::ReadLogReply {
            error,
            ..Default::default()
        };
        let reply = match copied {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                if matches!(error, StorageError::Corrupt { .. }) {
                    damaged.mend(read.from_offset);
                }
                failed(error.to_string())
            }
            Err(error) => failed(error.to_string()),
        };
        Some(Body::ReadLogReply(reply))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// Found by `tidelog-jepsen run --seed 2`: a leader's Raft core ended with "follower log reversion".
    #[tokio::test]
    async fn messages_of_a_large_envelope_reach_the_group_in_order() {
        const MESSAGES: usize = 1_000;
        let (to, mut group) = mpsc::channel(MESSAGES);
        for number in 0..MESSAGES {
            let to = to.clone();
            let handled = in_order(async move {
                to.send(number).await.ok();
                None
            });
            assert!(
                matches!(handled, Handled::Now(None)),
                "message {number} did not reach the group at once"
            );
        }
        for number in 0..MESSAGES {
            assert_eq!(group.recv().await, Some(number));
        }
    }
}

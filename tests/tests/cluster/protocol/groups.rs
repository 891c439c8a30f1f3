//! The requests of consumer groups, in every version.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use tidelog_tests::read::topic_name;
use tidelog_tests::wait;
use tidelog_tests::wire::Wire;

use super::calls::{LEADER_LIMIT, MISSING, TOPIC, code, ensure_codes, text};

/// A member of a generation.
struct Joined {
    member: String,
    generation: i32,
}

fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}

/// Whether `api` is one of consumer groups; if so, it is sent and judged.
pub async fn call(wire: &mut Wire, api: ApiKey, version: i16) -> Result<()> {
    match api {
        ApiKey::FindCoordinator => find_coordinator(wire, version).await,
        ApiKey::JoinGroup => join_group(wire, version).await,
        ApiKey::SyncGroup => sync_group(wire, version).await,
        ApiKey::Heartbeat => heartbeat(wire, version).await,
        ApiKey::LeaveGroup => leave_group(wire, version).await,
        ApiKey::OffsetCommit => offset_commit(wire, version).await,
        ApiKey::OffsetFetch => offset_fetch(wire, version).await,
        ApiKey::OffsetDelete => offset_delete(wire, version).await,
        ApiKey::DescribeGroups => describe_groups(wire, version).await,
        ApiKey::ListGroups => list_groups(wire, version).await,
        ApiKey::DeleteGroups => delete_groups(wire, version).await,
        other => super::next_groups::call(wire, other, version).await,
    }
}

/// Waits until the coordinator of a group serves; the first time its topic is made.
pub async fn coordinator_serves(wire: &mut Wire, group: &str) -> Result<()> {
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]);
    let fetch = OffsetFetchRequest::default()
        .with_group_id(group_id(group))
        .with_topics(Some(Vec::new()));
    wait::until("a coordinator", LEADER_LIMIT, async || {
        let found = wire.call(&find, 4).await?;
        if found.coordinators[0].error_code != 0 {
            return Ok(None);
        }
        let fetched = wire.call(&fetch, 5).await?;
        Ok((fetched.error_code == 0).then_some(()))
    })
    .await
}

async fn find_coordinator(wire: &mut Wire, version: i16) -> Result<()> {
    coordinator_serves(wire, "found").await?;
    // Groups and transactions; other kinds are refused.
    let kinds: &[(i8, i16)] = match version {
        0 => &[(0, 0)],
        _ => &[(0, 0), (1, 0), (7, 42)],
    };
    for (kind, expected) in kinds {
        let request = FindCoordinatorRequest::default();
        let request = match version {
            0 => request.with_key(text("found")),
            1..4 => request.with_key(text("found")).with_key_type(*kind),
            _ => request
                .with_key_type(*kind)
                .with_coordinator_keys(vec![text("found"), text("other")]),
        };
        wait::until("the coordinators", LEADER_LIMIT, async || {
            let response = wire.call(&request, version).await?;
            let (codes, nodes): (Vec<_>, Vec<_>) = if version < 4 {
                (vec![response.error_code], vec![response.node_id.0])
            } else {
                ensure!(response.coordinators[1].key == text("other"));
                let each = response.coordinators.iter();
                each.map(|c| (c.error_code, c.node_id.0)).unzip()
            };
            if codes.contains(&code(ResponseError::CoordinatorNotAvailable)) {
                return Ok(None);
            }
            ensure_codes(codes.clone(), &vec![*expected; codes.len()])?;
            ensure!(nodes.iter().all(|n| (*n >= 0) == (*expected == 0)));
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

/// A consumer's subscription to the sample topic, in version 0 of Kafka's format.
fn subscription() -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, TOPIC.len() as u8];
    bytes.extend(TOPIC.as_bytes());
    bytes.extend([0xff; 4]);
    bytes.into()
}

fn join_request(group: &str, member: &str, version: i16) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(subscription());
    let request = JoinGroupRequest::default()
        .with_group_id(group_id(group))
        .with_session_timeout_ms(30_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    match version {
        0 => request,
        _ => request.with_rebalance_timeout_ms(60_000),
    }
}

/// Joins as the only member.
async fn join(wire: &mut Wire, group: &str, version: i16) -> Result<Joined> {
    coordinator_serves(wire, group).await?;
    let mut response = wire
        .call(&join_request(group, "", version), version)
        .await?;
    if version >= 4 {
        let required = code(ResponseError::MemberIdRequired);
        ensure_codes([response.error_code], &[required])?;
        ensure!(response.generation_id == -1 && response.members.is_empty());
        let again = join_request(group, &response.member_id, version);
        response = wire.call(&again, version).await?;
    }
    ensure_codes([response.error_code], &[0])?;
    ensure!(response.leader == response.member_id && response.members.len() == 1);
    ensure!(response.members[0].metadata == subscription());
    ensure!(response.protocol_name == Some(text("range")));
    ensure!((response.protocol_type == Some(text("consumer"))) == (version >= 7));
    ensure!(!response.skip_assignment);
    Ok(Joined {
        member: response.member_id.to_string(),
        generation: response.generation_id,
    })
}

async fn join_group(wire: &mut Wire, version: i16) -> Result<()> {
    let group = format!("join-{version}");
    let joined = join(wire, &group, version).await?;
    ensure!(joined.generation == 1);
    let unknown = join_request(&group, "nobody", version);
    let short = join_request(&group, "", version).with_session_timeout_ms(1);
    let none = join_request("", "", version);
    let mut other = join_request(&group, "", version);
    other.protocol_type = text("connect");
    for (request, expected) in [
        (unknown, ResponseError::UnknownMemberId),
        (short, ResponseError::InvalidSessionTimeout),
        (none, ResponseError::InvalidGroupId),
        (other, ResponseError::InconsistentGroupProtocol),
    ] {
        let response = wire.call(&request, version).await?;
        ensure_codes([response.error_code], &[code(expected)])?;
    }
    Ok(())
}

fn sync_request(group: &str, joined: &Joined) -> SyncGroupRequest {
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(text(joined.member.clone()))
        .with_assignment(Bytes::from_static(b"yours"));
    SyncGroupRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id(joined.generation)
        .with_member_id(text(joined.member.clone()))
        .with_assignments(vec![assignment])
}

/// Joins and syncs as the only member.
async fn stable(wire: &mut Wire, group: &str) -> Result<Joined> {
    let joined = join(wire, group, 5).await?;
    let response = wire.call(&sync_request(group, &joined), 3).await?;
    ensure_codes([response.error_code], &[0])?;
    Ok(joined)
}

async fn sync_group(wire: &mut Wire, version: i16) -> Result<()> {
    let group = format!("sync-{version}");
    let joined = join(wire, &group, 5).await?;
    let mut request = sync_request(&group, &joined);
    if version >= 5 {
        request.protocol_type = Some(text("consumer"));
        request.protocol_name = Some(text("other"));
        let response = wire.call(&request, version).await?;
        let inconsistent = code(ResponseError::InconsistentGroupProtocol);
        ensure_codes([response.error_code], &[inconsistent])?;
        request.protocol_name = Some(text("range"));
    }
    let stale = request.clone().with_generation_id(9);
    let response = wire.call(&stale, version).await?;
    let illegal = code(ResponseError::IllegalGeneration);
    ensure_codes([response.error_code], &[illegal])?;
    // Twice: the second time from the stable group.
    for _ in 0..2 {
        let response = wire.call(&request, version).await?;
        ensure_codes([response.error_code], &[0])?;
        ensure!(&response.assignment[..] == b"yours");
        ensure!((response.protocol_name == Some(text("range"))) == (version >= 5));
    }
    Ok(())
}

async fn heartbeat(wire: &mut Wire, version: i16) -> Result<()> {
    let group = format!("heartbeat-{version}");
    let joined = stable(wire, &group).await?;
    let request = |group: &str, generation, member: &str| {
        HeartbeatRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id(generation)
            .with_member_id(text(member))
    };
    let generation = joined.generation;
    let mut cases = vec![
        (request(&group, generation, &joined.member), 0),
        (
            request(&group, generation, "nobody"),
            code(ResponseError::UnknownMemberId),
        ),
        (
            request(&group, generation + 1, &joined.member),
            code(ResponseError::IllegalGeneration),
        ),
        (
            request("no-such-group", generation, &joined.member),
            code(ResponseError::UnknownMemberId),
        ),
    ];
    if version >= 3 {
        let instance = request(&group, generation, &joined.member)
            .with_group_instance_id(Some(text("static")));
        cases.push((instance, code(ResponseError::UnknownMemberId)));
    }
    for (request, expected) in cases {
        let response = wire.call(&request, version).await?;
        ensure_codes([response.error_code], &[expected])?;
    }
    Ok(())
}

async fn leave_group(wire: &mut Wire, version: i16) -> Result<()> {
    let group = format!("leave-{version}");
    let joined = stable(wire, &group).await?;
    let unknown = code(ResponseError::UnknownMemberId);
    if version < 3 {
        let request = LeaveGroupRequest::default()
            .with_group_id(group_id(&group))
            .with_member_id(text(joined.member));
        for expected in [0, unknown] {
            let response = wire.call(&request, version).await?;
            ensure_codes([response.error_code], &[expected])?;
        }
        return Ok(());
    }
    let leaving = |member: &str| MemberIdentity::default().with_member_id(text(member));
    let request = LeaveGroupRequest::default()
        .with_group_id(group_id(&group))
        .with_members(vec![leaving("nobody"), leaving(&joined.member)]);
    let response = wire.call(&request, version).await?;
    ensure_codes([response.error_code], &[0])?;
    ensure_codes(response.members.iter().map(|m| m.error_code), &[unknown, 0])
}

fn commit_topic(name: &str, partitions: &[(i32, i64, &str)]) -> OffsetCommitRequestTopic {
    let each = partitions.iter().map(|(index, offset, metadata)| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(*index)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(text(*metadata)))
    });
    OffsetCommitRequestTopic::default()
        .with_name(topic_name(name))
        .with_partitions(each.collect())
}

async fn offset_commit(wire: &mut Wire, version: i16) -> Result<()> {
    let group = format!("commit-{version}");
    coordinator_serves(wire, &group).await?;
    let long = "x".repeat(5_000);
    let topics = vec![
        commit_topic(TOPIC, &[(0, 1, "a"), (1, 0, &long), (9, 1, "")]),
        commit_topic(MISSING, &[(0, 1, "")]),
    ];
    // As one that is no member.
    let request = OffsetCommitRequest::default()
        .with_group_id(group_id(&group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(topics.clone());
    let response = wire.call(&request, version).await?;
    let missing = code(ResponseError::UnknownTopicOrPartition);
    let large = code(ResponseError::OffsetMetadataTooLarge);
    let codes = |response: &OffsetCommitResponse| -> Vec<i16> {
        let each = response.topics.iter().flat_map(|t| &t.partitions);
        each.map(|p| p.error_code).collect()
    };
    ensure_codes(codes(&response), &[0, large, missing, missing])?;
    // As a member, of an old generation and of none.
    let group = format!("commit-member-{version}");
    let joined = stable(wire, &group).await?;
    for (generation, member, expected) in [
        (joined.generation, joined.member.as_str(), 0),
        (
            joined.generation - 1,
            joined.member.as_str(),
            code(ResponseError::IllegalGeneration),
        ),
        (
            joined.generation,
            "nobody",
            code(ResponseError::UnknownMemberId),
        ),
        (-1, "", code(ResponseError::UnknownMemberId)),
    ] {
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(&group))
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(text(member))
            .with_topics(vec![commit_topic(TOPIC, &[(0, 1, "")])]);
        let response = wire.call(&request, version).await?;
        ensure_codes(codes(&response), &[expected])?;
    }
    let gone = OffsetCommitRequest::default()
        .with_group_id(group_id("no-such-group"))
        .with_generation_id_or_member_epoch(3)
        .with_member_id(text("m"))
        .with_topics(vec![commit_topic(TOPIC, &[(0, 1, "")])]);
    coordinator_serves(wire, "no-such-group").await?;
    let response = wire.call(&gone, version).await?;
    let expected = if version >= 9 {
        ResponseError::GroupIdNotFound
    } else {
        ResponseError::IllegalGeneration
    };
    ensure_codes(codes(&response), &[code(expected)])
}

async fn commit(wire: &mut Wire, group: &str, offset: i64) -> Result<()> {
    coordinator_serves(wire, group).await?;
    let request = OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![commit_topic(TOPIC, &[(0, offset, "note")])]);
    let response = wire.call(&request, 8).await?;
    ensure_codes([response.topics[0].partitions[0].error_code], &[0])
}

async fn offset_fetch(wire: &mut Wire, version: i16) -> Result<()> {
    let group = format!("fetch-{version}");
    commit(wire, &group, 1).await?;
    let expected = [(0, 1, "note"), (1, -1, "")];
    if version >= 8 {
        let asked = |name: &str, topics| {
            OffsetFetchRequestGroup::default()
                .with_group_id(group_id(name))
                .with_topics(topics)
        };
        let topic = OffsetFetchRequestTopics::default()
            .with_name(topic_name(TOPIC))
            .with_partition_indexes(vec![0, 1]);
        let request = OffsetFetchRequest::default()
            .with_require_stable(true)
            .with_groups(vec![
                asked(&group, Some(vec![topic])),
                asked(&group, None),
                asked("nothing", None),
            ]);
        coordinator_serves(wire, "nothing").await?;
        let response = wire.call(&request, version).await?;
        ensure_codes(response.groups.iter().map(|g| g.error_code), &[0, 0, 0])?;
        let of = |index: usize| -> Vec<(i32, i64, String)> {
            let topics = response.groups[index].topics.iter();
            topics
                .flat_map(|t| &t.partitions)
                .map(|p| {
                    let metadata = p.metadata.as_deref().unwrap_or_default();
                    (p.partition_index, p.committed_offset, metadata.to_owned())
                })
                .collect()
        };
        let owned = |all: &[(i32, i64, &str)]| -> Vec<_> {
            all.iter()
                .map(|(p, o, m)| (*p, *o, (*m).to_owned()))
                .collect()
        };
        ensure!(of(0) == owned(&expected), "{:?}", of(0));
        ensure!(of(1) == owned(&expected[..1]) && of(2).is_empty());
        return Ok(());
    }
    let topic = OffsetFetchRequestTopic::default()
        .with_name(topic_name(TOPIC))
        .with_partition_indexes(vec![0, 1]);
    let request = OffsetFetchRequest::default()
        .with_group_id(group_id(&group))
        .with_topics(Some(vec![topic]));
    let response = wire.call(&request, version).await?;
    ensure_codes([response.error_code], &[0])?;
    let partitions = &response.topics[0].partitions;
    for (got, (index, offset, metadata)) in partitions.iter().zip(expected) {
        ensure!(
            got.partition_index == index && got.committed_offset == offset && got.error_code == 0
        );
        ensure!(got.metadata == Some(text(metadata)));
    }
    ensure!(partitions.len() == 2);
    if version >= 2 {
        let all = request.with_topics(None);
        let response = wire.call(&all, version).await?;
        ensure!(response.topics.len() == 1 && response.topics[0].partitions.len() == 1);
    }
    Ok(())
}

async fn offset_delete(wire: &mut Wire, version: i16) -> Result<()> {
    let delete = |group: &str| {
        let partition = |index| OffsetDeleteRequestPartition::default().with_partition_index(index);
        let topic = OffsetDeleteRequestTopic::default()
            .with_name(topic_name(TOPIC))
            .with_partitions(vec![partition(0), partition(9)]);
        OffsetDeleteRequest::default()
            .with_group_id(group_id(group))
            .with_topics(vec![topic])
    };
    let codes = |response: &OffsetDeleteResponse| -> Vec<i16> {
        let each = response.topics.iter().flat_map(|t| &t.partitions);
        each.map(|p| p.error_code).collect()
    };
    let missing = code(ResponseError::UnknownTopicOrPartition);
    commit(wire, "deleted-offsets", 1).await?;
    let response = wire.call(&delete("deleted-offsets"), version).await?;
    ensure_codes([response.error_code], &[0])?;
    ensure_codes(codes(&response), &[0, missing])?;
    // A member is subscribed to the topic.
    stable(wire, "subscribed").await?;
    let response = wire.call(&delete("subscribed"), version).await?;
    let subscribed = code(ResponseError::GroupSubscribedToTopic);
    ensure_codes(codes(&response), &[subscribed, missing])?;
    coordinator_serves(wire, "no-such-group").await?;
    let response = wire.call(&delete("no-such-group"), version).await?;
    let not_found = code(ResponseError::GroupIdNotFound);
    ensure_codes([response.error_code], &[not_found])
}

async fn describe_groups(wire: &mut Wire, version: i16) -> Result<()> {
    let (group, absent) = (format!("described-{version}"), "no-such-group");
    let joined = stable(wire, &group).await?;
    coordinator_serves(wire, absent).await?;
    let request =
        DescribeGroupsRequest::default().with_groups(vec![group_id(&group), group_id(absent)]);
    let response = wire.call(&request, version).await?;
    let not_found = match version {
        6.. => code(ResponseError::GroupIdNotFound),
        _ => 0,
    };
    ensure_codes(
        response.groups.iter().map(|g| g.error_code),
        &[0, not_found],
    )?;
    let of = |name: &str| {
        let mut groups = response.groups.iter();
        groups.find(|g| &*g.group_id.0 == name).context("described")
    };
    let described = of(&group)?;
    ensure!(&*described.group_state == "Stable" && &*described.protocol_type == "consumer");
    ensure!(&*described.protocol_data == "range" && described.members.len() == 1);
    let member = &described.members[0];
    ensure!(*member.member_id == *joined.member && &member.member_assignment[..] == b"yours");
    ensure!(member.member_metadata == subscription() && &*member.client_id == "tidelog-tests");
    ensure!(&*of(absent)?.group_state == "Dead");
    Ok(())
}

async fn list_groups(wire: &mut Wire, version: i16) -> Result<()> {
    let (with_member, without) = (format!("listed-{version}"), format!("offsets-{version}"));
    stable(wire, &with_member).await?;
    commit(wire, &without, 1).await?;
    let request = ListGroupsRequest::default();
    let listed = |response: &ListGroupsResponse, name: &str| {
        response.groups.iter().any(|g| &*g.group_id.0 == name)
    };
    let response = wire.call(&request, version).await?;
    ensure_codes([response.error_code], &[0])?;
    ensure!(listed(&response, &with_member) && listed(&response, &without));
    if version >= 4 {
        let request = request.clone().with_states_filter(vec![text("stable")]);
        let response = wire.call(&request, version).await?;
        ensure!(listed(&response, &with_member) && !listed(&response, &without));
        ensure!(response.groups.iter().all(|g| &*g.group_state == "Stable"));
    }
    if version >= 5 {
        for (kind, expected) in [("Classic", true), ("consumer", false)] {
            let request = request.clone().with_types_filter(vec![text(kind)]);
            let response = wire.call(&request, version).await?;
            ensure!(listed(&response, &without) == expected, "{kind}");
        }
    }
    Ok(())
}

async fn delete_groups(wire: &mut Wire, version: i16) -> Result<()> {
    let (full, empty) = (format!("full-{version}"), format!("empty-{version}"));
    stable(wire, &full).await?;
    commit(wire, &empty, 1).await?;
    coordinator_serves(wire, "no-such-group").await?;
    let names = [full.as_str(), empty.as_str(), "no-such-group"].map(group_id);
    let request = DeleteGroupsRequest::default().with_groups_names(names.to_vec());
    let response = wire.call(&request, version).await?;
    ensure_codes(
        response.results.iter().map(|r| r.error_code),
        &[
            code(ResponseError::NonEmptyGroup),
            0,
            code(ResponseError::GroupIdNotFound),
        ],
    )
}

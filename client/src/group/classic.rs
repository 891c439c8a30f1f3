//! A member in the classic protocol: joins, is assigned by whoever leads, sends heartbeats, and
//! joins again when the group rebalances.

use super::assign::{Assignor, MemberView};
use super::membership::{ChangeKind, Teller, Told};
use super::offsets::Group;
use super::subscription;
use crate::cluster::Lane;
use crate::consumer::GroupConfig;
use crate::error::{Error, ErrorCode, Result};
use crate::retry::Backoff;
use crate::topic_partition::TopicPartition;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Why a member leaves whose consumer does nothing.
const IDLE: &str = "no records were asked for";
const PROTOCOL_TYPE: &str = "consumer";
/// Static members are known from this version on.
const FIRST_JOIN_WITH_INSTANCE: i16 = 5;
/// How often the leader looks whether the topics have other partitions than it assigned.
const TOPICS_EVERY: Duration = Duration::from_secs(5);

pub(super) struct ClassicMember {
    group: Group,
    config: GroupConfig,
    assignors: Vec<Assignor>,
    topics: Vec<String>,
    teller: Teller,
    owned: BTreeSet<TopicPartition>,
    /// What it had before it gave everything back, and in which generation.
    last: (BTreeSet<TopicPartition>, i32),
    /// The partitions of the topics as the assignment saw them, if this member leads.
    assigned_topics: Option<BTreeMap<String, i32>>,
    /// Of all members, as the leader needs it.
    all_topics: BTreeSet<String>,
    backoff: Backoff,
}

/// Why a step did not lead to the next.
enum Trouble {
    /// Join again with the same member id.
    Rejoin,
    /// The group has forgotten this member: what it had is lost.
    Forgotten,
    /// The consumer is gone.
    Gone,
    Error(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        match error.code() {
            Some(ErrorCode::REBALANCE_IN_PROGRESS) => Trouble::Rejoin,
            Some(ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION) => {
                Trouble::Forgotten
            }
            _ => Trouble::Error(error),
        }
    }
}

impl ClassicMember {
    pub(super) fn new(
        group: Group,
        config: GroupConfig,
        assignors: Vec<Assignor>,
        topics: Vec<String>,
        teller: Teller,
    ) -> ClassicMember {
        let backoff = Backoff::new(group.coordinator.cluster.config());
        ClassicMember {
            group,
            config,
            assignors,
            topics,
            teller,
            owned: BTreeSet::new(),
            last: (BTreeSet::new(), -1),
            assigned_topics: None,
            all_topics: BTreeSet::new(),
            backoff,
        }
    }

    /// Runs until the consumer is gone or the membership fails for good.
    pub(super) async fn run(mut self) {
        loop {
            let ended = match self.rebalance().await {
                Ok(()) => {
                    self.backoff.reset();
                    self.stay().await
                }
                Err(trouble) => trouble,
            };
            match ended {
                Trouble::Rejoin => {}
                Trouble::Gone => return,
                Trouble::Forgotten => {
                    if self.lose_all().await.is_err() {
                        return;
                    }
                }
                Trouble::Error(error) => {
                    self.group.coordinator.learn(&error);
                    let passes = error.is_transient() || matches!(error, Error::Timeout { .. });
                    if !passes {
                        let error = self.group.as_rebalanced(error);
                        // Whether anyone hears it or not, this is the end.
                        let _ = self.lose_all().await;
                        let _ = self.tell(ChangeKind::Failed(error)).await;
                        return;
                    }
                    tracing::debug!("group {}: {error}", self.group.coordinator.name());
                    tokio::select! {
                        () = sleep(self.backoff.next()) => {}
                        () = self.teller.gone() => return,
                    }
                    // Should it fail, the next attempt tells why.
                    let _ = self.group.coordinator.cluster.refresh().await;
                }
            }
        }
    }

    fn is_cooperative(&self) -> bool {
        self.assignors.iter().all(|a| a.is_cooperative())
    }

    fn generation(&self) -> i32 {
        self.group.identity.lock().generation.unwrap_or(-1)
    }

    /// Tells the consumer, with heartbeats meanwhile.
    async fn tell(&self, kind: ChangeKind) -> Result<(), Trouble> {
        let every = self.config.heartbeat_interval;
        let beat = || async {
            // What it says is heard by the next one; this keeps the session alive.
            let _ = self.heartbeat().await;
            Instant::now() + every
        };
        let leave = || async {
            // Should it fail, the session ends by itself.
            let _ = leave(&self.group, IDLE).await;
        };
        let next = Instant::now() + every;
        match self.teller.tell(kind, next, beat, leave).await {
            Told::Done => Ok(()),
            Told::Late => Err(Trouble::Forgotten),
            Told::Gone => Err(Trouble::Gone),
        }
    }

    fn set_owned(&mut self, owned: BTreeSet<TopicPartition>) {
        self.group.identity.lock().owned = owned.clone();
        self.owned = owned;
    }

    /// The group has given away all this member had.
    async fn lose_all(&mut self) -> Result<(), Trouble> {
        {
            let mut identity = self.group.identity.lock();
            identity.generation = None;
            identity.member_id.clear();
            identity.owned.clear();
        }
        let lost = std::mem::take(&mut self.owned);
        self.last = (BTreeSet::new(), -1);
        if lost.is_empty() {
            return Ok(());
        }
        match self.tell(ChangeKind::Lost(lost)).await {
            // There was nothing left to leave.
            Err(Trouble::Forgotten) | Ok(()) => Ok(()),
            gone => gone,
        }
    }

    /// Joins and takes what it is assigned.
    async fn rebalance(&mut self) -> Result<(), Trouble> {
        if !self.is_cooperative() && !self.owned.is_empty() {
            let owned = self.owned.clone();
            self.tell(ChangeKind::Revoked(owned.clone())).await?;
            self.last = (owned, self.generation());
            self.set_owned(BTreeSet::new());
        }
        let joined = self.join().await?;
        let assigned = self.sync(&joined).await?;
        self.group.identity.lock().generation = Some(joined.generation_id);
        let revoked: BTreeSet<_> = self.owned.difference(&assigned).cloned().collect();
        let added: BTreeSet<_> = assigned.difference(&self.owned).cloned().collect();
        let again = !revoked.is_empty();
        if again {
            self.tell(ChangeKind::Revoked(revoked)).await?;
        }
        self.set_owned(assigned);
        if !added.is_empty() {
            self.tell(ChangeKind::Assigned(added)).await?;
        }
        // What was given back goes to others in the rebalance after this one.
        if again { Err(Trouble::Rejoin) } else { Ok(()) }
    }

    /// Waits for the other members, and learns the generation.
    async fn join(&self) -> Result<JoinGroupResponse, Trouble> {
        let config = self.group.coordinator.cluster.config();
        let limit = self.config.max_poll_interval + config.request_timeout;
        loop {
            let (member_id, _) = self.group.member();
            let kept = if self.is_cooperative() {
                (&self.owned, self.generation())
            } else {
                (&self.last.0, self.last.1)
            };
            let protocols = self.assignors.iter().map(|&assignor| {
                let metadata = subscription::encode_subscription(
                    assignor,
                    &self.topics,
                    &self.owned,
                    kept.0,
                    kept.1,
                );
                JoinGroupRequestProtocol::default()
                    .with_name(StrBytes::from_static_str(assignor.name()))
                    .with_metadata(metadata)
            });
            let mut request = JoinGroupRequest::default()
                .with_group_id(self.group.id())
                .with_session_timeout_ms(millis(self.config.session_timeout))
                .with_rebalance_timeout_ms(millis(self.config.max_poll_interval))
                .with_member_id(member_id)
                .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
                .with_protocols(protocols.collect());
            let deadline = Instant::now() + limit;
            let coordinator = &self.group.coordinator;
            let connection = coordinator.connection(Lane::Group, deadline).await?;
            let version = connection.version::<JoinGroupRequest>(i16::MAX)?;
            if version >= FIRST_JOIN_WITH_INSTANCE {
                request.group_instance_id = self.group.instance();
            }
            let response = connection.send(version, &request, limit).await?;
            match ErrorCode::of(response.error_code) {
                None => {
                    self.group.identity.lock().member_id = response.member_id.to_string();
                    return Ok(response);
                }
                Some(ErrorCode::MEMBER_ID_REQUIRED) => {
                    self.group.identity.lock().member_id = response.member_id.to_string();
                }
                Some(code) => {
                    let what = format!("join group {:?}", coordinator.name());
                    return Err(Error::broker(what, code).into());
                }
            }
        }
    }

    /// The leader assigns; everybody learns what is theirs.
    async fn sync(
        &mut self,
        joined: &JoinGroupResponse,
    ) -> Result<BTreeSet<TopicPartition>, Trouble> {
        let leads = joined.leader == joined.member_id && !joined.skip_assignment;
        let assignments = if leads {
            self.assign(joined).await?
        } else {
            if joined.leader != joined.member_id {
                self.assigned_topics = None;
            }
            Vec::new()
        };
        let mut request = SyncGroupRequest::default()
            .with_group_id(self.group.id())
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone())
            .with_assignments(assignments);
        let limit =
            self.config.max_poll_interval + self.group.coordinator.cluster.config().request_timeout;
        let coordinator = &self.group.coordinator;
        let deadline = Instant::now() + limit;
        let connection = coordinator.connection(Lane::Group, deadline).await?;
        let version = connection.version::<SyncGroupRequest>(i16::MAX)?;
        if version >= 3 {
            request.group_instance_id = self.group.instance();
        }
        if version >= 5 {
            request.protocol_type = Some(StrBytes::from_static_str(PROTOCOL_TYPE));
            request.protocol_name = joined.protocol_name.clone();
        }
        let response = connection.send(version, &request, limit).await?;
        let what = format!("learn the assignment in group {:?}", coordinator.name());
        Error::check(what, response.error_code, None)?;
        let assigned = subscription::decode_assignment(response.assignment);
        assigned.ok_or_else(|| {
            Trouble::Error(Error::Malformed {
                address: connection.address().clone(),
                reason: "the assignment cannot be read".to_owned(),
            })
        })
    }

    async fn assign(
        &mut self,
        joined: &JoinGroupResponse,
    ) -> Result<Vec<SyncGroupRequestAssignment>, Trouble> {
        let name = joined.protocol_name.as_deref().unwrap_or_default();
        let assignor = Assignor::of_name(name).ok_or_else(|| Error::Config {
            setting: "assignors",
            reason: format!("the group uses {name:?}, which is none of them"),
        })?;
        let members = joined.members.iter().filter_map(|member| {
            subscription::decode_member(
                &member.member_id,
                member.group_instance_id.as_deref(),
                assignor,
                member.metadata.clone(),
            )
        });
        let members: Vec<MemberView> = members.collect();
        self.all_topics = members.iter().flat_map(|m| m.topics.clone()).collect();
        let topics = self.partition_counts().await?;
        let assignment = assignor.assign(&members, &topics);
        tracing::debug!(
            "group {}: {assignor} gives {assignment:?}",
            self.group.coordinator.name()
        );
        self.assigned_topics = Some(topics);
        let each = assignment.iter().map(|(member_id, places)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(StrBytes::from_string(member_id.clone()))
                .with_assignment(subscription::encode_assignment(places))
        });
        Ok(each.collect())
    }

    /// Of the topics that exist.
    async fn partition_counts(&self) -> Result<BTreeMap<String, i32>> {
        let names: Vec<String> = self.all_topics.iter().cloned().collect();
        let cluster = &self.group.coordinator.cluster;
        let topics = cluster.existing_topics(&names).await?;
        let counts = topics
            .iter()
            .map(|topic| (topic.name.clone(), topic.partitions.len() as i32));
        Ok(counts.collect())
    }

    /// Sends heartbeats until something happens.
    async fn stay(&mut self) -> Trouble {
        let mut look_at = Instant::now() + TOPICS_EVERY;
        let mut beat_at = Instant::now() + self.config.heartbeat_interval;
        let mut failing_since: Option<Instant> = None;
        loop {
            tokio::select! {
                () = sleep_until(beat_at) => {}
                () = self.teller.gone() => return Trouble::Gone,
            }
            if self.teller.is_idle() {
                tracing::warn!(
                    "group {}: left, because no records were asked for in {} s",
                    self.group.coordinator.name(),
                    self.config.max_poll_interval.as_secs_f64()
                );
                let _ = leave(&self.group, IDLE).await;
                return Trouble::Forgotten;
            }
            beat_at = Instant::now() + self.config.heartbeat_interval;
            match self.heartbeat().await {
                Ok(()) => failing_since = None,
                Err(error) if error.is_transient() => {
                    self.group.coordinator.learn(&error);
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > self.config.session_timeout {
                        return Trouble::Forgotten;
                    }
                    let cluster = &self.group.coordinator.cluster;
                    if matches!(error, Error::Connection { .. }) {
                        let _ = cluster.refresh().await;
                    }
                    beat_at =
                        Instant::now() + self.backoff.next().min(self.config.heartbeat_interval);
                }
                Err(error) => return error.into(),
            }
            if let (Some(assigned), true) = (&self.assigned_topics, look_at <= Instant::now()) {
                look_at = Instant::now() + TOPICS_EVERY;
                if self
                    .partition_counts()
                    .await
                    .is_ok_and(|now| now != *assigned)
                {
                    return Trouble::Rejoin;
                }
            }
        }
    }

    async fn heartbeat(&self) -> Result<()> {
        let (member_id, generation) = self.group.member();
        let mut request = HeartbeatRequest::default()
            .with_group_id(self.group.id())
            .with_generation_id(generation)
            .with_member_id(member_id);
        let limit = self.config.session_timeout / 2;
        let coordinator = &self.group.coordinator;
        let connection = coordinator
            .connection(Lane::Group, Instant::now() + limit)
            .await?;
        let version = connection.version::<HeartbeatRequest>(i16::MAX)?;
        if version >= 3 {
            request.group_instance_id = self.group.instance();
        }
        let response = connection.send(version, &request, limit).await?;
        Error::check("heartbeat", response.error_code, None)
    }
}

/// Tells the coordinator that the member goes; a static one stays.
pub(super) async fn leave(group: &Group, reason: &str) -> Result<()> {
    let (member_id, _) = group.member();
    if member_id.is_empty() || group.instance_id.is_some() {
        return Ok(());
    }
    let build = |version: i16| {
        let request = LeaveGroupRequest::default().with_group_id(group.id());
        if version < 3 {
            return request.with_member_id(member_id.clone());
        }
        let mut identity = MemberIdentity::default().with_member_id(member_id.clone());
        if version >= 5 {
            identity.reason = Some(StrBytes::from_string(reason.to_owned()));
        }
        request.with_members(vec![identity])
    };
    let check = |response: &<LeaveGroupRequest as Request>::Response| {
        let what = "leave the group";
        Error::check(what, response.error_code, None)?;
        let members = response.members.iter();
        members.into_iter().try_for_each(|member| {
            let gone = ErrorCode(member.error_code) == ErrorCode::UNKNOWN_MEMBER_ID;
            Error::check(what, if gone { 0 } else { member.error_code }, None)
        })
    };
    let left = group
        .coordinator
        .call("leave the group", i16::MAX, build, check);
    left.await.map(|_| ())
}

fn millis(time: Duration) -> i32 {
    time.as_millis().try_into().unwrap_or(i32::MAX)
}

//! A member in the protocol of KIP-848: the broker assigns, and each member moves to its new
//! assignment on its own, telling the broker with heartbeats how far it has come.

use super::membership::{ChangeKind, Teller, Told};
use super::offsets::Group;
use crate::cluster::Lane;
use crate::consumer::GroupConfig;
use crate::error::{Error, ErrorCode, Result};
use crate::retry::Backoff;
use crate::topic_partition::TopicPartition;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const LEAVE: i32 = -1;
/// Of a static member that will come back.
const LEAVE_FOR_A_WHILE: i32 = -2;

pub(super) struct BrokerMember {
    group: Group,
    config: GroupConfig,
    assignor: Option<String>,
    topics: Vec<String>,
    teller: Teller,
    owned: BTreeSet<TopicPartition>,
    /// As the broker wants it, by topic id.
    target: Option<Vec<(Uuid, Vec<i32>)>>,
    /// Names by id, of topics seen so far.
    names: BTreeMap<Uuid, String>,
    interval: Duration,
    backoff: Backoff,
    /// Tell the broker everything with the next heartbeat, not only what is new.
    tell_all: bool,
    /// What the broker was last told this member has.
    told: Option<BTreeSet<TopicPartition>>,
}

impl BrokerMember {
    pub(super) fn new(
        group: Group,
        config: GroupConfig,
        assignor: Option<String>,
        topics: Vec<String>,
        teller: Teller,
    ) -> BrokerMember {
        let backoff = Backoff::new(group.coordinator.cluster.config());
        BrokerMember {
            interval: config.heartbeat_interval,
            group,
            config,
            assignor,
            topics,
            teller,
            owned: BTreeSet::new(),
            target: None,
            names: BTreeMap::new(),
            backoff,
            tell_all: true,
            told: None,
        }
    }

    /// Runs until the consumer is gone or the membership fails for good.
    pub(super) async fn run(mut self) {
        self.begin_anew();
        loop {
            let beaten = self.beat(&self.owned.clone()).await;
            let pause = match beaten {
                Ok(()) => {
                    self.backoff.reset();
                    match self.reconcile().await {
                        Ok(true) => Duration::ZERO,
                        Ok(false) => self.interval,
                        Err(None) => return,
                        Err(Some(error)) => {
                            tracing::debug!("group {}: {error}", self.group.coordinator.name());
                            self.backoff.next()
                        }
                    }
                }
                Err(error) => match self.trouble(error).await {
                    Some(pause) => pause,
                    None => return,
                },
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.teller.gone() => return,
            }
            if self.teller.is_idle() {
                tracing::warn!(
                    "group {}: left, because no records were asked for in {} s",
                    self.group.coordinator.name(),
                    self.config.max_poll_interval.as_secs_f64()
                );
                let _ = leave(&self.group).await;
                if !self.lose_all().await {
                    return;
                }
            }
        }
    }

    /// What a failed heartbeat means: when to try again, or None for never.
    async fn trouble(&mut self, error: Error) -> Option<Duration> {
        self.group.coordinator.learn(&error);
        match error.code() {
            Some(ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_MEMBER_EPOCH) => {
                return self.lose_all().await.then_some(Duration::ZERO);
            }
            // The member before this one is still in its session.
            Some(ErrorCode::UNRELEASED_INSTANCE_ID) => {
                tracing::debug!("group {}: {error}", self.group.coordinator.name());
                return Some(self.backoff.next());
            }
            _ if error.is_transient() || matches!(error, Error::Timeout { .. }) => {
                tracing::debug!("group {}: {error}", self.group.coordinator.name());
                self.tell_all = true;
                let pause = self.backoff.next();
                sleep(pause).await;
                let _ = self.group.coordinator.cluster.refresh().await;
                return Some(Duration::ZERO);
            }
            _ => {}
        }
        let error = self.group.as_rebalanced(error);
        self.lose_all().await;
        // Whether anyone hears it or not, this is the end.
        let _ = self.tell_alone(ChangeKind::Failed(error)).await;
        None
    }

    fn begin_anew(&mut self) {
        let mut identity = self.group.identity.lock();
        if identity.member_id.is_empty() {
            identity.member_id = Uuid::new_v4().to_string();
        }
        identity.generation = Some(0);
        identity.owned.clear();
        self.tell_all = true;
        self.told = None;
        self.target = None;
    }

    async fn lose_all(&mut self) -> bool {
        let lost = std::mem::take(&mut self.owned);
        self.begin_anew();
        lost.is_empty() || self.tell_alone(ChangeKind::Lost(lost)).await
    }

    /// Tells the consumer without being a member. False when it is gone.
    async fn tell_alone(&self, kind: ChangeKind) -> bool {
        let never = || async { Instant::now() + Duration::from_secs(3600) };
        let nothing_to_leave = || async {};
        let told = self
            .teller
            .tell(kind, never().await, never, nothing_to_leave);
        told.await != Told::Gone
    }

    /// One heartbeat, saying that the member has `owned`.
    async fn beat(&mut self, owned: &BTreeSet<TopicPartition>) -> Result<()> {
        let (member_id, epoch) = self.group.member();
        let mut request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(self.group.id())
            .with_member_id(member_id)
            .with_member_epoch(epoch)
            .with_instance_id(self.group.instance())
            .with_rebalance_timeout_ms(-1)
            .with_subscribed_topic_names(None)
            .with_subscribed_topic_regex(None)
            .with_server_assignor(None)
            .with_topic_partitions(None);
        let news = self.told.as_ref() != Some(owned);
        if self.tell_all || epoch == 0 {
            let limit = self.config.max_poll_interval.as_millis();
            request.rebalance_timeout_ms = limit.try_into().unwrap_or(i32::MAX);
            let names = self.topics.iter().cloned().map(StrBytes::from_string);
            request.subscribed_topic_names = Some(names.map(TopicName).collect());
            request.server_assignor = self.assignor.clone().map(StrBytes::from_string);
        }
        if news || self.tell_all || epoch == 0 {
            request.topic_partitions = Some(self.by_id(owned));
        }
        let response = heartbeat(&self.group, &request).await?;
        self.tell_all = false;
        self.told = Some(owned.clone());
        let interval = u64::try_from(response.heartbeat_interval_ms).unwrap_or(0);
        if interval > 0 {
            self.interval = Duration::from_millis(interval);
        }
        let mut identity = self.group.identity.lock();
        identity.generation = Some(response.member_epoch);
        if let Some(member_id) = response.member_id {
            identity.member_id = member_id.to_string();
        }
        if let Some(assignment) = response.assignment {
            let topics = assignment.topic_partitions.into_iter();
            self.target = Some(topics.map(|t| (t.topic_id, t.partitions)).collect());
        }
        Ok(())
    }

    fn by_id(&self, owned: &BTreeSet<TopicPartition>) -> Vec<TopicPartitions> {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for place in owned {
            topics
                .entry(&place.topic)
                .or_default()
                .push(place.partition);
        }
        let id_of = |name: &str| {
            self.names
                .iter()
                .find(|(_, n)| *n == name)
                .map(|(id, _)| *id)
        };
        let topics = topics.into_iter().filter_map(|(name, partitions)| {
            let topic = TopicPartitions::default().with_topic_id(id_of(name)?);
            Some(topic.with_partitions(partitions))
        });
        topics.collect()
    }

    /// Moves towards the target. True when the broker should be told at once.
    ///
    /// # Errors
    /// None when the consumer is gone, else what should be tried again.
    async fn reconcile(&mut self) -> Result<bool, Option<Error>> {
        let Some(target) = self.target.clone() else {
            return Ok(false);
        };
        let unknown = target.iter().any(|(id, _)| !self.names.contains_key(id));
        if unknown {
            let topics = self.group.coordinator.cluster.existing_topics(&self.topics);
            for topic in topics.await? {
                self.names.insert(topic.uuid(), topic.name.clone());
            }
        }
        let mut wanted = BTreeSet::new();
        for (id, partitions) in &target {
            // A topic that no broker has told of yet is taken with a later heartbeat.
            if let Some(name) = self.names.get(id) {
                let places = partitions.iter();
                wanted.extend(places.map(|&p| TopicPartition::new(name.as_str(), p)));
            }
        }
        let revoked: BTreeSet<_> = self.owned.difference(&wanted).cloned().collect();
        let added: BTreeSet<_> = wanted.difference(&self.owned).cloned().collect();
        if revoked.is_empty() && added.is_empty() {
            return Ok(false);
        }
        if !revoked.is_empty() {
            self.tell(ChangeKind::Revoked(revoked)).await?;
            self.owned = self.owned.intersection(&wanted).cloned().collect();
        } else {
            self.owned = wanted;
            self.group.identity.lock().owned = self.owned.clone();
            self.tell(ChangeKind::Assigned(added)).await?;
        }
        self.group.identity.lock().owned = self.owned.clone();
        Ok(true)
    }

    /// Tells the consumer, with heartbeats meanwhile that keep to what is the case.
    async fn tell(&mut self, kind: ChangeKind) -> Result<(), Option<Error>> {
        let group = self.group.clone();
        let interval = self.interval;
        let beat = || async {
            let (member_id, epoch) = group.member();
            let request = ConsumerGroupHeartbeatRequest::default()
                .with_group_id(group.id())
                .with_member_id(member_id)
                .with_member_epoch(epoch)
                .with_instance_id(group.instance())
                .with_rebalance_timeout_ms(-1)
                .with_subscribed_topic_names(None)
                .with_subscribed_topic_regex(None)
                .with_server_assignor(None)
                .with_topic_partitions(None);
            if let Ok(response) = heartbeat(&group, &request).await {
                group.identity.lock().generation = Some(response.member_epoch);
                // Should the target have changed, a full heartbeat gets it again.
            }
            Instant::now() + interval
        };
        let go = || async {
            // Should it fail, the session ends by itself.
            let _ = leave(&group).await;
        };
        let next = Instant::now() + interval;
        let told = self.teller.tell(kind, next, beat, go).await;
        // The broker repeats the assignment to who tells it everything.
        self.tell_all = true;
        match told {
            Told::Done => Ok(()),
            Told::Late => match self.lose_all().await {
                true => Err(Some(Error::Closed)),
                false => Err(None),
            },
            Told::Gone => Err(None),
        }
    }
}

async fn heartbeat(
    group: &Group,
    request: &ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerGroupHeartbeatResponse> {
    let coordinator = &group.coordinator;
    let limit = coordinator.cluster.config().request_timeout;
    let connection = coordinator
        .connection(Lane::Group, Instant::now() + limit)
        .await?;
    let version = connection.version::<ConsumerGroupHeartbeatRequest>(i16::MAX)?;
    let response = connection.send(version, request, limit).await?;
    let what = format!("heartbeat to group {:?}", coordinator.name());
    Error::check(what, response.error_code, response.error_message.as_deref())?;
    Ok(response)
}

/// Tells the coordinator that the member goes, a static one for a while only.
pub(super) async fn leave(group: &Group) -> Result<()> {
    let (member_id, epoch) = group.member();
    if epoch <= 0 {
        return Ok(());
    }
    let epoch = if group.instance_id.is_some() {
        LEAVE_FOR_A_WHILE
    } else {
        LEAVE
    };
    let request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group.id())
        .with_member_id(member_id)
        .with_member_epoch(epoch)
        .with_instance_id(group.instance())
        .with_rebalance_timeout_ms(-1)
        .with_subscribed_topic_names(None)
        .with_subscribed_topic_regex(None)
        .with_server_assignor(None)
        .with_topic_partitions(None);
    let coordinator = &group.coordinator;
    let build = |_: i16| request.clone();
    let check = |response: &ConsumerGroupHeartbeatResponse| {
        let gone = ErrorCode(response.error_code) == ErrorCode::UNKNOWN_MEMBER_ID;
        let code = if gone { 0 } else { response.error_code };
        Error::check("leave the group", code, None)
    };
    let left = coordinator.call("leave the group", i16::MAX, build, check);
    left.await.map(|_| ())
}

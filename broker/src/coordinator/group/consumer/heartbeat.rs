//! ConsumerGroupHeartbeat: joining, staying, and moving on, in three steps.
//!
//! 1. The member is created or changed; the group epoch goes up when that, or the topics themselves,
//!    change what there is to assign.
//! 2. A target assignment is made when the group epoch has passed the last one's.
//! 3. The member moves as far towards it as it can ([`super::reconcile`]).

mod join;
mod validate;

use super::group::ConsumerGroup;
use super::member::{JOINING, LEAVING, LEAVING_STATIC, Member, MemberMetadata};
use super::partitions::Partitions;
use super::reconcile::Towards;
use super::records::Change;
use super::settings::ConsumerGroupSettings;
use crate::coordinator::Turn;
use crate::metadata::changes::Refused;
use kafka_protocol::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use kafka_protocol::messages::consumer_group_heartbeat_response::{
    Assignment, ConsumerGroupHeartbeatResponse, TopicPartitions,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeSet;
use uuid::Uuid;

pub(super) use join::check_instance;
pub use validate::validate;

/// A heartbeat and who sent it.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    pub request: ConsumerGroupHeartbeatRequest,
    pub version: i16,
    /// The id of a member that comes without one; made by the caller, since it is random.
    pub new_member_id: String,
    pub client_id: String,
    /// As Kafka writes it: a slash and the address.
    pub client_host: String,
}

/// What every operation on a group needs to know.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub turn: &'a Turn,
    pub settings: &'a ConsumerGroupSettings,
}

impl Heartbeat {
    /// What the member says it holds.
    pub fn owned(&self) -> Option<Partitions> {
        let topics = self.request.topic_partitions.as_ref()?;
        let mut owned = Partitions::new();
        for topic in topics.iter().filter(|t| !t.partitions.is_empty()) {
            let partitions = owned.entry(topic.topic_id).or_default();
            partitions.extend(&topic.partitions);
        }
        Some(owned)
    }

    pub fn is_joining(&self) -> bool {
        self.request.member_epoch == JOINING
    }

    pub fn is_leaving(&self) -> bool {
        matches!(self.request.member_epoch, LEAVING | LEAVING_STATIC)
    }

    /// Says everything a member that joins has to say.
    fn is_full(&self) -> bool {
        let request = &self.request;
        let subscribed =
            request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some();
        request.rebalance_timeout_ms != -1 && subscribed && request.topic_partitions.is_some()
    }

    /// `metadata` with what this heartbeat says anew.
    fn update(&self, metadata: &MemberMetadata) -> MemberMetadata {
        let request = &self.request;
        let said = |value: &Option<StrBytes>, before: &Option<String>| {
            value
                .as_ref()
                .map(ToString::to_string)
                .or_else(|| before.clone())
        };
        MemberMetadata {
            instance_id: said(&request.instance_id, &metadata.instance_id),
            rack_id: said(&request.rack_id, &metadata.rack_id),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            topics: match &request.subscribed_topic_names {
                Some(names) => names.iter().map(|n| n.to_string()).collect(),
                None => metadata.topics.clone(),
            },
            regex: said(&request.subscribed_topic_regex, &metadata.regex),
            rebalance_timeout_ms: match request.rebalance_timeout_ms {
                -1 => metadata.rebalance_timeout_ms,
                timeout_ms => timeout_ms,
            },
            assignor: said(&request.server_assignor, &metadata.assignor),
            classic: None,
        }
    }
}

impl ConsumerGroup {
    /// Serves a heartbeat that [`validate`] has let through and that is not one of leaving. A group that
    /// is new has epoch 0. Changes are applied already; they are to be written.
    ///
    /// # Errors
    /// `GROUP_MAX_SIZE_REACHED`, `UNKNOWN_MEMBER_ID`, `FENCED_MEMBER_EPOCH`, `FENCED_INSTANCE_ID`,
    /// `UNRELEASED_INSTANCE_ID`, `INVALID_REGULAR_EXPRESSION`. Nothing has changed then.
    pub fn heartbeat(
        &mut self,
        cx: Context<'_>,
        heartbeat: &Heartbeat,
        changes: &mut Vec<Change>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let request = &heartbeat.request;
        if let Some(pattern) = request.subscribed_topic_regex.as_ref()
            && !pattern.is_empty()
        {
            super::subscription::compile(pattern)?;
        }
        let owned = heartbeat.owned();
        let id = self.admit(cx, heartbeat, owned.as_ref(), changes)?;
        let before = self.members.get(&id).cloned().unwrap_or_default();
        let metadata = heartbeat.update(&before.metadata);
        let subscription_changed = metadata.topics != before.metadata.topics
            || metadata.pattern() != before.metadata.pattern();
        if metadata != before.metadata || !self.members.contains_key(&id) {
            self.change(changes, Change::Member(id.clone(), Some(metadata)));
        }
        let update = Update {
            id: &id,
            subscription_changed,
            owned: owned.as_ref(),
        };
        self.move_on(cx, &update, changes)?;
        self.renew_session(&id, cx.turn.clock_ms, cx.settings);

        let member = self.members.get(&id).unwrap_or(&before);
        let tell = heartbeat.is_joining()
            || heartbeat.is_full()
            || member.current.assigned != before.current.assigned;
        Ok(ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(StrBytes::from_string(id.clone())))
            .with_member_epoch(member.current.epoch)
            .with_heartbeat_interval_ms(cx.settings.heartbeat_interval_ms)
            .with_assignment(tell.then(|| assignment(member))))
    }

    /// Steps 1 (from the epoch on) to 3, for members of both protocols.
    pub(super) fn move_on(
        &mut self,
        cx: Context<'_>,
        update: &Update<'_>,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refused> {
        self.update_patterns(cx.turn, changes);
        let needed = update.subscription_changed || self.epoch == 0;
        self.update_epoch(cx.turn, needed, changes);
        if self.epoch > self.target_epoch {
            self.make_target(cx, changes);
        }
        self.reconcile(cx, update, changes)
    }

    fn reconcile(
        &mut self,
        cx: Context<'_>,
        update: &Update<'_>,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refused> {
        let Some(member) = self.members.get(update.id) else {
            return Ok(());
        };
        if member.is_reconciled_to(self.target_epoch) && !update.subscription_changed {
            return Ok(());
        }
        let subscribed: BTreeSet<Uuid> = self
            .topics_of(member)
            .filter_map(|name| Some(cx.turn.image.topic(name)?.id))
            .collect();
        let nothing = Partitions::new();
        let towards = Towards {
            target_epoch: self.target_epoch,
            target: self.target.get(update.id).unwrap_or(&nothing),
            subscribed: &subscribed,
            owned: update.owned,
            subscription_changed: update.subscription_changed,
        };
        let next = towards.step(member, |t, p| self.is_held_by_other(update.id, t, p))?;
        if next != member.current {
            self.change(changes, Change::Current(update.id.to_owned(), Some(next)));
            self.renew_rebalance(update.id, cx.turn.clock_ms);
        }
        Ok(())
    }
}

/// What a request says of its member.
pub(super) struct Update<'a> {
    pub id: &'a str,
    pub subscription_changed: bool,
    pub owned: Option<&'a Partitions>,
}

/// The partitions a member is to hold now.
fn assignment(member: &Member) -> Assignment {
    let topics = member
        .current
        .assigned
        .iter()
        .map(|(topic, partitions)| {
            TopicPartitions::default()
                .with_topic_id(*topic)
                .with_partitions(partitions.keys().copied().collect())
        })
        .collect();
    Assignment::default().with_topic_partitions(topics)
}

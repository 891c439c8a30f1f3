//! JoinGroup to a consumer group.

use super::embedded::Subscription;
use super::{Identity, PROTOCOL_TYPE};
use crate::coordinator::group::consumer::group::ConsumerGroup;
use crate::coordinator::group::consumer::heartbeat::{Context, Update, check_instance};
use crate::coordinator::group::consumer::member::{ClassicMember, MemberMetadata};
use crate::coordinator::group::consumer::records::Change;
use crate::metadata::changes::Refused;
use bytes::Bytes;
use kafka_protocol::error::ResponseError;

/// A JoinGroup request.
#[derive(Debug, Clone)]
pub struct Join<'a> {
    pub who: Identity<'a>,
    /// The id of a member that comes without one.
    pub new_member_id: &'a str,
    pub client_id: &'a str,
    pub client_host: &'a str,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: &'a str,
    /// Assignors with their serialised subscriptions.
    pub protocols: Vec<(String, Bytes)>,
    /// The version wants dynamic members to come with the id they were given (KIP-394).
    pub needs_member_id: bool,
}

/// How a JoinGroup is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// `MEMBER_ID_REQUIRED`: the member is to come again with this id.
    MemberIdRequired(String),
    Joined {
        member_id: String,
        generation: i32,
        protocol: String,
    },
}

impl ConsumerGroup {
    /// Serves JoinGroup. Nobody waits: the answer is there at once.
    ///
    /// # Errors
    /// `GROUP_MAX_SIZE_REACHED`, `INCONSISTENT_GROUP_PROTOCOL`, `UNKNOWN_MEMBER_ID`,
    /// `FENCED_INSTANCE_ID`. Nothing has changed then.
    pub fn classic_join(
        &mut self,
        cx: Context<'_>,
        join: &Join<'_>,
        changes: &mut Vec<Change>,
    ) -> Result<Joined, Refused> {
        let known = join.who.member_id;
        self.check_room(known, cx.settings.max_size)?;
        let (protocol, subscription) = self.check_protocols(join)?;
        let id = if known.is_empty() {
            join.new_member_id.to_owned()
        } else {
            known.to_owned()
        };
        if known.is_empty() && join.needs_member_id && join.who.instance_id.is_none() {
            return Ok(Joined::MemberIdRequired(id));
        }
        self.admit_classic(join.who, &id, changes)?;

        let before = self.members.get(&id).map(|m| m.metadata.clone());
        let before = before.unwrap_or_default();
        let metadata = MemberMetadata {
            instance_id: join.who.instance_id.map(str::to_owned),
            rack_id: subscription.rack_id.clone().or(before.rack_id.clone()),
            client_id: join.client_id.to_owned(),
            client_host: join.client_host.to_owned(),
            topics: subscription.topics.clone(),
            regex: None,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            assignor: before.assignor.clone(),
            classic: Some(ClassicMember {
                session_timeout_ms: join.session_timeout_ms,
                protocols: join.protocols.clone(),
            }),
        };
        let subscription_changed = metadata.topics != before.topics || before.pattern().is_some();
        if metadata != before || !self.members.contains_key(&id) {
            self.change(changes, Change::Member(id.clone(), Some(metadata)));
        }
        let owned = subscription.owned_partitions(&cx.turn.image);
        let update = Update {
            id: &id,
            subscription_changed,
            owned: Some(&owned),
        };
        self.move_on(cx, &update, changes)?;

        self.renew_session(&id, cx.turn.clock_ms, cx.settings);
        let timers = self.timers.entry(id.clone()).or_default();
        timers.join = None;
        timers.rebalance = None;
        timers.sync = Some(cx.turn.clock_ms + i64::from(join.rebalance_timeout_ms));
        let generation = self.members.get(&id).map_or(0, |m| m.current.epoch);
        Ok(Joined::Joined {
            member_id: id,
            generation,
            protocol,
        })
    }

    /// The first protocol and its subscription, if the other classic members know one of them too.
    fn check_protocols(&self, join: &Join<'_>) -> Result<(String, Subscription), Refused> {
        let inconsistent = || {
            Refused::new(
                ResponseError::InconsistentGroupProtocol,
                format!(
                    "Member {}'s protocols are not supported.",
                    join.who.member_id
                ),
            )
        };
        let shared = |name: &String| {
            self.members
                .iter()
                .filter(|(id, _)| *id != join.who.member_id)
                .filter_map(|(_, m)| m.metadata.classic.as_ref())
                .all(|c| c.protocols.iter().any(|(n, _)| n == name))
        };
        if join.protocol_type != PROTOCOL_TYPE || !join.protocols.iter().any(|(n, _)| shared(n)) {
            return Err(inconsistent());
        }
        let (name, metadata) = join.protocols.first().ok_or_else(inconsistent)?;
        let subscription = Subscription::decode(metadata).map_err(|_| inconsistent())?;
        Ok((name.clone(), subscription))
    }

    fn admit_classic(
        &mut self,
        who: Identity<'_>,
        id: &str,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refused> {
        let Some(instance) = who.instance_id else {
            return Ok(());
        };
        match self.static_member(instance).cloned() {
            Some(former) if who.member_id.is_empty() => {
                self.replace_static(&former, id, changes);
                Ok(())
            }
            Some(former) => check_instance(&former, id, instance),
            None if who.member_id.is_empty() => Ok(()),
            None => Err(self.unknown_member(id)),
        }
    }
}

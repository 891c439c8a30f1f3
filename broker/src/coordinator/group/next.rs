//! Groups of the next protocol in the shard: which group a request is for, changing a group's protocol,
//! and what is written. The rules are in [`super::consumer`].

#[cfg(test)]
mod tests;

use super::classic::{self, ClassicGroup};
use super::consumer::classic::{Identity, Join, Joined};
use super::consumer::group::ConsumerGroup;
use super::consumer::heartbeat::{Context, Heartbeat, validate};
use super::consumer::records::{Change, GroupRecord, decode};
use super::consumer::settings::ConsumerGroupSettings;
use super::migrate;
use super::{Answer, Effects, Group, GroupShard, JoinRequest, Leaving, SyncRequest, Timer};
use crate::config::group::resolve;
use crate::coordinator::{Malformed, Record, Turn};
use crate::metadata::changes::Refused;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatResponse, GroupId, JoinGroupResponse, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

/// First version of JoinGroup whose new members come again with the id they were given (KIP-394).
const KNOWN_MEMBER_ID: i16 = 4;

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn write(id: &str, changes: &[Change], effects: &mut Effects<Answer>) {
    for change in changes {
        effects.write(change.encode(id));
    }
}

impl GroupShard {
    fn settings(&self, turn: &Turn, id: &str) -> ConsumerGroupSettings {
        resolve(id, &self.config.broker, &turn.image)
    }

    /// The group, if it is of the next protocol.
    fn next(&mut self, id: &str) -> Option<&mut ConsumerGroup> {
        match self.groups.get_mut(id)? {
            Group::Consumer(group) => Some(group),
            Group::Classic(_) => None,
        }
    }

    pub(super) fn is_next(&self, id: &str) -> bool {
        matches!(self.groups.get(id), Some(Group::Consumer(_)))
    }

    /// Sets the timer to the group's next deadline.
    fn watch(&mut self, id: &str) {
        let key = Timer::Members {
            group: id.to_owned(),
        };
        match self.next(id).and_then(|group| group.next_deadline()) {
            Some(at) => self.timers.schedule(key, at),
            None => self.timers.cancel(&key),
        }
    }

    /// ConsumerGroupHeartbeat.
    pub(super) fn beat(
        &mut self,
        turn: &Turn,
        heartbeat: &Heartbeat,
        effects: &mut Effects<Answer>,
    ) -> ConsumerGroupHeartbeatResponse {
        let id = heartbeat.request.group_id.to_string();
        let settings = self.settings(turn, &id);
        let cx = Context {
            turn,
            settings: &settings,
        };
        let result = validate(heartbeat, &settings).and_then(|()| {
            if self.is_next(&id) {
                self.beat_known(cx, &id, heartbeat, effects)
            } else {
                self.beat_new(cx, &id, heartbeat, effects)
            }
        });
        self.watch(&id);
        result.unwrap_or_else(|refused| {
            ConsumerGroupHeartbeatResponse::default()
                .with_error_code(refused.error.code())
                .with_error_message(Some(text(&refused.message)))
        })
    }

    fn beat_known(
        &mut self,
        cx: Context<'_>,
        id: &str,
        heartbeat: &Heartbeat,
        effects: &mut Effects<Answer>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let mut changes = Vec::new();
        let group = self.next(id).ok_or_else(|| not_found(id))?;
        let answer = if heartbeat.is_leaving() {
            group.leave(cx, heartbeat, &mut changes)?
        } else {
            group.heartbeat(cx, heartbeat, &mut changes)?
        };
        write(id, &changes, effects);
        if heartbeat.is_leaving() {
            self.maybe_downgrade(cx, id, effects);
        }
        Ok(answer)
    }

    /// The group is not of the next protocol, or is not there at all: a member that joins makes it so.
    fn beat_new(
        &mut self,
        cx: Context<'_>,
        id: &str,
        heartbeat: &Heartbeat,
        effects: &mut Effects<Answer>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        if !heartbeat.is_joining() {
            return Err(not_found(id));
        }
        let mut changes = Vec::new();
        let mut group = match self.groups.get(id) {
            Some(Group::Classic(classic)) if !classic.members.is_empty() => {
                migrate::upgraded(classic, cx, &mut changes)?
            }
            _ => ConsumerGroup::default(),
        };
        group.start_timers(cx.turn.clock_ms, cx.settings);
        let answer = group.heartbeat(cx, heartbeat, &mut changes)?;
        if let Some((mut ctx, classic)) = self.classic(cx.turn, effects, id) {
            tracing::info!(
                group = id,
                members = classic.members.len(),
                "a classic group is now one of the next protocol"
            );
            migrate::dismiss(&mut ctx, classic);
        }
        self.drop_group(id, effects);
        write(id, &changes, effects);
        self.groups.insert(id.to_owned(), Group::Consumer(group));
        Ok(answer)
    }

    /// Where only members of the classic protocol are left, the group becomes a classic one.
    fn maybe_downgrade(
        &mut self,
        cx: Context<'_>,
        id: &str,
        effects: &mut Effects<Answer>,
    ) -> bool {
        let max_size = self.config.max_size;
        let Some(group) = self.next(id) else {
            return false;
        };
        if !group.is_all_classic()
            || !cx.settings.migration.allows_downgrade()
            || group.member_count() > max_size
        {
            return false;
        }
        let Some(stored) = migrate::downgraded(group, cx.turn) else {
            return false;
        };
        let tombstones = group.tombstones();
        write(id, &tombstones, effects);
        tracing::info!(
            group = id,
            members = stored.members.len(),
            "a group of the next protocol is now a classic one"
        );
        let classic = ClassicGroup::from_stored(id, stored);
        self.groups.insert(id.to_owned(), Group::Classic(classic));
        if let Some((mut ctx, group)) = self.classic(cx.turn, effects, id) {
            classic::store(&mut ctx, group);
            classic::loaded(&mut ctx, group);
            // All join again, and bring their other protocols along.
            classic::prepare_rebalance(&mut ctx, group);
        }
        true
    }

    /// JoinGroup of a group of the next protocol.
    pub(super) fn join_next(
        &mut self,
        turn: &Turn,
        request: &JoinRequest,
        effects: &mut Effects<Answer>,
    ) -> JoinGroupResponse {
        let id = request.group.as_str();
        let settings = self.settings(turn, id);
        let cx = Context {
            turn,
            settings: &settings,
        };
        let join = Join {
            who: Identity {
                member_id: &request.member_id,
                instance_id: request.instance_id.as_deref(),
            },
            new_member_id: &request.new_member_id,
            client_id: &request.client_id,
            client_host: &request.client_host,
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            protocol_type: &request.protocol_type,
            protocols: request.protocols.clone(),
            needs_member_id: request.version >= KNOWN_MEMBER_ID,
        };
        let Some(group) = self.next(id) else {
            return classic::join_error(&request.member_id, ResponseError::UnknownMemberId);
        };
        let mut changes = Vec::new();
        let joined = group.classic_join(cx, &join, &mut changes);
        write(id, &changes, effects);
        let downgraded = joined.is_ok() && self.maybe_downgrade(cx, id, effects);
        self.watch(id);
        match joined {
            Err(refused) => classic::join_error(&request.member_id, refused.error),
            Ok(Joined::MemberIdRequired(member)) => {
                classic::join_error(&member, ResponseError::MemberIdRequired)
            }
            // A static member has taken the place of the last one of the next protocol.
            Ok(Joined::Joined { member_id, .. }) if downgraded => {
                classic::join_error(&member_id, ResponseError::RebalanceInProgress)
            }
            Ok(Joined::Joined {
                member_id,
                generation,
                protocol,
            }) => JoinGroupResponse::default()
                .with_generation_id(generation)
                .with_protocol_type(Some(text(super::consumer::classic::PROTOCOL_TYPE)))
                .with_protocol_name(Some(text(&protocol)))
                .with_member_id(text(&member_id)),
        }
    }

    /// SyncGroup of a group of the next protocol.
    pub(super) fn sync_next(&mut self, turn: &Turn, request: &SyncRequest) -> SyncGroupResponse {
        let id = request.group.as_str();
        let settings = self.settings(turn, id);
        let cx = Context {
            turn,
            settings: &settings,
        };
        let who = Identity {
            member_id: &request.member_id,
            instance_id: request.instance_id.as_deref(),
        };
        let protocol = (
            request.protocol_type.as_deref(),
            request.protocol.as_deref(),
        );
        let result = match self.next(id) {
            Some(group) => group
                .classic_sync(cx, who, request.generation, protocol)
                .map_err(|r| r.error),
            None => Err(ResponseError::UnknownMemberId),
        };
        self.watch(id);
        match result {
            Err(error) => classic::sync_error(error),
            Ok(assignment) => SyncGroupResponse::default()
                .with_protocol_type(protocol.0.map(text))
                .with_protocol_name(protocol.1.map(text))
                .with_assignment(assignment),
        }
    }

    /// Heartbeat of a group of the next protocol.
    pub(super) fn heartbeat_next(
        &mut self,
        turn: &Turn,
        id: &str,
        who: Identity<'_>,
        generation: i32,
    ) -> Result<(), ResponseError> {
        let settings = self.settings(turn, id);
        let cx = Context {
            turn,
            settings: &settings,
        };
        let group = self.next(id).ok_or(ResponseError::UnknownMemberId)?;
        let result = group.classic_heartbeat(cx, who, generation);
        self.watch(id);
        result.map_err(|r| r.error)
    }

    /// LeaveGroup of a group of the next protocol; the result of each member in order.
    pub(super) fn leave_next(
        &mut self,
        turn: &Turn,
        id: &str,
        leaving: &[Leaving],
        effects: &mut Effects<Answer>,
    ) -> Vec<Result<(), ResponseError>> {
        let settings = self.settings(turn, id);
        let cx = Context {
            turn,
            settings: &settings,
        };
        let Some(group) = self.next(id) else {
            return vec![Err(ResponseError::UnknownMemberId); leaving.len()];
        };
        let mut ids: Vec<String> = Vec::new();
        let mut results = Vec::with_capacity(leaving.len());
        for member in leaving {
            let who = Identity {
                member_id: &member.member_id,
                instance_id: member.instance_id.as_deref(),
            };
            let checked = group.check_classic_leave(who).map_err(|r| r.error);
            results.push(checked.and_then(|member| {
                if ids.contains(&member) {
                    return Err(ResponseError::UnknownMemberId);
                }
                ids.push(member);
                Ok(())
            }));
        }
        let mut changes = Vec::new();
        group.classic_leave(cx, &ids, &mut changes);
        write(id, &changes, effects);
        self.maybe_downgrade(cx, id, effects);
        self.watch(id);
        results
    }

    /// Removes the members whose time is up.
    pub(super) fn expire_members(&mut self, turn: &Turn, id: &str, effects: &mut Effects<Answer>) {
        let settings = self.settings(turn, id);
        let cx = Context {
            turn,
            settings: &settings,
        };
        let Some(group) = self.next(id) else {
            return;
        };
        let expired = group.expired(turn.clock_ms);
        if !expired.is_empty() {
            for (member, why) in &expired {
                tracing::info!(group = id, member, "removed from the group: {why}");
            }
            let ids: Vec<String> = expired.into_iter().map(|(member, _)| member).collect();
            let mut changes = Vec::new();
            group.fence(turn, &ids, &mut changes);
            write(id, &changes, effects);
            self.maybe_downgrade(cx, id, effects);
        }
        self.watch(id);
    }

    /// Begins the timers after loading.
    pub(super) fn loaded_next(&mut self, turn: &Turn) {
        let ids: Vec<String> = self.groups.keys().cloned().collect();
        for id in ids {
            let settings = self.settings(turn, &id);
            if let Some(group) = self.next(&id) {
                group.start_timers(turn.clock_ms, &settings);
                self.watch(&id);
            }
        }
    }

    /// Takes over a record while loading.
    pub(super) fn replay_next(&mut self, record: &Record<'_>) -> Result<(), Malformed> {
        let Some(GroupRecord { group: id, change }) = decode(record.key, record.value)? else {
            return Ok(());
        };
        if matches!(change, Change::Group(None)) {
            if self.is_next(&id) {
                self.groups.remove(&id);
            }
            return Ok(());
        }
        if !self.is_next(&id) {
            // Tombstones of a group that has gone, or has changed its protocol since.
            if change.is_tombstone() {
                return Ok(());
            }
            let group = Group::Consumer(ConsumerGroup::default());
            self.groups.insert(id.clone(), group);
        }
        if let Some(group) = self.next(&id) {
            group.apply(&change);
        }
        Ok(())
    }

    /// ConsumerGroupDescribe.
    pub(super) fn describe_next(&self, turn: &Turn, ids: &[String]) -> Vec<DescribedGroup> {
        let described = ids.iter().map(|id| match self.groups.get(id) {
            Some(Group::Consumer(group)) => {
                let settings = self.settings(turn, id);
                let cx = Context {
                    turn,
                    settings: &settings,
                };
                group.describe(id, cx)
            }
            other => DescribedGroup::default()
                .with_group_id(GroupId(text(id)))
                .with_error_code(ResponseError::GroupIdNotFound.code())
                .with_error_message(Some(text(&if other.is_some() {
                    format!("Group {id} is not a consumer group.")
                } else {
                    format!("Group {id} not found.")
                }))),
        });
        described.collect()
    }
}

fn not_found(id: &str) -> Refused {
    Refused::new(
        ResponseError::GroupIdNotFound,
        format!("Consumer group {id} not found."),
    )
}

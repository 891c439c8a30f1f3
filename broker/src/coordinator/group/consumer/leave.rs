//! Leaving, of the member's own will or not.

use super::group::ConsumerGroup;
use super::heartbeat::{Context, Heartbeat, check_instance};
use super::member::{CurrentAssignment, LEAVING_STATIC};
use super::partitions::Held;
use super::records::Change;
use crate::coordinator::Turn;
use crate::metadata::changes::Refused;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;

impl ConsumerGroup {
    /// Serves a heartbeat with epoch −1 or −2.
    ///
    /// # Errors
    /// `UNKNOWN_MEMBER_ID`, `FENCED_INSTANCE_ID`.
    pub fn leave(
        &mut self,
        cx: Context<'_>,
        heartbeat: &Heartbeat,
        changes: &mut Vec<Change>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let request = &heartbeat.request;
        let id = request.member_id.to_string();
        if let Some(instance) = request.instance_id.as_deref() {
            let Some(owner) = self.static_member(instance) else {
                return Err(Refused::new(
                    ResponseError::UnknownMemberId,
                    format!("Instance id {instance} is unknown."),
                ));
            };
            check_instance(owner, &id, instance)?;
        }
        let Some(member) = self.members.get(&id) else {
            return Err(self.unknown_member(&id));
        };
        if request.member_epoch == LEAVING_STATIC {
            // Its partitions wait for it until its session runs out.
            let current = CurrentAssignment {
                epoch: LEAVING_STATIC,
                revoking: Held::new(),
                ..member.current.clone()
            };
            self.change(changes, Change::Current(id.clone(), Some(current)));
        } else {
            self.fence(cx.turn, std::slice::from_ref(&id), changes);
        }
        Ok(ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(request.member_id.clone()))
            .with_member_epoch(request.member_epoch))
    }

    /// Removes members that are there. The next heartbeat makes a new target assignment.
    pub fn fence(&mut self, turn: &Turn, ids: &[String], changes: &mut Vec<Change>) {
        for id in ids {
            self.remove_member(id, changes);
        }
        self.update_patterns(turn, changes);
        self.update_epoch(turn, true, changes);
    }
}

//! Who may speak for a member.

use super::{Context, Heartbeat};
use crate::coordinator::group::consumer::group::ConsumerGroup;
use crate::coordinator::group::consumer::member::{
    CurrentAssignment, JOINING, LEAVING_STATIC, Member,
};
use crate::coordinator::group::consumer::partitions::Partitions;
use crate::coordinator::group::consumer::records::Change;
use crate::metadata::changes::Refused;
use kafka_protocol::error::ResponseError;

impl ConsumerGroup {
    /// The member a heartbeat is of; a static one that comes back takes the place of its former self.
    pub(super) fn admit(
        &mut self,
        cx: Context<'_>,
        heartbeat: &Heartbeat,
        owned: Option<&Partitions>,
        changes: &mut Vec<Change>,
    ) -> Result<String, Refused> {
        let request = &heartbeat.request;
        let id = request.member_id.as_str();
        self.check_room(id, cx.settings.max_size)?;
        let id = if id.is_empty() {
            heartbeat.new_member_id.clone()
        } else {
            id.to_owned()
        };
        let joining = heartbeat.is_joining();
        let Some(instance) = request.instance_id.as_deref() else {
            match self.members.get(&id) {
                Some(member) => check_epoch(member, request.member_epoch, owned)?,
                None if joining => {}
                None => return Err(self.unknown_member(&id)),
            }
            return Ok(id);
        };
        let former = self.static_member(instance).cloned();
        if joining {
            if let Some(former) = former
                && former != id
            {
                self.check_released(&former, &id, instance)?;
                self.replace_static(&former, &id, changes);
            }
            return Ok(id);
        }
        let Some(former) = former else {
            return Err(Refused::new(
                ResponseError::UnknownMemberId,
                format!("Instance id {instance} is unknown."),
            ));
        };
        check_instance(&former, &id, instance)?;
        check_epoch(&self.members[&former], request.member_epoch, owned)?;
        Ok(id)
    }

    /// # Errors
    /// `GROUP_MAX_SIZE_REACHED` when `id` is not a member and no more are taken.
    pub(in super::super) fn check_room(&self, id: &str, max_size: usize) -> Result<(), Refused> {
        if self.members.len() < max_size || self.members.contains_key(id) {
            return Ok(());
        }
        Err(Refused::new(
            ResponseError::GroupMaxSizeReached,
            format!("The consumer group has reached its maximum capacity of {max_size} members."),
        ))
    }

    pub(in super::super) fn unknown_member(&self, id: &str) -> Refused {
        Refused::new(
            ResponseError::UnknownMemberId,
            format!("Member {id} is not a member of the group."),
        )
    }

    /// A static member of this protocol gives its place up by leaving with epoch −2.
    fn check_released(&self, former: &str, id: &str, instance: &str) -> Result<(), Refused> {
        let member = &self.members[former];
        if member.current.epoch == LEAVING_STATIC || member.metadata.classic.is_some() {
            return Ok(());
        }
        Err(Refused::new(
            ResponseError::UnreleasedInstanceId,
            format!(
                "Static member {id} with instance id {instance} cannot join the group because the \
                 instance id is owned by member {former}."
            ),
        ))
    }

    /// Puts `id` in the place of the static member `former`, with its subscription and assignment.
    pub(in super::super) fn replace_static(
        &mut self,
        former: &str,
        id: &str,
        changes: &mut Vec<Change>,
    ) {
        let Some(Member { metadata, current }) = self.members.get(former).cloned() else {
            return;
        };
        let target = self.target.get(former).cloned().unwrap_or_default();
        self.remove_member(former, changes);
        let id = id.to_owned();
        let current = CurrentAssignment {
            epoch: JOINING,
            previous_epoch: JOINING,
            ..current
        };
        self.change(changes, Change::Member(id.clone(), Some(metadata)));
        self.change(changes, Change::TargetMember(id.clone(), Some(target)));
        self.change(changes, Change::Current(id, Some(current)));
    }

    /// Removes everything of a member. The order is Kafka's: a replay that stops in between leaves no
    /// assignment without its member.
    pub(in super::super) fn remove_member(&mut self, id: &str, changes: &mut Vec<Change>) {
        self.change(changes, Change::Current(id.to_owned(), None));
        self.change(changes, Change::TargetMember(id.to_owned(), None));
        self.change(changes, Change::Member(id.to_owned(), None));
    }
}

/// # Errors
/// `FENCED_INSTANCE_ID` when another member has the instance id.
pub(in super::super) fn check_instance(
    owner: &str,
    id: &str,
    instance: &str,
) -> Result<(), Refused> {
    if owner == id {
        return Ok(());
    }
    Err(Refused::new(
        ResponseError::FencedInstanceId,
        format!("Static member {id} with instance id {instance} was fenced by member {owner}."),
    ))
}

/// Takes the member's epoch, the one before it (whose answer may have been lost) when nothing is held
/// that is not assigned, and 0 from a member that joins again.
fn check_epoch(member: &Member, epoch: i32, owned: Option<&Partitions>) -> Result<(), Refused> {
    let current = &member.current;
    let late = epoch == current.previous_epoch && owned.is_some_and(|o| current.covers(o));
    if epoch == JOINING || epoch == current.epoch || (epoch < current.epoch && late) {
        return Ok(());
    }
    let than = if epoch > current.epoch {
        "greater"
    } else {
        "smaller"
    };
    Err(Refused::new(
        ResponseError::FencedMemberEpoch,
        format!(
            "The consumer group member has a {than} member epoch ({epoch}) than the one known by \
             the group coordinator ({}). The member must abandon all its partitions and rejoin.",
            current.epoch
        ),
    ))
}

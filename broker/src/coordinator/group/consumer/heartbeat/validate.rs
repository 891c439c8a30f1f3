//! What a heartbeat must say, whatever the group.

use super::Heartbeat;
use crate::coordinator::group::consumer::assignor::Assignor;
use crate::coordinator::group::consumer::member::{JOINING, LEAVING_STATIC};
use crate::coordinator::group::consumer::settings::ConsumerGroupSettings;
use crate::metadata::changes::Refused;
use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

/// First version in which clients make their member ids (KIP-1082).
const FIRST_WITH_CLIENTS_MEMBER_ID: i16 = 1;

/// Checks a heartbeat by itself.
///
/// # Errors
/// `INVALID_REQUEST`, `UNSUPPORTED_ASSIGNOR`.
pub fn validate(heartbeat: &Heartbeat, settings: &ConsumerGroupSettings) -> Result<(), Refused> {
    let request = &heartbeat.request;
    let is_blank = |s: &StrBytes| s.trim().is_empty();
    let not_blank = |value: &Option<StrBytes>, what: &str| {
        if value.as_ref().is_some_and(is_blank) {
            return Err(invalid(format!("{what} can't be empty.")));
        }
        Ok(())
    };
    not_blank(&Some(request.group_id.0.clone()), "GroupId")?;
    not_blank(&request.instance_id, "InstanceId")?;
    not_blank(&request.rack_id, "RackId")?;
    let epoch = request.member_epoch;
    if epoch < LEAVING_STATIC {
        return Err(invalid("MemberEpoch is invalid."));
    }
    if epoch != JOINING || heartbeat.version >= FIRST_WITH_CLIENTS_MEMBER_ID {
        not_blank(&Some(request.member_id.clone()), "MemberId")?;
    }
    match epoch {
        JOINING => {
            if request.rebalance_timeout_ms == -1 {
                return Err(invalid(
                    "RebalanceTimeoutMs must be provided in first request.",
                ));
            }
            if request
                .topic_partitions
                .as_ref()
                .is_none_or(|t| !t.is_empty())
            {
                return Err(invalid("TopicPartitions must be empty when (re-)joining."));
            }
            if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none()
            {
                return Err(invalid(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when \
                     (re-)joining.",
                ));
            }
        }
        LEAVING_STATIC if request.instance_id.is_none() => {
            return Err(invalid("InstanceId can't be null."));
        }
        _ => {}
    }
    match &request.server_assignor {
        Some(name) => supported(name, settings),
        None => Ok(()),
    }
}

fn supported(name: &str, settings: &ConsumerGroupSettings) -> Result<(), Refused> {
    if Assignor::named(name).is_some_and(|a| settings.assignors.contains(&a)) {
        return Ok(());
    }
    let known: Vec<&str> = settings.assignors.iter().map(|a| a.name()).collect();
    Err(Refused::new(
        ResponseError::UnsupportedAssignor,
        format!(
            "ServerAssignor {name} is not supported. Supported assignors: {}.",
            known.join(", ")
        ),
    ))
}

fn invalid(message: impl Into<String>) -> Refused {
    Refused::new(ResponseError::InvalidRequest, message)
}

//! Where partitions begin and end, and where in them a time is.

use crate::cluster::{Cluster, Lane};
use crate::consumer::Isolation;
use crate::error::{Error, Result};
use crate::retry::Retry;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPosition {
    /// The first record that is kept.
    Earliest,
    /// After the last record there is now.
    Latest,
    /// This offset, 0 or more. Whether it is there is found out when it is read.
    Offset(i64),
    /// The first record of this time or later, in milliseconds since 1970; the end when none is.
    Timestamp(i64),
}

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// Leader epochs are in the request from this version on.
const FIRST_VERSION_WITH_EPOCH: i16 = 4;

/// Partitions by topic and index.
pub(crate) type Places<T> = BTreeMap<(String, i32), T>;

/// The offset of each place, asked of the partitions' leaders.
///
/// # Errors
/// When any of them has none before the call's deadline.
pub(crate) async fn find(
    cluster: &Cluster,
    places: Places<StartPosition>,
    isolation: Isolation,
) -> Result<Places<i64>> {
    let mut found = Places::new();
    let mut open = places;
    let mut retry = cluster.retry("find offsets");
    loop {
        open.retain(|place, position| match position {
            StartPosition::Offset(offset) => {
                found.insert(place.clone(), *offset);
                false
            }
            _ => true,
        });
        let error = match find_some(cluster, &mut open, &mut found, isolation, &retry).await {
            Ok(()) if open.is_empty() => return Ok(found),
            Ok(()) => continue,
            Err(error) => error,
        };
        let refresh = error.wants_metadata() || is_unknown(&error);
        retry.pause(error).await?;
        if refresh {
            // The next attempt tells why, should this fail.
            let _ = cluster.refresh().await;
        }
    }
}

fn is_unknown(error: &Error) -> bool {
    error.code().is_some_and(|code| code.is_unknown_topic())
}

/// One attempt: moves what it finds from `open` to `found`. A time after the last record becomes a
/// question for the end.
async fn find_some(
    cluster: &Cluster,
    open: &mut Places<StartPosition>,
    found: &mut Places<i64>,
    isolation: Isolation,
    retry: &Retry,
) -> Result<()> {
    let mut by_leader: HashMap<i32, Vec<(String, i32)>> = HashMap::new();
    for place in open.keys() {
        cluster.topic(&place.0, false).await?;
        let (_, _, leader) = cluster.leader(&place.0, place.1)?;
        by_leader.entry(leader).or_default().push(place.clone());
    }
    for (leader, places) in by_leader {
        let answers = ask(cluster, leader, &places, open, isolation, retry.deadline()).await?;
        for (place, offset) in answers {
            match offset? {
                -1 => open.insert(place, StartPosition::Latest),
                offset => {
                    open.remove(&place);
                    found.insert(place, offset).map(StartPosition::Offset)
                }
            };
        }
    }
    Ok(())
}

type Answers = Vec<((String, i32), Result<i64>)>;

async fn ask(
    cluster: &Cluster,
    leader: i32,
    places: &[(String, i32)],
    positions: &Places<StartPosition>,
    isolation: Isolation,
    deadline: Instant,
) -> Result<Answers> {
    let connection = cluster.broker(leader, Lane::Main).await?;
    let version = connection.version::<ListOffsetsRequest>(i16::MAX)?;
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for place in places {
        let (topic, partition) = (&place.0, place.1);
        let timestamp = match positions.get(place) {
            Some(StartPosition::Timestamp(timestamp_ms)) => *timestamp_ms,
            Some(StartPosition::Earliest) => EARLIEST,
            _ => LATEST,
        };
        let mut asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_timestamp(timestamp);
        if version >= FIRST_VERSION_WITH_EPOCH {
            asked.current_leader_epoch = cluster.leader(topic, partition)?.1.leader_epoch;
        }
        topics.entry(topic).or_default().push(asked);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        ListOffsetsTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_owned())))
            .with_partitions(partitions)
    });
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation.level())
        .with_topics(topics.collect());
    let response = cluster.send(&connection, &request, deadline).await?;
    let mut answers = Vec::new();
    for topic in response.topics {
        let name = topic.name.0.to_string();
        for partition in topic.partitions {
            let index = partition.partition_index;
            let what = format!("offsets of {name}-{index}");
            let checked = Error::check(what, partition.error_code, None);
            answers.push(((name.clone(), index), checked.map(|()| partition.offset)));
        }
    }
    if answers.len() < places.len() {
        return Err(Error::Malformed {
            address: connection.address().clone(),
            reason: format!("{} of {} offsets", answers.len(), places.len()),
        });
    }
    Ok(answers)
}

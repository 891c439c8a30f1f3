//! How far a group has come: offsets committed and fetched at its coordinator.

use super::coordinator::{Coordinator, Kind};
use crate::cluster::Cluster;
use crate::error::{Error, ErrorCode, Result};
use crate::topic_partition::TopicPartition;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    GroupId, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// From version 10 on topics are named by their id, which a deleted topic no longer has.
const COMMIT_VERSION_MAX: i16 = 9;
const FETCH_VERSION_MAX: i16 = 9;
/// From this version on several groups are asked for at once.
const FIRST_FETCH_OF_MANY: i16 = 8;

/// How far a group has come in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next record to read.
    pub offset: i64,
    /// What the committing member wrote beside it.
    pub metadata: Option<String>,
}

/// Who commits. Without a membership (`generation` -1) the group must be empty, as for tools.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    pub member_id: String,
    /// None: no member.
    pub generation: Option<i32>,
    pub owned: BTreeSet<TopicPartition>,
}

/// A group as one of its members or a tool sees it; clones share the identity.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) coordinator: Coordinator,
    pub(crate) instance_id: Option<Arc<str>>,
    pub(crate) identity: Arc<Mutex<Identity>>,
}

impl Group {
    pub(crate) fn new(cluster: Cluster, group_id: &str, instance_id: Option<&str>) -> Group {
        Group {
            coordinator: Coordinator::new(cluster, Kind::Group, group_id),
            instance_id: instance_id.map(Into::into),
            identity: Arc::default(),
        }
    }

    pub(crate) fn id(&self) -> GroupId {
        GroupId(self.coordinator.key())
    }

    pub(crate) fn instance(&self) -> Option<StrBytes> {
        let id = self.instance_id.as_ref();
        id.map(|id| StrBytes::from_string(id.to_string()))
    }

    /// Member id and generation as requests carry them.
    pub(crate) fn member(&self) -> (StrBytes, i32) {
        let identity = self.identity.lock();
        let member_id = StrBytes::from_string(identity.member_id.clone());
        (member_id, identity.generation.unwrap_or(-1))
    }

    /// Commits these offsets.
    ///
    /// # Errors
    /// [`Error::Rebalanced`] when one of the partitions belongs to another member by now.
    pub(crate) async fn commit(&self, offsets: &BTreeMap<TopicPartition, i64>) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut retry = self.coordinator.cluster.retry("commit the offsets");
        loop {
            let (member_id, generation) = self.member();
            let build = |version: i16| {
                let mut request = OffsetCommitRequest::default()
                    .with_group_id(self.id())
                    .with_generation_id_or_member_epoch(generation)
                    .with_member_id(member_id.clone())
                    .with_topics(commit_topics(offsets));
                if version >= 7 {
                    request.group_instance_id = self.instance();
                }
                request
            };
            let sent = self.coordinator.call(
                "commit the offsets",
                COMMIT_VERSION_MAX,
                build,
                check_commit,
            );
            let Err(error) = sent.await else {
                return Ok(());
            };
            let error = self.as_rebalanced(error);
            // A newer generation in which the partitions are still ours takes the commit.
            let Error::Rebalanced { .. } = &error else {
                return Err(error);
            };
            if !self.still_ours(offsets, generation, error.code()) {
                return Err(error);
            }
            let passing = Error::broker("commit the offsets", ErrorCode::COORDINATOR_NOT_AVAILABLE);
            if retry.pause(passing).await.is_err() {
                return Err(error);
            }
        }
    }

    fn still_ours(
        &self,
        offsets: &BTreeMap<TopicPartition, i64>,
        generation: i32,
        code: Option<ErrorCode>,
    ) -> bool {
        let identity = self.identity.lock();
        let moved_on = identity.generation.is_some_and(|now| now != generation);
        let moving = code == Some(ErrorCode::REBALANCE_IN_PROGRESS);
        (moved_on || moving) && offsets.keys().all(|place| identity.owned.contains(place))
    }

    pub(crate) fn as_rebalanced(&self, error: Error) -> Error {
        match error.code() {
            Some(code @ ErrorCode::FENCED_INSTANCE_ID) => Error::Fenced {
                what: format!("the membership in group {:?}", self.coordinator.name()),
                code,
            },
            Some(
                code @ (ErrorCode::ILLEGAL_GENERATION
                | ErrorCode::UNKNOWN_MEMBER_ID
                | ErrorCode::REBALANCE_IN_PROGRESS
                | ErrorCode::STALE_MEMBER_EPOCH
                | ErrorCode::FENCED_MEMBER_EPOCH),
            ) => Error::Rebalanced {
                group: self.coordinator.name().to_string(),
                code,
            },
            _ => error,
        }
    }

    /// What the group has committed for these partitions, or for all it has. Partitions without a
    /// commit are left out. Waits for transactions that are just committing offsets.
    ///
    /// # Errors
    /// When the coordinator cannot be asked before the call's deadline.
    pub(crate) async fn committed(
        &self,
        places: Option<&[TopicPartition]>,
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>> {
        let build = |version: i16| {
            let mut request = OffsetFetchRequest::default();
            if version >= 7 {
                request.require_stable = true;
            }
            let topics = places.map(by_topic);
            if version >= FIRST_FETCH_OF_MANY {
                let topics = topics.map(|topics| {
                    let topics = topics.into_iter().map(|(name, partitions)| {
                        OffsetFetchRequestTopics::default()
                            .with_name(name)
                            .with_partition_indexes(partitions)
                    });
                    topics.collect()
                });
                let mut group = OffsetFetchRequestGroup::default()
                    .with_group_id(self.id())
                    .with_topics(topics);
                group.member_epoch = -1;
                request.groups = vec![group];
            } else {
                request.group_id = self.id();
                request.topics = topics.map(|topics| {
                    let topics = topics.into_iter().map(|(name, partitions)| {
                        OffsetFetchRequestTopic::default()
                            .with_name(name)
                            .with_partition_indexes(partitions)
                    });
                    topics.collect()
                });
            }
            request
        };
        let response = self.coordinator.call(
            "fetch the committed offsets",
            FETCH_VERSION_MAX,
            build,
            |response| read_committed(response).map(|_| ()),
        );
        read_committed(&response.await?)
    }
}

fn by_topic(places: &[TopicPartition]) -> Vec<(TopicName, Vec<i32>)> {
    let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
    for place in places {
        topics
            .entry(&place.topic)
            .or_default()
            .push(place.partition);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        let name = TopicName(StrBytes::from_string(name.to_string()));
        (name, partitions)
    });
    topics.collect()
}

fn commit_topics(offsets: &BTreeMap<TopicPartition, i64>) -> Vec<OffsetCommitRequestTopic> {
    let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
    for (place, &offset) in offsets {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(place.partition)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(StrBytes::from_static_str("")));
        match topics.last_mut().filter(|t| *t.name.0 == *place.topic) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(
                OffsetCommitRequestTopic::default()
                    .with_name(TopicName(StrBytes::from_string(place.topic.to_string())))
                    .with_partitions(vec![partition]),
            ),
        }
    }
    topics
}

fn check_commit(response: &OffsetCommitResponse) -> Result<()> {
    for topic in &response.topics {
        for partition in &topic.partitions {
            let what = format!(
                "commit the offset of {}-{}",
                topic.name.0.as_str(),
                partition.partition_index
            );
            Error::check(what, partition.error_code, None)?;
        }
    }
    Ok(())
}

type Committed = BTreeMap<TopicPartition, CommittedOffset>;

fn read_committed(response: &OffsetFetchResponse) -> Result<Committed> {
    const WHAT: &str = "fetch the committed offsets";
    let mut found = Committed::new();
    let mut note = |topic: &TopicName, index, offset, metadata: &Option<StrBytes>, code| {
        let name: &str = &topic.0;
        Error::check(format!("{WHAT} of {name}-{index}"), code, None)?;
        if offset >= 0 {
            let metadata = metadata.as_deref().filter(|text| !text.is_empty());
            let committed = CommittedOffset {
                offset,
                metadata: metadata.map(str::to_owned),
            };
            found.insert(TopicPartition::new(name, index), committed);
        }
        Ok::<(), Error>(())
    };
    Error::check(WHAT, response.error_code, None)?;
    for topic in &response.topics {
        for p in &topic.partitions {
            note(
                &topic.name,
                p.partition_index,
                p.committed_offset,
                &p.metadata,
                p.error_code,
            )?;
        }
    }
    for group in &response.groups {
        Error::check(WHAT, group.error_code, None)?;
        for topic in &group.topics {
            for p in &topic.partitions {
                note(
                    &topic.name,
                    p.partition_index,
                    p.committed_offset,
                    &p.metadata,
                    p.error_code,
                )?;
            }
        }
    }
    Ok(found)
}

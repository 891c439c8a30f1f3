//! One meaningful request for each API, with entries that succeed and entries that fail.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use tidelog_tests::batch::Batch;
use tidelog_tests::read::topic_name;
use tidelog_tests::wait;
use tidelog_tests::wire::Wire;
use uuid::Uuid;

use super::configs::{alter_configs, describe_configs, incremental_alter_configs};
use super::topics::{create_partitions, create_topic, create_topics, delete_topics};

pub const TOPIC: &str = "sample";
pub const MISSING: &str = "missing";
pub const TIMEOUT_MS: i32 = 20_000;
pub const LEADER_LIMIT: Duration = Duration::from_secs(30);

/// A topic that requests are about.
pub struct Sample {
    id: Uuid,
    leader_epoch: i32,
    /// Batches produced so far to partition 0, of one record each.
    produced: i64,
}

pub fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

pub fn code(error: ResponseError) -> i16 {
    error.code()
}

/// The codes of an answer's entries, compared with what has to come.
pub fn ensure_codes(got: impl IntoIterator<Item = i16>, expected: &[i16]) -> Result<()> {
    let (mut got, mut expected): (Vec<i16>, _) = (got.into_iter().collect(), expected.to_vec());
    if std::env::var_os("KAFKA_PEER").is_some() {
        // Kafka answers in the order of a hash table.
        got.sort_unstable();
        expected.sort_unstable();
    }
    ensure!(
        got == expected,
        "error codes {got:?}, expected {expected:?}"
    );
    Ok(())
}

impl Sample {
    /// Creates the topic with two partitions and one record in partition 0.
    pub async fn create(broker: SocketAddr) -> Result<Self> {
        let mut wire = Wire::connect(broker).await?;
        create_topic(&mut wire, TOPIC, 2).await?;
        let asked = MetadataRequestTopic::default().with_name(Some(topic_name(TOPIC)));
        let request = MetadataRequest::default().with_topics(Some(vec![asked]));
        let topic = wait::until("leaders", LEADER_LIMIT, async || {
            let response = wire.call(&request, 12).await?;
            let topic = response.topics.into_iter().next().context("the topic")?;
            let led =
                topic.partitions.len() == 2 && topic.partitions.iter().all(|p| p.leader_id.0 >= 0);
            Ok((led && topic.error_code == 0).then_some(topic))
        })
        .await?;
        let mut sample = Self {
            id: topic.topic_id,
            leader_epoch: topic.partitions[0].leader_epoch,
            produced: 0,
        };
        // A leader that has just been elected may not serve yet.
        let request = sample.waiting_fetch(0, &[0, 1]);
        wait::until("partitions served", LEADER_LIMIT, async || {
            let response = wire.call(&request, 12).await?;
            let mut partitions = response.responses.iter().flat_map(|t| &t.partitions);
            Ok(partitions.all(|p| p.error_code == 0).then_some(()))
        })
        .await?;
        sample.produce(&mut wire, 9).await?;
        Ok(sample)
    }

    /// Sends the request of `api` and judges the answer.
    pub async fn call(&mut self, wire: &mut Wire, api: ApiKey, version: i16) -> Result<()> {
        match api {
            ApiKey::Produce => self.produce(wire, version).await,
            ApiKey::Fetch => self.fetch(wire, version).await,
            ApiKey::ListOffsets => self.list_offsets(wire, version).await,
            ApiKey::Metadata => self.metadata(wire, version).await,
            ApiKey::ApiVersions => {
                let response = wire.call(&super::versions_request(), version).await?;
                ensure_codes([response.error_code], &[0])
            }
            ApiKey::CreateTopics => create_topics(wire, version).await,
            ApiKey::DeleteTopics => delete_topics(wire, version).await,
            ApiKey::DeleteRecords => self.delete_records(wire, version).await,
            ApiKey::InitProducerId => init_producer_id(wire, version).await,
            ApiKey::OffsetForLeaderEpoch => self.offset_for_leader_epoch(wire, version).await,
            ApiKey::DescribeConfigs => describe_configs(wire, version).await,
            ApiKey::AlterConfigs => alter_configs(wire, version).await,
            ApiKey::DescribeLogDirs => describe_log_dirs(wire, version).await,
            ApiKey::CreatePartitions => create_partitions(wire, version).await,
            ApiKey::IncrementalAlterConfigs => incremental_alter_configs(wire, version).await,
            ApiKey::ElectLeaders => elect_leaders(wire, version).await,
            ApiKey::DescribeCluster => describe_cluster(wire, version).await,
            ApiKey::DescribeTopicPartitions => self.describe_topic_partitions(wire, version).await,
            other => super::operators::call(wire, other, version).await,
        }
    }

    async fn produce(&mut self, wire: &mut Wire, version: i16) -> Result<()> {
        let by_id = version >= 13;
        let data = |index: i32, records: Bytes| {
            PartitionProduceData::default()
                .with_index(index)
                .with_records(Some(records))
        };
        let topic = |name: &str, id: Uuid, partitions: Vec<PartitionProduceData>| {
            let topic = TopicProduceData::default().with_partition_data(partitions);
            if by_id {
                topic.with_topic_id(id)
            } else {
                topic.with_name(topic_name(name))
            }
        };
        let good = Batch::of(&[b"a record"]).encode();
        let corrupt = Batch {
            crc: Some(1),
            ..Batch::of(&[b"a record"])
        };
        let keyless = Batch {
            last_offset_delta: 5,
            ..Batch::of(&[b"a record"])
        };
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(TIMEOUT_MS)
            .with_topic_data(vec![
                topic(
                    TOPIC,
                    self.id,
                    vec![
                        data(0, good.clone()),
                        data(1, corrupt.encode()),
                        data(9, good.clone()),
                    ],
                ),
                topic(MISSING, Uuid::from_u128(5), vec![data(0, good)]),
            ]);
        let response = wire.call(&request, version).await?;
        let unknown = if by_id {
            ResponseError::UnknownTopicId
        } else {
            ResponseError::UnknownTopicOrPartition
        };
        let partitions = || {
            response
                .responses
                .iter()
                .flat_map(|t| &t.partition_responses)
        };
        ensure_codes(
            partitions().map(|p| p.error_code),
            &[
                0,
                code(ResponseError::CorruptMessage),
                code(ResponseError::UnknownTopicOrPartition),
                code(unknown),
            ],
        )?;
        let stored = partitions()
            .find(|p| p.index == 0 && p.error_code == 0)
            .context("an answer")?;
        ensure!(
            stored.base_offset == self.produced,
            "base offset {} where {} is next",
            stored.base_offset,
            self.produced
        );
        ensure!(stored.log_append_time_ms == -1);
        ensure!(stored.log_start_offset == if version >= 5 { 0 } else { -1 });
        self.produced += 1;
        let request =
            request.with_topic_data(vec![topic(TOPIC, self.id, vec![data(1, keyless.encode())])]);
        let response = wire.call(&request, version).await?;
        let refused = &response.responses[0].partition_responses[0];
        ensure_codes([refused.error_code], &[code(ResponseError::InvalidRecord)])?;
        ensure!(version >= 8 || refused.error_message.is_none());
        Ok(())
    }

    fn fetch_topics(&self, by_id: bool, fetch: &[(i32, i64, i32)]) -> Vec<FetchTopic> {
        let partitions = fetch
            .iter()
            .map(|&(partition, offset, epoch)| {
                FetchPartition::default()
                    .with_partition(partition)
                    .with_fetch_offset(offset)
                    .with_current_leader_epoch(epoch)
                    .with_partition_max_bytes(1 << 20)
            })
            .collect();
        let topic = FetchTopic::default().with_partitions(partitions);
        vec![if by_id {
            topic.with_topic_id(self.id)
        } else {
            topic.with_topic(topic_name(TOPIC))
        }]
    }

    /// A fetch of partitions from the end on, which waits where they are empty.
    pub fn waiting_fetch(&self, wait_ms: i32, partitions: &[i32]) -> FetchRequest {
        let asked: Vec<_> = partitions.iter().map(|p| (*p, 0, -1)).collect();
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_topics(self.fetch_topics(false, &asked))
    }

    async fn fetch(&self, wire: &mut Wire, version: i16) -> Result<()> {
        let by_id = version >= 13;
        let (mut stale, mut ahead) = (-1, -1);
        let mut codes = vec![0, 0, code(ResponseError::OffsetOutOfRange)];
        let mut asked = vec![(0, 0, -1), (1, 0, -1), (1, 1_000, -1)];
        if version >= 9 {
            stale = self.leader_epoch - 1;
            ahead = self.leader_epoch + 1;
            asked.extend([(0, 0, stale), (0, 0, ahead)]);
            codes.extend([
                code(ResponseError::FencedLeaderEpoch),
                code(ResponseError::UnknownLeaderEpoch),
            ]);
        }
        ensure!(
            version < 9 || (stale >= 0 && ahead > 0),
            "epochs start at 1"
        );
        let mut topics = self.fetch_topics(by_id, &asked);
        let missing = FetchTopic::default()
            .with_partitions(vec![FetchPartition::default().with_partition(3)]);
        topics.push(if by_id {
            missing.with_topic_id(Uuid::from_u128(5))
        } else {
            missing.with_topic(topic_name(MISSING))
        });
        codes.push(code(if by_id {
            ResponseError::UnknownTopicId
        } else {
            ResponseError::UnknownTopicOrPartition
        }));
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(100)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_isolation_level(1)
            .with_session_epoch(-1)
            .with_rack_id(text(if version >= 11 { "a-rack" } else { "" }))
            .with_topics(topics);
        let response = wire.call(&request, version).await?;
        let partitions = || response.responses.iter().flat_map(|t| &t.partitions);
        ensure_codes(partitions().map(|p| p.error_code), &codes)?;
        let first = partitions().next().context("an answer")?;
        ensure!(first.high_watermark == self.produced && first.last_stable_offset == self.produced);
        ensure!(first.preferred_read_replica == -1);
        let records = first.records.as_ref().context("records")?;
        let batch = Batch::of(&[b"a record"]).encode().len();
        ensure!(records.len() == batch * usize::try_from(self.produced)?);
        for (topic, asked) in response.responses.iter().zip(&request.topics) {
            ensure!(topic.topic == asked.topic && topic.topic_id == asked.topic_id);
        }
        Ok(())
    }

    async fn list_offsets(&self, wire: &mut Wire, version: i16) -> Result<()> {
        // Special timestamps and the version each came with.
        const SPECIAL: [(i64, i16); 6] = [(-1, 1), (-2, 1), (-3, 7), (-4, 8), (-5, 9), (-6, 11)];
        for (timestamp, since) in SPECIAL.into_iter().chain([(0, 1), (i64::MAX, 1), (-7, 99)]) {
            let partition = |index| {
                ListOffsetsPartition::default()
                    .with_partition_index(index)
                    .with_timestamp(timestamp)
            };
            let topic = |name: &str, partitions| {
                ListOffsetsTopic::default()
                    .with_name(topic_name(name))
                    .with_partitions(partitions)
            };
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_topics(vec![
                    topic(TOPIC, vec![partition(0), partition(7)]),
                    topic(MISSING, vec![partition(0)]),
                ]);
            let response = wire.call(&request, version).await?;
            let partitions: Vec<_> = response.topics.iter().flat_map(|t| &t.partitions).collect();
            let unknown = code(ResponseError::UnknownTopicOrPartition);
            let first = if version >= since {
                0
            } else {
                code(ResponseError::UnsupportedVersion)
            };
            let context = format!("timestamp {timestamp}");
            if first == 0 {
                let codes = partitions.iter().map(|p| p.error_code);
                ensure_codes(codes, &[first, unknown, unknown]).context(context.clone())?;
            } else {
                ensure_codes([partitions[0].error_code], &[first]).context(context.clone())?;
            }
            let offset = match timestamp {
                _ if first != 0 => -1,
                -1 => self.produced,
                -2 | -4 | 0 => 0,
                // All records have the same timestamp: the first of them.
                -3 => 0,
                _ => -1,
            };
            ensure!(
                partitions[0].offset == offset,
                "{context}: offset {}, expected {offset}",
                partitions[0].offset
            );
            ensure!(
                version >= 4 || partitions[0].leader_epoch == -1,
                "{context}"
            );
        }
        Ok(())
    }

    async fn metadata(&self, wire: &mut Wire, version: i16) -> Result<()> {
        let named = |name: &str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let mut asked = vec![named(TOPIC), named("not/a topic")];
        let mut codes = vec![0, code(ResponseError::InvalidTopicException)];
        if version >= 4 {
            asked.push(named(MISSING));
            codes.push(code(ResponseError::UnknownTopicOrPartition));
        }
        if version >= 12 {
            let by_id = |id| {
                MetadataRequestTopic::default()
                    .with_name(None)
                    .with_topic_id(id)
            };
            let unknown = Uuid::from_u128(5);
            asked.extend([by_id(self.id), by_id(unknown)]);
            // As Java's client asks when the broker resolves its pattern.
            let nameless = |id| by_id(id).with_name(Some(topic_name("")));
            asked.extend([nameless(self.id), nameless(unknown)]);
            codes.extend([0, code(ResponseError::UnknownTopicId)].repeat(2));
        }
        let request = MetadataRequest::default()
            .with_topics(Some(asked))
            .with_allow_auto_topic_creation(version < 4);
        let response = wire.call(&request, version).await?;
        ensure_codes(response.topics.iter().map(|t| t.error_code), &codes)?;
        ensure!(response.brokers.len() == 1);
        let topic = &response.topics[0];
        ensure!(topic.partitions.len() == 2 && topic.partitions[0].leader_id == 1);
        ensure!((version >= 10) == (topic.topic_id == self.id));
        ensure!((version >= 2) == response.cluster_id.is_some());
        // All topics: null, or the empty list of version 0.
        let all = (version == 0).then(Vec::new);
        let response = wire
            .call(&request.clone().with_topics(all), version)
            .await?;
        let names: Vec<_> = response
            .topics
            .iter()
            .filter_map(|t| t.name.as_ref())
            .collect();
        ensure!(names.iter().any(|name| name.as_str() == TOPIC), "{names:?}");
        if version >= 1 {
            let none = request.with_topics(Some(Vec::new()));
            let response = wire.call(&none, version).await?;
            ensure!(response.topics.is_empty());
        }
        Ok(())
    }

    async fn delete_records(&self, wire: &mut Wire, version: i16) -> Result<()> {
        let partition = |index, offset| {
            DeleteRecordsPartition::default()
                .with_partition_index(index)
                .with_offset(offset)
        };
        let topic = |name: &str, partitions| {
            DeleteRecordsTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions)
        };
        // Partition 1 is empty: its start may move to 0 only, and partition 0 stays as it is.
        let request = DeleteRecordsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(vec![
                topic(
                    TOPIC,
                    vec![partition(0, 0), partition(1, -1), partition(5, 0)],
                ),
                topic(MISSING, vec![partition(0, 0)]),
            ]);
        let response = wire.call(&request, version).await?;
        let unknown = code(ResponseError::UnknownTopicOrPartition);
        ensure_codes(
            response
                .topics
                .iter()
                .flat_map(|t| t.partitions.iter().map(|p| p.error_code)),
            &[0, 0, unknown, unknown],
        )?;
        for offset in [1_000_000, -2] {
            let request = request
                .clone()
                .with_topics(vec![topic(TOPIC, vec![partition(0, offset)])]);
            let response = wire.call(&request, version).await?;
            let answer = &response.topics[0].partitions[0];
            ensure_codes(
                [answer.error_code],
                &[code(ResponseError::OffsetOutOfRange)],
            )?;
            ensure!(answer.low_watermark == -1);
        }
        Ok(())
    }

    async fn offset_for_leader_epoch(&self, wire: &mut Wire, version: i16) -> Result<()> {
        let partition = |index, current, epoch| {
            OffsetForLeaderPartition::default()
                .with_partition(index)
                .with_current_leader_epoch(current)
                .with_leader_epoch(epoch)
        };
        let topic = |name: &str, partitions| {
            OffsetForLeaderTopic::default()
                .with_topic(topic_name(name))
                .with_partitions(partitions)
        };
        let epoch = self.leader_epoch;
        let request = OffsetForLeaderEpochRequest::default()
            .with_replica_id(BrokerId(if version >= 3 { -1 } else { -2 }))
            .with_topics(vec![
                topic(
                    TOPIC,
                    vec![
                        partition(0, epoch, epoch),
                        partition(0, -1, epoch + 1),
                        partition(0, epoch - 1, epoch),
                        partition(0, epoch + 1, epoch),
                        partition(8, -1, 0),
                    ],
                ),
                topic(MISSING, vec![partition(0, -1, 0)]),
            ]);
        let response = wire.call(&request, version).await?;
        let all: Vec<_> = response.topics.iter().flat_map(|t| &t.partitions).collect();
        let unknown = code(ResponseError::UnknownTopicOrPartition);
        ensure_codes(
            all.iter().map(|p| p.error_code),
            &[
                0,
                0,
                code(ResponseError::FencedLeaderEpoch),
                code(ResponseError::UnknownLeaderEpoch),
                unknown,
                unknown,
            ],
        )?;
        ensure!(all[0].end_offset == self.produced && all[0].leader_epoch == epoch);
        ensure!(all[1].end_offset == -1 && all[1].leader_epoch == -1);
        Ok(())
    }

    async fn describe_topic_partitions(&self, wire: &mut Wire, version: i16) -> Result<()> {
        let topic = |name: &str| TopicRequest::default().with_name(topic_name(name));
        let request = DescribeTopicPartitionsRequest::default()
            .with_topics(vec![topic(MISSING), topic(TOPIC)])
            .with_response_partition_limit(1);
        let response = wire.call(&request, version).await?;
        ensure_codes(
            response.topics.iter().map(|t| t.error_code),
            &[code(ResponseError::UnknownTopicOrPartition), 0],
        )?;
        ensure!(response.topics[1].topic_id == self.id);
        let cursor = response.next_cursor.context("a second page")?;
        ensure!(cursor.topic_name.as_str() == TOPIC && cursor.partition_index == 1);
        let request = request.with_cursor(Some(
            Cursor::default()
                .with_topic_name(cursor.topic_name)
                .with_partition_index(cursor.partition_index),
        ));
        let response = wire.call(&request, version).await?;
        ensure_codes(response.topics.iter().map(|t| t.error_code), &[0])?;
        ensure!(response.topics[0].partitions[0].partition_index == 1);
        ensure!(response.next_cursor.is_none());
        Ok(())
    }
}

async fn init_producer_id(wire: &mut Wire, version: i16) -> Result<()> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000);
    let first = wire.call(&request, version).await?;
    let second = wire.call(&request, version).await?;
    ensure_codes([first.error_code, second.error_code], &[0, 0])?;
    ensure!(first.producer_id != second.producer_id && first.producer_epoch == 0);
    let empty = request.with_transactional_id(Some(TransactionalId(text(""))));
    let refused = wire.call(&empty, version).await?;
    ensure_codes([refused.error_code], &[code(ResponseError::InvalidRequest)])
}

async fn describe_log_dirs(wire: &mut Wire, version: i16) -> Result<()> {
    let topic = |name: &str, partitions| {
        DescribableLogDirTopic::default()
            .with_topic(topic_name(name))
            .with_partitions(partitions)
    };
    let asked = vec![topic(TOPIC, vec![0, 9]), topic(MISSING, vec![0])];
    for asked in [Some(asked), None] {
        let all = asked.is_none();
        let request = DescribeLogDirsRequest::default().with_topics(asked);
        let response = wire.call(&request, version).await?;
        ensure!(response.error_code == 0 && response.results.len() == 1);
        let dir = &response.results[0];
        ensure!(dir.error_code == 0);
        ensure!(version < 4 || (dir.total_bytes > 0 && dir.usable_bytes > 0));
        let described = dir.topics.iter().find(|t| t.name.as_str() == TOPIC);
        let described = described.context("the topic")?;
        ensure!(described.partitions.len() == if all { 2 } else { 1 });
        ensure!(described.partitions[0].partition_size > 0);
    }
    Ok(())
}

async fn elect_leaders(wire: &mut Wire, version: i16) -> Result<()> {
    let asked = |topic: &str, partitions: &[i32]| {
        TopicPartitions::default()
            .with_topic(topic_name(topic))
            .with_partitions(partitions.to_vec())
    };
    let request = ElectLeadersRequest::default()
        .with_timeout_ms(TIMEOUT_MS)
        .with_topic_partitions(Some(vec![asked(TOPIC, &[0, 9]), asked(MISSING, &[0])]));
    let not_needed = code(ResponseError::ElectionNotNeeded);
    let unknown = code(ResponseError::UnknownTopicOrPartition);
    // 0 is preferred, 1 is unclean; version 0 knows only the first.
    for kind in 0..=i8::from(version >= 1) {
        let request = request.clone().with_election_type(kind);
        let response = wire.call(&request, version).await?;
        ensure!(response.error_code == 0, "{response:?}");
        let results = response.replica_election_results.iter();
        let codes = results.flat_map(|t| t.partition_result.iter().map(|p| p.error_code));
        let mut codes: Vec<i16> = codes.collect();
        codes.sort_unstable();
        ensure_codes(codes, &[unknown, unknown, not_needed])?;
    }
    // All partitions: those that need nothing are left out.
    let all = request.with_topic_partitions(None);
    let response = wire.call(&all, version).await?;
    ensure!(response.error_code == 0 && response.replica_election_results.is_empty());
    Ok(())
}

async fn describe_cluster(wire: &mut Wire, version: i16) -> Result<()> {
    let request = DescribeClusterRequest::default()
        .with_endpoint_type(1)
        .with_include_fenced_brokers(version >= 2);
    let response = wire.call(&request, version).await?;
    ensure_codes([response.error_code], &[0])?;
    ensure!(response.brokers.len() == 1 && response.brokers[0].broker_id == 1);
    ensure!(response.controller_id == 1 && !response.cluster_id.is_empty());
    if version >= 1 {
        let controllers = request.with_endpoint_type(2);
        let response = wire.call(&controllers, version).await?;
        ensure_codes(
            [response.error_code],
            &[code(ResponseError::MismatchedEndpointType)],
        )?;
        ensure!(response.endpoint_type == 1);
    }
    Ok(())
}

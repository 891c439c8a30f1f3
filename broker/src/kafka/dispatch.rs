//! Which handler serves which API and version.

use super::reply::Reply;
use super::{RequestContext, api_versions, fetch, produce, shape, versions};
use bytes::{Buf, Bytes};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Message, StrBytes};
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

/// The bytes of the answer, or `None` where the client expects none.
pub type Answer = Pin<Box<dyn Future<Output = anyhow::Result<Option<Reply>>> + Send>>;

/// A request under way.
pub struct Started {
    pub api: ApiKey,
    pub began: Instant,
    pub bytes: usize,
    pub answer: Answer,
}

/// What identifies a request and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    pub api: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
}

impl Head {
    pub fn encode<M: kafka_protocol::protocol::Encodable>(
        &self,
        message: &M,
    ) -> anyhow::Result<Reply> {
        Reply::encode(self.api, self.version, self.correlation_id, message)
    }
}

/// Table of the APIs whose handler is a plain async function, and the list of all that are served.
macro_rules! apis {
    ($($api:ident, $request:ident, $max:literal, $module:ident;)*) => {
        /// `(api, lowest, highest version)` of everything served, in order of the keys.
        pub fn served() -> Vec<(ApiKey, i16, i16)> {
            let mut all = vec![
                (ApiKey::Produce, ProduceRequest::VERSIONS.min, 13),
                (ApiKey::Fetch, FetchRequest::VERSIONS.min, 18),
                (ApiKey::ApiVersions, ApiVersionsRequest::VERSIONS.min, 4),
                $((ApiKey::$api, $request::VERSIONS.min, $max.min($request::VERSIONS.max)),)*
            ];
            all.sort_by_key(|(api, ..)| *api as i16);
            all
        }

        fn route(context: RequestContext, head: Head, mut body: Bytes) -> Result<Answer, String> {
            match head.api {
                ApiKey::Produce => {
                    let request = decode::<ProduceRequest>(&mut body, head)?;
                    Ok(produce::start(&context, head, request))
                }
                ApiKey::Fetch => {
                    let request = decode::<FetchRequest>(&mut body, head)?;
                    Ok(Box::pin(fetch::handle(context, head, request)))
                }
                ApiKey::ApiVersions => {
                    let request = decode::<ApiVersionsRequest>(&mut body, head)?;
                    let image = context.broker.metadata.load();
                    let response = api_versions::answer(&request, head.version, &image);
                    Ok(Box::pin(std::future::ready(
                        head.encode(&response).map(Some),
                    )))
                }
                $(ApiKey::$api => {
                    let request = decode::<$request>(&mut body, head)?;
                    Ok(Box::pin(async move {
                        let response = super::$module::handle(&context, request, head.version).await;
                        head.encode(&response).map(Some)
                    }))
                })*
                _ => Err(format!("API {:?} is not served", head.api)),
            }
        }

        /// Decodes a frame as [`start`] does, and lets the request go: the bytes that come after it.
        /// Needs no broker: this is what fuzzing and property tests drive.
        ///
        /// # Errors
        /// Why a connection would be closed.
        pub fn decode_frame(frame: Bytes) -> Result<usize, String> {
            let Parsed { head, mut body, downgrade, .. } = parse(frame)?;
            if downgrade {
                return Ok(0);
            }
            match head.api {
                ApiKey::Produce => drop(decode::<ProduceRequest>(&mut body, head)?),
                ApiKey::Fetch => drop(decode::<FetchRequest>(&mut body, head)?),
                ApiKey::ApiVersions => drop(decode::<ApiVersionsRequest>(&mut body, head)?),
                $(ApiKey::$api => drop(decode::<$request>(&mut body, head)?),)*
                _ => return Err(format!("API {:?} is not served", head.api)),
            }
            Ok(body.remaining())
        }
    };
}

apis! {
    ListOffsets, ListOffsetsRequest, 10, list_offsets;
    Metadata, MetadataRequest, 13, metadata;
    OffsetCommit, OffsetCommitRequest, 9, offset_commit;
    OffsetFetch, OffsetFetchRequest, 9, offset_fetch;
    FindCoordinator, FindCoordinatorRequest, 6, find_coordinator;
    JoinGroup, JoinGroupRequest, 9, join_group;
    Heartbeat, HeartbeatRequest, 4, heartbeat;
    LeaveGroup, LeaveGroupRequest, 5, leave_group;
    SyncGroup, SyncGroupRequest, 5, sync_group;
    DescribeGroups, DescribeGroupsRequest, 6, describe_groups;
    ListGroups, ListGroupsRequest, 5, list_groups;
    DeleteGroups, DeleteGroupsRequest, 2, delete_groups;
    OffsetDelete, OffsetDeleteRequest, 0, offset_delete;
    CreateTopics, CreateTopicsRequest, 7, create_topics;
    DeleteTopics, DeleteTopicsRequest, 6, delete_topics;
    DeleteRecords, DeleteRecordsRequest, 2, delete_records;
    InitProducerId, InitProducerIdRequest, 5, init_producer_id;
    AddPartitionsToTxn, AddPartitionsToTxnRequest, 5, add_partitions_to_txn;
    AddOffsetsToTxn, AddOffsetsToTxnRequest, 4, add_offsets_to_txn;
    EndTxn, EndTxnRequest, 5, end_txn;
    WriteTxnMarkers, WriteTxnMarkersRequest, 1, write_txn_markers;
    TxnOffsetCommit, TxnOffsetCommitRequest, 5, txn_offset_commit;
    DescribeProducers, DescribeProducersRequest, 0, describe_producers;
    DescribeTransactions, DescribeTransactionsRequest, 0, describe_transactions;
    ListTransactions, ListTransactionsRequest, 2, list_transactions;
    OffsetForLeaderEpoch, OffsetForLeaderEpochRequest, 4, offset_for_leader_epoch;
    DescribeConfigs, DescribeConfigsRequest, 4, describe_configs;
    AlterConfigs, AlterConfigsRequest, 2, alter_configs;
    DescribeLogDirs, DescribeLogDirsRequest, 4, describe_log_dirs;
    CreatePartitions, CreatePartitionsRequest, 3, create_partitions;
    ElectLeaders, ElectLeadersRequest, 2, elect_leaders;
    IncrementalAlterConfigs, IncrementalAlterConfigsRequest, 1, incremental_alter_configs;
    DescribeQuorum, DescribeQuorumRequest, 2, describe_quorum;
    AlterPartitionReassignments, AlterPartitionReassignmentsRequest, 1, alter_partition_reassignments;
    ListPartitionReassignments, ListPartitionReassignmentsRequest, 0, list_partition_reassignments;
    UnregisterBroker, UnregisterBrokerRequest, 0, unregister_broker;
    UpdateFeatures, UpdateFeaturesRequest, 2, update_features;
    DescribeCluster, DescribeClusterRequest, 2, describe_cluster;
    ConsumerGroupHeartbeat, ConsumerGroupHeartbeatRequest, 1, consumer_group_heartbeat;
    ConsumerGroupDescribe, ConsumerGroupDescribeRequest, 1, consumer_group_describe;
    ListConfigResources, ListConfigResourcesRequest, 1, list_config_resources;
    DescribeTopicPartitions, DescribeTopicPartitionsRequest, 0, describe_topic_partitions;
}

fn decode<M: Decodable>(body: &mut Bytes, head: Head) -> Result<M, String> {
    let malformed =
        |e: &dyn Display| format!("malformed {:?} v{} request: {e}", head.api, head.version);
    // The decoder takes memory by the counts it reads.
    shape::check(head.api, head.version, body).map_err(|e| malformed(&e))?;
    let request = M::decode(body, head.version).map_err(|e| malformed(&e))?;
    // Kafka's broker ignores bytes after the request, and librdkafka leaves three after a
    // Metadata v13 request for all topics.
    if body.has_remaining() {
        tracing::debug!(
            "{:?} v{} request with {} bytes too many",
            head.api,
            head.version,
            body.remaining()
        );
    }
    Ok(request)
}

/// A frame whose header has been read.
struct Parsed {
    head: Head,
    client_id: Option<StrBytes>,
    body: Bytes,
    /// ApiVersions in a version that is not served.
    downgrade: bool,
}

fn parse(mut frame: Bytes) -> Result<Parsed, String> {
    let (Some(key), Some(version), Some(correlation_id)) = (
        frame.get(..2).and_then(|b| b.try_into().ok()),
        frame.get(2..4).and_then(|b| b.try_into().ok()),
        frame.get(4..8).and_then(|b| b.try_into().ok()),
    ) else {
        return Err("a request shorter than its header".to_owned());
    };
    let (key, version) = (i16::from_be_bytes(key), i16::from_be_bytes(version));
    let api = ApiKey::try_from(key).map_err(|()| format!("unknown API key {key}"))?;
    let served = versions::range(api).ok_or_else(|| format!("API {api:?} is not served"))?;
    let mut head = Head {
        api,
        version,
        correlation_id: i32::from_be_bytes(correlation_id),
    };
    if !served.contains(&version) {
        if api != ApiKey::ApiVersions {
            return Err(format!("{api:?} v{version} is not served"));
        }
        // KIP-511: a version 0 answer that tells what is served.
        head.version = 0;
        return Ok(Parsed {
            head,
            client_id: None,
            body: Bytes::new(),
            downgrade: true,
        });
    }
    let header_version = api.request_header_version(version);
    shape::check_header(header_version, &frame)
        .map_err(|e| format!("malformed request header: {e}"))?;
    let header = RequestHeader::decode(&mut frame, header_version)
        .map_err(|e| format!("malformed request header: {e}"))?;
    Ok(Parsed {
        head,
        client_id: header.client_id,
        body: frame,
        downgrade: false,
    })
}

/// Starts a request. An error closes the connection, with its text in the log.
pub fn start(mut context: RequestContext, frame: Bytes) -> Result<Started, String> {
    let began = Instant::now();
    let bytes = frame.len() + 4;
    let parsed = parse(frame)?;
    let head = parsed.head;
    let answer: Answer = if parsed.downgrade {
        let response = api_versions::unsupported();
        Box::pin(std::future::ready(head.encode(&response).map(Some)))
    } else {
        context.client_id = parsed.client_id;
        route(context, head, parsed.body)?
    };
    Ok(Started {
        api: head.api,
        began,
        bytes,
        answer,
    })
}

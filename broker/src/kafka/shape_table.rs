//! Layouts of the requests that are served, for [`super::shape`].
//!
//! A served API without a layout here is refused, and the tests compare every layout with the decoder
//! in every version.

use super::shape::{Field, Kind, Shape};
use Kind::{Bytes, Fixed, Fixeds, OptionalStruct, ShortString, String, Strings, Struct, Structs};
use kafka_protocol::messages::ApiKey;

const BOOL: Kind = Fixed(1);
const INT8: Kind = Fixed(1);
const INT16: Kind = Fixed(2);
const INT32: Kind = Fixed(4);
const INT64: Kind = Fixed(8);
const UUID: Kind = Fixed(16);
const INT32S: Kind = Fixeds(4);

const fn f(kind: Kind) -> Field {
    Field::new(kind)
}

/// API key, version, correlation id, client id.
pub const HEADER: Shape = Shape {
    flexible: 2,
    fields: &[f(INT16), f(INT16), f(INT32), f(ShortString)],
};

const PRODUCE: Shape = Shape {
    flexible: 9,
    fields: &[
        f(String),
        f(INT16),
        f(INT32),
        f(Structs(&[
            f(String).until(12),
            f(UUID).since(13),
            f(Structs(&[f(INT32), f(Bytes)])),
        ])),
    ],
};

const FETCH: Shape = Shape {
    flexible: 12,
    fields: &[
        f(INT32).until(14),
        f(INT32),
        f(INT32),
        f(INT32),
        f(INT8),
        f(INT32).since(7),
        f(INT32).since(7),
        f(Structs(&[
            f(String).until(12),
            f(UUID).since(13),
            f(Structs(&[
                f(INT32),
                f(INT32).since(9),
                f(INT64),
                f(INT32).since(12),
                f(INT64).since(5),
                f(INT32),
                f(UUID).since(17).tagged(0),
                f(INT64).since(18).tagged(1),
            ])),
        ])),
        f(Structs(&[
            f(String).until(12),
            f(UUID).since(13),
            f(INT32S),
        ]))
        .since(7),
        f(String).since(11),
        f(String).tagged(0),
        f(Struct(&[f(INT32), f(INT64)])).since(15).tagged(1),
    ],
};

const LIST_OFFSETS: Shape = Shape {
    flexible: 6,
    fields: &[
        f(INT32),
        f(INT8).since(2),
        f(Structs(&[
            f(String),
            f(Structs(&[f(INT32), f(INT32).since(4), f(INT64)])),
        ])),
        f(INT32).since(10),
    ],
};

const METADATA: Shape = Shape {
    flexible: 9,
    fields: &[
        f(Structs(&[f(UUID).since(10), f(String)])),
        f(BOOL).since(4),
        f(BOOL).since(8).until(10),
        f(BOOL).since(8),
    ],
};

const API_VERSIONS: Shape = Shape {
    flexible: 3,
    fields: &[f(String).since(3), f(String).since(3)],
};

const OFFSET_COMMIT: Shape = Shape {
    flexible: 8,
    fields: &[
        f(String),
        f(INT32),
        f(String),
        f(String).since(7),
        f(INT64).since(2).until(4),
        f(Structs(&[
            f(String),
            f(Structs(&[f(INT32), f(INT64), f(INT32).since(6), f(String)])),
        ])),
    ],
};

const OFFSET_FETCH: Shape = Shape {
    flexible: 6,
    fields: &[
        f(String).until(7),
        f(Structs(&[f(String), f(INT32S)])).until(7),
        f(Structs(&[
            f(String),
            f(String).since(9),
            f(INT32).since(9),
            f(Structs(&[f(String), f(INT32S)])),
        ]))
        .since(8),
        f(BOOL).since(7),
    ],
};

const FIND_COORDINATOR: Shape = Shape {
    flexible: 3,
    fields: &[f(String).until(3), f(INT8).since(1), f(Strings).since(4)],
};

const JOIN_GROUP: Shape = Shape {
    flexible: 6,
    fields: &[
        f(String),
        f(INT32),
        f(INT32).since(1),
        f(String),
        f(String).since(5),
        f(String),
        f(Structs(&[f(String), f(Bytes)])),
        f(String).since(8),
    ],
};

const HEARTBEAT: Shape = Shape {
    flexible: 4,
    fields: &[f(String), f(INT32), f(String), f(String).since(3)],
};

const LEAVE_GROUP: Shape = Shape {
    flexible: 4,
    fields: &[
        f(String),
        f(String).until(2),
        f(Structs(&[f(String), f(String), f(String).since(5)])).since(3),
    ],
};

const SYNC_GROUP: Shape = Shape {
    flexible: 4,
    fields: &[
        f(String),
        f(INT32),
        f(String),
        f(String).since(3),
        f(String).since(5),
        f(String).since(5),
        f(Structs(&[f(String), f(Bytes)])),
    ],
};

const DESCRIBE_GROUPS: Shape = Shape {
    flexible: 5,
    fields: &[f(Strings), f(BOOL).since(3)],
};

const LIST_GROUPS: Shape = Shape {
    flexible: 3,
    fields: &[f(Strings).since(4), f(Strings).since(5)],
};

const DELETE_GROUPS: Shape = Shape {
    flexible: 2,
    fields: &[f(Strings)],
};

const OFFSET_DELETE: Shape = Shape {
    flexible: 1,
    fields: &[f(String), f(Structs(&[f(String), f(Structs(&[f(INT32)]))]))],
};

const CONSUMER_GROUP_HEARTBEAT: Shape = Shape {
    flexible: 0,
    fields: &[
        f(String),
        f(String),
        f(INT32),
        f(String),
        f(String),
        f(INT32),
        f(Strings),
        f(String).since(1),
        f(String),
        f(Structs(&[f(UUID), f(INT32S)])),
    ],
};

const CONSUMER_GROUP_DESCRIBE: Shape = Shape {
    flexible: 0,
    fields: &[f(Strings), f(BOOL)],
};

const LIST_CONFIG_RESOURCES: Shape = Shape {
    flexible: 0,
    fields: &[f(Fixeds(1)).since(1)],
};

const CREATE_TOPICS: Shape = Shape {
    flexible: 5,
    fields: &[
        f(Structs(&[
            f(String),
            f(INT32),
            f(INT16),
            f(Structs(&[f(INT32), f(INT32S)])),
            f(Structs(&[f(String), f(String)])),
        ])),
        f(INT32),
        f(BOOL),
    ],
};

const DELETE_TOPICS: Shape = Shape {
    flexible: 4,
    fields: &[
        f(Structs(&[f(String), f(UUID)])).since(6),
        f(Strings).until(5),
        f(INT32),
    ],
};

const DELETE_RECORDS: Shape = Shape {
    flexible: 2,
    fields: &[
        f(Structs(&[f(String), f(Structs(&[f(INT32), f(INT64)]))])),
        f(INT32),
    ],
};

const ALTER_PARTITION_REASSIGNMENTS: Shape = Shape {
    flexible: 0,
    fields: &[
        f(INT32),
        f(BOOL).since(1),
        f(Structs(&[f(String), f(Structs(&[f(INT32), f(INT32S)]))])),
    ],
};

const LIST_PARTITION_REASSIGNMENTS: Shape = Shape {
    flexible: 0,
    fields: &[f(INT32), f(Structs(&[f(String), f(INT32S)]))],
};

const UNREGISTER_BROKER: Shape = Shape {
    flexible: 0,
    fields: &[f(INT32)],
};

const ELECT_LEADERS: Shape = Shape {
    flexible: 2,
    fields: &[
        f(INT8).since(1),
        f(Structs(&[f(String), f(INT32S)])),
        f(INT32),
    ],
};

const DESCRIBE_QUORUM: Shape = Shape {
    flexible: 0,
    fields: &[f(Structs(&[f(String), f(Structs(&[f(INT32)]))]))],
};

const UPDATE_FEATURES: Shape = Shape {
    flexible: 0,
    fields: &[
        f(INT32),
        f(Structs(&[
            f(String),
            f(INT16),
            f(BOOL).until(0),
            f(INT8).since(1),
        ])),
        f(BOOL).since(1),
    ],
};

const INIT_PRODUCER_ID: Shape = Shape {
    flexible: 2,
    fields: &[f(String), f(INT32), f(INT64).since(3), f(INT16).since(3)],
};

const ADD_PARTITIONS_TO_TXN: Shape = Shape {
    flexible: 3,
    fields: &[
        f(Structs(&[
            f(String),
            f(INT64),
            f(INT16),
            f(BOOL),
            f(Structs(&[f(String), f(INT32S)])),
        ]))
        .since(4),
        f(String).until(3),
        f(INT64).until(3),
        f(INT16).until(3),
        f(Structs(&[f(String), f(INT32S)])).until(3),
    ],
};

const ADD_OFFSETS_TO_TXN: Shape = Shape {
    flexible: 3,
    fields: &[f(String), f(INT64), f(INT16), f(String)],
};

const END_TXN: Shape = Shape {
    flexible: 3,
    fields: &[f(String), f(INT64), f(INT16), f(BOOL)],
};

const TXN_OFFSET_COMMIT: Shape = Shape {
    flexible: 3,
    fields: &[
        f(String),
        f(String),
        f(INT64),
        f(INT16),
        f(INT32).since(3),
        f(String).since(3),
        f(String).since(3),
        f(Structs(&[
            f(String),
            f(Structs(&[f(INT32), f(INT64), f(INT32).since(2), f(String)])),
        ])),
    ],
};

const WRITE_TXN_MARKERS: Shape = Shape {
    flexible: 1,
    fields: &[f(Structs(&[
        f(INT64),
        f(INT16),
        f(BOOL),
        f(Structs(&[f(String), f(INT32S)])),
        f(INT32),
    ]))],
};

const DESCRIBE_PRODUCERS: Shape = Shape {
    flexible: 0,
    fields: &[f(Structs(&[f(String), f(INT32S)]))],
};

const DESCRIBE_TRANSACTIONS: Shape = Shape {
    flexible: 0,
    fields: &[f(Strings)],
};

const LIST_TRANSACTIONS: Shape = Shape {
    flexible: 0,
    fields: &[
        f(Strings),
        f(Fixeds(8)),
        f(INT64).since(1),
        f(String).since(2),
    ],
};

const OFFSET_FOR_LEADER_EPOCH: Shape = Shape {
    flexible: 4,
    fields: &[
        f(INT32).since(3),
        f(Structs(&[
            f(String),
            f(Structs(&[f(INT32), f(INT32), f(INT32)])),
        ])),
    ],
};

const DESCRIBE_CONFIGS: Shape = Shape {
    flexible: 4,
    fields: &[
        f(Structs(&[f(INT8), f(String), f(Strings)])),
        f(BOOL),
        f(BOOL).since(3),
    ],
};

const ALTER_CONFIGS: Shape = Shape {
    flexible: 2,
    fields: &[
        f(Structs(&[
            f(INT8),
            f(String),
            f(Structs(&[f(String), f(String)])),
        ])),
        f(BOOL),
    ],
};

const DESCRIBE_LOG_DIRS: Shape = Shape {
    flexible: 2,
    fields: &[f(Structs(&[f(String), f(INT32S)]))],
};

const CREATE_PARTITIONS: Shape = Shape {
    flexible: 2,
    fields: &[
        f(Structs(&[f(String), f(INT32), f(Structs(&[f(INT32S)]))])),
        f(INT32),
        f(BOOL),
    ],
};

const INCREMENTAL_ALTER_CONFIGS: Shape = Shape {
    flexible: 1,
    fields: &[
        f(Structs(&[
            f(INT8),
            f(String),
            f(Structs(&[f(String), f(INT8), f(String)])),
        ])),
        f(BOOL),
    ],
};

const DESCRIBE_CLUSTER: Shape = Shape {
    flexible: 0,
    fields: &[f(BOOL), f(INT8).since(1), f(BOOL).since(2)],
};

const DESCRIBE_TOPIC_PARTITIONS: Shape = Shape {
    flexible: 0,
    fields: &[
        f(Structs(&[f(String)])),
        f(INT32),
        f(OptionalStruct(&[f(String), f(INT32)])),
    ],
};

/// The layout of an API's request.
pub const fn of(api: ApiKey) -> Option<&'static Shape> {
    Some(match api {
        ApiKey::Produce => &PRODUCE,
        ApiKey::Fetch => &FETCH,
        ApiKey::ListOffsets => &LIST_OFFSETS,
        ApiKey::Metadata => &METADATA,
        ApiKey::ApiVersions => &API_VERSIONS,
        ApiKey::OffsetCommit => &OFFSET_COMMIT,
        ApiKey::OffsetFetch => &OFFSET_FETCH,
        ApiKey::FindCoordinator => &FIND_COORDINATOR,
        ApiKey::JoinGroup => &JOIN_GROUP,
        ApiKey::Heartbeat => &HEARTBEAT,
        ApiKey::LeaveGroup => &LEAVE_GROUP,
        ApiKey::SyncGroup => &SYNC_GROUP,
        ApiKey::DescribeGroups => &DESCRIBE_GROUPS,
        ApiKey::ListGroups => &LIST_GROUPS,
        ApiKey::DeleteGroups => &DELETE_GROUPS,
        ApiKey::OffsetDelete => &OFFSET_DELETE,
        ApiKey::ConsumerGroupHeartbeat => &CONSUMER_GROUP_HEARTBEAT,
        ApiKey::ConsumerGroupDescribe => &CONSUMER_GROUP_DESCRIBE,
        ApiKey::ListConfigResources => &LIST_CONFIG_RESOURCES,
        ApiKey::CreateTopics => &CREATE_TOPICS,
        ApiKey::DeleteTopics => &DELETE_TOPICS,
        ApiKey::DeleteRecords => &DELETE_RECORDS,
        ApiKey::InitProducerId => &INIT_PRODUCER_ID,
        ApiKey::AddPartitionsToTxn => &ADD_PARTITIONS_TO_TXN,
        ApiKey::AddOffsetsToTxn => &ADD_OFFSETS_TO_TXN,
        ApiKey::EndTxn => &END_TXN,
        ApiKey::WriteTxnMarkers => &WRITE_TXN_MARKERS,
        ApiKey::TxnOffsetCommit => &TXN_OFFSET_COMMIT,
        ApiKey::DescribeProducers => &DESCRIBE_PRODUCERS,
        ApiKey::DescribeTransactions => &DESCRIBE_TRANSACTIONS,
        ApiKey::AlterPartitionReassignments => &ALTER_PARTITION_REASSIGNMENTS,
        ApiKey::ListPartitionReassignments => &LIST_PARTITION_REASSIGNMENTS,
        ApiKey::UnregisterBroker => &UNREGISTER_BROKER,
        ApiKey::ElectLeaders => &ELECT_LEADERS,
        ApiKey::UpdateFeatures => &UPDATE_FEATURES,
        ApiKey::DescribeQuorum => &DESCRIBE_QUORUM,
        ApiKey::ListTransactions => &LIST_TRANSACTIONS,
        ApiKey::OffsetForLeaderEpoch => &OFFSET_FOR_LEADER_EPOCH,
        ApiKey::DescribeConfigs => &DESCRIBE_CONFIGS,
        ApiKey::AlterConfigs => &ALTER_CONFIGS,
        ApiKey::DescribeLogDirs => &DESCRIBE_LOG_DIRS,
        ApiKey::CreatePartitions => &CREATE_PARTITIONS,
        ApiKey::IncrementalAlterConfigs => &INCREMENTAL_ALTER_CONFIGS,
        ApiKey::DescribeCluster => &DESCRIBE_CLUSTER,
        ApiKey::DescribeTopicPartitions => &DESCRIBE_TOPIC_PARTITIONS,
        _ => return None,
    })
}

//! Settings of brokers.

use super::{
    CLEANUP, CODECS, COUNT, Kind, NOT_NEGATIVE, OR_NONE, POSITIVE, Scope, Setting, TIMESTAMPS,
};

const fn fixed(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting {
        name,
        kind,
        default,
        scope: Scope::Static,
        doc,
    }
}

const fn dynamic(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting {
        name,
        kind,
        default,
        scope: Scope::Dynamic,
        doc,
    }
}

/// Broker settings, by name.
pub const BROKER: &[Setting] = &[
    fixed(
        "advertised.listeners",
        Kind::Text,
        "",
        "HOST:PORT that clients are told; empty: the same as `listeners`",
    ),
    fixed(
        "auto.create.topics.enable",
        Kind::Bool,
        "true",
        "a Metadata request for an unknown topic creates it",
    ),
    fixed(
        "auto.leader.rebalance.enable",
        Kind::Bool,
        "true",
        "leadership goes back to the preferred replica once its broker has been up for 3 s",
    ),
    dynamic(
        "balance.enable",
        Kind::Bool,
        "true",
        "after a broker has joined, replicas and preferred leaders are spread evenly over all; set it again to \
         ask for that at any time",
    ),
    dynamic(
        "broker.dead.timeout.ms",
        POSITIVE,
        "900000",
        "replicas of a broker that is silent for this long are built anew on others",
    ),
    dynamic(
        "broker.decommission",
        Kind::Bool,
        "false",
        "moves all replicas away from this broker; only while it runs: `tidelog broker decommission`",
    ),
    fixed(
        "broker.id",
        Kind::Int(0, i32::MAX as i64),
        "1",
        "unique in the cluster; belongs to the data folder",
    ),
    dynamic(
        "broker.maintenance",
        Kind::Bool,
        "false",
        "keeps leadership away from this broker, for a restart; only while it runs: \
         `tidelog broker maintenance`",
    ),
    fixed(
        "broker.rack",
        Kind::Text,
        "",
        "rack or zone of this broker: replicas are spread over racks, consumers fetch from their own",
    ),
    dynamic(
        "compression.type",
        CODECS,
        "producer",
        "default of the topic setting",
    ),
    fixed(
        "connections.max.idle.ms",
        OR_NONE,
        "600000",
        "a client connection silent for this long is closed",
    ),
    fixed(
        "data.dir",
        Kind::Text,
        "./tidelog-data/1",
        "folder of everything this broker stores",
    ),
    fixed(
        "default.replication.factor",
        Kind::Int(1, i16::MAX as i64),
        "1",
        "replicas of a topic created without a number",
    ),
    fixed(
        "disk.reserve.bytes",
        NOT_NEGATIVE,
        "67108864",
        "below this much free space producers get a retriable storage error; below twice as much old segments are looked for at once",
    ),
    fixed(
        "group.consumer.assignors",
        Kind::Words(&["range", "uniform"]),
        "uniform,range",
        "assignors that members of the next group protocol may ask for; the first is the default",
    ),
    fixed(
        "group.consumer.heartbeat.interval.ms",
        COUNT,
        "5000",
        "how often members of the next group protocol send heartbeats",
    ),
    fixed(
        "group.consumer.max.heartbeat.interval.ms",
        COUNT,
        "15000",
        "upper bound of the heartbeat interval, for groups' own configs too",
    ),
    fixed(
        "group.consumer.max.session.timeout.ms",
        COUNT,
        "60000",
        "upper bound of the session timeout, for groups' own configs too",
    ),
    fixed(
        "group.consumer.max.size",
        COUNT,
        "2147483647",
        "most members of a group of the next protocol",
    ),
    fixed(
        "group.consumer.migration.policy",
        Kind::Word(&["bidirectional", "downgrade", "upgrade", "disabled"]),
        "bidirectional",
        "which way a group with members may change between the classic and the next protocol",
    ),
    fixed(
        "group.consumer.min.heartbeat.interval.ms",
        COUNT,
        "5000",
        "lower bound of the heartbeat interval, for groups' own configs too",
    ),
    fixed(
        "group.consumer.min.session.timeout.ms",
        COUNT,
        "45000",
        "lower bound of the session timeout, for groups' own configs too",
    ),
    fixed(
        "group.consumer.session.timeout.ms",
        COUNT,
        "45000",
        "a member of the next group protocol silent for this long is removed",
    ),
    fixed(
        "group.initial.rebalance.delay.ms",
        Kind::Int(0, i32::MAX as i64),
        "3000",
        "how long the first rebalance of an empty group waits for more members",
    ),
    fixed(
        "group.max.session.timeout.ms",
        COUNT,
        "1800000",
        "longest session timeout a member may ask for",
    ),
    fixed(
        "group.max.size",
        COUNT,
        "2147483647",
        "most members of a consumer group",
    ),
    fixed(
        "group.min.session.timeout.ms",
        COUNT,
        "6000",
        "shortest session timeout a member may ask for",
    ),
    fixed(
        "http.listener",
        Kind::Text,
        "127.0.0.1:9292",
        "HOST:PORT of /healthz, /readyz and /metrics",
    ),
    fixed(
        "journal.direct.io",
        Kind::Bool,
        "true",
        "write the journal around the page cache, where the file system allows it",
    ),
    fixed(
        "journal.file.bytes",
        Kind::Int(65536, 1 << 34),
        "67108864",
        "size of a journal file",
    ),
    fixed(
        "listeners",
        Kind::Text,
        "127.0.0.1:9092",
        "HOST:PORT for Kafka clients",
    ),
    fixed(
        "log.cleaner.backoff.ms",
        NOT_NEGATIVE,
        "15000",
        "pause of a cleaner thread that finds nothing to compact",
    ),
    fixed(
        "log.cleaner.dedupe.buffer.size",
        Kind::Int(1 << 20, 1 << 40),
        "134217728",
        "memory of all cleaner threads for the offsets of keys, 24 bytes a key; used only while they compact",
    ),
    dynamic(
        "log.cleaner.delete.retention.ms",
        NOT_NEGATIVE,
        "86400000",
        "default of the topic setting delete.retention.ms",
    ),
    fixed(
        "log.cleaner.enable",
        Kind::Bool,
        "true",
        "compact topics with cleanup.policy=compact",
    ),
    dynamic(
        "log.cleaner.io.max.bytes.per.second",
        Kind::Number,
        "1.7976931348623157E308",
        "bytes all cleaner threads read and write in a second",
    ),
    dynamic(
        "log.cleaner.max.compaction.lag.ms",
        POSITIVE,
        "9223372036854775807",
        "default of the topic setting max.compaction.lag.ms",
    ),
    dynamic(
        "log.cleaner.min.cleanable.ratio",
        Kind::Double,
        "0.5",
        "default of the topic setting min.cleanable.dirty.ratio",
    ),
    dynamic(
        "log.cleaner.min.compaction.lag.ms",
        NOT_NEGATIVE,
        "0",
        "default of the topic setting min.compaction.lag.ms",
    ),
    fixed(
        "log.cleaner.threads",
        Kind::Int(1, 64),
        "1",
        "threads that compact, for all partitions of the broker",
    ),
    dynamic(
        "log.cleanup.policy",
        CLEANUP,
        "delete",
        "default of the topic setting cleanup.policy",
    ),
    dynamic(
        "log.flush.interval.messages",
        POSITIVE,
        "9223372036854775807",
        "accepted for compatibility: every acknowledged record is on disk at a majority already",
    ),
    dynamic(
        "log.flush.interval.ms",
        NOT_NEGATIVE,
        "9223372036854775807",
        "accepted for compatibility, as log.flush.interval.messages",
    ),
    dynamic(
        "log.index.interval.bytes",
        Kind::Int(0, i32::MAX as i64),
        "4096",
        "default of the topic setting index.interval.bytes",
    ),
    dynamic(
        "log.message.timestamp.after.max.ms",
        NOT_NEGATIVE,
        "3600000",
        "default of the topic setting message.timestamp.after.max.ms",
    ),
    dynamic(
        "log.message.timestamp.before.max.ms",
        NOT_NEGATIVE,
        "9223372036854775807",
        "default of the topic setting message.timestamp.before.max.ms",
    ),
    dynamic(
        "log.message.timestamp.type",
        TIMESTAMPS,
        "CreateTime",
        "default of the topic setting message.timestamp.type",
    ),
    dynamic(
        "log.preallocate",
        Kind::Bool,
        "false",
        "accepted for compatibility",
    ),
    dynamic(
        "log.retention.bytes",
        OR_NONE,
        "-1",
        "default of the topic setting retention.bytes",
    ),
    fixed(
        "log.retention.check.interval.ms",
        POSITIVE,
        "300000",
        "pause between looks for expired segments",
    ),
    fixed(
        "log.retention.hours",
        OR_NONE,
        "168",
        "log.retention.ms in hours, where neither that nor log.retention.minutes is set",
    ),
    fixed(
        "log.retention.minutes",
        OR_NONE,
        "10080",
        "log.retention.ms in minutes, where that is not set",
    ),
    dynamic(
        "log.retention.ms",
        OR_NONE,
        "604800000",
        "default of the topic setting retention.ms",
    ),
    fixed(
        "log.roll.hours",
        COUNT,
        "168",
        "log.roll.ms in hours, where that is not set",
    ),
    fixed(
        "log.roll.jitter.hours",
        NOT_NEGATIVE,
        "0",
        "log.roll.jitter.ms in hours, where that is not set",
    ),
    dynamic(
        "log.roll.jitter.ms",
        NOT_NEGATIVE,
        "0",
        "default of the topic setting segment.jitter.ms",
    ),
    dynamic(
        "log.roll.ms",
        POSITIVE,
        "604800000",
        "default of the topic setting segment.ms",
    ),
    dynamic(
        "log.segment.bytes",
        Kind::Int(1048576, i32::MAX as i64),
        "1073741824",
        "default of the topic setting segment.bytes",
    ),
    dynamic(
        "log.segment.delete.delay.ms",
        NOT_NEGATIVE,
        "60000",
        "accepted for compatibility: files are removed at once",
    ),
    fixed(
        "max.connections",
        COUNT,
        "2147483647",
        "client connections at the same time",
    ),
    fixed(
        "max.connections.per.ip",
        COUNT,
        "2147483647",
        "client connections from one address at the same time",
    ),
    fixed(
        "max.incremental.fetch.session.cache.slots",
        Kind::Int(0, 1_000_000),
        "1000",
        "incremental fetch sessions kept (KIP-227)",
    ),
    fixed(
        "max.producer.ids.per.partition",
        POSITIVE,
        "100000",
        "idempotent producers a partition remembers; those silent for longest are forgotten first",
    ),
    fixed(
        "max.request.partition.size.limit",
        COUNT,
        "2000",
        "partitions in one DescribeTopicPartitions answer",
    ),
    fixed(
        "max.topic.partitions",
        COUNT,
        "10000",
        "most partitions a topic may have",
    ),
    dynamic(
        "message.max.bytes",
        Kind::Int(0, 1 << 29),
        "1048588",
        "default of the topic setting max.message.bytes",
    ),
    dynamic(
        "min.insync.replicas",
        COUNT,
        "1",
        "default of the topic setting; a majority always has every acknowledged record",
    ),
    dynamic(
        "num.partitions",
        COUNT,
        "1",
        "partitions of a topic created without a number",
    ),
    fixed(
        "offset.metadata.max.bytes",
        Kind::Int(0, i32::MAX as i64),
        "4096",
        "longest text that may be committed with an offset",
    ),
    fixed(
        "offsets.retention.check.interval.ms",
        COUNT,
        "600000",
        "pause between looks for expired offsets",
    ),
    fixed(
        "offsets.retention.minutes",
        COUNT,
        "10080",
        "how long offsets of a group without members are kept, and those of consumers without a group after their last commit",
    ),
    fixed(
        "offsets.topic.num.partitions",
        Kind::Int(1, 10_000),
        "16",
        "partitions of __consumer_offsets when it is created: consumer groups are spread over them",
    ),
    fixed(
        "offsets.topic.segment.bytes",
        Kind::Int(1048576, i32::MAX as i64),
        "104857600",
        "segment size of __consumer_offsets when it is created: a full segment is compacted",
    ),
    fixed(
        "peer.heartbeat.interval.ms",
        Kind::Int(10, 10_000),
        "100",
        "pause between heartbeats of two brokers",
    ),
    fixed(
        "peer.listener",
        Kind::Text,
        "127.0.0.1:9192",
        "HOST:PORT for other brokers",
    ),
    fixed(
        "peer.suspicion.timeout.ms",
        Kind::Int(50, 60_000),
        "500",
        "a broker silent for this long is taken for dead",
    ),
    fixed(
        "producer.id.expiration.ms",
        POSITIVE,
        "86400000",
        "an idempotent producer silent for this long may be forgotten",
    ),
    fixed(
        "queued.max.request.bytes",
        Kind::Int(1 << 20, 1 << 36),
        "134217728",
        "bytes of requests in memory at the same time",
    ),
    dynamic(
        "replication.throttled.rate",
        POSITIVE,
        "9223372036854775807",
        "bytes a second that a broker sends, and that it copies, of partitions that move",
    ),
    fixed(
        "request.timeout.ms",
        Kind::Int(100, 600_000),
        "30000",
        "longest a write waits for a majority",
    ),
    fixed(
        "seed.brokers",
        Kind::Text,
        "",
        "ID@HOST:PORT of the first brokers' peer listeners, comma-separated; empty: a cluster of one. A broker that is not in its own list joins the cluster of those that are",
    ),
    fixed(
        "socket.request.max.bytes",
        Kind::Int(1024, 1 << 30),
        "104857600",
        "largest request",
    ),
    fixed(
        "transaction.max.timeout.ms",
        Kind::Int(1, i32::MAX as i64),
        "900000",
        "longest transaction timeout a producer may ask for",
    ),
    fixed(
        "transaction.partition.verification.enable",
        Kind::Bool,
        "true",
        "a client of before transaction version 2 begins a transaction in a partition only if the coordinator knows of it; false lets hanging transactions in",
    ),
    fixed(
        "transaction.state.log.num.partitions",
        Kind::Int(1, 10_000),
        "16",
        "partitions of __transaction_state when it is created: transactional ids are spread over them",
    ),
    fixed(
        "transaction.state.log.segment.bytes",
        Kind::Int(1048576, i32::MAX as i64),
        "104857600",
        "segment size of __transaction_state when it is created: a full segment is compacted",
    ),
    fixed(
        "transactional.id.expiration.ms",
        POSITIVE,
        "604800000",
        "a transactional id without a transaction for this long is forgotten",
    ),
    fixed(
        "unclean.leader.election.enable",
        Kind::Word(&["false"]),
        "false",
        "only false: a replica without all acknowledged records never leads",
    ),
];

/// Broker settings in coarser units: they count where the finer one is not set. Each with its
/// milliseconds, the finest first.
pub const COARSER: &[(&str, &[(&str, i64)])] = &[
    (
        "log.retention.ms",
        &[
            ("log.retention.minutes", 60_000),
            ("log.retention.hours", 3_600_000),
        ],
    ),
    (
        "log.roll.jitter.ms",
        &[("log.roll.jitter.hours", 3_600_000)],
    ),
    ("log.roll.ms", &[("log.roll.hours", 3_600_000)]),
];

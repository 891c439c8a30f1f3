//! `docs/protocol.md` and `docs/settings.md` say what the code says. `UPDATE_DOCS=1 cargo test -p
//! tidelog-broker --test documents` writes them anew.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use tidelog_broker::config::table::{BROKER, GROUP, Kind, Scope, TOPIC, TopicSetting};
use tidelog_broker::kafka::dispatch::served;

/// Kafka 4.3's APIs on a broker's listener: key, name, lowest and highest version, as `ApiKeys` of
/// `kafka-clients` 4.3.0 has them; and a remark of ours.
const KAFKA: &[(i16, &str, i16, i16, &str)] = &[
    (
        0,
        "Produce",
        3,
        13,
        "`acks=1` waits for the majority as `acks=all` does",
    ),
    (
        1,
        "Fetch",
        4,
        18,
        "incremental sessions (KIP-227), follower fetch by rack (KIP-392)",
    ),
    (
        2,
        "ListOffsets",
        1,
        11,
        "version 11 only adds a timestamp of tiered storage",
    ),
    (3, "Metadata", 0, 13, ""),
    (8, "OffsetCommit", 2, 10, "version 10 names topics by id"),
    (9, "OffsetFetch", 1, 10, "version 10 names topics by id"),
    (10, "FindCoordinator", 0, 6, ""),
    (11, "JoinGroup", 0, 9, ""),
    (12, "Heartbeat", 0, 4, ""),
    (13, "LeaveGroup", 0, 5, ""),
    (14, "SyncGroup", 0, 5, ""),
    (15, "DescribeGroups", 0, 6, ""),
    (16, "ListGroups", 0, 5, ""),
    (17, "SaslHandshake", 0, 1, "no authentication yet"),
    (
        18,
        "ApiVersions",
        0,
        4,
        "a version that is not known gets the version 0 answer (KIP-511)",
    ),
    (19, "CreateTopics", 2, 7, ""),
    (20, "DeleteTopics", 1, 6, ""),
    (21, "DeleteRecords", 0, 2, ""),
    (
        22,
        "InitProducerId",
        0,
        6,
        "version 6 is of two-phase commit",
    ),
    (23, "OffsetForLeaderEpoch", 2, 4, ""),
    (24, "AddPartitionsToTxn", 0, 5, ""),
    (25, "AddOffsetsToTxn", 0, 4, ""),
    (26, "EndTxn", 0, 5, ""),
    (
        27,
        "WriteTxnMarkers",
        1,
        2,
        "for tools; the brokers have a channel of their own",
    ),
    (28, "TxnOffsetCommit", 0, 5, ""),
    (29, "DescribeAcls", 1, 3, "no authorization yet"),
    (30, "CreateAcls", 1, 3, "no authorization yet"),
    (31, "DeleteAcls", 1, 3, "no authorization yet"),
    (32, "DescribeConfigs", 1, 4, "topics, brokers and groups"),
    (33, "AlterConfigs", 0, 2, "topics, brokers and groups"),
    (34, "AlterReplicaLogDirs", 1, 2, "a broker has one folder"),
    (
        35,
        "DescribeLogDirs",
        1,
        5,
        "version 5 only adds `IsCordoned`",
    ),
    (36, "SaslAuthenticate", 0, 2, "no authentication yet"),
    (37, "CreatePartitions", 0, 3, ""),
    (38, "CreateDelegationToken", 1, 3, "no authentication yet"),
    (39, "RenewDelegationToken", 1, 2, "no authentication yet"),
    (40, "ExpireDelegationToken", 1, 2, "no authentication yet"),
    (41, "DescribeDelegationToken", 1, 3, "no authentication yet"),
    (42, "DeleteGroups", 0, 2, ""),
    (43, "ElectLeaders", 0, 2, ""),
    (
        44,
        "IncrementalAlterConfigs",
        0,
        1,
        "topics, brokers and groups",
    ),
    (45, "AlterPartitionReassignments", 0, 1, ""),
    (46, "ListPartitionReassignments", 0, 0, ""),
    (47, "OffsetDelete", 0, 0, ""),
    (48, "DescribeClientQuotas", 0, 1, "no quotas yet"),
    (49, "AlterClientQuotas", 0, 1, "no quotas yet"),
    (
        50,
        "DescribeUserScramCredentials",
        0,
        0,
        "no authentication yet",
    ),
    (
        51,
        "AlterUserScramCredentials",
        0,
        0,
        "no authentication yet",
    ),
    (
        55,
        "DescribeQuorum",
        0,
        2,
        "any broker asks the leader; log indexes are the offsets",
    ),
    (57, "UpdateFeatures", 0, 2, ""),
    (60, "DescribeCluster", 0, 2, ""),
    (61, "DescribeProducers", 0, 0, ""),
    (64, "UnregisterBroker", 0, 0, ""),
    (65, "DescribeTransactions", 0, 0, ""),
    (66, "ListTransactions", 0, 2, ""),
    (
        68,
        "ConsumerGroupHeartbeat",
        0,
        1,
        "KIP-848: assignors `uniform` and `range`, patterns, static members, online migration",
    ),
    (69, "ConsumerGroupDescribe", 0, 1, ""),
    (71, "GetTelemetrySubscriptions", 0, 0, ""),
    (72, "PushTelemetry", 0, 0, ""),
    (
        74,
        "ListConfigResources",
        0,
        1,
        "topics, brokers and groups; there are no client metrics",
    ),
    (75, "DescribeTopicPartitions", 0, 0, ""),
    (76, "ShareGroupHeartbeat", 1, 1, "no share groups yet"),
    (77, "ShareGroupDescribe", 1, 1, "no share groups yet"),
    (78, "ShareFetch", 1, 2, "no share groups yet"),
    (79, "ShareAcknowledge", 1, 2, "no share groups yet"),
    (80, "AddRaftVoter", 0, 1, ""),
    (81, "RemoveRaftVoter", 0, 0, ""),
    (83, "InitializeShareGroupState", 0, 0, "no share groups yet"),
    (84, "ReadShareGroupState", 0, 0, "no share groups yet"),
    (85, "WriteShareGroupState", 0, 1, "no share groups yet"),
    (86, "DeleteShareGroupState", 0, 0, "no share groups yet"),
    (
        87,
        "ReadShareGroupStateSummary",
        0,
        1,
        "no share groups yet",
    ),
    (88, "StreamsGroupHeartbeat", 0, 0, "no streams groups"),
    (89, "StreamsGroupDescribe", 0, 0, "no streams groups"),
    (90, "DescribeShareGroupOffsets", 0, 1, "no share groups yet"),
    (91, "AlterShareGroupOffsets", 0, 0, "no share groups yet"),
    (92, "DeleteShareGroupOffsets", 0, 0, "no share groups yet"),
];

fn versions(min: i16, max: i16) -> String {
    if min == max {
        min.to_string()
    } else {
        format!("{min}–{max}")
    }
}

fn protocol() -> String {
    let mut text = "# Kafka APIs\n\n\
        What a broker answers on its Kafka listener, beside Apache Kafka 4.3. A broker advertises \
        exactly this in ApiVersions; the cluster tests send every API in every version. A request in a \
        version that is not served, or of an API that is not, closes the connection, as in Kafka.\n\n\
        | API | Key | Versions here | Kafka 4.3 | Remark |\n|---|---|---|---|---|\n"
        .to_owned();
    let served = served();
    for (key, name, min, max, remark) in KAFKA {
        let ours = served
            .iter()
            .find(|(api, ..)| *api as i16 == *key)
            .map_or("—".to_owned(), |(_, min, max)| versions(*min, *max));
        let kafkas = versions(*min, *max);
        let _ = writeln!(text, "| {name} | {key} | {ours} | {kafkas} | {remark} |");
    }
    text
}

fn values(kind: Kind) -> String {
    let bound = |bound: i64| match bound {
        i64::MAX => "2^63−1".to_owned(),
        other => other.to_string(),
    };
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Bool => "true, false".to_owned(),
        Kind::Int(min, max) => format!("{} to {}", bound(min), bound(max)),
        Kind::Double => "number from 0 to 1".to_owned(),
        Kind::Number => "number above 0".to_owned(),
        Kind::Word(words) => words.join(", "),
        Kind::Words(words) => format!("any of {}", words.join(", ")),
    }
}

fn code(text: &str) -> String {
    if text.is_empty() {
        "empty".to_owned()
    } else {
        format!("`{text}`")
    }
}

fn settings() -> String {
    let mut text = "# Settings\n\n\
        Names are Kafka's where Kafka has the setting. `tidelog config show` prints the values in effect \
        and where each came from.\n\n\
        ## Broker\n\n\
        In the broker's file, as `TIDELOG_` variables (dots become underscores) or with `--set`. Those \
        marked *at run time* can also be changed by `IncrementalAlterConfigs`, for one broker or all.\n\n\
        | Setting | Values | Default | At run time | Meaning |\n|---|---|---|---|---|\n"
        .to_owned();
    for setting in BROKER {
        let dynamic = match setting.scope {
            Scope::Static => "",
            Scope::Dynamic => "yes",
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {dynamic} | {} |",
            setting.name,
            values(setting.kind),
            code(setting.default),
            setting.doc
        );
    }
    text += "\n## Topic\n\n\
        Given when a topic is created or altered; where there is a broker setting, it gives the default.\n\n\
        | Setting | Values | Default | Broker setting | Meaning |\n|---|---|---|---|---|\n";
    layered(&mut text, TOPIC);
    text += "\n## Consumer group\n\n\
        Of groups of the next protocol (KIP-848): set by `IncrementalAlterConfigs` on a resource of type \
        GROUP, whether or not the group exists yet. Values have to lie within the broker's bounds.\n\n\
        | Setting | Values | Default | Broker setting | Meaning |\n|---|---|---|---|---|\n";
    layered(&mut text, GROUP);
    text
}

/// Rows of settings whose defaults may come from broker settings.
fn layered(text: &mut String, settings: &[TopicSetting]) {
    for setting in settings {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            setting.name,
            values(setting.kind),
            code(setting.default),
            setting
                .broker
                .map_or(String::new(), |name| format!("`{name}`")),
            setting.doc
        );
    }
}

fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name)
}

fn check(name: &str, expected: &str) {
    let path = document(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).expect("written");
        return;
    }
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        present == expected,
        "docs/{name} is not what the code says: run UPDATE_DOCS=1 cargo test -p tidelog-broker --test documents"
    );
}

#[test]
fn the_protocol_document_is_current() {
    check("protocol.md", &protocol());
}

#[test]
fn every_served_api_is_in_the_document_and_no_newer_than_kafkas() {
    for (api, min, max) in served() {
        let kafka = KAFKA.iter().find(|(key, ..)| *key == api as i16);
        let (.., lowest, highest, _) =
            kafka.unwrap_or_else(|| panic!("{api:?} is not in the table"));
        assert!(min >= *lowest && max <= *highest, "{api:?} {min}–{max}");
    }
}

#[test]
fn the_settings_document_is_current() {
    check("settings.md", &settings());
}

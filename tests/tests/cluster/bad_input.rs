//! What no client should send: each gets a clear answer or a closed connection, takes no memory, and
//! costs nobody else anything.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{
    CreateTopicsRequest, FetchRequest, InitProducerIdRequest, MetadataRequest,
};
use kafka_protocol::protocol::StrBytes;
use tidelog_tests::batch::Batch;
use tidelog_tests::produce::{batch, produce};
use tidelog_tests::read::topic_name;
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, ClusterOptions, topics, wait};

use super::RECOVERY_LIMIT;

/// A request of up to this size is read.
const REQUEST_BYTES_MAX: i32 = 2 << 20;
const CONNECTIONS_MAX: usize = 60;

async fn start() -> Result<Cluster> {
    let setting = |name: &str, value: String| (name.to_owned(), value);
    Cluster::start_with(ClusterOptions {
        settings: vec![
            setting("socket.request.max.bytes", REQUEST_BYTES_MAX.to_string()),
            setting("queued.max.request.bytes", (8 << 20).to_string()),
            setting("max.connections.per.ip", CONNECTIONS_MAX.to_string()),
            setting("connections.max.idle.ms", "3000".to_owned()),
        ],
        ..ClusterOptions::default()
    })
    .await
}

/// The broker serves others as if nothing had been.
async fn still_serves(broker: SocketAddr) -> Result<()> {
    let mut wire = Wire::connect(broker).await?;
    wire.call(&MetadataRequest::default().with_topics(None), 9)
        .await?;
    Ok(())
}

/// A connection to the leader of the only partition of a new topic, which serves it already.
async fn leader_of_new(cluster: &Cluster, topic: &str) -> Result<Wire> {
    topics::create(cluster, topic, 1, 3).await?;
    let leader = topics::leader_of(cluster, topic, 0).await?;
    let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
    wait::until("the leader serves", RECOVERY_LIMIT, async || {
        // Refused for what it is, once the broker gets that far.
        let told = produce(&mut wire, topic, 0, bytes::Bytes::new()).await?;
        Ok((told.error_code != ResponseError::NotLeaderOrFollower.code()).then_some(()))
    })
    .await?;
    Ok(wire)
}

/// A header in the older format: API, version, correlation id 1, no client id.
fn header(api: i16, version: i16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(api.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(1_i32.to_be_bytes());
    bytes.extend((-1_i16).to_be_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_close_their_connection_only() -> Result<()> {
    let cluster = start().await?;
    let broker = cluster.broker(1).kafka;
    let lengths = [-1, 0, 7, REQUEST_BYTES_MAX + 1, i32::MAX, i32::MIN];
    let mut bad: Vec<(String, Vec<u8>)> = lengths
        .into_iter()
        .map(|length| (format!("a length of {length}"), length.to_be_bytes().into()))
        .collect();
    let mut frame = |what: &str, body: Vec<u8>| {
        let mut bytes = u32::try_from(body.len())
            .expect("small")
            .to_be_bytes()
            .to_vec();
        bytes.extend(body);
        bad.push((what.to_owned(), bytes));
    };
    frame("an unknown API", [header(9999, 0), vec![0; 8]].concat());
    frame("a negative API", [header(-1, 0), vec![0; 8]].concat());
    frame(
        "an API between brokers",
        [header(4, 0), vec![0; 8]].concat(),
    );
    frame("an unknown version", [header(3, 99), vec![0; 8]].concat());
    frame("a negative version", [header(3, -1), vec![0; 8]].concat());
    frame(
        "a version Kafka 4 has given up",
        [header(0, 2), vec![0; 8]].concat(),
    );
    // Metadata 1 for 2³¹ − 1 topics, in four bytes.
    frame(
        "an impossible count",
        [header(3, 1), vec![0x7f, 0xff, 0xff, 0xff]].concat(),
    );
    frame(
        "half a request",
        [header(3, 1), vec![0, 0, 0, 2, 0, 3, b'a']].concat(),
    );
    frame("half a header", vec![0, 3, 0, 1, 0, 0, 0, 1]);
    frame("noise", (0..200).map(|n: u8| n.wrapping_mul(73)).collect());
    bad.push((
        "another protocol".to_owned(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ));
    for (what, bytes) in bad {
        let mut wire = Wire::connect(broker).await?;
        wire.send_bytes(&bytes).await?;
        let answer = wire.receive_frame().await.with_context(|| what.clone())?;
        ensure!(answer.is_none(), "{what}: answered {answer:?}");
        still_serves(broker).await.with_context(|| what.clone())?;
    }
    let said = std::fs::read_to_string(&cluster.broker(1).log_path)?;
    ensure!(said.contains("closing a connection"), "{said}");
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_wrong_are_refused_and_the_next_is_taken() -> Result<()> {
    let cluster = start().await?;
    let topic = "wrong-batches";
    let mut wire = leader_of_new(&cluster, topic).await?;
    let good = Batch::of(&[b"one", b"two"]);
    let with = |change: &dyn Fn(&mut Batch)| {
        let mut wrong = good.clone();
        change(&mut wrong);
        wrong.encode()
    };
    let corrupt = ResponseError::CorruptMessage;
    let invalid = ResponseError::InvalidRecord;
    let cases: Vec<(&str, bytes::Bytes, Vec<ResponseError>)> = vec![
        ("checksum", with(&|b| b.crc = Some(7)), vec![corrupt]),
        (
            "length",
            with(&|b| b.batch_length = Some(20)),
            vec![corrupt],
        ),
        (
            "length beyond",
            with(&|b| b.batch_length = Some(1 << 20)),
            vec![corrupt],
        ),
        (
            "negative length",
            with(&|b| b.batch_length = Some(-5)),
            vec![corrupt],
        ),
        (
            "magic 1",
            with(&|b| b.magic = 1),
            vec![ResponseError::UnsupportedForMessageFormat, invalid],
        ),
        (
            "magic 9",
            with(&|b| b.magic = 9),
            vec![corrupt, invalid, ResponseError::UnsupportedForMessageFormat],
        ),
        ("count", with(&|b| b.count = 3), vec![invalid, corrupt]),
        (
            "negative count",
            with(&|b| b.count = -1),
            vec![invalid, corrupt],
        ),
        (
            "last offset",
            with(&|b| b.last_offset_delta = 9),
            vec![invalid, corrupt],
        ),
        (
            "codec",
            with(&|b| b.attributes = 6),
            vec![ResponseError::UnsupportedCompressionType, invalid, corrupt],
        ),
        ("control", with(&|b| b.attributes = 0x20), vec![invalid]),
        ("cut", good.encode().slice(..40), vec![corrupt, invalid]),
        ("nothing", bytes::Bytes::new(), vec![corrupt, invalid]),
        (
            "two batches",
            [good.encode(), good.encode()].concat().into(),
            vec![invalid],
        ),
        (
            "too large",
            Batch::of(&[&[7; 1_100_000]]).encode(),
            vec![ResponseError::MessageTooLarge],
        ),
    ];
    for (accepted, (what, records, wanted)) in (0..).zip(cases) {
        let told = produce(&mut wire, topic, 0, records)
            .await
            .with_context(|| what.to_owned())?;
        ensure!(
            wanted.iter().any(|e| e.code() == told.error_code),
            "{what}: error {}",
            told.error_code
        );
        let told = produce(&mut wire, topic, 0, good.encode()).await?;
        ensure!(told.error_code == 0, "after {what}: {told:?}");
        ensure!(told.base_offset == accepted * 2, "after {what}: {told:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_with_gaps_and_old_epochs_are_told() -> Result<()> {
    let cluster = start().await?;
    let topic = "wrong-producers";
    let mut wire = leader_of_new(&cluster, topic).await?;
    let init = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000);
    let given = wire.call(&init, 4).await?;
    ensure!(given.error_code == 0, "{given:?}");
    let id = given.producer_id.0;
    let send = |epoch: i16, sequence: i32| Batch::of(&[b"x"]).by(id, epoch, sequence).encode();
    let cases = [
        ("the first", send(1, 0), 0, 0),
        ("the second", send(1, 1), 0, 1),
        ("a repetition", send(1, 0), 0, 0),
        (
            "a gap",
            send(1, 3),
            ResponseError::OutOfOrderSequenceNumber.code(),
            -1,
        ),
        (
            "an old epoch",
            send(0, 2),
            ResponseError::InvalidProducerEpoch.code(),
            -1,
        ),
        (
            "a new epoch in the middle",
            send(2, 5),
            ResponseError::OutOfOrderSequenceNumber.code(),
            -1,
        ),
        ("a new epoch", send(2, 0), 0, 2),
        (
            "the one before it",
            send(1, 2),
            ResponseError::InvalidProducerEpoch.code(),
            -1,
        ),
    ];
    for (what, records, error_code, base_offset) in cases {
        let told = produce(&mut wire, topic, 0, records).await?;
        ensure!(
            (told.error_code, told.base_offset) == (error_code, base_offset),
            "{what}: {told:?}"
        );
    }
    Ok(())
}

/// What creating one topic is answered.
async fn create(wire: &mut Wire, topic: CreatableTopic) -> Result<(i16, String)> {
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000);
    let answer = wire.call(&request, 5).await?;
    let told = answer.topics.first().context("an answer for the topic")?;
    let message = told.error_message.as_ref().map_or("", |m| m.as_str());
    Ok((told.error_code, message.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_topics_are_refused_with_the_reason() -> Result<()> {
    let cluster = start().await?;
    let mut wire = Wire::connect(cluster.broker(2).kafka).await?;
    let topic = |name: &str, partitions: i32, replicas: i16| {
        CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(replicas)
    };
    let text = |s: &str| StrBytes::from_string(s.to_owned());
    let config = |name: &str, value: &str| {
        topic("configured", 1, 3).with_configs(vec![
            CreatableTopicConfig::default()
                .with_name(text(name))
                .with_value(Some(text(value))),
        ])
    };
    let long = "x".repeat(250);
    let name = ResponseError::InvalidTopicException;
    let cases = [
        (topic("../../etc/passwd", 1, 3), name, "invalid"),
        (topic("a/b", 1, 3), name, "invalid"),
        (topic("..", 1, 3), name, "'..'"),
        (topic("", 1, 3), name, "empty"),
        (topic("nul\0", 1, 3), name, "invalid"),
        (topic(&long, 1, 3), name, "249"),
        (
            topic("none", 0, 3),
            ResponseError::InvalidPartitions,
            "partitions",
        ),
        (
            topic("negative", -2, 3),
            ResponseError::InvalidPartitions,
            "partitions",
        ),
        (
            topic("million", 1_000_000, 3),
            ResponseError::InvalidPartitions,
            "max.topic.partitions",
        ),
        (
            topic("replicas", 1, 4),
            ResponseError::InvalidReplicationFactor,
            "3",
        ),
        (
            topic("replicas", 1, 0),
            ResponseError::InvalidReplicationFactor,
            "",
        ),
        (
            config("retention.mss", "1"),
            ResponseError::InvalidConfig,
            "did you mean retention.ms?",
        ),
        (
            config("retention.ms", "soon"),
            ResponseError::InvalidConfig,
            "retention.ms",
        ),
        (
            config("unclean.leader.election.enable", "true"),
            ResponseError::InvalidConfig,
            "false",
        ),
    ];
    for (topic, error, part) in cases {
        let what = format!("{} ×{}", topic.name.0.as_str(), topic.num_partitions);
        let (code, message) = create(&mut wire, topic).await?;
        ensure!(code == error.code(), "{what}: {code} {message}");
        ensure!(message.contains(part), "{what}: {message}");
    }
    let known = wire
        .call(&MetadataRequest::default().with_topics(None), 9)
        .await?;
    let user = known.topics.iter().filter(|t| !t.is_internal).count();
    ensure!(user == 0, "something was created: {known:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_out_of_range_are_told() -> Result<()> {
    let cluster = start().await?;
    let topic = "ranges";
    let mut wire = leader_of_new(&cluster, topic).await?;
    let told = produce(&mut wire, topic, 0, batch(["a".into(), "b".into()])?).await?;
    ensure!(told.error_code == 0, "{told:?}");
    let range = ResponseError::OffsetOutOfRange.code();
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    for (partition, offset, error) in [
        (0, 0, 0),
        (0, 2, 0),
        (0, 3, range),
        (0, -1, range),
        (0, i64::MAX, range),
        (0, i64::MIN, range),
        (1, 0, unknown),
        (-1, 0, unknown),
    ] {
        let asked = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1 << 20);
        let request = FetchRequest::default()
            .with_max_bytes(1 << 20)
            .with_topics(vec![
                FetchTopic::default()
                    .with_topic(topic_name(topic))
                    .with_partitions(vec![asked]),
            ]);
        let answer = wire.call(&request, 11).await?;
        let got = &answer.responses[0].partitions[0];
        ensure!(
            got.error_code == error,
            "partition {partition}, offset {offset}: error {}",
            got.error_code
        );
    }
    Ok(())
}

/// Clients that connect and say nothing, or announce much and send it slowly, hold what the limits
/// allow them and no more.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_bounded() -> Result<()> {
    let cluster = start().await?;
    let broker = cluster.broker(1).kafka;
    // The cluster's own client (its readiness is asked over HTTP) is not counted here.
    let mut held = Vec::new();
    for n in 0..CONNECTIONS_MAX {
        let mut wire = Wire::connect(broker).await?;
        if n % 2 == 0 {
            // Announced: 1 MiB each, 30 MiB of a budget of 8.
            wire.send_bytes(&(1_i32 << 20).to_be_bytes()).await?;
        }
        held.push(wire);
    }
    // One more from this address is turned away.
    let mut refused = Wire::connect(broker).await?;
    let _ = refused.send_frame(&header(18, 0)).await;
    let answer = refused.receive_frame().await;
    ensure!(!matches!(answer, Ok(Some(_))), "{answer:?}");
    let resident = resident_bytes(cluster.broker(1).pid().context("it runs")?)?;
    ensure!(resident < 150 << 20, "{resident} bytes are resident");
    // The silent ones are let go after connections.max.idle.ms, and there is room again.
    wait::until("room for another client", RECOVERY_LIMIT, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(still_serves(broker).await.ok())
    })
    .await?;
    drop(held);
    Ok(())
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024)
}

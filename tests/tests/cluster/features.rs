//! Feature levels: one for the whole cluster, kept through restarts, and obeyed.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    ApiVersionsRequest, ConsumerGroupHeartbeatRequest, GroupId, UpdateFeaturesRequest,
};
use kafka_protocol::protocol::StrBytes;
use tidelog_tests::broker::BrokerId;
use tidelog_tests::cluster::binary;
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, dev, group, wait};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::RECOVERY_LIMIT;
use super::damage::{ended, printed_bytes};

pub(super) const GROUP: &str = "group.version";
pub(super) const METADATA: &str = "metadata.version";
/// Of the build that is tested.
pub(super) const NEWEST: u32 = 3;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Level of a feature in use and the epoch, as one broker tells every client that connects.
pub(super) async fn level(cluster: &Cluster, asked: BrokerId, name: &str) -> Result<(i16, i64)> {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("test"))
        .with_client_software_version(text("1"));
    let mut wire = Wire::connect(cluster.broker(asked).kafka).await?;
    let response = wire.call(&request, 4).await?;
    let known = response.supported_features.iter();
    ensure!(known.clone().any(|feature| feature.name.as_str() == name));
    let used = response.finalized_features.iter();
    let used = used.clone().find(|feature| feature.name.as_str() == name);
    let level = used.map_or(0, |feature| feature.max_version_level);
    Ok((level, response.finalized_features_epoch))
}

/// Error code of an update, in a version with results of each feature.
pub(super) async fn update(
    cluster: &Cluster,
    name: &str,
    level: i16,
    kind: i8,
    dry: bool,
) -> Result<i16> {
    let update = FeatureUpdateKey::default()
        .with_feature(text(name))
        .with_max_version_level(level)
        .with_upgrade_type(kind);
    let request = UpdateFeaturesRequest::default()
        .with_timeout_ms(10_000)
        .with_feature_updates(vec![update])
        .with_validate_only(dry);
    let mut wire = Wire::connect(cluster.broker(2).kafka).await?;
    Ok(wire.call(&request, 1).await?.error_code)
}

/// Error code of a first heartbeat of the next group protocol.
async fn join(cluster: &Cluster, asked: BrokerId) -> Result<i16> {
    let request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text("members")))
        .with_member_id(text("Z2VuZXJhdGVkLWhlcmUtMQ"))
        .with_member_epoch(0)
        .with_rebalance_timeout_ms(60_000)
        .with_subscribed_topic_names(Some(Vec::new()))
        .with_topic_partitions(Some(Vec::new()));
    let mut wire = Wire::connect(cluster.broker(asked).kafka).await?;
    Ok(wire.call(&request, 0).await?.error_code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_holds_for_every_broker_and_through_restarts() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    ensure!(level(&cluster, 1, GROUP).await? == (1, 0));
    let refused = ResponseError::InvalidUpdateVersion.code();
    for (name, to, kind) in [
        (GROUP, 2, 1),
        (GROUP, 0, 1),
        (GROUP, 1, 9),
        ("no.such.feature", 1, 1),
        ("transaction.version", 3, 1),
    ] {
        let code = update(&cluster, name, to, kind, false).await?;
        ensure!(code == refused, "{name} {to} {kind}: {code}");
    }
    ensure!(update(&cluster, GROUP, 0, 2, true).await? == 0);
    ensure!(level(&cluster, 2, GROUP).await? == (1, 0));
    ensure!(update(&cluster, GROUP, 0, 2, false).await? == 0);
    for id in 1..=3 {
        wait::until("the level everywhere", RECOVERY_LIMIT, async || {
            Ok((level(&cluster, id, GROUP).await? == (0, 1)).then_some(()))
        })
        .await?;
        let code = join(&cluster, id).await?;
        ensure!(code == ResponseError::UnsupportedVersion.code(), "{code}");
    }
    for id in 1..=3 {
        cluster.broker_mut(id).kill()?;
    }
    cluster.start_all().await?;
    wait::until("the level after a restart", RECOVERY_LIMIT, async || {
        Ok((level(&cluster, 1, GROUP).await? == (0, 1)).then_some(()))
    })
    .await?;

    let bootstrap = cluster.bootstrap();
    let args = [
        "cluster",
        "feature",
        "set",
        GROUP,
        "1",
        "--bootstrap",
        &bootstrap,
    ];
    let output = dev::run(&args)?;
    ensure!(output.status.success(), "{output:?}");
    let args = ["cluster", "feature", "list", "--bootstrap", &bootstrap];
    let listed = String::from_utf8(dev::run(&args)?.stdout)?;
    let line = listed.lines().find(|line| line.starts_with(GROUP));
    let words: Vec<&str> = line.context("the feature")?.split_whitespace().collect();
    ensure!(words == [GROUP, "1", "0-1"], "{listed}");
    // Looking for it makes the topic that the coordinators live in.
    let coordinator = group::coordinator(&cluster, "members").await?.id;
    wait::until("a member", RECOVERY_LIMIT, async || {
        Ok((join(&cluster, coordinator).await? == 0).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_is_of_the_newest_metadata_version() -> Result<()> {
    let cluster = Cluster::start().await?;
    let newest = i16::try_from(NEWEST)?;
    ensure!(level(&cluster, 1, METADATA).await? == (newest, 0));
    let refused = ResponseError::InvalidUpdateVersion.code();
    for (to, kind) in [
        (newest + 1, 1),
        (newest - 1, 1),
        (newest - 1, 2),
        (newest - 1, 3),
    ] {
        let code = update(&cluster, METADATA, to, kind, false).await?;
        ensure!(code == refused, "{to} {kind}: {code}");
    }
    ensure!(level(&cluster, 2, METADATA).await? == (newest, 0));
    for broker in &cluster.brokers {
        let folder = std::fs::read_to_string(broker.data_dir.join("broker.json"))?;
        let folder: serde_json::Value = serde_json::from_str(&folder)?;
        ensure!(folder["format_version"] == NEWEST, "{folder}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_newer_build_is_left_alone() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    cluster.broker_mut(3).stop().await?;
    let file = cluster.broker(3).data_dir.join("broker.json");
    let text = std::fs::read_to_string(&file)?;
    let newer = text.replace(
        &format!("\"format_version\": {NEWEST}"),
        &format!("\"format_version\": {}", NEWEST + 1),
    );
    std::fs::write(&file, &newer)?;
    let before = printed_bytes(cluster.broker(3));
    cluster.start_one(3)?;
    let log = ended(cluster.broker_mut(3), before).await?;
    ensure!(
        log.contains("start this broker with the build of the other brokers"),
        "{log}"
    );
    ensure!(std::fs::read_to_string(&file)? == newer);
    Ok(())
}

/// A field of a protobuf message, with a length below 128.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a short field");
    [&[number << 3 | 2, length], bytes].concat()
}

/// A frame of the connection between brokers with one message.
fn frame(message: &[u8]) -> Vec<u8> {
    let envelope = field(1, message);
    let length = u32::try_from(envelope.len()).expect("a short frame");
    [&length.to_le_bytes()[..], &[0; 4], &envelope].concat()
}

/// A metadata command of a version that comes later, as a broker of a later build sends it to the one that leads.
fn later_command() -> Vec<u8> {
    const VERSION: u8 = 99;
    let varint = |number: u8, value: u8| vec![number << 3, value];
    let hello = [
        varint(1, 77),
        field(2, &[7; 16]),
        varint(4, 1),
        varint(7, VERSION),
    ]
    .concat();
    let propose = [field(1, &varint(1, VERSION)), varint(2, 1)].concat();
    let request = [varint(2, 1), field(14, &propose)].concat();
    [
        b"TIDEBLK1".to_vec(),
        frame(&field(3, &hello)),
        frame(&request),
    ]
    .concat()
}

/// Whoever skipped it would have other metadata than those who know it.
#[tokio::test(flavor = "multi_thread")]
async fn brokers_stop_at_a_command_that_they_do_not_know() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    // Those that do not lead the metadata ignore it.
    let mut connections = Vec::new();
    for broker in &cluster.brokers {
        let mut stream = TcpStream::connect(broker.peer).await?;
        stream.write_all(&later_command()).await?;
        connections.push(stream);
    }
    let reason = format!(
        "the cluster's metadata.version is 99, and this build knows 1 to {NEWEST}: start this broker with the \
         build of the other brokers"
    );
    // Started again, they stop again. The third learns what is committed only with another one.
    for _ in 0..2 {
        let mut stopped = BTreeSet::new();
        wait::until("two brokers to stop", RECOVERY_LIMIT, async || {
            for broker in cluster.brokers.iter_mut().filter(|b| b.is_started()) {
                if let Some(status) = broker.take_ended()? {
                    ensure!(!status.success(), "broker {}: {status}", broker.id);
                    stopped.insert(broker.id);
                }
            }
            Ok((stopped.len() >= 2).then_some(()))
        })
        .await?;
        for broker in &mut cluster.brokers {
            if stopped.contains(&broker.id) {
                let log = broker.log_tail();
                ensure!(log.contains(&reason), "broker {}:\n{log}", broker.id);
                broker.start(binary()?)?;
            }
        }
    }
    Ok(())
}

//! Every API in every version this broker says it serves, decoded by a codec that is not the
//! broker's own for the answer, and the handshake around it.

mod calls;
mod configs;
mod fetch;
mod groups;
mod next_groups;
mod operators;
mod table;
mod topics;
mod transactions;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, DescribeClusterRequest, MetadataRequest,
};
use kafka_protocol::protocol::StrBytes;
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, ClusterOptions};

/// Lowest and highest version by API key.
type Advertised = BTreeMap<i16, (i16, i16)>;

/// The broker that is tested. `KAFKA_PEER=HOST:PORT` puts an Apache Kafka of one broker in its place:
/// what these tests expect is what Kafka answers.
struct Target {
    broker: SocketAddr,
    is_ours: bool,
    _cluster: Option<Cluster>,
}

impl Target {
    async fn start() -> Result<Self> {
        if let Ok(peer) = std::env::var("KAFKA_PEER") {
            return Ok(Self {
                broker: peer.parse()?,
                is_ours: false,
                _cluster: None,
            });
        }
        let cluster = Cluster::start_with(ClusterOptions {
            brokers: 1,
            // As in the configuration that Kafka comes with: a group of one need not wait for more.
            settings: vec![(
                "group.initial.rebalance.delay.ms".to_owned(),
                "0".to_owned(),
            )],
            ..ClusterOptions::default()
        })
        .await?;
        Ok(Self {
            broker: cluster.broker(1).kafka,
            is_ours: true,
            _cluster: Some(cluster),
        })
    }
}

fn versions_request() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("tidelog-tests"))
        .with_client_software_version(StrBytes::from_static_str("1.0"))
}

fn advertised(response: &ApiVersionsResponse) -> Advertised {
    response
        .api_keys
        .iter()
        .map(|api| (api.api_key, (api.min_version, api.max_version)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_api_answers_in_every_version() -> Result<()> {
    let target = Target::start().await?;
    let mut wire = Wire::connect(target.broker).await?;
    let served = advertised(&wire.call(&versions_request(), 4).await?);
    let mut sample = calls::Sample::create(target.broker).await?;
    let mut failures = Vec::new();
    for (key, (min, max)) in served {
        for version in min..=max {
            // Kafka has more APIs than we.
            if !target.is_ours && !table::documented_here(key, version) {
                continue;
            }
            let api = ApiKey::try_from(key)
                .ok()
                .with_context(|| format!("key {key} is advertised"))?;
            if let Err(error) = sample.call(&mut wire, api, version).await {
                failures.push(format!("{api:?} v{version}: {error:#}"));
                // The broker may have closed the old one.
                wire = Wire::connect(target.broker).await?;
            }
        }
    }
    ensure!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_is_kafkas() -> Result<()> {
    let target = Target::start().await?;
    let mut wire = Wire::connect(target.broker).await?;
    let mut tables = Vec::new();
    for version in 0..=4 {
        let response = wire.call(&versions_request(), version).await?;
        ensure!(response.error_code == 0, "v{version}: {response:?}");
        tables.push(advertised(&response));
    }
    ensure!(
        tables.windows(2).all(|pair| pair[0] == pair[1]),
        "tables differ by version"
    );

    // A version nobody knows yet: the body is in a format we cannot read, the answer is version 0
    // and tells which versions of this API are served (KIP-511); then the connection goes on.
    for version in [5_i16, 99, i16::MAX] {
        let mut body = Vec::new();
        body.extend(18_i16.to_be_bytes());
        body.extend(version.to_be_bytes());
        body.extend(77_i32.to_be_bytes());
        // No client id, no tags.
        body.extend([0xff, 0xff, 0]);
        body.extend([0xff; 9]);
        wire.send_frame(&body).await?;
        let mut frame = wire.receive_frame().await?.context("an answer")?;
        let response = Wire::decode::<ApiVersionsRequest>(&mut frame, 0, 77)?;
        ensure!(response.error_code == ResponseError::UnsupportedVersion.code());
        ensure!(advertised(&response) == Advertised::from([(18, tables[0][&18])]));
    }

    // A client name Kafka refuses.
    let odd = versions_request().with_client_software_name(StrBytes::from_static_str("-x y-"));
    for version in 3..=4 {
        let response = wire.call(&odd, version).await?;
        ensure!(response.error_code == ResponseError::InvalidRequest.code());
        ensure!(response.api_keys.is_empty(), "no table beside an error");
    }

    if target.is_ours {
        table::check_document(&tables[0])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() -> Result<()> {
    const ROUNDS: usize = 100;
    let target = Target::start().await?;
    let sample = calls::Sample::create(target.broker).await?;
    let mut wire = Wire::connect(target.broker).await?;
    let mut asked = Vec::new();
    for round in 0..ROUNDS {
        // A fetch that waits for nothing comes before requests that are answered at once.
        if round % 10 == 0 {
            let (id, body) = wire.encode(&sample.waiting_fetch(200, &[1]), 12)?;
            wire.send_frame(&body).await?;
            asked.push((id, 1));
        }
        let (id, body) = wire.encode(&MetadataRequest::default().with_topics(None), 12)?;
        wire.send_frame(&body).await?;
        asked.push((id, 3));
        let (id, body) =
            wire.encode(&DescribeClusterRequest::default().with_endpoint_type(1), 1)?;
        wire.send_frame(&body).await?;
        asked.push((id, 60));
    }
    for (id, key) in asked {
        let mut frame = wire.receive_frame().await?.context("an answer")?;
        match key {
            1 => drop(Wire::decode::<kafka_protocol::messages::FetchRequest>(
                &mut frame, 12, id,
            )?),
            3 => drop(Wire::decode::<MetadataRequest>(&mut frame, 12, id)?),
            _ => drop(Wire::decode::<DescribeClusterRequest>(&mut frame, 1, id)?),
        }
    }
    Ok(())
}

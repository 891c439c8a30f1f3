//! `tidelog broker maintenance`: leadership leaves a broker, stays away, and comes back.

use anyhow::{Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::IncrementalAlterConfigsRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::protocol::StrBytes;
use serde_json::Value;
use tidelog_tests::broker::BrokerId;
use tidelog_tests::load::Load;
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, topics, wait};

use super::{RECOVERY_LIMIT, judge};

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 9;

/// Who is in maintenance, as `broker list` shows it.
fn in_maintenance(cluster: &Cluster) -> Result<Vec<i64>> {
    let listed = cluster.command(&["broker", "list", "--output", "json"])?;
    let brokers = listed.lines().map(serde_json::from_str::<Value>);
    let brokers: Vec<Value> = brokers.collect::<Result<_, _>>()?;
    let those = brokers.iter().filter(|b| b["maintenance"] == true);
    Ok(those.filter_map(|b| b["broker"].as_i64()).collect())
}

async fn led_by(cluster: &Cluster, asked: BrokerId, id: BrokerId) -> Result<usize> {
    let leaders = topics::leaders(cluster, asked, TOPIC).await?;
    Ok(leaders.into_values().filter(|leader| *leader == id).count())
}

/// At least what it is preferred for: it may stand in for one in maintenance as well.
async fn leads_again(cluster: &Cluster, id: BrokerId) -> Result<()> {
    wait::until("leadership to come back", RECOVERY_LIMIT, async || {
        let led = led_by(cluster, id, id).await?;
        Ok((led >= PARTITIONS as usize / 3).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_in_maintenance_leads_nothing_until_it_is_off() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    topics::create(&cluster, TOPIC, PARTITIONS, 3).await?;
    leads_again(&cluster, 1).await?;
    let load = Load::start(&cluster.bootstrap(), TOPIC, PARTITIONS).await?;
    load.progress(300, RECOVERY_LIMIT).await?;

    let on = cluster.command(&["broker", "maintenance", "1", "on", "--output", "json"])?;
    let on: Value = serde_json::from_str(&on)?;
    ensure!(on["maintenance"] == true && on["leaders"] == 0, "{on}");
    ensure!(in_maintenance(&cluster)? == [1]);
    let quorum = cluster.command(&["cluster", "quorum", "--output", "json"])?;
    let quorum: Value = serde_json::from_str(&quorum)?;
    ensure!(quorum["leader"] != 1, "{quorum}");

    // Restarted, it is caught up, and still nobody hands it anything; nor when a leader dies.
    cluster.broker_mut(1).stop().await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    cluster.restart(1).await?;
    cluster.broker_mut(2).kill()?;
    load.progress(600, RECOVERY_LIMIT).await?;
    wait::until("broker 3 to lead all", RECOVERY_LIMIT, async || {
        let leaders = topics::leaders(&cluster, 3, TOPIC).await?;
        Ok(leaders.values().all(|leader| *leader == 3).then_some(()))
    })
    .await?;
    cluster.restart(2).await?;

    // It leads what nobody else can.
    topics::create(&cluster, "alone", 3, 1).await?;
    let led = topics::leaders(&cluster, 3, "alone").await?;
    ensure!(led.values().any(|leader| *leader == 1), "{led:?}");

    leads_again(&cluster, 2).await?;
    ensure!(led_by(&cluster, 2, 1).await? == 0);
    cluster.command(&["broker", "maintenance", "1", "off"])?;
    leads_again(&cluster, 1).await?;
    ensure!(in_maintenance(&cluster)?.is_empty());
    load.progress(300, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    judge(&cluster, TOPIC, PARTITIONS, written.history).await?;

    for (broker, value, code) in [
        // For all brokers at once it makes no sense.
        ("", "true", ResponseError::InvalidConfig),
        ("1", "perhaps", ResponseError::InvalidConfig),
        ("7", "true", ResponseError::InvalidRequest),
    ] {
        for setting in ["broker.maintenance", "broker.decommission"] {
            let answered = set(&cluster, broker, setting, value).await?;
            ensure!(
                answered == code.code(),
                "{setting}={value} of {broker:?}: {answered}"
            );
        }
    }
    Ok(())
}

/// Sets it as any Kafka client can.
async fn set(cluster: &Cluster, broker: &str, setting: &str, value: &str) -> Result<i16> {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let config = AlterableConfig::default()
        .with_name(text(setting))
        .with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(4)
        .with_resource_name(text(broker))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let mut wire = Wire::connect(cluster.broker(1).kafka).await?;
    let response = wire.call(&request, 1).await?;
    Ok(response.responses[0].error_code)
}

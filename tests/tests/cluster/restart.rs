//! Brokers stop and start again with their data.

use anyhow::Result;
use tidelog_tests::load::Load;
use tidelog_tests::{Cluster, topics};

use super::{RECOVERY_LIMIT, judge};

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_cluster_starts_again_with_its_data() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "stopped";
    topics::create(&cluster, topic, 2, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, 2).await?;
    load.progress(1_000, RECOVERY_LIMIT).await?;
    let written = load.finish().await?;
    for broker in &mut cluster.brokers {
        broker.stop().await?;
    }
    cluster.start_all().await?;
    judge(&cluster, topic, 2, written.history).await?;
    Ok(())
}

/// Each broker is stopped cleanly and started again under load; the producer sees no error.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_request() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "rolling";
    topics::create(&cluster, topic, 3, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, 3).await?;
    for id in 1..=3 {
        load.progress(300, RECOVERY_LIMIT).await?;
        cluster.broker_mut(id).stop().await?;
        load.progress(300, RECOVERY_LIMIT).await?;
        cluster.restart(id).await?;
    }
    let written = load.finish().await?;
    judge(&cluster, topic, 3, written.history).await?;
    Ok(())
}

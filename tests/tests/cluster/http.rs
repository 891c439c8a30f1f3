//! The HTTP endpoint: health, readiness, metrics.

use anyhow::{Context, Result, ensure};
use tidelog_tests::broker::http_get;
use tidelog_tests::load::Load;
use tidelog_tests::{Cluster, topics, wait};

use super::RECOVERY_LIMIT;

/// The value of a series, by its name and labels.
fn value(metrics: &str, series: &str) -> Result<f64> {
    let line = metrics
        .lines()
        .find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
    line.with_context(|| format!("{series} in:\n{metrics}"))?
        .parse()
        .with_context(|| series.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_clients_do() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "measured";
    topics::create(&cluster, topic, 3, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, 3).await?;
    load.progress(300, RECOVERY_LIMIT).await?;
    load.finish().await?;
    let http = cluster.broker(1).http;
    ensure!(http_get(http, "/healthz").await?.0 == 200);
    ensure!(http_get(http, "/nothing").await?.0 == 404);
    let (status, metrics) = http_get(http, "/metrics").await?;
    ensure!(status == 200);
    ensure!(metrics.trim_end().ends_with("# EOF"), "not OpenMetrics");
    for series in [
        "tidelog_requests_total{api=\"Produce\"}",
        "tidelog_request_latency_seconds_count{api=\"Produce\"}",
        "tidelog_request_bytes_in_total",
        "tidelog_request_bytes_out_total",
        "tidelog_journal_sync_seconds_count",
        "tidelog_journal_bytes_total",
        "tidelog_peer_bytes_out_total",
        "tidelog_leader_changes_total",
        "tidelog_groups_led",
        "tidelog_disk_free_bytes",
    ] {
        ensure!(value(&metrics, series)? > 0.0, "{series} is 0:\n{metrics}");
    }
    ensure!(value(&metrics, "tidelog_under_replicated_partitions")? == 0.0);

    cluster.broker_mut(3).kill()?;
    wait::until("under-replicated partitions", RECOVERY_LIMIT, async || {
        let (_, metrics) = http_get(http, "/metrics").await?;
        let count = value(&metrics, "tidelog_under_replicated_partitions")?;
        Ok((count > 0.0).then_some(()))
    })
    .await
}

//! What the Rust client promises, against three brokers of ours.

use anyhow::{Result, ensure};
use tidelog_tests::{Cluster, ClusterOptions, client_suite};

/// What a broker offers; `security` needs listeners it does not have yet.
const NEEDS: [&str; 4] = ["core", "groups", "nextgen", "transactions"];

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_keeps_its_promises() -> Result<()> {
    let cluster = Cluster::start_with(ClusterOptions {
        settings: vec![("group.initial.rebalance.delay.ms".into(), "0".into())],
        ..ClusterOptions::default()
    })
    .await?;
    let failed = client_suite::run(&cluster.bootstrap(), &NEEDS, &[]).await;
    ensure!(failed == 0, "{failed} checks failed; their lines are above");
    Ok(())
}

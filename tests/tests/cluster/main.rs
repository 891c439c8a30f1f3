//! Whole-cluster tests: processes, sockets, kills. One binary, so that it links once.

mod backup;
mod bad_input;
mod balance;
mod catch_up;
mod client;
mod command_line;
mod compaction;
mod consumer_group_scale;
mod consumer_groups;
mod damage;
mod deploy;
mod dev;
mod disk;
mod faults;
mod features;
mod groups;
mod http;
mod idempotence;
mod leaders;
mod log_commands;
mod maintenance;
mod move_commands;
mod operator_commands;
mod produce_consume;
mod protocol;
mod quorum;
mod reassignment;
mod restart;
mod retention;
mod tour;
mod transaction_commands;
mod transaction_limits;
mod transactions;
mod transfers;
mod upgrade;

use std::time::Duration;

use anyhow::{Result, ensure};
use tidelog_jepsen::{History, check};
use tidelog_tests::{Cluster, read};

/// Long enough for any recovery on a busy machine; a test that needs it all has found something.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// Reads the topic from every broker and judges the whole history.
async fn judge(
    cluster: &Cluster,
    topic: &str,
    partitions: i32,
    mut history: History,
) -> Result<check::Report> {
    read::read_everywhere(cluster, topic, partitions, &mut history).await?;
    let report = check::all(&history);
    ensure!(report.is_valid(), "{report}");
    Ok(report)
}

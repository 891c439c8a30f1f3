//! `tidelog cluster quorum`: the replicas of the metadata.

use crate::output::Table;
use anyhow::Result;
use serde_json::json;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};
use tidelog_client::{Admin, MetadataQuorum, QuorumReplica};

pub async fn show(admin: &Admin, json: bool) -> Result<()> {
    let quorum = admin.describe_quorum().await?;
    let mut out = std::io::stdout().lock();
    if json {
        print_json(&quorum, &mut out)
    } else {
        print_text(&quorum, &mut out)
    }
}

/// Each replica and what it is.
fn all(quorum: &MetadataQuorum) -> impl Iterator<Item = (&QuorumReplica, &'static str)> {
    let voters = quorum.voters.iter().map(|voter| {
        let leads = voter.id == quorum.leader;
        (voter, if leads { "leader" } else { "voter" })
    });
    voters.chain(quorum.observers.iter().map(|o| (o, "observer")))
}

/// Records of the leader that a replica lacks.
fn lag(quorum: &MetadataQuorum, replica: &QuorumReplica) -> Option<i64> {
    let leader = quorum.voters.iter().find(|v| v.id == quorum.leader)?;
    Some((leader.log_end? - replica.log_end?).max(0))
}

fn print_text(quorum: &MetadataQuorum, out: &mut impl Write) -> Result<()> {
    writeln!(out, "leader          {}", quorum.leader)?;
    writeln!(out, "epoch           {}", quorum.leader_epoch)?;
    writeln!(out, "high watermark  {}", quorum.high_watermark)?;
    writeln!(out)?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let ago = |at: Option<i64>| match at {
        Some(at) => format!("{:.1} s ago", (now_ms - at).max(0) as f64 / 1000.0),
        None => "-".to_owned(),
    };
    let number = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
    let mut table = Table::new(["BROKER", "STATUS", "LOG END", "LAG", "HEARD", "CAUGHT UP"]);
    for (replica, status) in all(quorum) {
        table.row([
            replica.id.to_string(),
            status.to_owned(),
            number(replica.log_end),
            number(lag(quorum, replica)),
            ago(replica.last_fetch_ms),
            ago(replica.last_caught_up_ms),
        ]);
    }
    Ok(table.print(out)?)
}

fn print_json(quorum: &MetadataQuorum, out: &mut impl Write) -> Result<()> {
    let replicas = all(quorum).map(|(replica, status)| {
        json!({
            "broker": replica.id, "status": status, "log_end": replica.log_end,
            "lag": lag(quorum, replica), "last_fetch_ms": replica.last_fetch_ms,
            "last_caught_up_ms": replica.last_caught_up_ms,
        })
    });
    let line = json!({
        "leader": quorum.leader, "leader_epoch": quorum.leader_epoch,
        "high_watermark": quorum.high_watermark, "replicas": replicas.collect::<Vec<_>>(),
    });
    Ok(writeln!(out, "{line}")?)
}

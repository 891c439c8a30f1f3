//! `tidelog broker decommission`: everything a broker holds moves to the others.

use super::check_listed;
use super::maintenance::is_on;
use anyhow::{Result, bail};
use clap::Args;
use futures_util::future::join_all;
use serde_json::json;
use std::io::Write;
use std::time::{Duration, Instant};
use tidelog_client::{Admin, ConfigChange, ConfigResource, PartitionInfo, Reassignment};

/// The setting of a broker; any tool that alters settings can set it.
const SETTING: &str = "broker.decommission";
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Lines of progress are at least this far apart.
const TELL_INTERVAL: Duration = Duration::from_secs(2);
/// How long the broker may take to tell what it holds.
const ASK_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Decommission {
    id: i32,
    /// Let the broker stay after all; it gets back its share
    #[arg(long)]
    cancel: bool,
    /// Return at once; the same command without this shows how far it is
    #[arg(long, conflicts_with = "cancel")]
    no_wait: bool,
    /// Stop waiting after this many seconds; it goes on all the same
    #[arg(long, conflicts_with = "cancel")]
    wait: Option<u64>,
}

impl Decommission {
    /// Asks for it, if nobody did, and shows how far it is until the broker holds nothing.
    ///
    /// # Errors
    /// When no other broker could take what it holds, or when `--wait` is over.
    pub async fn run(self, admin: &Admin, json: bool) -> Result<()> {
        let id = self.id;
        let resource = ConfigResource::Broker(id);
        if self.cancel {
            let change = ConfigChange::Delete(SETTING.to_owned());
            admin.alter_configs(&resource, &[change], false).await?;
            return tell(json, &json!({"broker": id, "decommission": false}), || {
                format!("broker {id} stays; it gets back its share of the replicas")
            });
        }
        check(admin, id).await?;
        let change = ConfigChange::Set(SETTING.to_owned(), "true".to_owned());
        admin.alter_configs(&resource, &[change], false).await?;
        if self.no_wait {
            return tell(json, &json!({"broker": id, "decommission": true}), || {
                format!(
                    "broker {id} is being emptied; run this again without --no-wait to see how far it is"
                )
            });
        }
        let limit = self.wait.map(Duration::from_secs);
        watch(admin, id, limit, json).await
    }
}

/// Whether the others can take everything; nothing is checked of a broker that is being emptied already.
async fn check(admin: &Admin, id: i32) -> Result<()> {
    check_listed(admin, id).await?;
    if leaves(admin, id).await {
        return Ok(());
    }
    let brokers = admin.describe_cluster().await?.brokers;
    let others = brokers.iter().filter(|b| b.id != id);
    let leaving = join_all(others.map(|broker| leaves(admin, broker.id))).await;
    let staying = leaving.into_iter().filter(|leaves| !leaves).count();
    // Until a move has ended, the replicas that go are among the partition's.
    let moves = admin.list_reassignments(None).await?;
    for topic in admin.list_topics().await? {
        let held = topic.partitions.iter().filter(|p| p.replicas.contains(&id));
        let going = |index: i32| {
            let of = |m: &&Reassignment| {
                *m.partition.topic == *topic.name && m.partition.partition == index
            };
            moves.iter().find(of).map_or(0, |m| m.removing.len())
        };
        let count = |p: &PartitionInfo| p.replicas.len().saturating_sub(going(p.index));
        let most = held.map(count).max().unwrap_or(0);
        if most > staying {
            bail!(
                "topic {} has {most} replicas, and without broker {id} only {staying} brokers stay; add a broker first",
                topic.name
            );
        }
    }
    Ok(())
}

/// Whether a broker is being emptied; one that does not tell is not.
async fn leaves(admin: &Admin, id: i32) -> bool {
    is_on(admin, id, SETTING).await == Some(true)
}

/// What a broker still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    partitions: usize,
    /// None while the broker does not answer.
    bytes: Option<u64>,
}

async fn held(admin: &Admin, id: i32) -> Result<Held> {
    let topics = admin.list_topics().await?;
    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
    let partitions = partitions.filter(|p| p.replicas.contains(&id)).count();
    let asked = tokio::time::timeout(ASK_LIMIT, admin.describe_log_dirs(id)).await;
    let on_disk = asked.ok().and_then(Result::ok);
    let bytes = on_disk.map(|all| all.iter().map(|r| r.bytes.unsigned_abs()).sum());
    Ok(Held { partitions, bytes })
}

async fn watch(admin: &Admin, id: i32, limit: Option<Duration>, json: bool) -> Result<()> {
    let started = Instant::now();
    let first = held(admin, id).await?;
    let mut now = first;
    let mut told: Option<Instant> = None;
    while now.partitions > 0 {
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            bail!(
                "broker {id} still holds {} partitions after {} s; it goes on being emptied. If the number stays the \
                 same, the brokers' logs say why",
                now.partitions,
                started.elapsed().as_secs()
            );
        }
        if told.is_none_or(|last| last.elapsed() >= TELL_INTERVAL) {
            told = Some(Instant::now());
            let left = time_left(first, now, started.elapsed());
            let seconds = left.map(|left| left.as_secs_f64().ceil());
            let line = json!({
                "broker": id, "partitions_left": now.partitions, "bytes_left": now.bytes,
                "seconds_left": seconds,
            });
            tell(json, &line, || describe(id, now, seconds))?;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        now = held(admin, id).await?;
    }
    let line = json!({"broker": id, "partitions_left": 0, "bytes_left": 0, "seconds_left": 0});
    tell(json, &line, || {
        format!(
            "broker {id} holds nothing any more: `tidelog broker unregister {id}` takes it out of the cluster"
        )
    })
}

fn describe(id: i32, held: Held, seconds: Option<f64>) -> String {
    let bytes = held.bytes.map_or(String::new(), |bytes| {
        format!(", {:.1} MiB", bytes as f64 / f64::from(1 << 20))
    });
    let left = seconds.map_or(String::new(), |s| format!(", about {s:.0} s"));
    format!(
        "broker {id}: {} partitions{bytes}{left} left",
        held.partitions
    )
}

/// From what went so far: of the bytes, or of the partitions where bytes say nothing.
fn time_left(first: Held, now: Held, elapsed: Duration) -> Option<Duration> {
    let share = |first: u64, now: u64| {
        let gone = first.checked_sub(now).filter(|gone| *gone > 0)?;
        Some(elapsed.mul_f64(now as f64 / gone as f64))
    };
    let by_bytes = first.bytes.zip(now.bytes).and_then(|(a, b)| share(a, b));
    by_bytes.or_else(|| share(first.partitions as u64, now.partitions as u64))
}

fn tell(json: bool, line: &serde_json::Value, text: impl FnOnce() -> String) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{}", text())?;
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_what_went_so_far() {
        let held = |partitions, bytes| Held { partitions, bytes };
        let after = Duration::from_secs(10);
        let left = |first, now| time_left(first, now, after).map(|left| left.as_secs());
        let start = held(10, Some(1000));
        assert_eq!(left(start, start), None, "nothing went yet");
        assert_eq!(left(start, held(9, Some(500))), Some(10));
        assert_eq!(left(start, held(5, None)), Some(10));
        // Producers wrote more than what went.
        assert_eq!(left(start, held(8, Some(1200))), Some(40));
    }
}

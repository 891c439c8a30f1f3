//! `tidelog broker maintenance`: leadership leaves a broker before it is restarted, and stays away.

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::json;
use std::io::Write;
use std::time::{Duration, Instant};
use tidelog_client::{Admin, ConfigChange, ConfigResource, TopicInfo};

/// The setting of a broker; any tool that alters settings can set it.
const SETTING: &str = "broker.maintenance";
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// How long another broker may take to tell its settings for `broker list`.
const ASK_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// Switches, and waits until the broker leads nothing that another replica could lead.
///
/// # Errors
/// When that takes longer than `limit`; the broker stays in maintenance.
pub async fn switch(
    admin: &Admin,
    id: i32,
    switch: Switch,
    limit: Duration,
    json: bool,
) -> Result<()> {
    let change = match switch {
        Switch::On => ConfigChange::Set(SETTING.to_owned(), "true".to_owned()),
        Switch::Off => ConfigChange::Delete(SETTING.to_owned()),
    };
    let resource = ConfigResource::Broker(id);
    admin.alter_configs(&resource, &[change], false).await?;
    let led = match switch {
        Switch::On => wait_until_gone(admin, id, limit).await?,
        Switch::Off => led_by(&admin.list_topics().await?, id).total,
    };
    let on = switch == Switch::On;
    let mut out = std::io::stdout().lock();
    if json {
        let line = json!({"broker": id, "maintenance": on, "leaders": led});
        writeln!(out, "{line}")?;
    } else if on {
        writeln!(
            out,
            "broker {id} is in maintenance and leads {led} partitions"
        )?;
    } else {
        writeln!(
            out,
            "broker {id} is not in maintenance; leadership comes back by itself"
        )?;
    }
    Ok(())
}

async fn wait_until_gone(admin: &Admin, id: i32, limit: Duration) -> Result<usize> {
    let deadline = Instant::now() + limit;
    loop {
        let led = led_by(&admin.list_topics().await?, id);
        if led.movable == 0 && admin.describe_cluster().await?.controller != Some(id) {
            return Ok(led.total);
        }
        if Instant::now() >= deadline {
            bail!(
                "broker {id} still leads {} partitions that others could lead, after {} s; it stays \
                 in maintenance, `tidelog cluster status` shows which replicas are behind",
                led.movable,
                limit.as_secs()
            );
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What a broker leads.
#[derive(Debug, PartialEq, Eq)]
struct Led {
    total: usize,
    /// Where another broker has a replica that is in sync.
    movable: usize,
}

fn led_by(topics: &[std::sync::Arc<TopicInfo>], id: i32) -> Led {
    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
    let led = partitions.filter(|p| p.leader == Some(id));
    led.fold(
        Led {
            total: 0,
            movable: 0,
        },
        |led, p| Led {
            total: led.total + 1,
            movable: led.movable + usize::from(p.in_sync.iter().any(|r| *r != id)),
        },
    )
}

/// Whether a broker is in maintenance; `None` when it does not tell, or knows no such thing.
pub async fn state(admin: &Admin, id: i32) -> Option<bool> {
    is_on(admin, id, SETTING).await
}

/// Whether a setting of a broker is `true`; `None` when it does not tell, or knows no such thing.
pub async fn is_on(admin: &Admin, id: i32, setting: &str) -> Option<bool> {
    let resource = ConfigResource::Broker(id);
    let asked = tokio::time::timeout(ASK_LIMIT, admin.describe_configs(&resource));
    let entries = asked.await.ok()?.ok()?;
    let entry = entries.into_iter().find(|entry| entry.name == setting)?;
    Some(entry.value.as_deref() == Some("true"))
}

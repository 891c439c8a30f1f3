//! Full disks: producers get a retriable error, consumers read on, and writing goes on as soon as
//! there is room again, without a restart and with nothing acknowledged lost.

use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tidelog_jepsen::{History, Kind};
use tidelog_tests::load::{Load, key_of};
use tidelog_tests::produce::{batch, produce};
use tidelog_tests::small_disk::SmallDisk;
use tidelog_tests::wire::Wire;
use tidelog_tests::{BrokerId, Cluster, ClusterOptions, bulk, read, topics, wait};

use super::{RECOVERY_LIMIT, judge};

const PARTITIONS: i32 = 3;
const STEP: u64 = 500;
const KAFKA_STORAGE_ERROR: i16 = 56;

/// A cluster with a small disk under every broker. Fields drop in order: the brokers first.
struct Small {
    cluster: Cluster,
    disks: Vec<SmallDisk>,
    /// What single writes beside the load were told.
    probes: Mutex<History>,
}

/// The process of those writes in histories, and their first value.
const PROBE: u32 = 500;
const PROBE_VALUES: u64 = 1_000_000_000;
const LOCKED: &str = "no test panics while it holds this";

impl Small {
    /// `None` where this user may not mount.
    async fn start(mebibytes: u32) -> Result<Option<Self>> {
        let mut disks = Vec::new();
        for _ in 0..3 {
            let Some(disk) = SmallDisk::mount(mebibytes)? else {
                eprintln!("SKIPPED: this test mounts small disks, which this user may not");
                return Ok(None);
            };
            disks.push(disk);
        }
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let cluster = Cluster::start_with(ClusterOptions {
            data_dirs: (1..).zip(disks.iter().map(SmallDisk::data_dir)).collect(),
            // Small files, so that a full disk is felt soon.
            settings: vec![
                setting("journal.file.bytes", "262144"),
                setting("log.segment.bytes", "1048576"),
                setting("disk.reserve.bytes", "4194304"),
            ],
            ..ClusterOptions::default()
        })
        .await?;
        Ok(Some(Self {
            cluster,
            disks,
            probes: Mutex::default(),
        }))
    }

    fn disk(&self, broker: BrokerId) -> &SmallDisk {
        &self.disks[usize::try_from(broker).expect("ids begin at 1") - 1]
    }

    /// What a broker answers to one record.
    async fn produce_to(&self, broker: BrokerId, topic: &str, partition: i32) -> Result<i16> {
        let value = PROBE_VALUES + self.probes.lock().expect(LOCKED).events.len() as u64;
        let mut wire = Wire::connect(self.cluster.broker(broker).kafka).await?;
        let records = batch([value.to_string().into()])?;
        let told = produce(&mut wire, topic, partition, records).await?;
        let key = key_of(topic, partition);
        let mut probes = self.probes.lock().expect(LOCKED);
        match told.error_code {
            0 => probes.send_ok(PROBE, &key, value, Some(told.base_offset)),
            KAFKA_STORAGE_ERROR => probes.send_ended(PROBE, Kind::Fail, &key, value),
            _ => probes.send_ended(PROBE, Kind::Info, &key, value),
        }
        Ok(told.error_code)
    }

    /// Waits until a broker refuses writes to a partition it leads.
    async fn refuses(&self, broker: BrokerId, topic: &str, partition: i32) -> Result<()> {
        wait::until("a storage error", RECOVERY_LIMIT, async || {
            let code = self.produce_to(broker, topic, partition).await?;
            Ok((code == KAFKA_STORAGE_ERROR).then_some(()))
        })
        .await
    }

    /// Judges a load and the single writes beside it.
    async fn judge(&self, topic: &str, partitions: i32, load: Load) -> Result<()> {
        let mut history = load.finish().await?.history;
        let probes = std::mem::take(&mut *self.probes.lock().expect(LOCKED));
        history.events.extend(probes.events);
        judge(&self.cluster, topic, partitions, history).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_full_disk_of_a_follower_holds_nobody_up() -> Result<()> {
    let Some(small) = Small::start(64).await? else {
        return Ok(());
    };
    let topic = "full-follower";
    topics::create(&small.cluster, topic, 1, 3).await?;
    let leader = topics::leader_of(&small.cluster, topic, 0).await?;
    let follower = leader % 3 + 1;
    let load = Load::start(&small.cluster.bootstrap(), topic, 1).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    small.disk(follower).fill()?;
    // Far more than its files have room for.
    load.progress(20 * STEP, RECOVERY_LIMIT).await?;
    ensure!(
        topics::leader_of(&small.cluster, topic, 0).await? == leader,
        "the full disk of a follower cost the leader its place"
    );
    small.disk(follower).free()?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    small.judge(topic, 1, load).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_full_disk_of_a_leader_stops_its_partitions_alone() -> Result<()> {
    let Some(small) = Small::start(64).await? else {
        return Ok(());
    };
    let topic = "full-leader";
    topics::create(&small.cluster, topic, PARTITIONS, 3).await?;
    let led = topics::leaders(&small.cluster, 1, topic).await?;
    let (&partition, &leader) = led.first_key_value().context("a leader")?;
    let (&other, _) = led
        .iter()
        .find(|(_, id)| **id != leader)
        .context("leaders are spread")?;
    let load = Load::start(&small.cluster.bootstrap(), topic, PARTITIONS).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    small.disk(leader).fill()?;
    small.refuses(leader, topic, partition).await?;
    // Its own partition is read from it as before, another one is written as before.
    let kafka = small.cluster.broker(leader).kafka;
    ensure!(
        !read::read_replica(kafka, topic, partition, 10)
            .await?
            .is_empty()
    );
    for _ in 0..5 {
        let since = Instant::now();
        wait::until("a write elsewhere", RECOVERY_LIMIT, async || {
            Ok(load.first_ack_after(other, since))
        })
        .await?;
    }
    small.disk(leader).free()?;
    writes_resume(&load, [partition]).await?;
    small.judge(topic, PARTITIONS, load).await
}

/// Every partition named has a write acknowledged from now on.
async fn writes_resume(load: &Load, partitions: impl IntoIterator<Item = i32>) -> Result<()> {
    let since = Instant::now();
    for partition in partitions {
        wait::until("a write to the freed disk", RECOVERY_LIMIT, async || {
            Ok(load.first_ack_after(partition, since))
        })
        .await?;
    }
    Ok(())
}

/// All disks are full, two times; the second time the brokers are killed on their full disks.
#[tokio::test(flavor = "multi_thread")]
async fn with_all_disks_full_reads_go_on_and_writes_resume() -> Result<()> {
    let Some(mut small) = Small::start(64).await? else {
        return Ok(());
    };
    let topic = "full-all";
    topics::create(&small.cluster, topic, PARTITIONS, 3).await?;
    let load = Load::start(&small.cluster.bootstrap(), topic, PARTITIONS).await?;
    for round in 0..2 {
        load.progress(STEP, RECOVERY_LIMIT).await?;
        let led = topics::leaders(&small.cluster, 1, topic).await?;
        for disk in &small.disks {
            disk.fill()?;
        }
        for (partition, leader) in led {
            small.refuses(leader, topic, partition).await?;
        }
        for records in read::read_by_client(&small.cluster.bootstrap(), topic, PARTITIONS).await? {
            ensure!(!records.is_empty(), "nothing read from full disks");
        }
        if round > 0 {
            for broker in &mut small.cluster.brokers {
                broker.kill()?;
            }
        }
        for disk in &small.disks {
            disk.free()?;
        }
        small.cluster.start_all().await?;
        writes_resume(&load, 0..PARTITIONS).await?;
    }
    small.judge(topic, PARTITIONS, load).await
}

/// A replica that copies what it missed runs out of room on the way, and goes on when there is more.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_while_a_replica_catches_up_only_delays_it() -> Result<()> {
    let Some(mut small) = Small::start(96).await? else {
        return Ok(());
    };
    let topic = "full-on-the-way";
    topics::create(&small.cluster, topic, 1, 3).await?;
    let leader = topics::leader_of(&small.cluster, topic, 0).await?;
    let away = leader % 3 + 1;
    small.cluster.broker_mut(away).kill()?;
    let mut history = History::default();
    let at = small.cluster.broker(leader).kafka;
    bulk::write(at, topic, 0, 48 << 20, 0, &mut history).await?;
    small.disk(away).fill_but(16 << 20)?;
    small.cluster.start_one(away)?;
    let told = "disk full: the copy to";
    wait::until("the disk filled by the copy", RECOVERY_LIMIT, async || {
        let log = std::fs::read_to_string(&small.cluster.broker(away).log_path)?;
        Ok(log.contains(told).then_some(()))
    })
    .await?;
    // The others do not mind.
    let load = Load::start(&small.cluster.bootstrap(), topic, 1).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    small.disk(away).free()?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    history.events.extend(load.finish().await?.history.events);
    judge(&small.cluster, topic, 1, history).await?;
    Ok(())
}

/// Brokers are told to stop, each on its full disk; they do, and what was acknowledged is there when they
/// are back with room.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_stops_on_a_full_disk() -> Result<()> {
    let Some(mut small) = Small::start(64).await? else {
        return Ok(());
    };
    let topic = "full-stop";
    topics::create(&small.cluster, topic, PARTITIONS, 3).await?;
    let load = Load::start(&small.cluster.bootstrap(), topic, PARTITIONS).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    // The other brokers go on and send this one what has no room.
    let follower = 1;
    small.disk(follower).fill()?;
    load.progress(20 * STEP, RECOVERY_LIMIT).await?;
    small.cluster.broker_mut(follower).stop().await?;
    small.disk(follower).free()?;
    small.cluster.start_all().await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    // Nobody has room.
    for disk in &small.disks {
        disk.fill()?;
    }
    // Leadership may still be on its way back to the one that was away: where it is, nobody takes writes.
    wait::until("a storage error", RECOVERY_LIMIT, async || {
        for (partition, leader) in topics::leaders(&small.cluster, 1, topic).await? {
            if small.produce_to(leader, topic, partition).await? == KAFKA_STORAGE_ERROR {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })
    .await?;
    for broker in &mut small.cluster.brokers {
        broker.stop().await?;
    }
    for disk in &small.disks {
        disk.free()?;
    }
    small.cluster.start_all().await?;
    writes_resume(&load, 0..PARTITIONS).await?;
    small.judge(topic, PARTITIONS, load).await
}

/// Who deletes a topic to make room must not need room for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_makes_room_on_a_full_disk() -> Result<()> {
    let Some(small) = Small::start(64).await? else {
        return Ok(());
    };
    let (kept, deleted) = ("full-kept", "full-deleted");
    topics::create(&small.cluster, kept, 1, 3).await?;
    topics::create(&small.cluster, deleted, 1, 3).await?;
    let mut written = History::default();
    let leader = topics::leader_of(&small.cluster, deleted, 0).await?;
    let at = small.cluster.broker(leader).kafka;
    bulk::write(at, deleted, 0, 16 << 20, 0, &mut written).await?;
    let load = Load::start(&small.cluster.bootstrap(), kept, 1).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    for disk in &small.disks {
        disk.fill()?;
    }
    let leader = topics::leader_of(&small.cluster, kept, 0).await?;
    small.refuses(leader, kept, 0).await?;
    topics::delete(&small.cluster, 1, deleted).await?;
    writes_resume(&load, [0]).await?;
    small.judge(kept, 1, load).await
}

//! Damaged, missing and foreign files: they are told of, and never served as if they were right.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tidelog_jepsen::History;
use tidelog_jepsen::history::ProcessId;
use tidelog_tests::load::{Load, key_of};
use tidelog_tests::{
    Broker, BrokerId, Cluster, ClusterOptions, bulk, dev, read, segments, topics, wait,
};

use super::reassignment::reassign_of;
use super::{RECOVERY_LIMIT, judge};

const STEP: u64 = 300;
const READER: ProcessId = 1;

/// A broker that cannot go on says so soon.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Waits until a started broker has ended by itself with a failure; what it printed since.
pub async fn ended(broker: &mut Broker, printed_before: usize) -> Result<String> {
    let what = format!("broker {} ends by itself", broker.id);
    let status = wait::until(&what, END_LIMIT, async || broker.take_ended()).await;
    let log = fs::read_to_string(&broker.log_path)?;
    let said = log[printed_before..].to_owned();
    let status = status.with_context(|| said.clone())?;
    ensure!(!status.success(), "it ended as if all were well: {said}");
    Ok(said)
}

pub fn printed_bytes(broker: &Broker) -> usize {
    fs::metadata(&broker.log_path).map_or(0, |meta| meta.len() as usize)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_disk_was_wiped_is_refused() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "wiped";
    topics::create(&cluster, topic, 3, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, 3).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    cluster.broker_mut(2).stop().await?;
    let kept = cluster.broker(2).data_dir.with_extension("kept");
    fs::rename(&cluster.broker(2).data_dir, &kept)?;
    let before = printed_bytes(cluster.broker(2));
    cluster.start_one(2)?;
    let said = ended(cluster.broker_mut(2), before).await?;
    println!("a wiped broker says: {said}");
    ensure!(
        said.contains("tidelog: ") && said.contains("broker 2"),
        "{said}"
    );
    load.progress(STEP, RECOVERY_LIMIT).await?;
    // With its own data it may come back.
    fs::remove_dir_all(&cluster.broker(2).data_dir)?;
    fs::rename(&kept, &cluster.broker(2).data_dir)?;
    cluster.restart(2).await?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    judge(&cluster, topic, 3, load.finish().await?.history).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_of_another_broker_or_cluster_is_refused() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut other = Cluster::start().await?;
    let in_use = cluster.broker(1).data_dir.display().to_string();
    let told = start_elsewhere(1, &in_use)?;
    ensure!(told.contains("in use by another broker process"), "{told}");
    for id in [1, 2] {
        cluster.broker_mut(id).stop().await?;
    }
    other.broker_mut(2).stop().await?;
    let told = start_elsewhere(2, &in_use)?;
    ensure!(
        told.contains("belongs to broker 1, not to broker 2"),
        "{told}"
    );

    cluster.restart(1).await?;
    let own = cluster.broker(2).data_dir.clone();
    let kept = own.with_extension("kept");
    fs::rename(&own, &kept)?;
    fs::rename(&other.broker(2).data_dir, &own)?;
    let before = printed_bytes(cluster.broker(2));
    cluster.start_one(2)?;
    let said = ended(cluster.broker_mut(2), before).await?;
    println!("a broker with another cluster's folder says: {said}");
    ensure!(
        said.contains("tidelog: ") && said.contains("cluster"),
        "{said}"
    );
    fs::rename(&own, &other.broker(2).data_dir)?;
    fs::rename(&kept, &own)?;
    cluster.restart(2).await?;
    other.restart(2).await
}

/// Starts a broker with that data on other ports, which has to fail; what it says.
fn start_elsewhere(id: BrokerId, data_dir: &str) -> Result<String> {
    let id = format!("broker.id={id}");
    let data_dir = format!("data.dir={data_dir}");
    let mut args = vec!["start", "--set", &id, "--set", &data_dir];
    for listener in ["listeners", "peer.listener", "http.listener"] {
        args.push("--set");
        args.push(match listener {
            "listeners" => "listeners=127.0.0.1:0",
            "peer.listener" => "peer.listener=127.0.0.1:0",
            _ => "http.listener=127.0.0.1:0",
        });
    }
    let output = dev::run(&args)?;
    ensure!(!output.status.success(), "it started");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Changes one byte of a file.
fn flip(path: &Path, at: u64) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x40], at)?;
    Ok(file.sync_all()?)
}

/// The journal file with the most bytes in it, and a place in their middle.
fn middle_of_the_journal(broker: &Broker) -> Result<(PathBuf, u64)> {
    let mut best: Option<(usize, PathBuf, u64)> = None;
    for entry in fs::read_dir(broker.data_dir.join("journal"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|suffix| suffix != "journal") {
            continue;
        }
        let bytes = fs::read(&path)?;
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        if used.len() > best.as_ref().map_or(0, |best| best.0) {
            best = Some((used.len(), path, used[used.len() / 2] as u64));
        }
    }
    let (_, path, at) = best.context("a journal file")?;
    Ok((path, at))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_told_of_and_never_served() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "damaged-journal";
    topics::create(&cluster, topic, 3, 3).await?;
    let load = Load::start(&cluster.bootstrap(), topic, 3).await?;
    load.progress(10 * STEP, RECOVERY_LIMIT).await?;
    cluster.broker_mut(2).kill()?;
    load.progress(STEP, RECOVERY_LIMIT).await?;
    let (path, at) = middle_of_the_journal(cluster.broker(2))?;
    flip(&path, at)?;
    let before = printed_bytes(cluster.broker(2));
    cluster.start_one(2)?;
    let broker = cluster.broker_mut(2);
    let refused = wait::until("it serves or it ends", RECOVERY_LIMIT, async || {
        if let Some(status) = broker.take_ended()? {
            ensure!(!status.success(), "it ended as if all were well");
            return Ok(Some(true));
        }
        Ok(broker.is_ready().await.then_some(false))
    })
    .await?;
    let said = fs::read_to_string(&broker.log_path)?[before..].to_owned();
    println!("with a damaged journal (refused: {refused}): {said}");
    ensure!(
        said.contains("damage"),
        "it says nothing of the damage: {said}"
    );
    let file = path.file_name().and_then(|name| name.to_str());
    ensure!(
        said.contains(file.context("a name")?),
        "it does not name the file: {said}"
    );
    load.progress(STEP, RECOVERY_LIMIT).await?;
    if refused {
        // It has not touched what it could not read: once repaired, everything is there.
        flip(&path, at)?;
        cluster.restart(2).await?;
    }
    load.progress(STEP, RECOVERY_LIMIT).await?;
    judge(&cluster, topic, 3, load.finish().await?.history).await?;
    Ok(())
}

/// Two replicas are a majority together only. The one that has lost its past votes for the other, which has
/// all that both have acknowledged, even though a third is asked to join meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_of_one_of_two_replicas_loses_nothing() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let topic = "damaged-pair";
    topics::create(&cluster, topic, 3, 2).await?;
    let load = Load::start(&cluster.bootstrap(), topic, 3).await?;
    load.progress(10 * STEP, RECOVERY_LIMIT).await?;
    let leaders = topics::leaders(&cluster, 1, topic).await?;
    let lost = leaders.iter().find(|(_, leader)| **leader == 2);
    let lost = *lost.context("a partition that broker 2 leads")?.0;
    cluster.broker_mut(2).kill()?;
    let all = [(lost, Some(vec![3, 1, 2]))];
    ensure!(reassign_of(&cluster, 1, topic, &all).await? == [0]);
    let (path, at) = middle_of_the_journal(cluster.broker(2))?;
    flip(&path, at)?;
    cluster.start_one(2)?;
    let back = Instant::now();
    wait::until(
        "writes go on in all partitions",
        RECOVERY_LIMIT,
        async || {
            let mut partitions = 0..3;
            let all = partitions.all(|p| load.first_ack_after(p, back).is_some());
            Ok(all.then_some(()))
        },
    )
    .await?;
    let said = fs::read_to_string(&cluster.broker(2).log_path)?;
    ensure!(said.contains("the journal is damaged"), "{said}");
    load.progress(STEP, RECOVERY_LIMIT).await?;
    let mut history = load.finish().await?.history;
    let read = read::read_by_client(&cluster.bootstrap(), topic, 3).await?;
    for (partition, records) in read.into_iter().enumerate() {
        let key = key_of(topic, partition as i32);
        history.assign(READER, &[&key]);
        history.poll_ok(READER, &key, records);
    }
    let report = tidelog_jepsen::check::all(&history);
    ensure!(report.is_valid(), "{report}");
    Ok(())
}

/// A byte changes in a closed segment: a replica that copies the partition gets it from another one,
/// and whoever reads it is told to come again, when the damage is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_neither_copied_nor_served_and_is_mended() -> Result<()> {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut cluster = Cluster::start_with(ClusterOptions {
        settings: vec![
            setting("log.segment.bytes", "1048576"),
            setting("journal.file.bytes", "4194304"),
            // Whoever leads first is written to all the time.
            setting("auto.leader.rebalance.enable", "false"),
        ],
        ..ClusterOptions::default()
    })
    .await?;
    let topic = "damaged-segment";
    topics::create(&cluster, topic, 1, 3).await?;
    let leader = topics::leader_of(&cluster, topic, 0).await?;
    let away = leader % 3 + 1;
    let third = away % 3 + 1;
    cluster.broker_mut(away).kill()?;
    let mut history = History::default();
    let at = cluster.broker(leader).kafka;
    bulk::write(at, topic, 0, 40 << 20, 0, &mut history).await?;

    damage_segment(&cluster, leader, topic)?;
    let end = read::end_offset(at, topic, 0).await?;
    cluster.restart(away).await?;
    // From the leader, which asks it to copy, it gets what fails its checksum.
    let copied = read::read_replica(cluster.broker(away).kafka, topic, 0, end).await?;
    history.assign(1, &["damaged-segment-0"]);
    history.poll_ok(1, "damaged-segment-0", copied);
    let report = tidelog_jepsen::check::all(&history);
    ensure!(report.is_valid(), "{report}");
    let same = segments::compare(cluster.broker(away), cluster.broker(third), topic, 0)?;
    ensure!(same >= 40 << 20, "only {same} bytes are on both");
    let said = fs::read_to_string(&cluster.broker(away).log_path)?;
    ensure!(
        said.contains("checksum"),
        "it copied without a look at the damaged part: {said}"
    );
    mended(&cluster, leader, topic, 1).await?;

    // The same once more for a consumer.
    damage_segment(&cluster, third, topic)?;
    let third_at = cluster.broker(third).kafka;
    match read::read_replica_once(third_at, topic, 0, end).await {
        Ok(_) => bail!("nobody noticed the damaged segment"),
        Err(error) => println!("reading the damaged segment: {error:#}"),
    }
    mended(&cluster, third, topic, 1).await?;
    read::read_replica_once(third_at, topic, 0, end).await?;
    for other in [leader, away] {
        let same = segments::compare(cluster.broker(other), cluster.broker(third), topic, 0)?;
        ensure!(same >= 40 << 20, "only {same} bytes are on both");
    }
    Ok(())
}

/// Changes a byte in the middle of a closed segment of a broker.
fn damage_segment(cluster: &Cluster, broker: BrokerId, topic: &str) -> Result<()> {
    let dir = segments::partition_dir(cluster.broker(broker), topic, 0);
    let files = segments::files(&dir)?;
    let closed = files.get(files.len() / 2).context("closed segments")?;
    flip(closed, fs::metadata(closed)?.len() / 2)
}

/// Waits until a broker says so often that it has mended the partition.
async fn mended(cluster: &Cluster, broker: BrokerId, topic: &str, times: usize) -> Result<()> {
    let what = format!("broker {broker} mends its segment of {topic}");
    wait::until(&what, RECOVERY_LIMIT, async || {
        let said = fs::read_to_string(&cluster.broker(broker).log_path)?;
        let count = said.matches("damaged records at offset").count();
        Ok((count >= times && said.contains("replaced by broker")).then_some(()))
    })
    .await
}

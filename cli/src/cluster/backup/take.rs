//! `tidelog cluster backup`.

use super::manifest::{Configs, GroupEntry, Manifest, OffsetEntry, TopicEntry};
use super::records::RecordsWriter;
use crate::output::Target;
use crate::progress::ProgressLine;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tidelog_client::{
    Admin, ClientConfig, ConfigResource, ConfigSource, Consumer, ConsumerConfig, Isolation,
    OffsetReset, StartPosition, TopicInfo,
};

/// Copies topics, settings and committed offsets into a folder.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidelog cluster backup /backups/monday --topic orders")]
pub struct Backup {
    /// Folder to write to; made by this command, or empty
    dir: PathBuf,
    /// A topic to copy; may be given several times. Without it all but the internal ones
    #[arg(long, value_name = "NAME")]
    topic: Vec<String>,
}

/// Records of a partition to copy: offsets in `[start, end)`.
struct Cut {
    start: i64,
    end: i64,
}

impl Backup {
    pub async fn run(&self, target: &Target, admin: &Admin) -> Result<()> {
        make_empty(&self.dir)?;
        let taken_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        let cluster = admin.describe_cluster().await?;
        let mut manifest = Manifest::new(taken_ms, cluster.id.clone());
        let topics = self.topics(admin).await?;
        // Before the ends of the partitions: what is committed now lies below them.
        manifest.groups = groups(admin, &topics).await?;
        let brokers: Vec<i32> = cluster.brokers.iter().map(|broker| broker.id).collect();
        manifest.broker_configs = broker_configs(admin, &brokers).await?;
        let client = target.client()?;
        let cuts = cuts(&client, &topics).await?;
        let progress = ProgressLine::new();
        for (index, topic) in topics.iter().enumerate() {
            progress.show(&format!(
                "{index} of {} topics; {}",
                topics.len(),
                topic.name
            ));
            let resource = ConfigResource::Topic(topic.name.clone());
            let configs = set_for(admin, &resource, ConfigSource::Topic).await?;
            let copied = self.copy(&client, topic, index, configs, &cuts).await;
            let entry = copied.with_context(|| format!("topic {:?}", topic.name))?;
            manifest.topics.push(entry);
        }
        drop(progress);
        clamp(&mut manifest.groups, &cuts);
        manifest.write(&self.dir)?;
        self.report(&manifest, target.json())
    }

    async fn topics(&self, admin: &Admin) -> Result<Vec<Arc<TopicInfo>>> {
        let mut topics = admin.list_topics().await?;
        if self.topic.is_empty() {
            topics.retain(|topic| !topic.internal);
            return Ok(topics);
        }
        for name in &self.topic {
            ensure!(
                topics.iter().any(|t| t.name == *name),
                "there is no topic {name:?}"
            );
        }
        topics.retain(|topic| self.topic.contains(&topic.name));
        Ok(topics)
    }

    /// Copies the records of one topic.
    async fn copy(
        &self,
        client: &ClientConfig,
        topic: &TopicInfo,
        index: usize,
        configs: Configs,
        cuts: &HashMap<(String, i32), Cut>,
    ) -> Result<TopicEntry> {
        // Names of topics may be longer than those of files.
        let folder = format!("topic-{index:05}");
        fs::create_dir(self.dir.join(&folder))?;
        let mut writers = Vec::with_capacity(topic.partitions.len());
        let mut left = HashMap::new();
        let mut starts = Vec::new();
        for partition in &topic.partitions {
            let cut = &cuts[&(topic.name.clone(), partition.index)];
            let file = format!("{folder}/{}.records", partition.index);
            writers.push((RecordsWriter::create(&self.dir, file)?, cut.start, cut.end));
            if cut.start < cut.end {
                left.insert(partition.index, cut.end);
                let from = StartPosition::Offset(cut.start);
                starts.push((topic.name.clone(), partition.index, from));
            }
        }
        // Retention may have moved the start by now: what is gone is not in the backup.
        let mut consumer = Consumer::new(client.clone(), reader()).await?;
        consumer.assign(starts).await?;
        while !left.is_empty() {
            let fetched = consumer.next().await?;
            let Some(&end) = left.get(&fetched.partition) else {
                continue;
            };
            let (writer, ..) = &mut writers[fetched.partition as usize];
            for record in fetched.records.iter().filter(|record| record.offset < end) {
                writer.write(record)?;
            }
            if fetched.next_offset >= end {
                left.remove(&fetched.partition);
            }
        }
        let first = topic.partitions.first();
        let partitions = writers
            .into_iter()
            .map(|(writer, start, end)| writer.finish(start, end));
        Ok(TopicEntry {
            name: topic.name.clone(),
            replication_factor: first.map_or(1, |p| p.replicas.len() as i16),
            configs,
            partitions: partitions.collect::<Result<_>>()?,
        })
    }

    fn report(&self, manifest: &Manifest, json: bool) -> Result<()> {
        let partitions = || manifest.topics.iter().flat_map(|t| &t.partitions);
        let records: u64 = partitions().map(|p| p.records).sum();
        let bytes: u64 = partitions().map(|p| p.bytes).sum();
        let mut out = std::io::stdout().lock();
        if json {
            let line = json!({
                "folder": self.dir, "topics": manifest.topics.len(),
                "partitions": partitions().count(), "records": records, "bytes": bytes,
                "groups": manifest.groups.len(),
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(
                out,
                "backed up {} topics, {} partitions, {records} records, {bytes} bytes, {} groups",
                manifest.topics.len(),
                partitions().count(),
                manifest.groups.len()
            )?;
        }
        Ok(())
    }
}

fn reader() -> ConsumerConfig {
    ConsumerConfig::default()
        .with_isolation(Isolation::ReadCommitted)
        .with_offset_reset(OffsetReset::Earliest)
}

fn make_empty(dir: &Path) -> Result<()> {
    let shown = dir.display();
    fs::create_dir_all(dir).with_context(|| shown.to_string())?;
    let mut entries = fs::read_dir(dir).with_context(|| shown.to_string())?;
    if entries.next().is_some() {
        bail!("{shown} is not empty; a backup goes into a folder of its own");
    }
    Ok(())
}

/// Where the copy of each partition begins and ends: at the last stable offset, as what lies behind it
/// belongs to transactions nobody has decided yet.
async fn cuts(
    client: &ClientConfig,
    topics: &[Arc<TopicInfo>],
) -> Result<HashMap<(String, i32), Cut>> {
    let consumer = Consumer::new(client.clone(), reader()).await?;
    let places = |at: StartPosition| {
        topics.iter().flat_map(move |topic| {
            let partitions = topic.partitions.iter();
            partitions.map(move |p| (topic.name.clone(), p.index, at))
        })
    };
    let ends = consumer.offsets(places(StartPosition::Latest)).await?;
    let starts = consumer.offsets(places(StartPosition::Earliest)).await?;
    let mut cuts: HashMap<(String, i32), Cut> = HashMap::new();
    for (topic, partition, end) in ends {
        cuts.insert((topic, partition), Cut { start: end, end });
    }
    for (topic, partition, start) in starts {
        if let Some(cut) = cuts.get_mut(&(topic, partition)) {
            cut.start = start.min(cut.end);
        }
    }
    Ok(cuts)
}

/// The settings of `of` that come from `source`.
async fn set_for(admin: &Admin, of: &ConfigResource, source: ConfigSource) -> Result<Configs> {
    let entries = admin.describe_configs(of).await?.into_iter();
    let set = entries.filter(|entry| entry.source == source && !entry.sensitive);
    Ok(set
        .filter_map(|entry| Some((entry.name, entry.value?)))
        .collect())
}

async fn broker_configs(admin: &Admin, brokers: &[i32]) -> Result<BTreeMap<String, Configs>> {
    let mut all = BTreeMap::new();
    for id in brokers {
        let resource = ConfigResource::Broker(*id);
        let configs = set_for(admin, &resource, ConfigSource::DynamicBroker).await?;
        all.insert(id.to_string(), configs);
    }
    let default = ConfigSource::DynamicDefaultBroker;
    let of_all = set_for(admin, &ConfigResource::AllBrokers, default).await?;
    all.insert(String::new(), of_all);
    all.retain(|_, configs| !configs.is_empty());
    Ok(all)
}

/// What groups have committed for `topics`, and the groups' own settings.
async fn groups(admin: &Admin, topics: &[Arc<TopicInfo>]) -> Result<Vec<GroupEntry>> {
    let mut groups = Vec::new();
    for listing in admin.list_groups().await? {
        let group = listing.group_id;
        let committed = admin.group_offsets(&group).await?;
        let offsets: Vec<OffsetEntry> = committed
            .into_iter()
            .filter(|(place, _)| topics.iter().any(|topic| *topic.name == *place.topic))
            .map(|(place, committed)| OffsetEntry {
                topic: place.topic.to_string(),
                partition: place.partition,
                offset: committed.offset,
            })
            .collect();
        let resource = ConfigResource::Group(group.clone());
        // Brokers older than settings of groups refuse the question.
        let configs = set_for(admin, &resource, ConfigSource::Group).await;
        let configs = configs.unwrap_or_default();
        if !offsets.is_empty() || !configs.is_empty() {
            groups.push(GroupEntry {
                group,
                configs,
                offsets,
            });
        }
    }
    Ok(groups)
}

/// A group that reads uncommitted records may be ahead of what is copied.
fn clamp(groups: &mut [GroupEntry], cuts: &HashMap<(String, i32), Cut>) {
    for offset in groups.iter_mut().flat_map(|group| &mut group.offsets) {
        if let Some(cut) = cuts.get(&(offset.topic.clone(), offset.partition)) {
            offset.offset = offset.offset.min(cut.end);
        }
    }
}

//! `tidelog cluster restore`.

use super::manifest::{Configs, GroupEntry, Manifest, TopicEntry};
use super::records::RecordsReader;
use super::translate::Translation;
use crate::output::Target;
use crate::progress::ProgressLine;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use tidelog_client::{
    Admin, ConfigChange, ConfigResource, NewTopic, Producer, ProducerConfig, StartPosition,
    TopicPartition,
};

/// Settings a topic gets only when its records are there: until then none of them may expire, be
/// compacted away, or be given another time.
const AFTERWARDS: [(&str, &str); 6] = [
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("cleanup.policy", "delete"),
    ("message.timestamp.type", "CreateTime"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
    ("message.timestamp.after.max.ms", "9223372036854775807"),
];

/// Brings a backup into a cluster that has no topics.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidelog cluster restore /backups/monday --dry-run")]
pub struct Restore {
    /// Folder of the backup
    dir: PathBuf,
    /// Only check the backup and whether the cluster could take it
    #[arg(long)]
    dry_run: bool,
    /// The cluster may have topics, though none of those in the backup
    #[arg(long)]
    beside: bool,
    /// Replicas of each partition, instead of as many as there were
    #[arg(long, value_name = "N")]
    replication_factor: Option<i16>,
}

/// New offsets by old, of each partition that groups have committed offsets of.
type NewOffsets = HashMap<(String, i32), BTreeMap<i64, i64>>;

impl Restore {
    pub async fn run(&self, target: &Target, admin: &Admin) -> Result<()> {
        let manifest = Manifest::read(&self.dir)?;
        self.check_target(&manifest, admin).await?;
        let mut records = 0;
        if !self.dry_run {
            broker_configs(&manifest, admin).await?;
            let producer = ProducerConfig::default().with_create_topics(false);
            let producer = Producer::new(target.client()?, producer).await?;
            let mut moved = NewOffsets::new();
            let progress = ProgressLine::new();
            let count = manifest.topics.len();
            for (index, topic) in manifest.topics.iter().enumerate() {
                let name = &topic.name;
                progress.show(&format!(
                    "{index} of {count} topics; {records} records; {name}"
                ));
                let restored = self
                    .topic(topic, &manifest, admin, &producer, &mut moved)
                    .await;
                records += restored.with_context(|| format!("topic {:?}", topic.name))?;
            }
            producer.close().await?;
            for group in &manifest.groups {
                let restored = restore_group(group, admin, &moved).await;
                restored.with_context(|| format!("group {:?}", group.group))?;
            }
        }
        self.report(&manifest, records, target.json())
    }

    /// # Errors
    /// Names what is there already.
    async fn check_target(&self, manifest: &Manifest, admin: &Admin) -> Result<()> {
        for topic in admin.list_topics().await? {
            let name = &topic.name;
            if manifest.topics.iter().any(|t| t.name == *name) {
                bail!("the cluster has topic {name:?} already; nothing is restored over it");
            }
            if !topic.internal && !self.beside {
                bail!(
                    "the cluster is not empty: it has topic {name:?}; --beside restores what is \
                     missing beside it"
                );
            }
        }
        let present = admin.list_groups().await?;
        for group in &manifest.groups {
            let name = &group.group;
            let known = present.iter().any(|p| p.group_id == *name);
            if known && !admin.group_offsets(name).await?.is_empty() {
                bail!("the cluster has committed offsets of group {name:?} already");
            }
        }
        Ok(())
    }

    /// Makes a topic and writes its records; how many.
    async fn topic(
        &self,
        topic: &TopicEntry,
        manifest: &Manifest,
        admin: &Admin,
        producer: &Producer,
        moved: &mut NewOffsets,
    ) -> Result<u64> {
        let mut configs = topic.configs.clone();
        for (name, value) in AFTERWARDS {
            configs.insert(name.to_owned(), value.to_owned());
        }
        let new = NewTopic {
            name: topic.name.clone(),
            partitions: Some(topic.partitions.len() as i32),
            replication_factor: Some(self.replication_factor.unwrap_or(topic.replication_factor)),
            configs: configs.into_iter().collect(),
            assignments: Vec::new(),
        };
        admin.create_topic(&new, false).await?;
        let name: Arc<str> = topic.name.as_str().into();
        for (partition, entry) in (0..).zip(&topic.partitions) {
            let offsets = manifest.groups.iter().flat_map(|group| &group.offsets);
            let here = offsets.filter(|o| o.topic == topic.name && o.partition == partition);
            let mut translation = Translation::new(here.map(|o| o.offset));
            let mut reader = RecordsReader::open(&self.dir, entry)?;
            while let Some((offset, mut record)) = reader.next()? {
                translation.record(offset);
                record.topic = name.clone();
                record.partition = Some(partition);
                producer.send(record).await?;
            }
            moved.insert((topic.name.clone(), partition), translation.finish());
        }
        producer.flush().await?;
        check_ends(topic, admin).await?;
        let changes = AFTERWARDS.map(|(setting, _)| match topic.configs.get(setting) {
            Some(value) => ConfigChange::Set(setting.to_owned(), value.clone()),
            None => ConfigChange::Delete(setting.to_owned()),
        });
        let resource = ConfigResource::Topic(topic.name.clone());
        admin.alter_configs(&resource, &changes, false).await?;
        Ok(topic.partitions.iter().map(|p| p.records).sum())
    }

    fn report(&self, manifest: &Manifest, records: u64, json: bool) -> Result<()> {
        let (topics, groups) = (manifest.topics.len(), manifest.groups.len());
        let mut out = std::io::stdout().lock();
        if json {
            let line = json!({
                "topics": topics, "groups": groups, "records": records, "dry_run": self.dry_run,
            });
            writeln!(out, "{line}")?;
        } else if self.dry_run {
            writeln!(
                out,
                "the backup is whole; {topics} topics and {groups} groups can be restored"
            )?;
        } else {
            writeln!(
                out,
                "restored {topics} topics, {records} records, {groups} groups"
            )?;
        }
        Ok(())
    }
}

/// Every record must have got an offset, and nobody else may have written.
async fn check_ends(topic: &TopicEntry, admin: &Admin) -> Result<()> {
    let count = topic.partitions.len() as i32;
    let places = (0..count).map(|p| (topic.name.clone(), p, StartPosition::Latest));
    for (_, partition, end) in admin.offsets(places).await? {
        let expected = topic.partitions[partition as usize].records as i64;
        ensure!(
            end == expected,
            "partition {partition} ends at {end} after {expected} records; does somebody write to it?"
        );
    }
    Ok(())
}

fn set_all(configs: &Configs) -> Vec<ConfigChange> {
    let set = configs.iter();
    set.map(|(name, value)| ConfigChange::Set(name.clone(), value.clone()))
        .collect()
}

/// Settings of brokers by their ids; those of ids that the cluster lacks are left out.
async fn broker_configs(manifest: &Manifest, admin: &Admin) -> Result<()> {
    let cluster = admin.describe_cluster().await?;
    for (broker, configs) in &manifest.broker_configs {
        let resource = match broker.parse() {
            Ok(id) if cluster.brokers.iter().any(|b| b.id == id) => ConfigResource::Broker(id),
            Ok(id) => {
                eprintln!("tidelog: broker {id} is not in this cluster; its settings are left out");
                continue;
            }
            Err(_) => ConfigResource::AllBrokers,
        };
        admin
            .alter_configs(&resource, &set_all(configs), false)
            .await?;
    }
    Ok(())
}

async fn restore_group(group: &GroupEntry, admin: &Admin, moved: &NewOffsets) -> Result<()> {
    let mut offsets = BTreeMap::new();
    for committed in &group.offsets {
        let of = moved.get(&(committed.topic.clone(), committed.partition));
        let new = of.and_then(|of| of.get(&committed.offset));
        let new =
            new.with_context(|| format!("topic {:?} is not in the backup", committed.topic))?;
        offsets.insert(
            TopicPartition::new(&*committed.topic, committed.partition),
            *new,
        );
    }
    if !offsets.is_empty() {
        admin.alter_group_offsets(&group.group, &offsets).await?;
    }
    if !group.configs.is_empty() {
        let resource = ConfigResource::Group(group.group.clone());
        admin
            .alter_configs(&resource, &set_all(&group.configs), false)
            .await?;
    }
    Ok(())
}

//! The topic of a load.

use anyhow::Result;
use clap::Args;
use tidelog_client::{Admin, NewTopic};

#[derive(Debug, Args)]
pub struct LoadTopic {
    /// Written to; without it a topic is made for the run and deleted after it
    #[arg(long)]
    topic: Option<String>,
    /// Of the topic that is made
    #[arg(long, default_value = "6", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// Of the topic that is made; as the cluster is set to when left out
    #[arg(long)]
    replication_factor: Option<i16>,
}

impl LoadTopic {
    /// Runs `load` on it.
    pub async fn lend<T>(
        &self,
        admin: &Admin,
        load: impl AsyncFnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        if let Some(topic) = &self.topic {
            return load(topic).await;
        }
        let topic = NewTopic {
            name: format!("tidelog-bench-{}", std::process::id()),
            partitions: Some(self.partitions),
            replication_factor: self.replication_factor,
            ..NewTopic::default()
        };
        admin.create_topic(&topic, false).await?;
        let measured = load(&topic.name).await;
        for (_, deleted) in admin.delete_topics(&[topic.name]).await? {
            deleted?;
        }
        measured
    }
}

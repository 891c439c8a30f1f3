//! Creates a topic, changes it, looks at it and at the groups that read it, and deletes it.
//!
//! `cargo run -p tidelog-client --example admin -- localhost:9092`

use std::error::Error;
use tidelog_client::{Admin, ClientConfig, ConfigChange, ConfigResource, NewTopic, StartPosition};

/// Returns the topic's partitions and its retention as it was before it was deleted.
pub async fn run(bootstrap: &str, topic: &str) -> Result<(usize, Option<String>), Box<dyn Error>> {
    let admin = Admin::new(ClientConfig::new(bootstrap)).await?;
    let cluster = admin.describe_cluster().await?;
    println!(
        "cluster {} with {} brokers",
        cluster.id,
        cluster.brokers.len()
    );

    let new = NewTopic {
        name: topic.to_owned(),
        partitions: Some(2),
        configs: vec![("retention.ms".to_owned(), "3600000".to_owned())],
        ..NewTopic::default()
    };
    admin.create_topic(&new, false).await?;
    admin.add_partitions(topic, 4).await?;
    let resource = ConfigResource::Topic(topic.to_owned());
    let change = ConfigChange::Set("max.message.bytes".to_owned(), "2000000".to_owned());
    admin.alter_configs(&resource, &[change], false).await?;

    let info = admin.describe_topic(topic).await?;
    let ends = info
        .partitions
        .iter()
        .map(|p| (topic.to_owned(), p.index, StartPosition::Latest));
    for (_, partition, end) in admin.offsets(ends).await? {
        println!("partition {partition} ends at {end}");
    }
    for group in admin.list_groups().await? {
        println!("group {} is {}", group.group_id, group.state);
    }
    let configs = admin.describe_configs(&resource).await?;
    let retention = configs.into_iter().find(|c| c.name == "retention.ms");

    for (name, deleted) in admin.delete_topics(&[topic.to_owned()]).await? {
        deleted?;
        println!("deleted {name}");
    }
    Ok((info.partitions.len(), retention.and_then(|c| c.value)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bootstrap = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "localhost:9092".to_owned());
    run(&bootstrap, "example-admin").await?;
    Ok(())
}

//! What is read when everything is healed: through a client, and from each broker alone.

use std::sync::Arc;

use anyhow::Result;
use tidelog_client::{Admin, StartPosition};
use tokio::task::JoinSet;

use super::churn;
use super::clients::Client;
use super::nemesis::Nemesis;
use super::readers::Reader;
use super::replicas::{self, Stored};
use super::verdict::Verdict;
use super::{Options, TRANSFERRED, topics, transfers};
use crate::history::{Kind, Op, ProcessId};

/// Reads at the end of a run.
const LAST_READER: ProcessId = 1_000;
/// Replicas compared at the same time.
const AT_ONCE: usize = 16;

/// Reads and compares all topics of the run.
pub async fn read_everything(options: &Options, nemesis: &Nemesis, verdict: &mut Verdict) {
    let mut process = LAST_READER;
    let mut client = |topic: &str, partitions| {
        process += 1;
        Client {
            run: Arc::clone(&nemesis.run),
            recorder: Arc::clone(&nemesis.recorder),
            stop: Arc::default(),
            process,
            topic: topic.to_owned(),
            partitions,
            group: None,
        }
    };
    for (topic, partitions) in topics(options) {
        let client = client(topic, partitions);
        let read = match topic {
            TRANSFERRED => transfers::last_snapshot(&client).await,
            _ => Reader(client).read_all(None).await,
        };
        if let Err(error) = read {
            verdict.failures.push(format!("the final read: {error:#}"));
        }
        match compare_replicas(nemesis, topic, partitions).await {
            Ok(differing) => verdict.differing_replicas.extend(differing),
            Err(error) => verdict.failures.push(format!("replicas: {error:#}")),
        }
    }
    if !options.workloads.contains("churn") {
        return;
    }
    let listed = async {
        let admin = Admin::new(nemesis.run.client()).await?;
        let listed = churn::list(&admin).await?;
        let topics = listed.iter().cloned().collect();
        nemesis
            .recorder
            .event(LAST_READER, Kind::Ok, Op::Listed { topics });
        for (topic, id) in listed
            .iter()
            .filter(|(topic, _)| topic.starts_with("churn-"))
        {
            Reader(client(topic, 2)).read_all(Some(id)).await?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = listed.await {
        verdict
            .failures
            .push(format!("topics at the end: {error:#}"));
    }
}

/// Partitions whose replicas differ: byte for byte, or, as each replica compacts by itself, where two
/// of a compacted topic have an offset in common.
async fn compare_replicas(nemesis: &Nemesis, topic: &str, partitions: i32) -> Result<Vec<String>> {
    let admin = Admin::new(nemesis.run.client()).await?;
    let described = admin.describe_topic(topic).await?;
    let places = (0..partitions).map(|p| (topic.to_owned(), p, StartPosition::Latest));
    let mut differing = Vec::new();
    let ends = admin.offsets(places).await?;
    for some in ends.chunks(AT_ONCE) {
        let mut comparing = JoinSet::new();
        for (_, partition, end) in some.iter().cloned() {
            let replicas = described.partition(partition).map(|p| p.replicas.clone());
            let replicas = replicas.unwrap_or_default();
            let holds = nemesis.brokers.iter().filter(|b| replicas.contains(&b.id));
            let addresses: Vec<String> = holds.map(|b| b.address.clone()).collect();
            let topic = topic.to_owned();
            comparing.spawn(async move {
                let mut copies: Vec<Stored> = Vec::new();
                for address in &addresses {
                    copies.push(replicas::read(address, &topic, partition, end).await?);
                }
                let compacted = topic == TRANSFERRED;
                let differ = copies.iter().any(|copy| match compacted {
                    true => copy.contradicts(&copies[0]),
                    false => copy.bytes != copies[0].bytes,
                });
                let bytes: Vec<usize> = copies.iter().map(|copy| copy.bytes.len()).collect();
                anyhow::Ok(
                    differ.then(|| format!("{topic}-{partition} up to {end}: {bytes:?} bytes")),
                )
            });
        }
        while let Some(compared) = comparing.join_next().await {
            differing.extend(compared??);
        }
    }
    Ok(differing)
}

//! What is read when everything is healed: through a client, and from each broker alone.

use std::sync::Arc;

use anyhow::Result;
use tidelog_client::{Admin, StartPosition};
use tokio::task::JoinSet;

use super::churn;
use super::clients::Client;
use super::nemesis::Nemesis;
use super::readers::Reader;
use super::recorder::Recorder;
use super::replicas::{self, Stored};
use super::verdict::Verdict;
use super::{Options, Run, TRANSFERRED, topics, transfers};
use crate::history::{Kind, Op, ProcessId};

/// Reads at the end of a run.
const LAST_READER: ProcessId = 1_000;
/// Replicas compared at the same time.
const AT_ONCE: usize = 16;

/// Reads and compares all topics of the run.
pub async fn read_everything(options: &Options, nemesis: &Nemesis, verdict: &mut Verdict) {
    let mut failures = read_topics(options, &nemesis.run, &nemesis.recorder).await;
    verdict.failures.append(&mut failures);
    for (topic, partitions) in topics(options) {
        match compare_replicas(nemesis, topic, partitions).await {
            Ok(differing) => verdict.differing_replicas.extend(differing),
            Err(error) => verdict.failures.push(format!("replicas: {error:#}")),
        }
    }
}

/// Reads all topics of the run through a client; what could not be read.
pub async fn read_topics(
    options: &Options,
    run: &Arc<Run>,
    recorder: &Arc<Recorder>,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut process = LAST_READER;
    let mut client = |topic: &str, partitions| {
        process += 1;
        Client {
            run: Arc::clone(run),
            recorder: Arc::clone(recorder),
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
            failures.push(format!("the final read: {error:#}"));
        }
    }
    if !options.workloads.contains("churn") {
        return failures;
    }
    let listed = async {
        let admin = Admin::new(run.client()).await?;
        let listed = churn::list(&admin).await?;
        let topics = listed.iter().cloned().collect();
        recorder.event(LAST_READER, Kind::Ok, Op::Listed { topics });
        for (topic, id) in listed
            .iter()
            .filter(|(topic, _)| topic.starts_with("churn-"))
        {
            Reader(client(topic, 2)).read_all(Some(id)).await?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = listed.await {
        failures.push(format!("topics at the end: {error:#}"));
    }
    failures
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

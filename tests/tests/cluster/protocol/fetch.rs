//! Fetch beyond one request: sessions, long polls, size limits, and replicas in the client's rack.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, ProduceRequest,
};
use tidelog_tests::batch::Batch;
use tidelog_tests::read::topic_name;
use tidelog_tests::wire::Wire;
use tidelog_tests::{Cluster, topics, wait};
use uuid::Uuid;

use super::Target;
use super::topics::create_topic;
use crate::RECOVERY_LIMIT;

const VALUE: &[u8] = b"a record of some bytes";

/// A topic as fetches and produces name it.
struct Topic {
    name: &'static str,
    id: Uuid,
}

impl Topic {
    async fn create(wire: &mut Wire, name: &'static str, partitions: i32) -> Result<Self> {
        let id = create_topic(wire, name, partitions).await?;
        let topic = Self { name, id };
        // Its leaders serve.
        let all: Vec<_> = (0..partitions).map(|p| (p, 0)).collect();
        wait::until("leaders", RECOVERY_LIMIT, async || {
            let request = topic.fetch(12, &all).with_max_wait_ms(0);
            let codes = codes(&wire.call(&request, 12).await?);
            Ok(codes.iter().all(|code| *code == 0).then_some(()))
        })
        .await?;
        Ok(topic)
    }

    /// A fetch without a session from these offsets of these partitions.
    fn fetch(&self, version: i16, from: &[(i32, i64)]) -> FetchRequest {
        let partitions = from
            .iter()
            .map(|(partition, offset)| {
                FetchPartition::default()
                    .with_partition(*partition)
                    .with_fetch_offset(*offset)
                    .with_partition_max_bytes(1 << 20)
            })
            .collect();
        let topic = FetchTopic::default().with_partitions(partitions);
        let topic = if version >= 13 {
            topic.with_topic_id(self.id)
        } else {
            topic.with_topic(topic_name(self.name))
        };
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(50)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_topics(if from.is_empty() {
                Vec::new()
            } else {
                vec![topic]
            })
    }

    fn forget(&self, version: i16, partitions: &[i32]) -> Vec<ForgottenTopic> {
        let forgotten = ForgottenTopic::default().with_partitions(partitions.to_vec());
        vec![if version >= 13 {
            forgotten.with_topic_id(self.id)
        } else {
            forgotten.with_topic(topic_name(self.name))
        }]
    }

    async fn produce(&self, wire: &mut Wire, partition: i32, batches: usize) -> Result<()> {
        for _ in 0..batches {
            let data = PartitionProduceData::default()
                .with_index(partition)
                .with_records(Some(Batch::of(&[VALUE]).encode()));
            let topic = TopicProduceData::default()
                .with_name(topic_name(self.name))
                .with_partition_data(vec![data]);
            let request = ProduceRequest::default()
                .with_acks(-1)
                .with_timeout_ms(10_000)
                .with_topic_data(vec![topic]);
            let response = wire.call(&request, 9).await?;
            let code = response.responses[0].partition_responses[0].error_code;
            ensure!(code == 0, "produce: {code}");
        }
        Ok(())
    }
}

fn codes(response: &FetchResponse) -> Vec<i16> {
    let topics = response.responses.iter();
    topics
        .flat_map(|t| t.partitions.iter().map(|p| p.error_code))
        .collect()
}

/// Partitions in the answer, with the bytes of their records.
fn told(response: &FetchResponse) -> Vec<(i32, usize)> {
    let topics = response.responses.iter();
    topics
        .flat_map(|t| &t.partitions)
        .map(|p| (p.partition_index, p.records.as_ref().map_or(0, |r| r.len())))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_tell_only_what_changed() -> Result<()> {
    let target = Target::start().await?;
    let mut wire = Wire::connect(target.broker).await?;
    let batch = Batch::of(&[VALUE]).encode().len();
    for (version, name) in [
        (7, "seven"),
        (12, "twelve"),
        (13, "thirteen"),
        (18, "eighteen"),
    ] {
        let topic = Topic::create(&mut wire, name, 3).await?;
        let full = topic
            .fetch(version, &[(0, 0), (1, 0), (2, 0)])
            .with_session_epoch(0);
        let response = wire.call(&full, version).await?;
        let id = response.session_id;
        ensure!(
            id > 0 && response.error_code == 0,
            "v{version}: {response:?}"
        );
        ensure!(told(&response) == [(0, 0), (1, 0), (2, 0)]);
        let next = |epoch, changed: &[(i32, i64)]| {
            topic
                .fetch(version, changed)
                .with_session_id(id)
                .with_session_epoch(epoch)
        };
        let response = wire.call(&next(1, &[]), version).await?;
        ensure!(told(&response).is_empty() && response.session_id == id);

        topic.produce(&mut wire, 1, 1).await?;
        let response = wire.call(&next(2, &[]), version).await?;
        ensure!(told(&response) == [(1, batch)], "v{version}: {response:?}");
        let response = wire.call(&next(3, &[(1, 1)]), version).await?;
        ensure!(told(&response).is_empty(), "v{version}: {response:?}");

        topic.produce(&mut wire, 1, 1).await?;
        let forgetful = next(4, &[]).with_forgotten_topics_data(topic.forget(version, &[1]));
        let response = wire.call(&forgetful, version).await?;
        ensure!(told(&response).is_empty(), "v{version}: {response:?}");

        let errors = [
            (
                next(77, &[]),
                version,
                ResponseError::InvalidFetchSessionEpoch,
            ),
            (
                next(5, &[]).with_session_id(1),
                version,
                ResponseError::FetchSessionIdNotFound,
            ),
            (
                next(5, &[]),
                if version >= 13 { 12 } else { 13 },
                ResponseError::FetchSessionTopicIdError,
            ),
        ];
        for (request, version, error) in errors {
            let response = wire.call(&request, version).await?;
            ensure!(
                response.error_code == error.code(),
                "v{version}: {response:?}"
            );
            ensure!(response.responses.is_empty());
        }
        let last = topic.fetch(version, &[(1, 0)]).with_session_id(id);
        let response = wire.call(&last, version).await?;
        ensure!(response.session_id == 0 && told(&response) == [(1, 2 * batch)]);
        let response = wire.call(&next(5, &[]), version).await?;
        ensure!(response.error_code == ResponseError::FetchSessionIdNotFound.code());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_ends_with_enough_bytes_from_all_its_partitions() -> Result<()> {
    const WAIT_MS: i32 = 20_000;
    let target = Target::start().await?;
    let mut wire = Wire::connect(target.broker).await?;
    let mut producer = Wire::connect(target.broker).await?;
    let topic = Topic::create(&mut wire, "polled", 2).await?;
    let batch = Batch::of(&[VALUE]).encode().len();
    let full = topic
        .fetch(18, &[(0, 0), (1, 0)])
        .with_session_epoch(0)
        .with_max_wait_ms(0);
    let id = wire.call(&full, 18).await?.session_id;

    let poll = topic
        .fetch(18, &[])
        .with_session_id(id)
        .with_session_epoch(1)
        .with_min_bytes(i32::try_from(2 * batch)?)
        .with_max_wait_ms(WAIT_MS);
    let began = Instant::now();
    let (correlation_id, body) = wire.encode(&poll, 18)?;
    wire.send_frame(&body).await?;
    topic.produce(&mut producer, 0, 1).await?;
    topic.produce(&mut producer, 1, 1).await?;
    let mut frame = wire.receive_frame().await?.context("an answer")?;
    let response = Wire::decode::<FetchRequest>(&mut frame, 18, correlation_id)?;
    ensure!(told(&response) == [(0, batch), (1, batch)], "{response:?}");
    ensure!(began.elapsed() < Duration::from_millis(WAIT_MS as u64));

    // Nothing to wait for at all, and an error that must not wait.
    let began = Instant::now();
    let nothing = topic.fetch(18, &[]).with_max_wait_ms(WAIT_MS);
    ensure!(wire.call(&nothing, 18).await?.responses.is_empty());
    let beyond = topic.fetch(18, &[(0, 99)]).with_max_wait_ms(WAIT_MS);
    let response = wire.call(&beyond, 18).await?;
    ensure!(codes(&response) == [ResponseError::OffsetOutOfRange.code()]);
    ensure!(began.elapsed() < Duration::from_millis(WAIT_MS as u64));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn size_limits_hold_with_one_batch_at_least() -> Result<()> {
    let target = Target::start().await?;
    let mut wire = Wire::connect(target.broker).await?;
    let topic = Topic::create(&mut wire, "sized", 2).await?;
    for partition in 0..2 {
        topic.produce(&mut wire, partition, 4).await?;
    }
    let batch = Batch::of(&[VALUE]).encode().len();
    let both = [(0, 0), (1, 0)];
    let limited = |whole: usize, each: usize| {
        let mut request = topic.fetch(12, &both).with_max_bytes(whole as i32);
        for partition in &mut request.topics[0].partitions {
            partition.partition_max_bytes = each as i32;
        }
        request
    };
    // (limit of the answer, of a partition, bytes of each partition)
    let cases = [
        (1 << 20, 1 << 20, [4 * batch, 4 * batch]),
        (1 << 20, 2 * batch + 5, [2 * batch, 2 * batch]),
        (5 * batch, 1 << 20, [4 * batch, batch]),
        // One batch to make progress with, though it is over either limit; never two.
        (1, 1, [batch, 0]),
        (1 << 20, 1, [batch, 0]),
        (0, 0, [batch, 0]),
    ];
    for (whole, each, expected) in cases {
        let response = wire.call(&limited(whole, each), 12).await?;
        let got: Vec<_> = told(&response).iter().map(|(_, bytes)| *bytes).collect();
        // Kafka cuts a batch that is over the partition's limit; a client drops the piece.
        let whole_batches: Vec<_> = got.iter().map(|bytes| bytes / batch * batch).collect();
        ensure!(whole_batches == expected, "{whole}, {each}: {got:?}");
        ensure!(
            !target.is_ours || got == expected,
            "a piece of a batch: {got:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_another_history_is_told_where_they_part() -> Result<()> {
    let target = Target::start().await?;
    let mut wire = Wire::connect(target.broker).await?;
    let topic = Topic::create(&mut wire, "diverged", 1).await?;
    topic.produce(&mut wire, 0, 3).await?;
    let epoch = {
        let response = wire.call(&topic.fetch(12, &[(0, 0)]), 12).await?;
        let records = response.responses[0].partitions[0].records.clone();
        let records = records.context("records")?;
        // The leader epoch of a batch lies behind its offset and length.
        i32::from_be_bytes(records[12..16].try_into()?)
    };
    for version in [12, 15, 18] {
        let fetch = |offset, last_epoch| {
            let mut request = topic.fetch(version, &[(0, offset)]);
            request.topics[0].partitions[0].last_fetched_epoch = last_epoch;
            request
        };
        let same = wire.call(&fetch(2, epoch), version).await?;
        let partition = &same.responses[0].partitions[0];
        ensure!(partition.error_code == 0 && partition.diverging_epoch.epoch == -1);
        ensure!(partition.records.as_ref().is_some_and(|r| !r.is_empty()));

        // Four records of this epoch where there were three.
        let longer = wire.call(&fetch(4, epoch), version).await?;
        let partition = &longer.responses[0].partitions[0];
        ensure!(partition.error_code == 0, "v{version}: {longer:?}");
        ensure!(partition.diverging_epoch.epoch == epoch);
        ensure!(partition.diverging_epoch.end_offset == 3);
        ensure!(partition.records.as_ref().is_none_or(|r| r.is_empty()));
    }
    Ok(())
}

/// Gives each broker a rack of its own name.
async fn give_racks(cluster: &mut Cluster) -> Result<()> {
    let seeds: Vec<_> = cluster
        .brokers
        .iter()
        .map(|b| format!("{}@{}", b.id, b.peer))
        .collect();
    for id in 1..=3 {
        let broker = cluster.broker_mut(id);
        broker.stop().await?;
        let settings = [
            ("default.replication.factor".to_owned(), "3".to_owned()),
            ("broker.rack".to_owned(), format!("\"rack-{id}\"")),
        ];
        broker.write_config(&seeds.join(","), &settings)?;
        cluster.restart(id).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_in_the_clients_rack_serves_it() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    give_racks(&mut cluster).await?;
    topics::create(&cluster, "racked", 1, 3).await?;
    let leader = wait::until("a leader that serves", RECOVERY_LIMIT, async || {
        let leader = topics::leader_of(&cluster, "racked", 0).await?;
        let partition = ListOffsetsPartition::default().with_timestamp(-1);
        let asked = ListOffsetsTopic::default()
            .with_name(topic_name("racked"))
            .with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_topics(vec![asked]);
        let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
        let response = wire.call(&request, 5).await?;
        Ok((response.topics[0].partitions[0].error_code == 0).then_some(leader))
    })
    .await?;
    let near = (1..=3).find(|id| *id != leader).context("a follower")?;
    let mut wire = Wire::connect(cluster.broker(leader).kafka).await?;
    let topic = Topic {
        name: "racked",
        id: Uuid::nil(),
    };
    topic.produce(&mut wire, 0, 2).await?;
    let batch = Batch::of(&[VALUE]).encode().len();

    let fetch = |rack: String| topic.fetch(12, &[(0, 0)]).with_rack_id(rack.into());
    for (rack, expected) in [
        (format!("rack-{near}"), near),
        (format!("rack-{leader}"), -1),
        ("rack-9".to_owned(), -1),
        (String::new(), -1),
    ] {
        let began = Instant::now();
        let request = fetch(rack.clone()).with_max_wait_ms(20_000);
        let response = wire.call(&request, 12).await?;
        let partition = &response.responses[0].partitions[0];
        ensure!(
            partition.preferred_read_replica == expected,
            "{rack}: {response:?}"
        );
        let bytes = partition.records.as_ref().map_or(0, |r| r.len());
        ensure!(bytes == if expected == -1 { 2 * batch } else { 0 });
        ensure!(began.elapsed() < Duration::from_secs(20), "it waited");
    }

    let mut follower = Wire::connect(cluster.broker(near).kafka).await?;
    wait::until("the follower serves", RECOVERY_LIMIT, async || {
        let response = follower.call(&fetch(format!("rack-{near}")), 12).await?;
        let partition = &response.responses[0].partitions[0];
        ensure!(partition.error_code == 0 && partition.preferred_read_replica == -1);
        Ok((told(&response) == [(0, 2 * batch)]).then_some(()))
    })
    .await?;
    // What the leader may have told of already is no reason to start over.
    let beyond = topic.fetch(12, &[(0, 3)]).with_rack_id("rack".into());
    let response = follower.call(&beyond, 12).await?;
    ensure!(codes(&response) == [ResponseError::OffsetNotAvailable.code()]);
    let before = topic.fetch(12, &[(0, -5)]).with_rack_id("rack".into());
    let response = follower.call(&before, 12).await?;
    ensure!(codes(&response) == [ResponseError::OffsetOutOfRange.code()]);
    Ok(())
}

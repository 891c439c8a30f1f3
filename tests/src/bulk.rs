//! Large records in large numbers, for followers to be far behind.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ListOffsetsRequest, ProduceRequest};
use tidelog_jepsen::History;

use crate::load::key_of;
use crate::produce::{PRODUCE_VERSION, batch, request};
use crate::read::topic_name;
use crate::wait;
use crate::wire::Wire;

/// Bytes of one record, which is a batch of its own.
pub const RECORD_BYTES: usize = 64 << 10;

const SERVE_LIMIT: Duration = Duration::from_secs(30);

/// Requests under way at the same time.
const DEPTH: usize = 8;

/// Values begin here, far above those of a [`crate::load::Load`].
const FIRST_VALUE: u64 = 2_000_000_000;

/// The process of these writes in histories: this and the partition's number.
const PROCESS: u32 = 2_000;

/// Writes `bytes` to one partition through its leader and notes each record in `history`. Each call
/// for a partition takes another `round`.
///
/// # Errors
/// When anything goes wrong: there is no fault while this runs.
pub async fn write(
    leader: SocketAddr,
    topic: &str,
    partition: i32,
    bytes: u64,
    round: u64,
    history: &mut History,
) -> Result<()> {
    let mut wire = Wire::connect(leader).await?;
    until_it_serves(&mut wire, topic, partition).await?;
    let key = key_of(topic, partition);
    let first = FIRST_VALUE + round * 100_000_000;
    let count = bytes.div_ceil(RECORD_BYTES as u64);
    let mut sent = Vec::new();
    for n in 0..count + DEPTH as u64 {
        if n < count {
            let records = batch([value(first + n).into()])?;
            let (id, body) = wire.encode(&request(topic, partition, records), PRODUCE_VERSION)?;
            wire.send_frame(&body).await?;
            sent.push(id);
        }
        let Some(answered) = n.checked_sub(DEPTH as u64).filter(|a| *a < count) else {
            continue;
        };
        let mut frame = wire.receive_frame().await?.context("an answer")?;
        let id = sent[usize::try_from(answered)?];
        let answer = Wire::decode::<ProduceRequest>(&mut frame, PRODUCE_VERSION, id)?;
        let told = &answer.responses[0].partition_responses[0];
        ensure!(told.error_code == 0, "{key}: error {}", told.error_code);
        let process = PROCESS + partition.cast_unsigned();
        history.send_ok(process, &key, first + answered, Some(told.base_offset));
    }
    Ok(())
}

/// A leader that has just been elected refuses what it has taken when a busy machine shows it no majority in time.
async fn until_it_serves(wire: &mut Wire, topic: &str, partition: i32) -> Result<()> {
    let asked = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_timestamp(-1);
    let asked = ListOffsetsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![asked]);
    let request = ListOffsetsRequest::default().with_topics(vec![asked]);
    wait::until("a leader that serves", SERVE_LIMIT, async || {
        let told = wire.call(&request, 5).await?;
        Ok((told.topics[0].partitions[0].error_code == 0).then_some(()))
    })
    .await
}

/// A number and bytes that depend on it, so that no two records look alike.
fn value(n: u64) -> Vec<u8> {
    let mut value = format!("{n} ").into_bytes();
    let mut state = n;
    while value.len() < RECORD_BYTES {
        // Steele, Lea and Flood's SplitMix64: incompressible and quick.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    value
}

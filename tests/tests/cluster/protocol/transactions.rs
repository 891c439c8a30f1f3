//! The requests of transactions, in every version.

use anyhow::{Result, bail, ensure};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::write_txn_markers_request::{
    WritableTxnMarker, WritableTxnMarkerTopic,
};
use kafka_protocol::messages::*;
use tidelog_tests::read::topic_name;
use tidelog_tests::wait;
use tidelog_tests::wire::Wire;

use super::calls::{LEADER_LIMIT, MISSING, code, ensure_codes, text};
use super::groups::coordinator_serves;
use super::topics::create_topic;

/// Of its own: markers take offsets.
const TOPIC: &str = "transactions";

/// Sends and judges what is one of the transactional APIs.
pub async fn call(wire: &mut Wire, api: ApiKey, version: i16) -> Result<()> {
    // There already, except for the first.
    let _ = create_topic(wire, TOPIC, 1).await;
    match api {
        ApiKey::AddPartitionsToTxn => add_partitions(wire, version).await,
        ApiKey::AddOffsetsToTxn => add_offsets(wire, version).await,
        ApiKey::EndTxn => end(wire, version).await,
        ApiKey::TxnOffsetCommit => offset_commit(wire, version).await,
        ApiKey::WriteTxnMarkers => write_markers(wire, version).await,
        ApiKey::DescribeProducers => describe_producers(wire, version).await,
        ApiKey::DescribeTransactions => describe_transactions(wire, version).await,
        ApiKey::ListTransactions => list_transactions(wire, version).await,
        other => bail!("{other:?} is advertised, and no test sends it"),
    }
}

struct Producer {
    id: TransactionalId,
    producer_id: ProducerId,
    epoch: i16,
}

/// A transactional id of its own; the first waits for the coordinator.
async fn producer(wire: &mut Wire, name: &str, version: i16) -> Result<Producer> {
    let id = TransactionalId(text(format!("{name}-{version}")));
    let find = FindCoordinatorRequest::default()
        .with_key_type(1)
        .with_coordinator_keys(vec![id.0.clone()]);
    let init = InitProducerIdRequest::default()
        .with_transactional_id(Some(id.clone()))
        .with_transaction_timeout_ms(60_000);
    let answer = wait::until("a transaction coordinator", LEADER_LIMIT, async || {
        let found = wire.call(&find, 4).await?;
        if found.coordinators[0].error_code != 0 {
            return Ok(None);
        }
        let answer = wire.call(&init, 4).await?;
        Ok((answer.error_code == 0).then_some(answer))
    })
    .await?;
    Ok(Producer {
        id,
        producer_id: answer.producer_id,
        epoch: answer.producer_epoch,
    })
}

fn topic(name: &str) -> AddPartitionsToTxnTopic {
    AddPartitionsToTxnTopic::default()
        .with_name(topic_name(name))
        .with_partitions(vec![0])
}

/// The request, with the epoch `ahead` of the right one.
fn add_request(
    producer: &Producer,
    ahead: i16,
    verify_only: bool,
    topics: &[&str],
    version: i16,
) -> AddPartitionsToTxnRequest {
    let topics: Vec<_> = topics.iter().map(|t| topic(t)).collect();
    let epoch = producer.epoch + ahead;
    if version < 4 {
        return AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(producer.id.clone())
            .with_v3_and_below_producer_id(producer.producer_id)
            .with_v3_and_below_producer_epoch(epoch)
            .with_v3_and_below_topics(topics);
    }
    let transaction = AddPartitionsToTxnTransaction::default()
        .with_transactional_id(producer.id.clone())
        .with_producer_id(producer.producer_id)
        .with_producer_epoch(epoch)
        .with_verify_only(verify_only)
        .with_topics(topics);
    AddPartitionsToTxnRequest::default().with_transactions(vec![transaction])
}

async fn add(
    wire: &mut Wire,
    request: &AddPartitionsToTxnRequest,
    version: i16,
) -> Result<Vec<i16>> {
    let answer = wire.call(request, version).await?;
    let batched = answer.results_by_transaction;
    let topics = batched.into_iter().flat_map(|t| t.topic_results);
    let topics = topics.chain(answer.results_by_topic_v3_and_below);
    Ok(topics
        .flat_map(|t| t.results_by_partition)
        .map(|p| p.partition_error_code)
        .collect())
}

async fn add_partitions(wire: &mut Wire, version: i16) -> Result<()> {
    let producer = producer(wire, "add", version).await?;
    let request =
        |ahead, verify, topics: &[&str]| add_request(&producer, ahead, verify, topics, version);
    let fenced = if version < 2 {
        ResponseError::InvalidProducerEpoch
    } else {
        ResponseError::ProducerFenced
    };
    ensure_codes(
        add(wire, &request(1, false, &[TOPIC]), version).await?,
        &[code(fenced)],
    )?;
    let none = [
        code(ResponseError::OperationNotAttempted),
        code(ResponseError::UnknownTopicOrPartition),
    ];
    ensure_codes(
        add(wire, &request(0, false, &[TOPIC, MISSING]), version).await?,
        &none,
    )?;
    if version >= 4 {
        let absent = if version < 5 {
            ResponseError::InvalidTxnState
        } else {
            ResponseError::TransactionAbortable
        };
        ensure_codes(
            add(wire, &request(0, true, &[TOPIC]), version).await?,
            &[code(absent)],
        )?;
    }
    // Again makes no difference.
    for _ in 0..2 {
        ensure_codes(
            add(wire, &request(0, false, &[TOPIC]), version).await?,
            &[0],
        )?;
    }
    if version >= 4 {
        ensure_codes(add(wire, &request(0, true, &[TOPIC]), version).await?, &[0])?;
    }
    abort(wire, &producer).await
}

/// Leaves nothing open behind.
async fn abort(wire: &mut Wire, producer: &Producer) -> Result<()> {
    let request = end_request(producer, 0, false);
    wait::until("the abort", LEADER_LIMIT, async || {
        let answer = wire.call(&request, 3).await?;
        Ok((answer.error_code == 0).then_some(()))
    })
    .await
}

fn end_request(producer: &Producer, ahead: i16, commit: bool) -> EndTxnRequest {
    EndTxnRequest::default()
        .with_transactional_id(producer.id.clone())
        .with_producer_id(producer.producer_id)
        .with_producer_epoch(producer.epoch + ahead)
        .with_committed(commit)
}

async fn end(wire: &mut Wire, version: i16) -> Result<()> {
    let producer = producer(wire, "end", version).await?;
    let fenced = if version < 2 {
        ResponseError::InvalidProducerEpoch
    } else {
        ResponseError::ProducerFenced
    };
    let nothing = wire.call(&end_request(&producer, 0, true), version).await?;
    ensure_codes(
        [nothing.error_code],
        &[code(ResponseError::InvalidTxnState)],
    )?;
    let stale = wire.call(&end_request(&producer, 1, true), version).await?;
    ensure_codes([stale.error_code], &[code(fenced)])?;
    let request = add_request(&producer, 0, false, &[TOPIC], 3);
    ensure_codes(add(wire, &request, 3).await?, &[0])?;
    let request = end_request(&producer, 0, true);
    let committed = wire.call(&request, version).await?;
    ensure_codes([committed.error_code], &[0])?;
    // Asked again, it is done, once the markers are written.
    let again = wait::until("the end", LEADER_LIMIT, async || {
        let again = wire.call(&request, version).await?;
        let ending = again.error_code == code(ResponseError::ConcurrentTransactions);
        Ok((!ending).then_some(again))
    })
    .await?;
    ensure_codes([again.error_code], &[0])?;
    if version >= 5 {
        for answer in [&committed, &again] {
            ensure!(answer.producer_id == producer.producer_id, "{answer:?}");
            ensure!(answer.producer_epoch == producer.epoch + 1, "{answer:?}");
        }
    }
    Ok(())
}

async fn add_offsets(wire: &mut Wire, version: i16) -> Result<()> {
    coordinator_serves(wire, "txn-group").await?;
    let producer = producer(wire, "offsets", version).await?;
    let request = |epoch| {
        AddOffsetsToTxnRequest::default()
            .with_transactional_id(producer.id.clone())
            .with_producer_id(producer.producer_id)
            .with_producer_epoch(epoch)
            .with_group_id(GroupId(text("txn-group")))
    };
    let added = wire.call(&request(producer.epoch), version).await?;
    let fenced = if version < 2 {
        ResponseError::InvalidProducerEpoch
    } else {
        ResponseError::ProducerFenced
    };
    let stale = wire.call(&request(producer.epoch + 1), version).await?;
    ensure_codes([added.error_code, stale.error_code], &[0, code(fenced)])?;
    abort(wire, &producer).await
}

async fn offset_commit(wire: &mut Wire, version: i16) -> Result<()> {
    let group = GroupId(text(format!("txn-group-{version}")));
    coordinator_serves(wire, &group).await?;
    let producer = producer(wire, "commit", version).await?;
    let offset = |index, offset| {
        TxnOffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
    };
    let topics = |offset| {
        vec![
            TxnOffsetCommitRequestTopic::default()
                .with_name(topic_name(TOPIC))
                .with_partitions(vec![offset]),
        ]
    };
    let request = |topics| {
        TxnOffsetCommitRequest::default()
            .with_transactional_id(producer.id.clone())
            .with_group_id(group.clone())
            .with_producer_id(producer.producer_id)
            .with_producer_epoch(producer.epoch)
            .with_topics(topics)
    };
    let commit = async |wire: &mut Wire, topics| -> Result<Vec<i16>> {
        let answer = wire.call(&request(topics), version).await?;
        let partitions = answer.topics.into_iter().flat_map(|t| t.partitions);
        Ok(partitions.map(|p| p.error_code).collect())
    };
    let unknown = code(ResponseError::UnknownTopicOrPartition);
    ensure_codes(commit(wire, topics(offset(99, 1))).await?, &[unknown])?;
    if version < 5 {
        // Not part of the transaction yet.
        let absent = if version < 4 {
            ResponseError::InvalidTxnState
        } else {
            ResponseError::TransactionAbortable
        };
        ensure_codes(commit(wire, topics(offset(0, 7))).await?, &[code(absent)])?;
        let add = AddOffsetsToTxnRequest::default()
            .with_transactional_id(producer.id.clone())
            .with_producer_id(producer.producer_id)
            .with_producer_epoch(producer.epoch)
            .with_group_id(group.clone());
        ensure_codes([wire.call(&add, 3).await?.error_code], &[0])?;
    }
    ensure_codes(commit(wire, topics(offset(0, 7))).await?, &[0])?;
    let fetch = |stable| {
        OffsetFetchRequest::default()
            .with_group_id(group.clone())
            .with_topics(None)
            .with_require_stable(stable)
    };
    let pending = wire.call(&fetch(false), 7).await?;
    ensure!(pending.topics.is_empty(), "{pending:?}");
    let end = end_request(&producer, 0, true);
    ensure_codes([wire.call(&end, 3).await?.error_code], &[0])?;
    wait::until("the committed offset", LEADER_LIMIT, async || {
        let fetched = wire.call(&fetch(true), 7).await?;
        let mut offsets = fetched.topics.iter().flat_map(|t| &t.partitions);
        Ok(offsets.any(|p| p.committed_offset == 7).then_some(()))
    })
    .await
}

async fn write_markers(wire: &mut Wire, version: i16) -> Result<()> {
    let topic = |name| {
        WritableTxnMarkerTopic::default()
            .with_name(topic_name(name))
            .with_partition_indexes(vec![0])
    };
    let marker = WritableTxnMarker::default()
        .with_producer_id(ProducerId(1 << 40))
        .with_producer_epoch(0)
        .with_transaction_result(false)
        .with_coordinator_epoch(0)
        .with_topics(vec![topic(TOPIC), topic(MISSING)]);
    let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
    let answer = wire.call(&request, version).await?;
    let topics = answer.markers.into_iter().flat_map(|m| m.topics);
    let codes = topics.flat_map(|t| t.partitions).map(|p| p.error_code);
    ensure_codes(codes, &[0, code(ResponseError::UnknownTopicOrPartition)])
}

async fn describe_producers(wire: &mut Wire, version: i16) -> Result<()> {
    let topic = |name| {
        TopicRequest::default()
            .with_name(topic_name(name))
            .with_partition_indexes(vec![0])
    };
    let request =
        DescribeProducersRequest::default().with_topics(vec![topic(TOPIC), topic(MISSING)]);
    let answer = wire.call(&request, version).await?;
    let partitions = answer.topics.into_iter().flat_map(|t| t.partitions);
    let codes = partitions.map(|p| p.error_code);
    ensure_codes(codes, &[0, code(ResponseError::UnknownTopicOrPartition)])
}

async fn describe_transactions(wire: &mut Wire, version: i16) -> Result<()> {
    let producer = producer(wire, "describe", version).await?;
    let missing = TransactionalId(text("nobody"));
    let request = DescribeTransactionsRequest::default()
        .with_transactional_ids(vec![producer.id.clone(), missing]);
    let answer = wire.call(&request, version).await?;
    let states = &answer.transaction_states;
    ensure_codes(
        states.iter().map(|s| s.error_code),
        &[0, code(ResponseError::TransactionalIdNotFound)],
    )?;
    let known = states.iter().find(|s| s.transactional_id == producer.id);
    ensure!(
        known
            .is_some_and(|s| s.transaction_state.as_str() == "Empty"
                && s.producer_id == producer.producer_id),
        "{answer:?}"
    );
    Ok(())
}

async fn list_transactions(wire: &mut Wire, version: i16) -> Result<()> {
    let ours = producer(wire, "list", version).await?;
    let other = producer(wire, "other", version).await?;
    let mut request = ListTransactionsRequest::default()
        .with_state_filters(vec![text("Empty")])
        .with_producer_id_filters(vec![ours.producer_id, other.producer_id]);
    let mut expected = vec![ours.id.clone(), other.id];
    if version >= 1 {
        request.duration_filter = -1;
    }
    if version >= 2 {
        request.transactional_id_pattern = Some(text("list-.*"));
        expected.truncate(1);
    }
    let answer = wire.call(&request, version).await?;
    ensure_codes([answer.error_code], &[0])?;
    let mut listed: Vec<_> = answer
        .transaction_states
        .into_iter()
        .map(|t| t.transactional_id)
        .collect();
    listed.sort();
    ensure!(listed == expected, "{listed:?}");
    let unknown = ListTransactionsRequest::default().with_state_filters(vec![text("Sleeping")]);
    let answer = wire.call(&unknown, version).await?;
    ensure!(
        answer.unknown_state_filters == [text("Sleeping")],
        "{answer:?}"
    );
    Ok(())
}

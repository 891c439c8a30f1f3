//! AddOffsetsToTxn (versions 0 to 4): makes a group's offsets part of a transaction, which is the
//! partition of `__consumer_offsets` they go to.

use super::{RequestContext, transactional};
use crate::coordinator::topic::{self, CONSUMER_OFFSETS, partition_for};
use crate::coordinator::transaction::remote;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

const KNOWS_FENCED: i16 = 2;

pub async fn handle(
    context: &RequestContext,
    request: AddOffsetsToTxnRequest,
    version: i16,
) -> AddOffsetsToTxnResponse {
    let error = add(context, &request).await.err();
    let error = error.map(|e| transactional::fenced(e, version >= KNOWS_FENCED));
    AddOffsetsToTxnResponse::default().with_error_code(error.map_or(0, |e| e.code()))
}

async fn add(
    context: &RequestContext,
    request: &AddOffsetsToTxnRequest,
) -> Result<(), ResponseError> {
    let broker = &context.broker;
    let id = &request.transactional_id;
    if id.is_empty() || request.group_id.is_empty() {
        return Err(ResponseError::InvalidRequest);
    }
    let offsets = topic::ensure(broker, CONSUMER_OFFSETS)
        .await
        .map_err(|_| ResponseError::CoordinatorNotAvailable)?;
    let index = partition_for(&request.group_id, offsets.partitions.len());
    let partition = (CONSUMER_OFFSETS.to_owned(), index as i32);
    let owner = (request.producer_id.0, request.producer_epoch);
    let outcomes = remote::add_local(broker, id, owner, vec![partition], false).await;
    outcomes.into_iter().collect()
}

//! InitProducerId (KIP-98), for producers without a transactional id.

use super::RequestContext;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

pub async fn handle(
    context: &RequestContext,
    request: InitProducerIdRequest,
    _version: i16,
) -> InitProducerIdResponse {
    let refuse = |error: ResponseError| {
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if request
        .transactional_id
        .as_deref()
        .is_some_and(|id| id.is_empty())
    {
        return refuse(ResponseError::InvalidRequest);
    }
    if request.transactional_id.is_some() {
        // There is no transaction coordinator yet; this tells the client that trying again is no use.
        return refuse(ResponseError::TransactionalIdAuthorizationFailed);
    }
    match context.broker.producer_ids.next(&context.broker).await {
        Ok(id) => InitProducerIdResponse::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(0),
        Err(_) => refuse(ResponseError::CoordinatorNotAvailable),
    }
}

//! InitProducerId (versions 0 to 5; KIP-98, KIP-360): without a transactional id any broker gives out an
//! id never used before; with one, its coordinator does, and fences whoever had it.

use super::{RequestContext, transactional};
use crate::broker::Broker;
use crate::coordinator::transaction::state::Identity;
use crate::coordinator::transaction::{Answer, Request};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

/// First version in which the client says what it has, and knows PRODUCER_FENCED.
const KNOWS_FENCED: i16 = 4;

pub async fn handle(
    context: &RequestContext,
    request: InitProducerIdRequest,
    version: i16,
) -> InitProducerIdResponse {
    match init(&context.broker, &request).await {
        Ok((id, epoch)) => InitProducerIdResponse::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(epoch),
        Err(error) => {
            let error = transactional::fenced(error, version >= KNOWS_FENCED);
            InitProducerIdResponse::default()
                .with_error_code(error.code())
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1)
        }
    }
}

async fn init(broker: &Broker, request: &InitProducerIdRequest) -> Result<Identity, ResponseError> {
    let Some(id) = request.transactional_id.as_deref() else {
        return Ok((fresh(broker).await?, 0));
    };
    if id.is_empty() {
        return Err(ResponseError::InvalidRequest);
    }
    let (producer_id, epoch) = (request.producer_id.0, request.producer_epoch);
    let expected = match (producer_id < 0, epoch < 0) {
        (true, true) => None,
        (false, false) => Some((producer_id, epoch)),
        _ => return Err(ResponseError::InvalidRequest),
    };
    let mut fresh_producer_id = None;
    loop {
        let asked = Request::Init {
            id: id.to_string(),
            timeout_ms: request.transaction_timeout_ms,
            expected,
            fresh_producer_id,
        };
        match broker.transactions.call(broker, id, asked).await {
            Ok(Answer::Identity(result)) => return result,
            Ok(Answer::NeedProducerId) => fresh_producer_id = Some(fresh(broker).await?),
            Ok(_) => return Err(ResponseError::UnknownServerError),
            Err(unavailable) => return Err(unavailable.error()),
        }
    }
}

/// A producer id never given out before.
pub async fn fresh(broker: &Broker) -> Result<i64, ResponseError> {
    let next = broker.producer_ids.next(broker).await;
    next.map_err(|_| ResponseError::CoordinatorNotAvailable)
}

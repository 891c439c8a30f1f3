//! EndTxn (versions 0 to 5): commits or aborts. From version 5 on the producer gets a new epoch with the
//! answer (KIP-890), so that nothing of this transaction can be taken for a part of the next.

use super::{RequestContext, init_producer_id, transactional};
use crate::coordinator::transaction::state::{Identity, VERSION_2};
use crate::coordinator::transaction::{Answer, Request};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{EndTxnRequest, EndTxnResponse, ProducerId};

const KNOWS_FENCED: i16 = 2;
/// First version of transaction version 2.
const BUMPS: i16 = 5;

pub async fn handle(
    context: &RequestContext,
    request: EndTxnRequest,
    version: i16,
) -> EndTxnResponse {
    match end(context, &request, version).await {
        Ok((id, epoch)) if version >= BUMPS => EndTxnResponse::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(epoch),
        Ok(_) => EndTxnResponse::default(),
        Err(error) => {
            let error = transactional::fenced(error, version >= KNOWS_FENCED);
            EndTxnResponse::default()
                .with_error_code(error.code())
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1)
        }
    }
}

async fn end(
    context: &RequestContext,
    request: &EndTxnRequest,
    version: i16,
) -> Result<Identity, ResponseError> {
    let broker = &context.broker;
    let id = &request.transactional_id;
    if id.is_empty() {
        return Err(ResponseError::InvalidRequest);
    }
    let mut fresh_producer_id = None;
    loop {
        let asked = Request::End {
            id: id.to_string(),
            owner: (request.producer_id.0, request.producer_epoch),
            commit: request.committed,
            version: if version >= BUMPS { VERSION_2 } else { 0 },
            fresh_producer_id,
        };
        match broker.transactions.call(broker, id, asked).await {
            Ok(Answer::Identity(result)) => return result,
            Ok(Answer::NeedProducerId) => {
                fresh_producer_id = Some(init_producer_id::fresh(broker).await?);
            }
            Ok(_) => return Err(ResponseError::UnknownServerError),
            Err(unavailable) => return Err(unavailable.error()),
        }
    }
}

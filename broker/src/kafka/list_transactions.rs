//! ListTransactions (versions 0 to 2; KIP-664, KIP-1152): all transactional ids coordinated here.

use super::{RequestContext, text};
use crate::coordinator::transaction::{Answer, Filters, Request};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_transactions_response::TransactionState;
use kafka_protocol::messages::{
    ListTransactionsRequest, ListTransactionsResponse, ProducerId, TransactionalId,
};

/// States tools may ask for; the last two are never seen.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

pub async fn handle(
    context: &RequestContext,
    request: ListTransactionsRequest,
    _version: i16,
) -> ListTransactionsResponse {
    let (known, unknown): (Vec<_>, Vec<_>) = request
        .state_filters
        .into_iter()
        .partition(|state| STATES.contains(&state.as_str()));
    let response = ListTransactionsResponse::default();
    if known.is_empty() && !unknown.is_empty() {
        return response.with_unknown_state_filters(unknown);
    }
    let filters = Filters {
        states: known.iter().map(ToString::to_string).collect(),
        producer_ids: request.producer_id_filters.iter().map(|p| p.0).collect(),
        duration_ms: Some(request.duration_filter).filter(|ms| *ms >= 0),
    };
    let response = response.with_unknown_state_filters(unknown);
    let pattern = match pattern(request.transactional_id_pattern.as_deref()) {
        Ok(pattern) => pattern,
        Err(error) => return response.with_error_code(error.code()),
    };
    match list(context, filters).await {
        Ok(mut states) => {
            if let Some(pattern) = pattern {
                states.retain(|s| pattern.is_match(&s.transactional_id));
            }
            response.with_transaction_states(states)
        }
        Err(error) => response.with_error_code(error.code()),
    }
}

/// The whole id has to match.
fn pattern(asked: Option<&str>) -> Result<Option<regex::Regex>, ResponseError> {
    let Some(asked) = asked.filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    regex::Regex::new(&format!("^(?:{asked})$"))
        .map(Some)
        .map_err(|_| ResponseError::InvalidRegularExpression)
}

async fn list(
    context: &RequestContext,
    filters: Filters,
) -> Result<Vec<TransactionState>, ResponseError> {
    let transactions = &context.broker.transactions;
    let (led, loading) = transactions.led();
    if loading {
        return Err(ResponseError::CoordinatorLoadInProgress);
    }
    let mut states = Vec::new();
    for partition in led {
        let request = Request::List(filters.clone());
        match transactions.call_partition(partition, request).await {
            Ok(Answer::Listed(listed)) => states.extend(listed.into_iter().map(|t| {
                TransactionState::default()
                    .with_transactional_id(TransactionalId(text(t.id)))
                    .with_producer_id(ProducerId(t.identity.0))
                    .with_transaction_state(text(t.state))
            })),
            Ok(_) => return Err(ResponseError::UnknownServerError),
            // It leads no more: another broker lists what was there.
            Err(_) => {}
        }
    }
    Ok(states)
}

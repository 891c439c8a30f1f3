//! UnregisterBroker (version 0): forgets a broker that has no replicas, running or lost for ever.

use super::{RequestContext, text};
use crate::metadata::changes::unregister_broker;
use kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use tidelog_replication::BrokerId;

pub async fn handle(
    context: &RequestContext,
    request: UnregisterBrokerRequest,
    _version: i16,
) -> UnregisterBrokerResponse {
    let response = UnregisterBrokerResponse::default();
    match unregister_broker(&context.broker, BrokerId(request.broker_id.0)).await {
        Ok(()) => response,
        Err(refused) => response
            .with_error_code(refused.error.code())
            .with_error_message(Some(text(refused.message))),
    }
}

//! Brokers that leave the cluster for good.

use super::Admin;
use crate::error::{Error, Result};
use kafka_protocol::messages::{BrokerId, UnregisterBrokerRequest};

impl Admin {
    /// Forgets a broker: one that was lost, or one that is no longer wanted. Tidelog refuses one that
    /// still has replicas, ends one that runs, and never takes its id again; Apache Kafka does none of the
    /// three.
    ///
    /// # Errors
    /// [`ErrorCode::BROKER_ID_NOT_REGISTERED`](crate::ErrorCode) when the cluster does not know it; after a
    /// lost connection that may be the echo of an attempt that succeeded.
    pub async fn unregister_broker(&self, id: i32) -> Result<()> {
        let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(id));
        let mut retry = self.cluster.retry("unregister the broker");
        loop {
            let attempt = async {
                let connection = self.cluster.controller().await?;
                let deadline = retry.deadline();
                let response = self.cluster.send(&connection, &request, deadline).await?;
                let message = response.error_message.as_deref();
                Error::check(
                    format!("unregister broker {id}"),
                    response.error_code,
                    message,
                )
            };
            let Err(error) = attempt.await else {
                return Ok(());
            };
            retry.pause(error).await?;
            self.look_again().await;
        }
    }
}

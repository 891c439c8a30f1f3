//! What a broker speaks; brokers that leave the cluster for good.

use super::Admin;
use crate::cluster::Lane;
use crate::error::{Error, Result};
use kafka_protocol::messages::{ApiKey, BrokerId, UnregisterBrokerRequest};
use kafka_protocol::protocol::VersionRange;

/// The versions of one API that a broker speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiRange {
    /// Kafka's number of it.
    pub key: i16,
    /// Kafka's name of it; None of one that this client does not know.
    pub name: Option<String>,
    /// The lowest version.
    pub min: i16,
    /// The highest version.
    pub max: i16,
}

impl Admin {
    /// The APIs that a broker speaks, by key.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn api_versions(&self, broker: i32) -> Result<Vec<ApiRange>> {
        let mut retry = self.cluster.retry("ask for the versions");
        loop {
            match self.cluster.broker(broker, Lane::Main).await {
                Ok(connection) => {
                    let ranges = connection.api_ranges().into_iter();
                    let api = |(key, range): (i16, VersionRange)| ApiRange {
                        key,
                        name: ApiKey::try_from(key).ok().map(|api| format!("{api:?}")),
                        min: range.min,
                        max: range.max,
                    };
                    return Ok(ranges.map(api).collect());
                }
                Err(error) => retry.pause(error).await?,
            }
            self.look_again().await;
        }
    }

    /// Forgets a broker: one that was lost, or one that is no longer wanted. Tidelog refuses one that
    /// still has replicas, ends one that runs, and never takes its id again; Apache Kafka does none of the
    /// three.
    ///
    /// # Errors
    /// [`ErrorCode::BROKER_ID_NOT_REGISTERED`](crate::ErrorCode) when the cluster does not know it; after a
    /// lost connection that may be the echo of an attempt that succeeded.
    pub async fn unregister_broker(&self, id: i32) -> Result<()> {
        let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(id));
        self.ask_controller("unregister the broker", &request, |_, response| {
            let what = format!("unregister broker {id}");
            Error::check(what, response.error_code, response.error_message.as_deref())
        })
        .await
    }
}

//! What producer, consumer and admin share: where the cluster is, and how long to wait for it.

use crate::connector::Connector;
use crate::error::{Error, Result};
use crate::retry::RetryPolicy;
use crate::security::Sasl;
use std::sync::Arc;
use std::time::Duration;

/// How to reach a cluster.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Addresses (`host:port`) to learn the cluster from; one that answers is enough.
    pub bootstrap: Vec<String>,
    /// Name that brokers show in their logs.
    pub client_id: String,
    /// For one TCP connection and its version negotiation.
    pub connect_timeout: Duration,
    /// For one request, after which its connection is given up.
    pub request_timeout: Duration,
    /// For one broker to describe the cluster, after which another is asked. Half of it is also how
    /// long an answer is late before anyone is asked whether the leader is still the same.
    pub metadata_timeout: Duration,
    /// For one call of this crate with all its retries.
    pub call_timeout: Duration,
    /// How long a topic that no broker knows is looked for: news of a new topic takes a moment to
    /// reach every broker.
    pub unknown_topic_timeout: Duration,
    /// When a call tries again after what may pass. Its limits hold for one call beside the call
    /// timeout; what goes on by itself, such as fetching, uses its pauses without limits.
    pub retry: RetryPolicy,
    /// Age after which the cached view of the cluster is fetched anew.
    pub metadata_age_max: Duration,
    /// The largest answer taken from a broker.
    pub response_bytes_max: usize,
    /// Encrypts connections; None: they are not.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::security::TlsConfig>,
    /// Proves who the client is; None: it is nobody in particular.
    pub sasl: Option<Sasl>,
    /// Makes connections; None: over TCP.
    pub connector: Option<Arc<dyn Connector>>,
}

impl ClientConfig {
    /// Defaults with these addresses, given as `host:port[,host:port...]`.
    pub fn new(bootstrap: &str) -> ClientConfig {
        ClientConfig {
            bootstrap: bootstrap
                .split(',')
                .map(|address| address.trim().to_owned())
                .filter(|address| !address.is_empty())
                .collect(),
            client_id: "tidelog".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            metadata_timeout: Duration::from_secs(3),
            call_timeout: Duration::from_secs(60),
            unknown_topic_timeout: Duration::from_secs(3),
            retry: RetryPolicy::exponential(Duration::from_millis(50), Duration::from_secs(1)),
            metadata_age_max: Duration::from_secs(300),
            response_bytes_max: 128 << 20,
            #[cfg(feature = "tls")]
            tls: None,
            sasl: None,
            connector: None,
        }
    }

    /// Sets [`ClientConfig::client_id`].
    #[must_use]
    pub fn with_client_id(mut self, id: impl Into<String>) -> ClientConfig {
        self.client_id = id.into();
        self
    }

    /// Sets [`ClientConfig::retry`].
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> ClientConfig {
        self.retry = policy;
        self
    }

    /// Sets [`ClientConfig::call_timeout`].
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> ClientConfig {
        self.call_timeout = timeout;
        self
    }

    /// Sets [`ClientConfig::request_timeout`].
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> ClientConfig {
        self.request_timeout = timeout;
        self
    }

    /// Sets [`ClientConfig::unknown_topic_timeout`].
    #[must_use]
    pub fn with_unknown_topic_timeout(mut self, timeout: Duration) -> ClientConfig {
        self.unknown_topic_timeout = timeout;
        self
    }

    /// Sets [`ClientConfig::tls`].
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: crate::security::TlsConfig) -> ClientConfig {
        self.tls = Some(tls);
        self
    }

    /// Sets [`ClientConfig::connector`].
    #[must_use]
    pub fn with_connector(mut self, connector: Arc<dyn Connector>) -> ClientConfig {
        self.connector = Some(connector);
        self
    }

    /// Sets [`ClientConfig::sasl`].
    #[must_use]
    pub fn with_sasl(mut self, sasl: Sasl) -> ClientConfig {
        self.sasl = Some(sasl);
        self
    }

    /// # Errors
    /// [`Error::Config`] when an address is not `host:port`, or there is none.
    pub fn check(&self) -> Result<()> {
        let bad = |reason: String| {
            Err(Error::Config {
                setting: "bootstrap",
                reason,
            })
        };
        if self.bootstrap.is_empty() {
            return bad("names no address; give host:port".to_owned());
        }
        for address in &self.bootstrap {
            let parts = address.rsplit_once(':');
            let good = parts.is_some_and(|(host, port)| {
                !host.is_empty() && matches!(port.parse::<u16>(), Ok(1..))
            });
            if !good {
                return bad(format!("{address:?} is not host:port"));
            }
        }
        Ok(())
    }
}

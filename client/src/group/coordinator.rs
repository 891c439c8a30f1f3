//! The broker that keeps the state of a group or of a transactional id.

use crate::cluster::{Cluster, Lane};
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::retry::Retry;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest};
use kafka_protocol::protocol::{Request, StrBytes};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::Instant;

/// From this version on several keys are asked for at once.
const FIRST_VERSION_OF_MANY: i16 = 4;

/// What is coordinated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    Transaction,
}

/// Remembers the coordinator of one key; clones share what is known.
#[derive(Debug, Clone)]
pub(crate) struct Coordinator {
    pub(crate) cluster: Cluster,
    kind: Kind,
    key: Arc<str>,
    known: Arc<Mutex<Option<i32>>>,
}

impl Coordinator {
    pub(crate) fn new(cluster: Cluster, kind: Kind, key: &str) -> Coordinator {
        Coordinator {
            cluster,
            kind,
            key: key.into(),
            known: Arc::default(),
        }
    }

    pub(crate) fn key(&self) -> StrBytes {
        StrBytes::from_string(self.key.to_string())
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.key
    }

    /// A connection to the coordinator, looked up first if it is not known.
    pub(crate) async fn connection(&self, lane: Lane, deadline: Instant) -> Result<Connection> {
        let known = *self.known.lock();
        let id = match known {
            Some(id) => id,
            None => {
                let id = self.find(deadline).await?;
                *self.known.lock() = Some(id);
                id
            }
        };
        match self.cluster.broker(id, lane).await {
            Ok(connection) => Ok(connection),
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    /// The next call looks it up anew.
    pub(crate) fn forget(&self) {
        *self.known.lock() = None;
    }

    /// Notes what an error says about the coordinator.
    pub(crate) fn learn(&self, error: &Error) {
        let lost = matches!(error, Error::Connection { .. } | Error::NoBroker { .. });
        if lost || error.code().is_some_and(|code| code.is_wrong_coordinator()) {
            self.forget();
        }
    }

    async fn find(&self, deadline: Instant) -> Result<i32> {
        let connection = self.cluster.any().await?;
        let version = connection.version::<FindCoordinatorRequest>(i16::MAX)?;
        let mut request = FindCoordinatorRequest::default();
        if version >= FIRST_VERSION_OF_MANY {
            request.coordinator_keys = vec![self.key()];
        } else {
            request.key = self.key();
        }
        if version >= 1 {
            request.key_type = match self.kind {
                Kind::Group => 0,
                Kind::Transaction => 1,
            };
        }
        let response = self.cluster.send(&connection, &request, deadline).await?;
        let what = format!("find the coordinator of {:?}", self.key);
        let (code, message, BrokerId(id)) = match response.coordinators.first() {
            Some(found) => (found.error_code, &found.error_message, found.node_id),
            None => (
                response.error_code,
                &response.error_message,
                response.node_id,
            ),
        };
        Error::check(what, code, message.as_deref())?;
        if !self.cluster.metadata().brokers.contains_key(&id) {
            self.cluster.refresh().await?;
        }
        Ok(id)
    }

    /// One request to the coordinator, sent again while it fails with what may pass. `check` reads
    /// the error out of an answer.
    ///
    /// # Errors
    /// What `check` says, and [`Error::Timeout`] after the call timeout.
    pub(crate) async fn call<R: Request>(
        &self,
        what: &'static str,
        version_max: i16,
        build: impl Fn(i16) -> R,
        check: impl Fn(&R::Response) -> Result<()>,
    ) -> Result<R::Response> {
        let mut retry = self.cluster.retry(what);
        loop {
            match self.attempt(version_max, &build, &check, &retry).await {
                Ok(response) => return Ok(response),
                Err(error) => self.pause(error, &mut retry).await?,
            }
        }
    }

    /// Learns from `error`, then waits for the next attempt.
    pub(crate) async fn pause(&self, error: Error, retry: &mut Retry) -> Result<()> {
        self.learn(&error);
        let lost = matches!(error, Error::Connection { .. });
        retry.pause(error).await?;
        if lost {
            // The next attempt tells why, should this fail.
            let _ = self.cluster.refresh().await;
        }
        Ok(())
    }

    async fn attempt<R: Request>(
        &self,
        version_max: i16,
        build: &impl Fn(i16) -> R,
        check: &impl Fn(&R::Response) -> Result<()>,
        retry: &Retry,
    ) -> Result<R::Response> {
        let deadline = retry.deadline();
        let connection = self.connection(Lane::Main, deadline).await?;
        let version = connection.version::<R>(version_max)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = self.cluster.config().request_timeout.min(left);
        let response = connection.send(version, &build(version), limit).await?;
        check(&response)?;
        Ok(response)
    }
}

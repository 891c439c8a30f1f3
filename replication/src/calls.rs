//! Requests from broker to broker that replication only carries: the stream to each peer is there,
//! reconnects by itself and knows who is at its other end.

use crate::error::ReplicationError;
use crate::ids::BrokerId;
use crate::node::Node;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tidelog_proto::peer::{Call, message::Body};

/// Answers the calls of other brokers, and of this one to itself; implemented by the broker crate.
pub trait Calls: Send + Sync + 'static {
    /// Called in the order of arrival; must not wait. The future is the reply.
    fn handle(&self, from: BrokerId, request: Bytes) -> BoxFuture<'static, Bytes>;
}

impl Node {
    /// Sets who answers; once.
    pub fn answer_calls(&self, calls: Arc<dyn Calls>) {
        let _ = self.shared().calls.set(calls);
    }

    /// Calls a broker, possibly this one. A call whose reply is lost may have been carried out.
    ///
    /// # Errors
    /// [`ReplicationError::Refused`] when there is no reply within `limit`.
    pub async fn call(
        &self,
        to: BrokerId,
        request: Bytes,
        limit: Duration,
    ) -> Result<Bytes, ReplicationError> {
        let refused = |reason: String| ReplicationError::Refused(format!("broker {to}: {reason}"));
        let shared = self.shared();
        let me = shared.transport.identity.broker;
        if to == me {
            let calls = shared.calls.get();
            let calls = calls.ok_or_else(|| refused("still starting".to_owned()))?;
            let reply = tokio::time::timeout(limit, calls.handle(me, request)).await;
            return reply.map_err(|_| refused("timed out".to_owned()));
        }
        let peer = shared.transport.peer(to);
        let peer = peer.ok_or_else(|| refused("unknown".to_owned()))?;
        match peer.request(0, Body::Call(Call { request }), limit).await {
            Ok(Body::CallReply(reply)) => Ok(reply.reply),
            Ok(_) => Err(refused("an unexpected reply".to_owned())),
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

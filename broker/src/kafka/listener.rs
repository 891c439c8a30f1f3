//! Accepts Kafka clients.

use super::connection;
use crate::broker::Broker;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|s| *s) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(admitted) = broker.limits.admit(peer.ip()) else {
                    tracing::warn!("refused a connection from {peer}: too many connections");
                    continue;
                };
                let broker = broker.clone();
                let stop = stop.clone();
                tokio::spawn(async move {
                    connection::serve(stream, peer, broker, stop).await;
                    drop(admitted);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: trying again at once would only burn the core.
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
